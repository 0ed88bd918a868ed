"""Builds upstream's models with random weights, so that no mistake is hidden. Only parity tests import this module."""

from __future__ import annotations

import logging
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from rfdetr_core.checkpoint.keys import KEYPOINT_MASK, to_ours
from rfdetr_core.model import proposals
from rfdetr_core.model.config import VARIANTS, Architecture
from rfdetr_core.model.detector import Detector, build_detector
from tests.small import SMALL as SMALL
from tests.small import random_images as random_images
from tests.small import random_weight

pytest.importorskip("rfdetr", reason="parity needs upstream: pip install rfdetr==1.11.2")
import rfdetr.config as upstream_config
from rfdetr.models.backbone import dinov2
from rfdetr.models.backbone.dinov2_with_windowed_attn import WindowedDinov2WithRegistersBackbone
from rfdetr.models.lwdetr import LWDETR, build_model, build_model_from_config
from rfdetr.utilities.tensors import NestedTensor

logging.getLogger("rf-detr").setLevel(logging.ERROR)
PUBLISHED = [name for name, architecture in VARIANTS.items() if architecture.weights_file]
# The numbers of keys in upstream's state dict and of parameters, with a class head of 91 rows.
PUBLISHED_COUNTS = {
    "nano": (466, 30_467_298),
    "small": (488, 32_111_170),
    "medium": (510, 33_687_458),
    "large": (510, 33_933_218),
    "base": (488, 32_174_530),
    "large-deprecated": (534, 135_637_474),
    "seg-preview": (545, 34_153_555),
    "seg-nano": (545, 33_577_475),
    "seg-small": (545, 33_711_107),
    "seg-medium": (573, 35_694_259),
    "seg-large": (573, 35_873_971),
    "seg-xlarge": (601, 38_113_635),
    "seg-2xlarge": (601, 38_648_163),
}


def published(*fast: str) -> list[Any]:
    """The published variants for parametrize. All except `fast` are marked slow."""
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in PUBLISHED]


def model_config(variant: str, **changes: Any) -> Any:
    """Upstream's config of a published variant, from scratch, on the CPU."""
    config = getattr(upstream_config, f"{VARIANTS[variant].name}Config")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return config(pretrain_weights=None, device="cpu", **changes)


def build_upstream(variant: str, **changes: Any) -> LWDETR:
    """A published variant as upstream builds it, with upstream's initial weights, without a download."""
    with _no_download():
        return build_model_from_config(model_config(variant, **changes))


def build_upstream_like(architecture: Architecture) -> LWDETR:
    """Upstream's model with the numbers of our architecture, even if upstream has no class for it."""
    with encoder_numbers(architecture):
        return build_model(upstream_namespace(architecture))


def upstream_namespace(architecture: Architecture, **training: Any) -> types.SimpleNamespace:
    """The namespace that upstream's builders (`build_model`, `build_criterion_and_postprocessors`) read.

    training: fields of upstream's (Segmentation)TrainConfig.
    """
    from rfdetr._namespace import _namespace_from_configs
    from rfdetr.models._defaults import ModelDefaults

    config = model_config(
        "base",
        hidden_dim=architecture.width,
        patch_size=architecture.patch_size,
        num_windows=architecture.windows,
        dec_layers=architecture.decoder_layers,
        sa_nheads=architecture.self_heads,
        ca_nheads=architecture.cross_heads,
        dec_n_points=architecture.points,
        num_queries=architecture.queries,
        num_select=architecture.queries,
        projector_scale=list(architecture.projector_scales),
        out_feature_indexes=list(architecture.feature_indexes),
        resolution=architecture.resolution,
        positional_encoding_size=architecture.position_grid,
        num_classes=architecture.classes,
        num_channels=architecture.channels,
        group_detr=architecture.groups,
        segmentation_head=architecture.segmentation,
        mask_downsample_ratio=architecture.mask_downsample_ratio,
    )
    kind = upstream_config.SegmentationTrainConfig if architecture.segmentation else upstream_config.TrainConfig
    defaults = ModelDefaults(
        dim_feedforward=architecture.feedforward_width, vit_encoder_num_layers=architecture.encoder_blocks
    )
    return _namespace_from_configs(config, kind(dataset_dir=".", output_dir=".", **training), defaults)


