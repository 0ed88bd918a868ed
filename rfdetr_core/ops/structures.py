"""The dataclasses that data, model, losses and metrics exchange: targets, raw outputs and detections."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Target:
    """The ground truth of an image in a batch.

    labels: (N,) int64 class indexes. boxes: (N, 4) cxcywh in 0..1 of the image. masks: (N, H, W) bool or None.
    """

    labels: Tensor
    boxes: Tensor
    masks: Tensor | None = None

    def to(self, device: torch.device | str) -> Target:
        """The same target on another device."""
        masks = None if self.masks is None else self.masks.to(device, non_blocking=True)
        return Target(self.labels.to(device, non_blocking=True), self.boxes.to(device, non_blocking=True), masks)


@dataclass(frozen=True)
class MaskFactors:
    """The two factors of mask logits. With them the loss samples points without a (B, Q, h, w) tensor.

    pixels: (B, C, h, w). queries: (B, Q, C). bias: (1,).
    """

    pixels: Tensor
    queries: Tensor
    bias: Tensor

    def dense(self) -> Tensor:
        """Mask logits (B, Q, h, w)."""
        return torch.einsum("bchw,bqc->bqhw", self.pixels, self.queries) + self.bias


@dataclass(frozen=True)
class DetectorOutput:
    """The raw output of the detector for a batch.

    logits: (B, Q, K). boxes: (B, Q, 4) cxcywh in 0..1. masks: logits (B, Q, h, w), or in training their factors; None
    without segmentation. auxiliary: the outputs of the earlier decoder layers. proposals: the output of the proposal
    heads (model/proposals.py). Q counts the queries of all groups in training, and of one group otherwise.
    """

    logits: Tensor
    boxes: Tensor
    masks: Tensor | MaskFactors | None = None
    auxiliary: tuple[DetectorOutput, ...] = ()
    proposals: DetectorOutput | None = None


@dataclass(frozen=True)
class Detections:
    """The detections of an image, sorted by decreasing score.

    scores: (N,). labels: (N,) class indexes. boxes: (N, 4) xyxy in pixels. masks: (N, H, W) bool or None.
    """

    scores: Tensor
    labels: Tensor
    boxes: Tensor
    masks: Tensor | None = None
