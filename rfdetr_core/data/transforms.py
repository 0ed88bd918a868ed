"""Training augmentation: an image and its instances, cropped, resized, flipped and coloured together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from rfdetr_core.boxes import xyxy_to_cxcywh
from rfdetr_core.data.config import AugmentConfig
from rfdetr_core.structures import Target


@dataclass(frozen=True)
class Example:
    """An 8-bit image with N instances; boxes: (N, 4) xyxy in pixels, labels: (N,), masks: (N, H, W) bool or None."""

    image: Image.Image | Tensor
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
        masks = None if self.masks is None else tv_tensors.wrap(self.masks[keep], like=self.masks)
        return Example(self.image, tv_tensors.wrap(self.boxes[keep], like=self.boxes), self.labels[keep], masks)

    def target(self) -> Target:
        """The instances as the losses want them: boxes cxcywh as fractions of the image."""
        height, width = self.boxes.canvas_size
        boxes = xyxy_to_cxcywh(self.boxes.as_subclass(Tensor) / torch.tensor([width, height, width, height]))
        return Target(self.labels, boxes, None if self.masks is None else self.masks.as_subclass(Tensor))


def augment(example: Example, side: int, config: AugmentConfig, random: torch.Generator) -> Example:
    """Vary an example and bring it to side x side pixels, as upstream does (`datasets/coco.py`), drawing from `random`.

    Half of the images are resized as a whole; of the others a random square is cut out first. Upstream resizes before
    it cuts; here the same square is cut from the original, so that pixels are interpolated once. Instances that the
    crop leaves nothing of are dropped.
    """
    height, width = example.boxes.canvas_size
    crop = (0, 0, height, width)
    if config.scale_jitter and _chance(0.5, random):
        crop = _square(height, width, config, random)
    example = replace(example, image=F.to_image(example.image)).apply(F.resized_crop, *crop, [side, side]).visible()
    if _chance(config.horizontal_flip, random):
        example = example.apply(F.horizontal_flip)
    if _chance(config.vertical_flip, random):
        example = example.apply(F.vertical_flip)
    if _chance(config.quarter_turn, random):
        example = example.apply(F.rotate, 90.0 * _integer(1, 3, random))
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


def _square(height: int, width: int, config: AugmentConfig, random: torch.Generator) -> tuple[int, int, int, int]:
    short = min(height, width)
    scaled_short = config.crop_sides[_integer(0, len(config.crop_sides) - 1, random)]
    smallest, largest = (min(side, scaled_short) for side in config.crop_range)
    side = max(1, round(_integer(smallest, largest, random) * short / scaled_short))
    return _integer(0, height - side, random), _integer(0, width - side, random), side, side


def _chance(probability: float, random: torch.Generator) -> bool:
    return torch.rand((), generator=random).item() < probability


def _integer(low: int, high: int, random: torch.Generator) -> int:
    return int(torch.randint(low, high + 1, (), generator=random).item())
