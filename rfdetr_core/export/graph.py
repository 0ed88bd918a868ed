"""The two graphs that are exported: the detector alone (raw), and photographs to detections in pixels (complete)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from rfdetr_core.data.preprocess import IMAGENET_MEAN, IMAGENET_STD
from rfdetr_core.inference.optimised import OptimisedDetector
from rfdetr_core.model.config import Architecture
from rfdetr_core.model.detector import Detector
from rfdetr_core.ops.boxes import cxcywh_to_xyxy

# The name of an output with the tokens (B, Q) that became queries. Only the copy of a file that is written for the
# comparison has this output.
CHOSEN = "chosen"
_HALF = 2**11  # 11 bits: half of the 22 bits of Pillow's weights
RESIZE = "Pillow's bilinear, antialiased, to a square, rounded to 8 bits after each pass: across, then down"


class RawGraph(nn.Module):
    """Only the detector. The input is normalised images (B, C, R, R), the outputs are upstream's tensors.

    Outputs: dets (B, Q, 4) cxcywh from 0 to 1; labels (B, Q, K + 1) logits; for segmentation, masks (B, Q, h, w)
    logits.
    """

    inputs = ("input",)

    def __init__(self, detector: Detector, architecture: Architecture) -> None:
        super().__init__()
        optimised = OptimisedDetector(
            detector, architecture.resolution, dtype=torch.float32, batch_size=1, compiled=False
        )
        self.network: Any = optimised.detector
        for name in ("query_features", "query_boxes"):  # the other groups are only used in training
            values = getattr(self.network, name).detach()[: architecture.queries].clone()
            setattr(self.network, name, nn.Parameter(values, requires_grad=False))
        self.outputs = ("dets", "labels", "masks")[: 2 + architecture.segmentation]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The tensors that `outputs` names."""
        output = self.network(images)
        return (output.boxes, output.logits, output.masks)[: len(self.outputs)]


