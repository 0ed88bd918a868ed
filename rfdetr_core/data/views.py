"""The part of an image that the model sees in training, chosen before the image is decoded: what it needs, no finer."""

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
