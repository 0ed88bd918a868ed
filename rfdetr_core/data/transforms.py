"""Training augmentation: an image and its instances, cropped, resized, flipped, turned and coloured together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from rfdetr_core.boxes import xyxy_to_cxcywh
from rfdetr_core.data.config import AugmentConfig
from rfdetr_core.data.samples import Sample
from rfdetr_core.data.views import View, boxes_in, chance, draw_view, image_in, integer, masks_in
from rfdetr_core.structures import Target


@dataclass(frozen=True)
class Example:
    """An 8-bit image with N instances.

    image: (3, H, W), a tv_tensor. boxes: (N, 4) xyxy in pixels. labels: (N,). masks: (N, H, W) bool or None.
    """

    image: Tensor
    boxes: tv_tensors.BoundingBoxes
    labels: Tensor
    masks: tv_tensors.Mask | None

    def apply(self, kernel: Callable[..., Any], *arguments: Any) -> Example:
        """The example after a geometric function of torchvision's `transforms.v2.functional`."""
        masks = None if self.masks is None else kernel(self.masks, *arguments)
        return Example(kernel(self.image, *arguments), kernel(self.boxes, *arguments), self.labels, masks)

    def visible(self) -> Example:
        """Without the instances whose box has no area or whose mask, if there are masks, has no pixel."""
        keep = (self.boxes[:, 2:] > self.boxes[:, :2]).all(dim=1)
        if self.masks is not None:
            keep &= self.masks.flatten(1).view(torch.uint8).amax(dim=1).bool()  # any() takes 60 times as long
        if keep.all():
            return self
        masks = None if self.masks is None else tv_tensors.wrap(self.masks[keep], like=self.masks)
        return Example(self.image, tv_tensors.wrap(self.boxes[keep], like=self.boxes), self.labels[keep], masks)

    def target(self) -> Target:
        """The instances as the losses want them: boxes cxcywh as fractions of the image."""
        height, width = self.boxes.canvas_size
        boxes = xyxy_to_cxcywh(self.boxes.as_subclass(Tensor) / torch.tensor([width, height, width, height]))
        return Target(self.labels, boxes, None if self.masks is None else self.masks.as_subclass(Tensor))


def augment(
    sample: Sample,
    decode: Callable[[int], Image.Image],
    side: int,
    config: AugmentConfig,
    random: torch.Generator,
    *,
    masks: bool,
) -> Example:
    """A sample as training sees it once, side x side, drawn from `random`; its law is upstream's (`datasets/coco.py`).

    decode: gives the picture at 1 / its argument of its size, or at its full size where that is not possible.
    """
    view = draw_view(sample.height, sample.width, config, random)
    picture = decode(view.reduction(side))
    factor = round(sample.width / picture.width)
    view = view.widened(factor)
    return vary(seen(sample, view, image_in(view, picture, factor, side), masks=masks), config, random)


def seen(sample: Sample, view: View, image: Tensor, *, masks: bool) -> Example:
    """The image of a view, S x S, with what it shows of the sample's instances that are no crowd."""
    side = image.shape[-1]
    kept = np.flatnonzero(~sample.crowd)
    corners = sample.boxes[kept]
    corners[:, 2:] += corners[:, :2]
    corners = corners.clip(0, (sample.width, sample.height) * 2)
    boxes = tv_tensors.BoundingBoxes(boxes_in(view, corners, side), format="XYXY", canvas_size=(side, side))
    filled = None
    if masks:
        shapes = [sample.segmentations[one] for one in kept]
        filled = tv_tensors.Mask(masks_in(view, shapes, sample.height, sample.width, side))
    return Example(tv_tensors.Image(image), boxes, torch.from_numpy(sample.labels[kept]), filled).visible()


def vary(example: Example, config: AugmentConfig, random: torch.Generator) -> Example:
    """Flip, turn and colour an example, drawing from `random`; by default only a flip in half of the cases."""
    if chance(config.horizontal_flip, random):
        example = example.apply(F.horizontal_flip)
    if chance(config.vertical_flip, random):
        example = example.apply(F.vertical_flip)
    if chance(config.quarter_turn, random):
        example = example.apply(F.rotate, 90.0 * integer(1, 3, random))
    image = example.image
    for adjust, centre, width in (
        (F.adjust_brightness, 1, config.brightness),
        (F.adjust_contrast, 1, config.contrast),
        (F.adjust_saturation, 1, config.saturation),
        (F.adjust_hue, 0, config.hue),
    ):
        if width:
            image = adjust(image, centre + width * (2 * torch.rand((), generator=random).item() - 1))
    return replace(example, image=image)
