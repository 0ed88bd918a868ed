"""Training augmentation: an image and its instances, cropped, resized, flipped, turned and coloured together.

The crop is chosen before the image is decoded, so that no more of it is decoded than the model sees.
"""

from __future__ import annotations
from typing import Any, NamedTuple
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from pycocotools import mask as rle
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from rfdetr_core.data.config import AugmentConfig
from rfdetr_core.data.preprocess import resize
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from torchvision import tv_tensors
from rfdetr_core.ops.boxes import xyxy_to_cxcywh
from rfdetr_core.data.samples import Sample
from rfdetr_core.ops.structures import Target

_JPEG_SCALES = (8, 4, 2)


class View(NamedTuple):
    """A rectangle of an upright image, in pixels of its full size."""

    top: int
    left: int
    height: int
    width: int

    def reduction(self, side: int) -> int:
        """The most by which a JPEG may be reduced while decoding, so that side x side pixels of the view are left."""
        return next((factor for factor in _JPEG_SCALES if min(self.height, self.width) >= factor * side), 1)

    def widened(self, factor: int) -> View:
        """The smallest view around this one that begins and ends between the pixels of the reduced image."""
        top, left = self.top // factor * factor, self.left // factor * factor
        bottom, right = (-(-end // factor) * factor for end in (self.top + self.height, self.left + self.width))
        return View(top, left, bottom - top, right - left)


def draw_view(height: int, width: int, config: AugmentConfig, random: torch.Generator) -> View:
    """The whole image, or in half of the cases a square of it, as upstream crops (`datasets/coco.py`).

    Upstream resizes before it cuts; here the same square is cut from the original, so that pixels are interpolated
    once.
    """
    if not config.crop_sides or not chance(0.5, random):
        return View(0, 0, height, width)
    short = min(height, width)
    scaled_short = config.crop_sides[integer(0, len(config.crop_sides) - 1, random)]
    smallest, largest = (min(side, scaled_short) for side in config.crop_range)
    side = max(1, round(integer(smallest, largest, random) * short / scaled_short))
    return View(integer(0, height - side, random), integer(0, width - side, random), side, side)


def image_in(view: View, picture: Image.Image, factor: int, side: int) -> Tensor:
    """The view as (3, side, side) uint8, from a picture that was reduced by `factor`, which divides the view."""
    top, left, height, width = (value // factor for value in view)
    # Cut by Pillow, which copies a fifth of the time that it takes to turn all pixels into a tensor.
    picture = picture.crop((left, top, left + width, top + height))
    shown: Tensor = resize(F.pil_to_tensor(picture), side)
    return shown


def boxes_in(view: View, corners: npt.NDArray[np.float64], side: int) -> Tensor:
    """Boxes (N, 4) xyxy in pixels of the image, as pixels of the view at side x side, clipped: float32."""
    moved = (corners - (view.left, view.top) * 2) * (side / np.array([view.width, view.height] * 2))
    return torch.from_numpy(moved.clip(0, side)).float()


def masks_in(view: View, segmentations: list[Any], height: int, width: int, side: int) -> Tensor:
    """COCO segmentations of an image of height x width, filled as they appear in the view: (N, side, side) bool.

    Polygons are filled at this size; of run lengths the nearest pixels are taken.
    """
    masks = torch.zeros((len(segmentations), side, side), dtype=torch.bool)
    rows, columns = (
        np.floor(start + (np.arange(side) + 0.5) * length / side).astype(np.int64)
        for start, length in ((view.top, view.height), (view.left, view.width))
    )
    scale = side / np.array([view.height, view.width])
    for mask, coded in zip(masks, segmentations, strict=True):
        if isinstance(coded, list):
            # With x and y exchanged: pycocotools fills by columns, tensors are stored by rows.
            points = (np.array(polygon, dtype=np.float64).reshape(-1, 2)[:, ::-1] for polygon in coded)
            moved = [((yx - (view.top, view.left)) * scale).ravel().tolist() for yx in points]
            filled = rle.decode(rle.merge(rle.frPyObjects(moved, side, side))).T
        else:
            whole = rle.decode(run_lengths(coded, height, width))
            filled = whole.T[columns.clip(0, width - 1)][:, rows.clip(0, height - 1)].T
        mask.copy_(torch.from_numpy(filled))
    return masks


def decode_masks(segmentations: list[Any], height: int, width: int) -> Tensor:
    """Fill COCO segmentations (polygon lists, compressed or uncompressed RLEs): (N, height, width) bool."""
    masks = torch.zeros((len(segmentations), height, width), dtype=torch.bool)
    for mask, coded in zip(masks, segmentations, strict=True):
        mask.copy_(torch.from_numpy(rle.decode(run_lengths(coded, height, width))))
    return masks


def run_lengths(coded: Any, height: int, width: int) -> Any:
    """A COCO segmentation as a compressed RLE."""
    if isinstance(coded, list):
        return rle.merge(rle.frPyObjects(coded, height, width))
    return rle.frPyObjects(coded, height, width) if isinstance(coded["counts"], list) else coded


def chance(probability: float, random: torch.Generator) -> bool:
    """True in this share of the draws."""
    return torch.rand((), generator=random).item() < probability


def integer(low: int, high: int, random: torch.Generator) -> int:
    """Any integer from low to high, both included, with equal probability."""
    return int(torch.randint(low, high + 1, (), generator=random).item())


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
