"""The numbers of all variants, and the section `model` of params.yaml."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.params import Config

# Limits of these numbers in params.yaml and in files: several times the largest published number.
Number = Annotated[int, Field(ge=1, le=256)]
Resolution = Annotated[int, Field(ge=1, le=4096)]
Queries = Annotated[int, Field(ge=1, le=10_000)]
Groups = Annotated[int, Field(ge=1, le=256)]
Classes = Annotated[int, Field(ge=1, le=100_000)]
Channels = Annotated[int, Field(ge=1, le=1024)]
Scale = Literal["P3", "P4", "P5"]


@dataclass(frozen=True)
class Architecture:
    """The sizes and counts that define a detector. The defaults fit all published variants except the oldest."""

    name: str  # the class of the API, such as RFDETRNano; `model_name` in a checkpoint
    weights_file: str | None  # the file that upstream published
    resolution: int  # side of the square input in pixels
    patch_size: int = 16
    windows: int = 2  # windows along each side of the image; most encoder blocks attend only within a window
    position_grid: int = 0  # side of the stored grid of position embeddings; 0: resolution / patch_size
    encoder_width: int = 384
    encoder_blocks: int = 12
    encoder_heads: int = 6
    encoder_mlp_ratio: int = 4
    feature_indexes: tuple[int, ...] = (3, 6, 9, 12)  # N stands for the hidden state after N blocks
    projector_scales: tuple[str, ...] = ("P4",)
    width: int = 256  # channels of projector, decoder and heads
    decoder_layers: int = 3
    self_heads: int = 8
    cross_heads: int = 16
    points: int = 2  # sampling points per head and level of the cross-attention
    feedforward_width: int = 2048
    queries: int = 300
    groups: int = 13  # groups of queries in training; otherwise there is one group
    classes: int = 90  # without "no object", for which the class head has one more row
    channels: int = 3
    segmentation: bool = False
    mask_downsample_ratio: int = 4

    def __post_init__(self) -> None:
        if self.position_grid == 0:
            object.__setattr__(self, "position_grid", self.resolution // self.patch_size)

    @property
    def stride(self) -> int:
        """Both sides of an input must be divisible by this number of pixels."""
        return self.patch_size * self.windows


_OLD: dict[str, Any] = {"patch_size": 14, "windows": 4, "position_grid": 37, "feature_indexes": (2, 5, 8, 11)}
_SEGMENTER: dict[str, Any] = {"patch_size": 12, "decoder_layers": 4, "queries": 200, "segmentation": True}
_LARGE_SEGMENTER = _SEGMENTER | {"decoder_layers": 6, "queries": 300}
_SMALLEST: dict[str, Any] = {
    "patch_size": 8,
    "windows": 4,
    "encoder_width": 96,
    "encoder_blocks": 4,
    "encoder_heads": 3,
    "feature_indexes": (2, 4),
    "width": 128,
    "decoder_layers": 2,
    "self_heads": 4,
    "cross_heads": 8,
    "feedforward_width": 512,
    "queries": 100,
    "groups": 5,
}

VARIANTS: dict[str, Architecture] = {
    "nano": Architecture("RFDETRNano", "rf-detr-nano.pth", 384, decoder_layers=2),
    "small": Architecture("RFDETRSmall", "rf-detr-small.pth", 512),
    "medium": Architecture("RFDETRMedium", "rf-detr-medium.pth", 576, decoder_layers=4),
    "large": Architecture("RFDETRLarge", "rf-detr-large-2026.pth", 704, decoder_layers=4),
    "base": Architecture("RFDETRBase", "rf-detr-base.pth", 560, **_OLD),
    "large-deprecated": Architecture(
        "RFDETRLargeDeprecated",
        "rf-detr-large.pth",
        560,
        encoder_width=768,
        encoder_heads=12,
        projector_scales=("P3", "P5"),
        width=384,
        self_heads=12,
        cross_heads=24,
        points=4,
        **_OLD,
    ),
    "seg-preview": Architecture("RFDETRSegPreview", "rf-detr-seg-preview.pt", 432, **_SEGMENTER),
    "seg-nano": Architecture(
        "RFDETRSegNano", "rf-detr-seg-nano.pt", 312, **_SEGMENTER | {"windows": 1, "queries": 100}
    ),
    "seg-small": Architecture("RFDETRSegSmall", "rf-detr-seg-small.pt", 384, **_SEGMENTER | {"queries": 100}),
    "seg-medium": Architecture("RFDETRSegMedium", "rf-detr-seg-medium.pt", 432, **_SEGMENTER | {"decoder_layers": 5}),
    "seg-large": Architecture("RFDETRSegLarge", "rf-detr-seg-large.pt", 504, **_SEGMENTER | {"decoder_layers": 5}),
    "seg-xlarge": Architecture("RFDETRSegXLarge", "rf-detr-seg-xlarge.pt", 624, **_LARGE_SEGMENTER),
    "seg-2xlarge": Architecture("RFDETRSeg2XLarge", "rf-detr-seg-xxlarge.pt", 768, **_LARGE_SEGMENTER),
    # These two are not upstream's. They are small enough to train from scratch on two CPU cores.
    "pico": Architecture("RFDETRPico", None, 256, **_SMALLEST),
    "seg-pico": Architecture("RFDETRSegPico", None, 192, **_SMALLEST | {"patch_size": 12, "segmentation": True}),
}


class ModelConfig(Config):
    """The section `model` of params.yaml. None keeps the variant's number."""

    variant: str = Field("pico", description="the model, one of: " + ", ".join(VARIANTS) + " (docs/training.md)")
    pretrain_weights: str | None = Field(
        None, description="a file in weights/, or a published name such as rf-detr-nano.pth; null: untrained weights"
    )
    resolution: Resolution | None = Field(
        None, description="side of the square input in pixels (allowed: see docs/training.md); null: the variant's"
    )
    num_queries: Queries | None = Field(
        None, description="number of queries: the largest number of objects found in an image; null: the variant's"
    )
    group_detr: Groups | None = Field(
        None, description="number of groups of queries in training (method: Group DETR); null: the variant's"
    )
    num_channels: Channels = Field(3, description="channels of the input")
    freeze_encoder: bool = Field(False, description="do not train the encoder")
    gradient_checkpointing: bool = Field(False, description="recompute encoder activations: less memory, more time")

    @field_validator("variant")
    @classmethod
    def _known(cls, variant: str) -> str:
        if variant not in VARIANTS:
            raise ValueError(f"unknown variant. Known variants: {', '.join(VARIANTS)}.")
        return variant

    def architecture(self, classes: int) -> Architecture:
        """The variant's architecture with the changes of this section. classes: how many the dataset has.

        Raises:
            UserError: the resolution is not divisible by patch_size x windows.
        """
        variant = VARIANTS[self.variant]
        queries, groups = self.num_queries or variant.queries, self.group_detr or variant.groups
        sizes: dict[str, Any] = resized(variant, self.resolution) if self.resolution else {}
        return replace(variant, classes=classes, channels=self.num_channels, queries=queries, groups=groups, **sizes)


