"""Every published variant: names, numbers of parameters, and outputs at full resolution in fp32."""

from __future__ import annotations

import pytest
import torch

from rfdetr_core.checkpoint.keys import to_ours, to_upstream, upstream_weights
from rfdetr_core.model.config import VARIANTS, Architecture
from rfdetr_core.model.detector import build_detector
from tests.parity.reference import (
    PUBLISHED,
    PUBLISHED_COUNTS,
    build_upstream,
    model_config,
    nested,
    pair,
    published,
    random_images,
    recorded_order,
    replayed_order,
)


@pytest.mark.parametrize("variant", published("nano", "seg-nano"))
def test_names_shapes_and_counts_are_upstreams(variant: str) -> None:
    upstream = build_upstream(variant).state_dict()
    detector = build_detector(VARIANTS[variant])
    ours = upstream_weights(detector.state_dict())
    assert {name: value.shape for name, value in ours.items()} == {n: v.shape for n, v in upstream.items()}
    assert next(iter(ours)) == next(iter(upstream))
    assert all(to_ours(to_upstream(name)) == name for name in detector.state_dict())
    assert (len(ours), sum(parameter.numel() for parameter in detector.parameters())) == PUBLISHED_COUNTS[variant]


@pytest.mark.parametrize("variant", PUBLISHED)
def test_numbers_are_upstreams(variant: str) -> None:
    architecture, config = VARIANTS[variant], model_config(variant)
    assert _numbers(architecture) == {name: getattr(config, name) for name in _numbers(architecture)}
    published = type(config).model_fields["pretrain_weights"].default
    assert (type(config).__name__, published) == (f"{architecture.name}Config", architecture.weights_file)


def _numbers(architecture: Architecture) -> dict[str, object]:
    return {
        "resolution": architecture.resolution,
        "patch_size": architecture.patch_size,
        "num_windows": architecture.windows,
        "positional_encoding_size": architecture.position_grid,
        "encoder": "dinov2_windowed_base" if architecture.encoder_width == 768 else "dinov2_windowed_small",
        "out_feature_indexes": list(architecture.feature_indexes),
        "projector_scale": list(architecture.projector_scales),
        "hidden_dim": architecture.width,
        "dec_layers": architecture.decoder_layers,
        "sa_nheads": architecture.self_heads,
        "ca_nheads": architecture.cross_heads,
        "dec_n_points": architecture.points,
        "num_queries": architecture.queries,
        "num_select": architecture.queries,
        "group_detr": architecture.groups,
        "num_classes": architecture.classes,
        "num_channels": architecture.channels,
        "segmentation_head": architecture.segmentation,
        "mask_downsample_ratio": architecture.mask_downsample_ratio,
    }


@pytest.mark.parametrize("variant", published("nano", "seg-nano"))
def test_outputs_are_upstreams_at_full_resolution(variant: str) -> None:
    architecture = VARIANTS[variant]
    both = pair(architecture, build_upstream(variant), torch.float32)
    images = random_images(1, 3, architecture.resolution, architecture.resolution)
    with torch.inference_mode():
        with recorded_order() as order:
            theirs = both.upstream(nested(images))
        with replayed_order(order):
            ours = both.ours(images)
    differences = {
        "logits": (theirs["pred_logits"] - ours.logits).abs().max().item(),
        "boxes": (theirs["pred_boxes"] - ours.boxes).abs().max().item(),
    }
    if architecture.segmentation:
        differences["masks"] = (theirs["pred_masks"] - ours.masks).abs().max().item()
    print(variant, {name: f"{value:.1e}" for name, value in differences.items()}, "swaps", order.swaps)
    assert max(differences.values()) < 1e-4
    assert order.swaps <= 4
