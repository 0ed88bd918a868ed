"""Batches brought to the sizes of multi-scale training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from rfdetr_core.data.batching import Batch, multi_scale_size
from rfdetr_core.data.seeding import mixed_seed
from rfdetr_core.structures import Target


def at_drawn_size(
    batch: Batch, sizes: Sequence[int], mode: Literal["per-batch", "per-sample"], seed: int, *, epoch: int, step: int
) -> Batch:
    """The batch as an optimiser step trains on it: at a size drawn for the step, or for each image and epoch."""
    if mode == "per-batch":
        return resized(batch, multi_scale_size(step, list(sizes), seed))
    draws = [mixed_seed("multi-scale", seed, epoch, sample.image_id) for sample in batch.samples]
    return resized_each(batch, [sizes[draw % len(sizes)] for draw in draws])


def resized(batch: Batch, side: int) -> Batch:
    """The batch with all of its images, and the padding, at side x side. Targets are relative and stay."""
    if side == batch.images.shape[-1]:
        return batch
    padding = batch.padding
    if padding is not None:
        padding = F.interpolate(padding[:, None].float(), size=(side, side))[:, 0] > 0.5
    return replace(batch, images=_scaled(batch.images, side), padding=padding)


def resized_each(batch: Batch, sides: Sequence[int]) -> Batch:
    """The batch with image i at sides[i], at the top left of a square of the largest side; the rest is padding.

    Boxes stay relative to their image; masks grow with the padding, since mask logits cover it. The batch may have no
    padding of its own.
    """
    largest = max(sides)
    images = batch.images.new_zeros(*batch.images.shape[:2], largest, largest)
    padding = torch.ones(len(images), largest, largest, dtype=torch.bool, device=images.device)
    targets = []
    for index, (target, side) in enumerate(zip(batch.targets, sides, strict=True)):
        images[index, :, :side, :side] = _scaled(batch.images[index : index + 1], side)[0]
        padding[index, :side, :side] = False
        targets.append(Target(target.labels, target.boxes, _padded(target.masks, side, largest)))
    return replace(batch, images=images, targets=targets, padding=padding)


def _scaled(images: Tensor, side: int) -> Tensor:
    return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)


def _padded(masks: Tensor | None, side: int, largest: int) -> Tensor | None:
    if masks is None:
        return None
    if not len(masks):  # which interpolate refuses
        return masks.new_zeros(0, largest, largest)
    scaled = F.interpolate(masks[None].float(), size=(side, side))[0] > 0.5  # nearest
    return F.pad(scaled, (0, largest - side, 0, largest - side))
