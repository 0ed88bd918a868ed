"""DetectionDataset: from an index to an image tensor and its target. The digest of a file is checked before decoding.

The crop of an image is drawn before the image is decoded, so that a JPEG can be decoded at a reduced size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from pycocotools import mask as rle
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from rfdetr_core.base import images
from rfdetr_core.base.errors import UserError
from rfdetr_core.data.augmentation import AugmentConfig, Stream, View, apply_augmentations, draw_view
from rfdetr_core.data.preprocess import resize
from rfdetr_core.data.samples import Sample
from rfdetr_core.data.seeding import generator
from rfdetr_core.ops.boxes import xyxy_to_cxcywh
from rfdetr_core.ops.structures import Target


class SampleKey(NamedTuple):
    """Identifies an augmented sample: its augmentation depends only on these numbers and the seed.

    image: its index. repeat: how often the image came before in this epoch.
    """

    epoch: int
    image: int
    repeat: int = 0


@dataclass(frozen=True)
class Example:
    """An 8-bit image with N instances.

    image: (3, H, W), a tv_tensor. boxes: (N, 4) xyxy in pixels. labels: (N,). masks: (N, H, W) bool or None.
    """

    image: Tensor
    boxes: tv_tensors.BoundingBoxes
    labels: Tensor
    masks: tv_tensors.Mask | None

    def move(self, function_name: str, *arguments: Any) -> Example:
        """Apply a geometric function of torchvision's `transforms.v2.functional` to image, boxes and masks.

        arguments: the arguments of the function after the image.
        """
        change = getattr(F, function_name)
        masks = None if self.masks is None else change(self.masks, *arguments)
        return Example(change(self.image, *arguments), change(self.boxes, *arguments), self.labels, masks)

    def recolour(self, function_name: str, *arguments: Any) -> Example:
        """Apply a function of torchvision's `transforms.v2.functional` to the image only."""
        return replace(self, image=getattr(F, function_name)(self.image, *arguments))

    def visible(self) -> Example:
        """Remove the instances whose box has no area, or whose mask has no pixel."""
        keep = (self.boxes[:, 2:] > self.boxes[:, :2]).all(dim=1)
        if self.masks is not None:
            keep &= self.masks.flatten(1).view(torch.uint8).amax(dim=1).bool()  # any() takes 60 times as long
        if keep.all():
            return self
        masks = None if self.masks is None else tv_tensors.wrap(self.masks[keep], like=self.masks)
        return Example(self.image, tv_tensors.wrap(self.boxes[keep], like=self.boxes), self.labels[keep], masks)

    def target(self) -> Target:
        """The instances as the losses need them: boxes cxcywh, as fractions of the image."""
        height, width = self.boxes.canvas_size
        boxes = xyxy_to_cxcywh(self.boxes.as_subclass(Tensor) / torch.tensor([width, height, width, height]))
        return Target(self.labels, boxes, None if self.masks is None else self.masks.as_subclass(Tensor))


@dataclass(frozen=True)
class Item:
    """An element of a dataset. image: (3, R, R) uint8. target: its instances except crowds. sample: its source."""

    image: Tensor
    target: Target
    sample: Sample


@dataclass(eq=False)
class DetectionDataset(Dataset[Item]):
    """The samples of a split as tensors of resolution x resolution.

    With `augmentation`, an item is requested by a `SampleKey` and depends only on the key and the seed. Without, it is
    requested by its index.

    root: the dataset folder. masks: targets get masks of resolution x resolution.

    Raises:
        UserError: on construction, if masks are requested and an instance has no segmentation; on access, if an image
            is missing, damaged, or has another digest than the manifest.
    """

    samples: list[Sample]
    root: Path
    resolution: int
    masks: bool = False
    augmentation: AugmentConfig | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for sample in self.samples if self.masks else ():
            if any(
                segmentation is None
                for segmentation, crowd in zip(sample.segmentations, sample.crowd, strict=True)
                if not crowd
            ):
                raise UserError(
                    f"{sample.path} has objects without a mask (polygon or RLE), but the model predicts masks. Add the "
                    "masks, or choose a model.variant that only detects."
                )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: SampleKey | int) -> Item:
        """Read, check, decode, augment and resize an image."""
        draw = key if isinstance(key, SampleKey) else SampleKey(0, key)
        sample = self.samples[draw.image]
        data = images.read_verified(self.root / sample.path, sample.sha256)
        decode = partial(images.decode, data, sample.path, max_pixels=None)
        if self.augmentation is None:
            view, picture = View(0, 0, sample.height, sample.width), resize(decode(), self.resolution)
            example = crop_example(sample, view, F.pil_to_tensor(picture), masks=self.masks)
        else:

            def stream(*name: str) -> torch.Generator:
                return generator("augment", *name, self.seed, *draw)

            example = augment(sample, decode, self.resolution, self.augmentation, stream, masks=self.masks)
        return Item(example.image.as_subclass(Tensor), example.target(), sample)


