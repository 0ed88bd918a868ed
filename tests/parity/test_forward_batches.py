"""The whole model: padded batches, other resolutions and channels, and training with all groups."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rfdetr_core.model.config import VARIANTS, Architecture
from rfdetr_core.ops.structures import DetectorOutput, MaskFactors
from tests.parity.reference import (
    SMALL,
    Pair,
    build_upstream,
    nested,
    our_weights,
    pair,
    random_images,
    recorded_order,
    replayed_order,
)

SEGMENTER = replace(SMALL, segmentation=True)
TWO_LEVELS = replace(SMALL, projector_scales=("P3", "P5"), points=4)


def pad(images: list[Tensor], stride: int) -> tuple[Tensor, Tensor]:
    """Place images (C, h, w) at the upper left of a batch. Returns the batch and its padding."""
    height, width = (-(-max(image.shape[side] for image in images) // stride) * stride for side in (1, 2))
    batch = images[0].new_zeros(len(images), images[0].shape[0], height, width)
    padding = torch.ones(len(images), height, width, dtype=torch.bool)
    for row, mask, image in zip(batch, padding, images, strict=True):
        row[:, : image.shape[1], : image.shape[2]] = image
        mask[: image.shape[1], : image.shape[2]] = False
    return batch, padding


def run(both: Pair, images: Tensor, padding: Tensor | None = None) -> tuple[DetectorOutput, dict[str, Any]]:
    with recorded_order() as order:
        theirs = both.upstream(nested(images, padding))
    with replayed_order(order):
        return both.ours(images, padding), theirs


def compare(ours: DetectorOutput, theirs: dict[str, Any], tolerance: float) -> None:
    torch.testing.assert_close(ours.logits, theirs["pred_logits"], rtol=0, atol=tolerance)
    torch.testing.assert_close(ours.boxes, theirs["pred_boxes"], rtol=0, atol=tolerance)
    assert (ours.masks is None) == ("pred_masks" not in theirs)
    if ours.masks is not None:
        torch.testing.assert_close(_dense(ours.masks), _dense(theirs["pred_masks"]), rtol=0, atol=tolerance)
    assert len(ours.auxiliary) == len(theirs.get("aux_outputs", ()))
    for layer, expected in zip(ours.auxiliary, theirs.get("aux_outputs", ()), strict=True):
        compare(layer, expected, tolerance)
    assert (ours.proposals is None) == ("enc_outputs" not in theirs)
    if ours.proposals is not None:
        compare(ours.proposals, theirs["enc_outputs"], tolerance)


def _dense(masks: Any) -> Tensor:
    if isinstance(masks, dict):
        return MaskFactors(masks["spatial_features"], masks["query_features"], masks["bias"]).dense()
    return masks.dense() if isinstance(masks, MaskFactors) else masks


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("architecture", [SMALL, SEGMENTER, TWO_LEVELS], ids=["detector", "segmenter", "two-levels"])
class TestWholeModel:
    @torch.inference_mode()
    def test_native_resolution(self, architecture: Architecture, training: bool) -> None:
        both = pair(architecture).train(training)
        images = random_images(2, 3, 64, 64, dtype=torch.float64)
        ours, theirs = run(both, images)
        assert ours.logits.shape[1] == (13 if training else 1) * SMALL.queries
        compare(ours, theirs, 1e-9)

    @pytest.mark.parametrize("shape", [(96, 96), (48, 80), (32, 32)])
    @torch.inference_mode()
    def test_other_resolutions(self, architecture: Architecture, training: bool, shape: tuple[int, int]) -> None:
        # 32 x 32 pixels are 16 tokens for 20 queries, so there are too few proposals.
        both = pair(architecture).train(training)
        compare(*run(both, random_images(2, 3, *shape, dtype=torch.float64)), 1e-6)

    @torch.inference_mode()
    def test_padded_images(self, architecture: Architecture, training: bool) -> None:
        both = pair(architecture).train(training)
        shapes = [(61, 90), (80, 33), (49, 70)]
        images = [random_images(1, 3, *s, seed=i, dtype=torch.float64)[0] for i, s in enumerate(shapes)]
        compare(*run(both, *pad(images, architecture.stride)), 1e-6)

    def test_gradients(self, architecture: Architecture, training: bool) -> None:
        both = pair(architecture).train(training)
        ours, theirs = run(both, random_images(2, 3, 64, 64, dtype=torch.float64))
        sum(_loss(layer) for layer in [ours, *ours.auxiliary, ours.proposals] if layer).backward()
        outputs = [theirs, *theirs["aux_outputs"], theirs["enc_outputs"]]
        sum(_loss(_as_output(layer)) for layer in outputs).backward()
        expected = {name: value.grad for name, value in both.upstream.named_parameters() if value.grad is not None}
        expected = our_weights(expected)
        gradients = {name: value.grad for name, value in both.ours.named_parameters() if value.grad is not None}
        assert gradients.keys() == expected.keys()
        for name, gradient in gradients.items():
            difference = (gradient - expected[name]).norm() / (1e-3 + expected[name].norm())
            assert difference < 1e-8, name


def _loss(layer: DetectorOutput) -> Tensor:
    masks = 0 if layer.masks is None else (_dense(layer.masks) ** 2).mean()
    return (layer.logits**2).mean() + (layer.boxes.sin() ** 2).mean() + masks


def _as_output(layer: dict[str, Any]) -> DetectorOutput:
    masks = _dense(layer["pred_masks"]) if "pred_masks" in layer else None
    return DetectorOutput(layer["pred_logits"], layer["pred_boxes"], masks)


@pytest.mark.parametrize("channels", [1, 4])
@torch.inference_mode()
def test_other_channels(channels: int) -> None:
    both = pair(replace(SMALL, channels=channels))
    compare(*run(both, random_images(2, channels, 64, 64, dtype=torch.float64)), 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["nano", "seg-nano"])
@torch.inference_mode()
def test_published_variant_in_training_with_padded_images(variant: str) -> None:
    both = pair(VARIANTS[variant], build_upstream(variant), torch.float32).train()
    images = [random_images(1, 3, *shape, seed=i)[0] for i, shape in enumerate([(300, 200), (150, 310)])]
    compare(*run(both, *pad(images, VARIANTS[variant].stride)), 1e-4)
