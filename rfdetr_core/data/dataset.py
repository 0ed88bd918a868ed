"""A split as a map from an index to a tensor and its target; every byte that is decoded is checked first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pycocotools import mask as rle
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from rfdetr_core import images
from rfdetr_core.data.config import AugmentConfig
from rfdetr_core.data.preprocess import resize
from rfdetr_core.data.samples import Sample
from rfdetr_core.data.seeding import generator
from rfdetr_core.data.transforms import Example, augment
from rfdetr_core.errors import UserError
from rfdetr_core.structures import Target


class Draw(NamedTuple):
    """Which image, in which epoch, and how often it came before in that epoch: all that its augmentation depends on."""

    epoch: int
    image: int
    repeat: int = 0


@dataclass(frozen=True)
class Item:
    """image: (3, R, R) uint8. target: its instances without crowds. sample: where it came from."""

    image: Tensor
    target: Target
    sample: Sample


@dataclass(eq=False)
class DetectionDataset(Dataset[Item]):
    """The samples of a split, read from below `root` and made `resolution` pixels square.

    With `augmentation`, items are asked for by `Draw` and are a pure function of (seed, draw); without, by index.
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
        """Check that there are masks where they are wanted."""
        for sample in self.samples if self.masks else ():
            if any(one is None for one, crowd in zip(sample.segmentations, sample.crowd, strict=True) if not crowd):
                raise UserError(
                    f"{sample.path} has instances without a polygon or RLE, yet the model segments. Annotate them, or "
                    "choose a model.variant that only detects."
                )

    def __len__(self) -> int:
        """Images."""
        return len(self.samples)

    def __getitem__(self, key: Draw | int) -> Item:
        """Read, check, decode and resize an image, augmented or not."""
        draw = key if isinstance(key, Draw) else Draw(0, key)
        sample = self.samples[draw.image]
        picture = images.decode(images.read_verified(self.root / sample.path, sample.sha256), sample.path)
        example = Example(picture, *_instances(sample, self.masks))
        if self.augmentation is None:
            example = example.apply(resize, self.resolution).visible()
        else:
            example = augment(example, self.resolution, self.augmentation, generator("augment", self.seed, *draw))
        return Item(F.to_image(example.image).as_subclass(Tensor), example.target(), sample)


def decode_masks(segmentations: list[Any], height: int, width: int) -> Tensor:
    """Fill COCO segmentations (polygon lists, compressed or uncompressed RLEs): (N, height, width) bool."""
    masks = torch.zeros((len(segmentations), height, width), dtype=torch.bool)
    for mask, coded in zip(masks, segmentations, strict=True):
        if isinstance(coded, list):
            coded = rle.merge(rle.frPyObjects(coded, height, width))
        elif isinstance(coded["counts"], list):
            coded = rle.frPyObjects(coded, height, width)
        mask.copy_(torch.from_numpy(rle.decode(coded)))
    return masks


def _instances(sample: Sample, masks: bool) -> tuple[tv_tensors.BoundingBoxes, Tensor, tv_tensors.Mask | None]:
    """Boxes clipped to the image, labels and masks of what is no crowd."""
    kept = np.flatnonzero(~sample.crowd)
    corners = sample.boxes[kept]
    corners[:, 2:] += corners[:, :2]
    size = (sample.height, sample.width)
    boxes = tv_tensors.BoundingBoxes(torch.from_numpy(corners).float(), format="XYXY", canvas_size=size)
    filled = tv_tensors.Mask(decode_masks([sample.segmentations[one] for one in kept], *size)) if masks else None
    return F.clamp_bounding_boxes(boxes), torch.from_numpy(sample.labels[kept]), filled