def invalid_reason(architecture: Architecture) -> str | None:
    """Why no detector can be built from these numbers; None if one can."""
    width, blocks, indexes = architecture.width, architecture.encoder_blocks, [*architecture.feature_indexes]
    heads_of_widths = (
        (architecture.encoder_width, architecture.encoder_heads),
        (width, architecture.self_heads),
        (width, architecture.cross_heads),
    )
    for width, heads in heads_of_widths:
        if heads < 1 or width % heads:
            return f"a width of {width} is not divisible by {heads} heads"
    if indexes != sorted({*indexes}) or not 1 <= indexes[-1] <= blocks:
        return f"feature indexes {indexes} must be rising numbers from 1 to {blocks}, the number of blocks"
    resolution, stride = architecture.resolution, architecture.stride
    if resolution % stride:
        factors = f"{architecture.patch_size} x {architecture.windows}"
        return f"a resolution of {resolution} is not divisible by {factors} = {stride}"
    if resolution < architecture.mask_downsample_ratio:
        return f"a resolution of {resolution} is less than mask_downsample_ratio {architecture.mask_downsample_ratio}"
    return None


def resized(architecture: Architecture, resolution: int) -> dict[str, int]:
    """The numbers that change with the resolution: the resolution itself and the position grid.

    A position grid of resolution / patch_size changes with it. base and large-deprecated keep DINOv2's grid of 37.

    Raises:
        UserError: the resolution is not divisible by patch_size x windows.
    """
    stride = architecture.stride
    if resolution % stride:
        below = resolution // stride * stride
        raise UserError(
            f"model.resolution {resolution} is not divisible by {stride}, which is patch_size "
            f"{architecture.patch_size} x windows {architecture.windows} of {architecture.name}. "
            f"Nearest: {max(below, stride)} or {below + stride}."
        )
    grid_follows = architecture.position_grid == architecture.resolution // architecture.patch_size
    grid = resolution // architecture.patch_size if grid_follows else architecture.position_grid
    return {"resolution": resolution, "position_grid": grid}
