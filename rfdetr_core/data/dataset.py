"""A split as a map from an index to a tensor and its target; every byte that is decoded is checked first."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as F

from rfdetr_core.base import images
from rfdetr_core.data.config import AugmentConfig
from rfdetr_core.data.preprocess import resize
from rfdetr_core.data.samples import Sample
from rfdetr_core.data.seeding import generator
from rfdetr_core.data.augmentation import augment, seen
from rfdetr_core.data.augmentation import View
from rfdetr_core.base.errors import UserError
from rfdetr_core.ops.structures import Target


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
        data = images.read_verified(self.root / sample.path, sample.sha256)
        if self.augmentation is None:
            picture = resize(images.decode(data, sample.path, max_pixels=None), self.resolution)
            whole = View(0, 0, sample.height, sample.width)
            example = seen(sample, whole, F.pil_to_tensor(picture), masks=self.masks)
        else:
            random = generator("augment", self.seed, *draw)
            decode = partial(images.decode, data, sample.path, max_pixels=None)
            example = augment(sample, decode, self.resolution, self.augmentation, random, masks=self.masks)
        return Item(example.image.as_subclass(Tensor), example.target(), sample)
