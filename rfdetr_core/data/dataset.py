"""A split as a map from an index to a tensor and its target; every byte that is decoded is checked first.

The view of an image is drawn before it is decoded, so that no more of it is decoded than the model sees.
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
    """Which image, in which epoch, and how often it came before in that epoch: all that its augmentation depends on."""

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

    def move(self, kernel: str, *arguments: Any) -> Example:
        """The example after a geometric function of torchvision's `transforms.v2.functional`, by its name."""
        change = getattr(F, kernel)
        masks = None if self.masks is None else change(self.masks, *arguments)
        return Example(change(self.image, *arguments), change(self.boxes, *arguments), self.labels, masks)

    def recolour(self, kernel: str, *arguments: Any) -> Example:
        """The example with the pixels after a function of torchvision's `transforms.v2.functional`, by its name."""
        return replace(self, image=getattr(F, kernel)(self.image, *arguments))

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


@dataclass(frozen=True)
class Item:
    """image: (3, R, R) uint8. target: its instances without crowds. sample: where it came from."""

    image: Tensor
    target: Target
    sample: Sample


@dataclass(eq=False)
class DetectionDataset(Dataset[Item]):
    """The samples of a split, read from below `root` and made `resolution` pixels square.

    With `augmentation`, items are asked for by `SampleKey` and are a pure function of (seed, draw); without, by index.
    With `masks`, targets carry masks of resolution x resolution.

    Raises:
        UserError: on construction, when masks are wanted and an instance has no segmentation; on access, when an image
            is missing, damaged, or not the one of the manifest.
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
                    f"{sample.path} has instances without a polygon or RLE, yet the model segments. Annotate them, or "
                    "choose a model.variant that only detects."
                )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: SampleKey | int) -> Item:
        """Read, check, decode and resize an image, augmented or not."""
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
    """A sample as training sees it once, side x side; by default distributed as upstream's (`datasets/coco.py`).

    decode: gives the picture at 1 / its argument of its size, or at its full size where that is not possible.
    stream: gives the random stream of a name, and without a name the one that is shared.
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
    """The image of a view, S x S, with what it shows of the sample's instances that are no crowd."""
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
    """The view as (3, side, side) uint8, from a picture that was reduced by `factor`, which divides the view."""
    top, left, height, width = (value // factor for value in view)
    # Cut by Pillow, which copies a fifth of the time that it takes to turn all pixels into a tensor.
    picture = picture.crop((left, top, left + width, top + height))
    resized: Tensor = resize(F.pil_to_tensor(picture), side)
    return resized


def crop_boxes(view: View, corners: npt.NDArray[np.float64], side: int) -> Tensor:
    """Boxes (N, 4) xyxy in pixels of the image, as pixels of the view at side x side, clipped: float32."""
    moved = (corners - (view.left, view.top) * 2) * (side / np.array([view.width, view.height] * 2))
    return torch.from_numpy(moved.clip(0, side)).float()


def crop_masks(view: View, segmentations: list[Any], height: int, width: int, side: int) -> Tensor:
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
            full_mask = rle.decode(run_lengths(coded, height, width))
            filled = full_mask.T[columns.clip(0, width - 1)][:, rows.clip(0, height - 1)].T
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