def random_weights(model: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Random weights for every key of upstream's model, even those that start at zero or one. Outputs stay moderate."""
    return {name: random_weight(name, value, seed) for name, value in model.state_dict().items()}


def our_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Upstream's weights under our names."""
    return {to_ours(name): value for name, value in weights.items() if name != KEYPOINT_MASK}


@dataclass(frozen=True)
class Pair:
    """Upstream's model and ours with the same random weights."""

    upstream: LWDETR
    ours: Detector

    def to(self, dtype: torch.dtype) -> Pair:
        self.upstream.to(dtype)
        self.ours.to(dtype)
        return self

    def train(self, mode: bool = True) -> Pair:
        self.upstream.train(mode)
        self.ours.train(mode)
        return self


def pair(architecture: Architecture, upstream: LWDETR | None = None, dtype: torch.dtype = torch.float64) -> Pair:
    """Both models of an architecture in eval mode. upstream: its model; None: built from the architecture."""
    upstream = build_upstream_like(architecture) if upstream is None else upstream
    weights = random_weights(upstream)
    upstream.load_state_dict(weights)
    ours = build_detector(architecture)
    ours.load_state_dict(our_weights(weights))
    return Pair(upstream, ours).to(dtype).train(False)


@dataclass
class Order:
    """The tokens that upstream's groups chose, and how often our choice differed, at nearly equal scores."""

    chosen: list[Tensor] = field(default_factory=list)
    swaps: int = 0


@contextmanager
def recorded_order() -> Iterator[Order]:
    """Record the choices of upstream's forward pass inside the context."""
    order = Order()
    topk = torch.topk

    def record(scores: Tensor, count: int, dim: int) -> tuple[Tensor, Tensor]:
        values, indices = topk(scores, count, dim=dim)
        order.chosen += [indices] if indices.ndim == 2 else [*indices]
        return values, indices

    with mock.patch.object(torch, "topk", record):
        yield order


@contextmanager
def replayed_order(order: Order) -> Iterator[None]:
    """Let our forward pass use upstream's choices inside the context. Ours may differ only at nearly equal scores."""
    chosen = iter(order.chosen)

    def replay(scores: Tensor, count: int) -> Tensor:
        theirs = next(chosen)
        ours = scores.topk(count, dim=1).indices
        gaps = (scores.gather(1, ours) - scores.gather(1, theirs)).abs()
        assert gaps.max() < 1e-5
        order.swaps += int((ours != theirs).sum())
        return theirs

    with mock.patch.object(proposals.Proposer, "choose", staticmethod(replay)):
        yield
    assert next(chosen, None) is None


def nested(images: Tensor, padding: Tensor | None = None) -> NestedTensor:
    """A batch (B, C, H, W) with its padding (B, H, W), as upstream's models take it."""
    if padding is not None:
        return NestedTensor(images, padding, False)
    return NestedTensor(images, torch.zeros(len(images), *images.shape[-2:], dtype=torch.bool), True)


@contextmanager
def encoder_numbers(architecture: Architecture) -> Iterator[None]:
    """Inside the context, upstream's 'small' encoder has the width, depth, heads and channels of `architecture`."""
    original = dinov2.get_config("small", False)
    numbers = original | {
        "hidden_size": architecture.encoder_width,
        "num_hidden_layers": architecture.encoder_blocks,
        "num_attention_heads": architecture.encoder_heads,
        "mlp_ratio": architecture.encoder_mlp_ratio,
        "num_channels": architecture.channels,
    }
    with (
        mock.patch.object(dinov2, "get_config", side_effect=lambda *_: dict(numbers)),
        mock.patch.dict(dinov2.size_to_width, small=architecture.encoder_width),
        _no_download(),
    ):
        yield


@contextmanager
def _no_download() -> Iterator[None]:
    def from_config(cls: type, _name: str, config: Any) -> Any:
        return cls(config)

    with mock.patch.object(WindowedDinov2WithRegistersBackbone, "from_pretrained", classmethod(from_config)):
        yield