class CompleteGraph(nn.Module):
    """From photographs to detections. Resize, normalisation and choice of detections are those of `predict`.

    Outputs: boxes (B, Q, 4) xyxy in pixels, cut at the border of the image; scores (B, Q), the highest first; classes
    (B, Q) int64, indexes of the class table; for segmentation, masks (B, Q, h, w) logits, to be resized to the image
    and thresholded at zero.

    Args:
        detector: the trained network.
        architecture: its numbers.
        images: the input: uint8 (B, H, W, 3), or float32 (B, 3, H, W) from 0 to 1. RGB.
        branches: see `resize_as_pillow`.
    """

    inputs = ("images",)

    def __init__(
        self,
        detector: Detector,
        architecture: Architecture,
        images: Literal["uint8", "float"],
        *,
        branches: bool = True,
    ) -> None:
        super().__init__()
        self.branches = branches
        self.raw = RawGraph(detector, architecture)
        self.resolution, self.queries, self.kind = architecture.resolution, architecture.queries, images
        self.mean, self.std = (
            nn.Buffer(torch.tensor(values)[:, None, None]) for values in (IMAGENET_MEAN, IMAGENET_STD)
        )
        self.outputs = ("boxes", "scores", "classes", "masks")[: 3 + architecture.segmentation]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The tensors that `outputs` names."""
        pixels = images.float().permute(0, 3, 1, 2) if self.kind == "uint8" else (images * 255).round()
        height, width = pixels.shape[2], pixels.shape[3]
        squares = resize_as_pillow(pixels, self.resolution, branches=self.branches)
        boxes, logits, *masks = self.raw((squares / 255 - self.mean) / self.std)
        rows = logits.shape[2]
        scores, order = logits.sigmoid().flatten(1).topk(self.queries, dim=1)
        query = order // rows  # (B, Q)
        side_lengths = torch.stack([torch.scalar_tensor(side) for side in (width, height)]).repeat(2)  # (4,)
        corners = cxcywh_to_xyxy(boxes.gather(1, query[..., None].expand(-1, -1, 4))) * side_lengths
        detections = corners.clamp(min=0).minimum(side_lengths), scores, order % rows
        if not masks:
            return detections
        places = query[..., None, None].expand(-1, -1, *masks[0].shape[2:])
        return *detections, masks[0].gather(1, places)


def resize_as_pillow(pixels: Tensor, side: int, *, branches: bool) -> Tensor:
    """Resize images exactly as Pillow's BILINEAR does, with the same bits.

    The resize is written as matrix products, which every runtime has; few runtimes have an antialiased resize. Pillow
    (Resample.c) adds integer weights of 22 bits, and rounds to 8 bits after each of two passes. Here each weight is
    split into two numbers of 11 bits. So all sums are whole numbers that float32 holds exactly, for reductions down to
    a sixteenth of the size. The size of the image decides which pass is the first.

    Args:
        pixels: (B, C, H, W), whole numbers from 0 to 255.
        side: height and width of the result (B, C, side, side).
        branches: choose the order of the two passes with a conditional branch, and compute only this order. False:
            compute both orders and choose one result.
    """
    height, width = (torch.scalar_tensor(length, dtype=torch.int64) for length in pixels.shape[2:])
    # The rule of Pillow 13. Earlier versions always begin with the rows.
    columns_first = (height > side) & (height - side > 2 * (width - side))
    if branches:
        return torch.cond(  # type: ignore[no-any-return]
            columns_first,
            lambda batch: _resize_rows(_resize_columns(batch, side), side),
            lambda batch: _resize_columns(_resize_rows(batch, side), side),
            (pixels,),
        )
    rows_last = _resize_rows(_resize_columns(pixels, side), side)
    return torch.where(columns_first, rows_last, _resize_columns(_resize_rows(pixels, side), side))


def _resize_rows(pixels: Tensor, side: int) -> Tensor:
    high, low = _weights(pixels.shape[3], side)
    return _round_sum(pixels @ high.t(), pixels @ low.t())


def _resize_columns(pixels: Tensor, side: int) -> Tensor:
    high, low = _weights(pixels.shape[2], side)
    return _round_sum(high @ pixels, low @ pixels)


def _round_sum(upper: Tensor, lower: Tensor) -> Tensor:
    """Round (upper * 2^11 + lower) / 2^22 to whole numbers, halves up. The lower sum carries into the upper one."""
    return ((upper + (lower / _HALF).floor() + _HALF // 2) / _HALF).floor()


def _weights(length: int, side: int) -> tuple[Tensor, Tensor]:
    """The upper and the lower 11 bits of the weight (side, length) of each source pixel in each target pixel.

    A weight falls linearly with the distance. It is zero at distances of the reduction factor or more; if the image is
    enlarged, at distances of 1 or more. It is computed with whole numbers, by long division, since the rounding of its
    last bit decides how exact halves are rounded.
    """
    sources = torch.arange(length) * 2 + 1
    targets = torch.arange(side) * 2 + 1
    lengths = torch.scalar_tensor(length, dtype=torch.int64)
    sides, zero = (torch.scalar_tensor(number, dtype=torch.int64) for number in (side, 0))
    # Not clamp: TensorRT has it only for floating-point numbers.
    width = 2 * lengths.maximum(sides)
    heights = (width - (side * sources[None] - lengths * targets[:, None]).abs()).maximum(zero)  # (side, length)
    total = heights.sum(dim=1, keepdim=True)
    high, remainder = _divide(heights * _HALF, total)
    low, remainder = _divide(remainder * _HALF, total)
    return high.float(), (low + (2 * remainder >= total)).float()


def _divide(number: Tensor, divisor: Tensor) -> tuple[Tensor, Tensor]:
    """Quotient and remainder of numbers that are not negative."""
    quotient = number // divisor
    return quotient, number - quotient * divisor