def augment(
    sample: Sample,
    decode: Callable[[int], Image.Image],
    side: int,
    config: AugmentConfig,
    stream: Stream,
    *,
    masks: bool,
) -> Example:
    """Make a training example of a sample. With the default config the distribution is upstream's (`datasets/coco.py`).

    Args:
        sample: The image and its instances.
        decode: Takes a factor and returns the picture reduced by it, or at full size if that is not possible.
        side: The side of the result in pixels.
        config: The augmentation.
        stream: Returns the random stream of an augmentation by its name; without a name, the shared stream.
        masks: Make masks.
    """
    random = stream()
    view = draw_view(sample.height, sample.width, config, random)
    picture = decode(view.reduction(side))
    factor = round(sample.width / picture.width)
    view = view.widened(factor)
    return apply_augmentations(
        crop_example(sample, view, crop_image(view, picture, factor, side), masks=masks), config, random, stream
    )


def crop_example(sample: Sample, view: View, image: Tensor, *, masks: bool) -> Example:
    """Crop the instances of a sample to a view. Crowds are left out.

    Args:
        sample: The instances.
        view: The crop, in pixels of the full image.
        image: The view, resized to (3, S, S).
        masks: Make masks of S x S.
    """
    side = image.shape[-1]
    indexes = np.flatnonzero(~sample.crowd)
    corners = sample.boxes[indexes]
    corners[:, 2:] += corners[:, :2]
    corners = corners.clip(0, (sample.width, sample.height) * 2)
    boxes = tv_tensors.BoundingBoxes(crop_boxes(view, corners, side), format="XYXY", canvas_size=(side, side))
    shapes = [sample.segmentations[index] for index in indexes]
    filled = tv_tensors.Mask(crop_masks(view, shapes, sample.height, sample.width, side)) if masks else None
    return Example(tv_tensors.Image(image), boxes, torch.from_numpy(sample.labels[indexes]), filled).visible()


def crop_image(view: View, picture: Image.Image, factor: int, side: int) -> Tensor:
    """Crop a picture to a view: (3, side, side) uint8.

    Args:
        view: The crop, in pixels of the full image.
        picture: The image, reduced by `factor`.
        factor: The factor by which `picture` is reduced. The edges of the view are multiples of it.
        side: The side of the result, in pixels.
    """
    top, left, height, width = (value // factor for value in view)
    # Cropped by Pillow: this takes a fifth of the time of converting the complete picture to a tensor.
    picture = picture.crop((left, top, left + width, top + height))
    resized: Tensor = resize(F.pil_to_tensor(picture), side)
    return resized


def crop_boxes(view: View, corners: npt.NDArray[np.float64], side: int) -> Tensor:
    """Convert boxes from pixels of the image to pixels of the resized view, clipped to it: (N, 4) xyxy float32.

    Args:
        view: The crop.
        corners: (N, 4) xyxy in pixels of the image.
        side: The side of the resized view, in pixels.
    """
    moved = (corners - (view.left, view.top) * 2) * (side / np.array([view.width, view.height] * 2))
    return torch.from_numpy(moved.clip(0, side)).float()


def crop_masks(view: View, segmentations: list[Any], height: int, width: int, side: int) -> Tensor:
    """Make masks of the resized view: (N, side, side) bool.

    Polygons are scaled and then filled. Run lengths (RLE) are decoded, and then resampled to the nearest pixel.

    Args:
        view: The crop.
        segmentations: In COCO's format: a list of polygons, or run lengths.
        height: The height of the image, in pixels.
        width: The width of the image, in pixels.
        side: The side of the resized view, in pixels.
    """
    masks = torch.zeros((len(segmentations), side, side), dtype=torch.bool)
    rows, columns = (
        np.floor(start + (np.arange(side) + 0.5) * length / side).astype(np.int64)
        for start, length in ((view.top, view.height), (view.left, view.width))
    )
    scale = side / np.array([view.height, view.width])
    for mask, coded in zip(masks, segmentations, strict=True):
        if isinstance(coded, list):
            # x and y are exchanged: pycocotools fills column by column, but tensors are stored row by row.
            points = (np.array(polygon, dtype=np.float64).reshape(-1, 2)[:, ::-1] for polygon in coded)
            moved = [((yx - (view.top, view.left)) * scale).ravel().tolist() for yx in points]
            filled = rle.decode(rle.merge(rle.frPyObjects(moved, side, side))).T
        else:
            full_mask = rle.decode(run_lengths(coded, height, width))
            filled = full_mask.T[columns.clip(0, width - 1)][:, rows.clip(0, height - 1)].T
        mask.copy_(torch.from_numpy(filled))
    return masks


def decode_masks(segmentations: list[Any], height: int, width: int) -> Tensor:
    """Fill segmentations: (N, height, width) bool.

    Args:
        segmentations: In COCO's format: lists of polygons, compressed or uncompressed RLEs.
        height: The height of the image, in pixels.
        width: The width of the image, in pixels.
    """
    masks = torch.zeros((len(segmentations), height, width), dtype=torch.bool)
    for mask, coded in zip(masks, segmentations, strict=True):
        mask.copy_(torch.from_numpy(rle.decode(run_lengths(coded, height, width))))
    return masks


def run_lengths(coded: Any, height: int, width: int) -> Any:
    """Convert a segmentation to a compressed RLE.

    Args:
        coded: In COCO's format: a list of polygons, a compressed or an uncompressed RLE.
        height: The height of the image, in pixels.
        width: The width of the image, in pixels.
    """
    if isinstance(coded, list):
        return rle.merge(rle.frPyObjects(coded, height, width))
    return rle.frPyObjects(coded, height, width) if isinstance(coded["counts"], list) else coded
