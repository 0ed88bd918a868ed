"""What a training will see: batches drawn as they reach the model, and the boxes that are too small for its patches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from rfdetr_core.base.manifest import DataConfig, read_classes
from rfdetr_core.base.params import read_section
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.data.batching import Batch, EpochSampler, resize_to_drawn_size
from rfdetr_core.data.datamodule import TrainingData
from rfdetr_core.data.preprocess import IMAGENET_MEAN, IMAGENET_STD
from rfdetr_core.data.samples import Sample
from rfdetr_core.evaluation.pictures import draw, label_of, write_png
from rfdetr_core.inference.conversion import to_supervision
from rfdetr_core.model.config import Architecture, ModelConfig
from rfdetr_core.ops.boxes import cxcywh_to_xyxy
from rfdetr_core.ops.structures import Detections
from rfdetr_core.training.config import RuntimeConfig, TrainConfig
from rfdetr_core.training.inputs import training_data, training_sizes
from rfdetr_core.training.trainer import CPU_BATCH_SIZE

_CELL, _GAP = 480, 8  # pixels: the least side of an image on a page, and what is between two


@dataclass(frozen=True)
class SmallBoxes:
    """The boxes of a split whose shorter side is under a patch at the model's resolution.

    names: of the classes. labels: (N,) of all boxes. sides: (N,) the shorter side of each in pixels of the model's
    input. places: N paths of images.
    """

    architecture: Architecture
    names: Sequence[str]
    labels: npt.NDArray[np.int64]
    sides: npt.NDArray[np.float64]
    places: Sequence[str]

    @classmethod
    def of(cls, samples: Sequence[Sample], names: Sequence[str], architecture: Architecture) -> SmallBoxes:
        """Measure the boxes that are no crowds, as they are without augmentation."""
        labels, sides, places = [np.zeros(0, dtype=np.int64)], [np.zeros(0)], list[str]()
        for sample in samples:
            kept = ~sample.crowd
            scale = architecture.resolution / np.array([sample.width, sample.height])
            labels.append(sample.labels[kept])
            sides.append((sample.boxes[kept, 2:] * scale).min(axis=1))
            places += [sample.path] * int(kept.sum())
        return cls(architecture, names, np.concatenate(labels), np.concatenate(sides), places)

    def resolution_for(self, share: float) -> int:
        """The least resolution at which this share of the small boxes reaches a patch."""
        one = self.architecture
        ordered = np.sort(self.sides[self.sides < one.patch_size])[::-1]
        side = ordered[max(1, math.ceil(share * len(ordered))) - 1]
        return math.ceil(one.resolution * one.patch_size / float(side) / one.stride - 1e-9) * one.stride

    def describe(self, split: str) -> str:
        """A table of the classes that have such boxes, the smallest box, and the resolutions that would lift them."""
        patch, side = self.architecture.patch_size, self.architecture.resolution
        small = self.sides < patch
        where = f"under a patch of {patch} pixels at {side} x {side}"
        if not small.any():
            return f"{split}: none of {len(small)} boxes is {where}"
        lines = [f"{split}: {small.sum()} of {len(small)} boxes ({small.mean():.1%}) are {where}"]
        width = max(len("class"), *map(len, self.names))
        lines.append(f"  {'class':{width}}  small      of   share  smallest")
        for label, name in enumerate(self.names):
            own = self.labels == label
            if count := int((small & own).sum()):
                share, least = count / own.sum(), self.sides[own].min()
                lines.append(f"  {name:{width}} {count:6} {own.sum():7} {share:7.1%} {least:9.1f}")
        least = int(self.sides.argmin())
        name = self.names[int(self.labels[least])]
        lines.append(f"smallest: {self.sides[least]:.1f} pixels, {name} in {self.places[least]}")
        half, most, every = (self.resolution_for(share) for share in (0.5, 0.9, 1.0))
        lines.append(f"model.resolution {half} would lift half of them to a patch, {most} nine tenths, {every} all")
        return "\n".join(lines)


def preview(params: Path, split: Literal["train", "valid"], count: int, epoch: int, out: Path) -> str:
    """Draw the first batches of an epoch into `out`, a page each, by the params; gives what is to be printed.

    epoch: counts from 1.

    Raises:
        UserError: params, annotations, manifests or images are missing or wrong.
    """
    model, config = read_section(ModelConfig, "model", params), read_section(TrainConfig, "train", params)
    where = ProjectPaths(Path(read_section(DataConfig, "data", params).dir))
    names = [entry.name for entry in read_classes(where.classes)]
    architecture = model.architecture(len(names))
    auto = config.batch_size == "auto"
    config = config.model_copy(update={"batch_size": CPU_BATCH_SIZE}) if auto else config
    sizes = training_sizes(config, architecture)
    side = max(sizes, default=architecture.resolution)
    data = training_data(where, config, RuntimeConfig(num_workers=0, pin_memory=False), architecture, side)
    batches = _training_batches(data, config, sizes, epoch - 1) if split == "train" else _validation_batches(data)
    left, pages = count, []
    for path in out.glob(f"{split}_epoch*_batch*.png"):
        path.unlink()
    for number, batch in enumerate(batches):
        path = out / f"{split}_epoch{epoch:03}_batch{number:03}.png"
        write_png(path, draw_page(batch, names, left))
        height, width = batch.images.shape[-2:]
        pages.append(f"{path}: {min(left, len(batch.samples))} images at {width} x {height}")
        left -= len(batch.samples)
        if left <= 0:
            break
    if auto:
        pages.append(f"train.batch_size is auto: drawn in batches of {CPU_BATCH_SIZE}")
    samples = (data.train_set if split == "train" else data.valid_set).samples
    return "\n".join([*pages, SmallBoxes.of(samples, names, architecture).describe(split)])


def _training_batches(data: TrainingData, config: TrainConfig, sizes: list[int], epoch: int) -> Iterator[Batch]:
    loader = data.train_dataloader()
    assert isinstance(loader.sampler, EpochSampler)
    loader.sampler.set_epoch(epoch)
    first = epoch * loader.sampler.steps
    for number, batch in enumerate(loader):
        seen = data.on_after_batch_transfer(batch, 0)
        if config.multi_scale != "off":
            step = first + number // config.grad_accum_steps
            seen = resize_to_drawn_size(seen, sizes, config.multi_scale, config.seed, epoch=epoch, step=step)
        yield seen


def _validation_batches(data: TrainingData) -> Iterator[Batch]:
    return (data.on_after_batch_transfer(batch, 0) for batch in data.val_dataloader())


def draw_page(batch: Batch, names: Sequence[str], count: int) -> Image.Image:
    """The first `count` images of a batch in a grid, every pixel of the model's input as a square of whole pixels."""
    pictures = [_draw_image(batch, index, names) for index in range(min(count, len(batch.samples)))]
    columns = math.ceil(math.sqrt(len(pictures)))
    side = pictures[0].width + _GAP
    rows = -(-len(pictures) // columns)
    page = Image.new("RGB", (columns * side - _GAP, rows * side - _GAP), "white")
    for number, picture in enumerate(pictures):
        page.paste(picture, (number % columns * side, number // columns * side))
    return page


def _draw_image(batch: Batch, index: int, names: Sequence[str]) -> Image.Image:
    image, target = batch.images[index], batch.targets[index]
    whole = image.shape[-1]
    # Boxes are relative to the image; beyond it there is padding.
    own = whole if batch.padding is None else int((~batch.padding[index]).any(dim=0).sum())
    factor = -(-_CELL // whole)
    boxes = cxcywh_to_xyxy(target.boxes) * own * factor
    count = len(target.labels)
    found = to_supervision(Detections(torch.ones(count), target.labels, boxes, target.masks), names)
    pixels = image.permute(1, 2, 0) * torch.tensor(IMAGENET_STD) + torch.tensor(IMAGENET_MEAN)
    picture = Image.fromarray((pixels * 255).round().clamp(0, 255).byte().numpy())
    picture = picture.resize((whole * factor, whole * factor), Image.Resampling.NEAREST)
    labels = [label_of(names[label], label) for label in target.labels.tolist()]
    return draw(picture, found, labels, side=whole * factor)
