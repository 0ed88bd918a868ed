"""Pictures of training batches after augmentation, and a table of boxes that are smaller than a patch of the model."""

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

_CELL, _GAP = 480, 8  # pixels: the least side of an image on a page, and the gap between images


@dataclass(frozen=True)
class SmallBoxes:
    """All boxes of a split. The methods find small boxes: the shorter side is under a patch at the model's resolution.

    names: the class names. labels: (N,) the class of each box. sides: (N,) the shorter side of each box, in pixels of
    the model's input. paths: the image of each box.
    """

    architecture: Architecture
    names: Sequence[str]
    labels: npt.NDArray[np.int64]
    sides: npt.NDArray[np.float64]
    paths: Sequence[str]

    @classmethod
    def measure(cls, samples: Sequence[Sample], names: Sequence[str], architecture: Architecture) -> SmallBoxes:
        """Measure all boxes except those of crowd regions, without augmentation.

        Args:
            samples: The samples of the split.
            names: The class names, by label.
            architecture: Gives the resolution and the size of a patch.
        """
        labels, sides, paths = [np.zeros(0, dtype=np.int64)], [np.zeros(0)], list[str]()
        for sample in samples:
            counted = ~sample.crowd
            scale = architecture.resolution / np.array([sample.width, sample.height])
            labels.append(sample.labels[counted])
            sides.append((sample.boxes[counted, 2:] * scale).min(axis=1))
            paths += [sample.path] * int(counted.sum())
        return cls(architecture, names, np.concatenate(labels), np.concatenate(sides), paths)

    def resolution_for(self, share: float) -> int:
        """The least resolution at which this share of the small boxes has a shorter side of at least one patch."""
        architecture = self.architecture
        ordered = np.sort(self.sides[self.sides < architecture.patch_size])[::-1]
        side = ordered[max(1, math.ceil(share * len(ordered))) - 1]
        return (
            math.ceil(architecture.resolution * architecture.patch_size / float(side) / architecture.stride - 1e-9)
            * architecture.stride
        )

    def describe(self, split: str) -> str:
        """A table of the classes with small boxes, the smallest box, and resolutions at which they are large enough."""
        patch, side = self.architecture.patch_size, self.architecture.resolution
        small = self.sides < patch
        where = f"smaller than a patch ({patch} pixels) at {side} x {side}"
        if not small.any():
            return f"{split}: none of {len(small)} boxes is {where}"
        lines = [f"{split}: {small.sum()} of {len(small)} boxes ({small.mean():.1%}) are {where}"]
        width = max(len("class"), *map(len, self.names))
        lines.append(f"  {'class':{width}}  small      of   share  smallest")
        for label, name in enumerate(self.names):
            of_class = self.labels == label
            if count := int((small & of_class).sum()):
                share, least = count / of_class.sum(), self.sides[of_class].min()
                lines.append(f"  {name:{width}} {count:6} {of_class.sum():7} {share:7.1%} {least:9.1f}")
        least = int(self.sides.argmin())
        name = self.names[int(self.labels[least])]
        lines.append(f"smallest: {self.sides[least]:.1f} pixels, {name} in {self.paths[least]}")
        for_half, most, every = (self.resolution_for(share) for share in (0.5, 0.9, 1.0))
        lines.append(
            f"To make small boxes as large as a patch, set model.resolution: {for_half} for half of them, {most} for "
            f"nine tenths, {every} for all"
        )
        return "\n".join(lines)


def preview(params: Path, split: Literal["train", "valid"], count: int, epoch: int, out: Path) -> str:
    """Draw the first batches of an epoch into the folder `out`, one page for each batch. Returns the text to print.

    Args:
        params: The params.yaml.
        split: train is augmented, valid is not.
        count: The number of images.
        epoch: The epoch, from 1, whose augmentation is drawn.
        out: The folder for the pages; earlier pages of the split are removed.

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
        pages.append(f"train.batch_size is auto, so the preview has batches of {CPU_BATCH_SIZE} images")
    samples = (data.train_set if split == "train" else data.valid_set).samples
    return "\n".join([*pages, SmallBoxes.measure(samples, names, architecture).describe(split)])


def _training_batches(data: TrainingData, config: TrainConfig, sizes: list[int], epoch: int) -> Iterator[Batch]:
    loader = data.train_dataloader()
    assert isinstance(loader.sampler, EpochSampler)
    loader.sampler.set_epoch(epoch)
    first = epoch * loader.sampler.steps
    for number, batch in enumerate(loader):
        model_input = data.on_after_batch_transfer(batch, 0)
        if config.multi_scale != "off":
            step = first + number // config.grad_accum_steps
            model_input = resize_to_drawn_size(
                model_input, sizes, config.multi_scale, config.seed, epoch=epoch, step=step
            )
        yield model_input


def _validation_batches(data: TrainingData) -> Iterator[Batch]:
    return (data.on_after_batch_transfer(batch, 0) for batch in data.val_dataloader())


def draw_page(batch: Batch, names: Sequence[str], count: int) -> Image.Image:
    """Draw images of a batch in a grid. Each pixel of the model's input becomes a square of pixels.

    Args:
        batch: The batch, normalised.
        names: The class names, by label.
        count: Draw at most so many images, from the first on.
    """
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
    input_side = image.shape[-1]
    # Boxes are relative to the image without its padding.
    image_side = input_side if batch.padding is None else int((~batch.padding[index]).any(dim=0).sum())
    factor = -(-_CELL // input_side)
    boxes = cxcywh_to_xyxy(target.boxes) * image_side * factor
    count = len(target.labels)
    detections = to_supervision(Detections(torch.ones(count), target.labels, boxes, target.masks), names)
    pixels = image.permute(1, 2, 0) * torch.tensor(IMAGENET_STD) + torch.tensor(IMAGENET_MEAN)
    picture = Image.fromarray((pixels * 255).round().clamp(0, 255).byte().numpy())
    picture = picture.resize((input_side * factor, input_side * factor), Image.Resampling.NEAREST)
    labels = [label_of(names[label], label) for label in target.labels.tolist()]
    return draw(picture, detections, labels, side=input_side * factor)
