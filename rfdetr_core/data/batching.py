"""Batches: collates items, orders the images of an epoch, and resizes batches for multi-scale training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Sampler, default_collate

from rfdetr_core.data.dataset import Item, SampleKey
from rfdetr_core.data.preprocess import normalise
from rfdetr_core.data.samples import Sample
from rfdetr_core.data.seeding import generator, mixed_seed
from rfdetr_core.ops.structures import Target


@dataclass(frozen=True)
class Batch:
    """Images and their targets.

    images: (B, 3, H, W) uint8, or float32 after normalisation. padding: (B, H, W), True where a pixel is not part of
    its image; None: there is no padding.
    """

    images: Tensor
    targets: list[Target]
    samples: list[Sample]
    padding: Tensor | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle all targets as a few tensors: each tensor that a loader worker sends needs a file descriptor."""
        if not self.targets:
            return Batch, (self.images, [], self.samples, self.padding)
        labels, boxes = (torch.cat([getattr(target, name) for target in self.targets]) for name in ("labels", "boxes"))
        masks = [target.masks for target in self.targets if target.masks is not None]
        counts = [len(target.labels) for target in self.targets]
        packed = (labels, boxes, torch.cat(masks) if masks else None, counts)
        return _unpacked, (self.images, packed, self.samples, self.padding)

    def normalised(self) -> Batch:
        """The batch with normalised images, as the model needs them. A normalised batch is returned unchanged."""
        return self if self.images.is_floating_point() else replace(self, images=normalise(self.images))

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device. Lightning calls this."""
        padding = None if self.padding is None else self.padding.to(device, non_blocking=True)
        targets = [target.to(device) for target in self.targets]
        return Batch(self.images.to(device, non_blocking=True), targets, self.samples, padding)

    def pin_memory(self) -> Batch:
        """The same batch with its large tensors in pinned memory. DataLoader calls this."""
        targets = [
            replace(target, masks=None if target.masks is None else target.masks.pin_memory())
            for target in self.targets
        ]
        return replace(self, images=self.images.pin_memory(), targets=targets)


def _unpacked(images: Tensor, packed: tuple[Any, ...], samples: list[Sample], padding: Tensor | None) -> Batch:
    """Unpickle a batch that `Batch.__reduce__` has packed."""
    labels, boxes, masks, counts = packed
    parts = [None] * len(counts) if masks is None else masks.split(counts)
    targets = [Target(*parts) for parts in zip(labels.split(counts), boxes.split(counts), parts, strict=True)]
    return Batch(images, targets, samples, padding)


def collate(items: list[Item]) -> Batch:
    """Stack items of equal size as uint8: a quarter of the bytes that floats would need on the way to the device."""
    if not items:
        return Batch(torch.zeros(0, 3, 1, 1, dtype=torch.uint8), [], [])
    images: Tensor = default_collate([item.image for item in items])  # in a worker, this stacks in shared memory
    return Batch(images, [item.target for item in items], [item.sample for item in items])


@dataclass(eq=False)
class EpochSampler(Sampler[SampleKey]):
    """The images of one rank in an epoch: a permutation that depends on (seed, epoch), filled up to complete steps.

    - Size: an optimiser step takes batch_size x accumulate x world images. accumulate: batches per step and rank.
      world: the number of ranks.
    - Order: every image comes at least once in every epoch.
    - Filling: the last step is filled up from a further permutation, or from several if the dataset is smaller than a
      step. A repeated image gets another augmentation.
    - Ranks: the batches are dealt to the ranks in turn. So a step has the same images, however its size is divided into
      batch_size, accumulate and world.

    count: the number of images in the dataset.
    """

    count: int
    seed: int
    batch_size: int
    accumulate: int = 1
    rank: int = 0
    world: int = 1
    epoch: int = 0

    @property
    def steps(self) -> int:
        """Optimiser steps in an epoch."""
        return -(-self.count // (self.batch_size * self.accumulate * self.world))

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration. Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.batch_size * self.accumulate

    def __iter__(self) -> Iterator[SampleKey]:
        draws: list[SampleKey] = []
        total = len(self) * self.world
        while len(draws) < total:
            repeat = len(draws) // self.count
            order = torch.randperm(self.count, generator=generator("order", self.seed, self.epoch, repeat))
            draws += [SampleKey(self.epoch, image, repeat) for image in order.tolist()]
        for start in range(self.rank * self.batch_size, total, self.world * self.batch_size):
            yield from draws[start : start + self.batch_size]


def multi_scale_sizes(resolution: int, patch_size: int, windows: int, expanded: bool = True) -> list[int]:
    """The sides of multi-scale training in increasing order, by the rule of upstream's `datasets/coco.py`.

    A side is the resolution plus a multiple of the stride, which is patch_size x windows. Sides below two strides are
    left out.

    Args:
        resolution: The side of the model's input, in pixels.
        patch_size: The side of a patch, in pixels.
        windows: The number of attention windows along a side.
        expanded: True: the multiples are -5 to 5. False: -3 to 4.
    """
    stride = patch_size * windows
    offsets = range(-5, 6) if expanded else range(-3, 5)
    return [side for offset in offsets if (side := (resolution // stride + offset) * stride) >= 2 * stride]


def multi_scale_size(step: int, sizes: list[int], seed: int) -> int:
    """Draw the side for an optimiser step. It is the same on every rank and after every restart.

    Args:
        step: The number of the step.
        sizes: The sides to draw from.
        seed: The seed of the training.
    """
    return sizes[mixed_seed("multi-scale", seed, step) % len(sizes)]


def resize_to_drawn_size(
    batch: Batch, sizes: Sequence[int], mode: Literal["per-batch", "per-sample"], seed: int, *, epoch: int, step: int
) -> Batch:
    """Resize a batch to a drawn side, as an optimiser step trains on it.

    Args:
        batch: The batch.
        sizes: The sides to draw from.
        mode: "per-batch": one side for the step. "per-sample": one side for each image and epoch.
        seed: The seed of the training.
        epoch: The number of the epoch; used only for "per-sample".
        step: The number of the step; used only for "per-batch".
    """
    if mode == "per-batch":
        return resize_batch(batch, multi_scale_size(step, list(sizes), seed))
    draws = [mixed_seed("multi-scale", seed, epoch, sample.image_id) for sample in batch.samples]
    return resize_each_image(batch, [sizes[draw % len(sizes)] for draw in draws])


def resize_batch(batch: Batch, side: int) -> Batch:
    """Resize all images and the padding to side x side. Boxes are relative to the image, so targets stay the same."""
    if side == batch.images.shape[-1]:
        return batch
    if (padding := batch.padding) is not None:
        padding = F.interpolate(padding[:, None].float(), size=(side, side))[:, 0] > 0.5
    return replace(batch, images=_scaled(batch.images, side), padding=padding)


def resize_each_image(batch: Batch, sides: Sequence[int]) -> Batch:
    """Resize image i to sides[i], and put it at the top left of a square of the largest side. The rest is padding.

    Boxes stay relative to their image. Masks are padded, too, because mask logits also cover the padding. The batch
    must not have padding before.
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
    if not len(masks):  # F.interpolate() does not accept an empty tensor
        return masks.new_zeros(0, largest, largest)
    scaled = F.interpolate(masks[None].float(), size=(side, side))[0] > 0.5  # nearest
    return F.pad(scaled, (0, largest - side, 0, largest - side))
