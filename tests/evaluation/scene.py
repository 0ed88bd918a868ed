"""A tiny detector and images. Their ground truth is a part of its detections, moved a little, so no score is 0 or 1."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from rfdetr_core.base.manifest import ClassEntry, write_classes
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.checkpoint.files import make_checkpoint, write_checkpoint
from rfdetr_core.inference.predictor import Predictor
from rfdetr_core.metrics.coco import coco_results
from rfdetr_core.model.config import Architecture
from rfdetr_core.model.detector import build_detector
from tests.checkpoint.tiny import TINY
from tests.data.canonical import write_split

NAMES = ("class0", "class1", "class2")
SIZES = ((48, 40), (64, 64), (80, 33), (48, 40), (40, 90))


@dataclass(frozen=True)
class Scene:
    """A checkpoint file and the folders of its dataset."""

    checkpoint: Path
    where: ProjectPaths

    def predictor(self, **settings: Any) -> Predictor:
        return Predictor.from_checkpoint(self.checkpoint, device="cpu", **settings)

    def annotations(self, split: str = "test") -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.where.annotations / f"{split}.json").read_text())
        return content

    def image(self, row: dict[str, Any]) -> Path:
        return self.where.dataset / str(row["file_name"])


def write_tiny_checkpoint(
    path: Path, *, segmentation: bool = False, class_names: tuple[str, ...] = NAMES, seed: int = 3, **more: Any
) -> Path:
    """Write a model file with random weights. more: other values of fields of Checkpoint."""
    architecture = replace(TINY, queries=12, segmentation=segmentation)
    write_random_checkpoint(path, architecture, class_names=class_names, seed=seed, **more)
    return path


def write_random_checkpoint(
    path: Path, architecture: Architecture, *, class_names: tuple[str, ...] = NAMES, seed: int = 3, **more: Any
) -> None:
    """Write a model file with random weights. Its queries have different boxes, scores and masks.

    more: other values of fields of Checkpoint.
    """
    torch.manual_seed(seed)
    detector = build_detector(architecture)
    random = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        # In a new detector all boxes are the proposals and all scores are equal.
        detector.class_head.weight.normal_(0, 0.4, generator=random)
        detector.class_head.bias.fill_(-1)
        detector.query_boxes.normal_(0, 0.5, generator=random)
        detector.box_head.layers[-1].weight.normal_(0, 0.1, generator=random)
        if architecture.segmentation:
            for parameter in detector.segmentation.parameters():
                parameter.normal_(0, 0.2, generator=random)
    checkpoint = make_checkpoint(architecture, detector.state_dict(), class_names=class_names, args={})
    write_checkpoint(path, replace(checkpoint, **more))


def make_scene(folder: Path, *, segmentation: bool = False, splits: tuple[str, ...] = ("test", "valid")) -> Scene:
    checkpoint = write_tiny_checkpoint(folder / "model.pth", segmentation=segmentation)
    predictor = Predictor.from_checkpoint(checkpoint, device="cpu")
    random = np.random.default_rng(5)
    for split in ("test", "valid"):
        named = [(f"{split}/{number}.png", size, list[Any]()) for number, size in enumerate(SIZES)]
        root, *_ = write_split(folder, named, split)
        truth = [(name, size, _truth(predictor, root / name, random)) for name, size, _ in named]
        write_split(folder, truth if split in splits else [], split)
    table = [ClassEntry(id=10 + index, index=index, name=name) for index, name in enumerate(NAMES)]
    write_classes(folder / "annotations" / "classes.json", table)
    return Scene(checkpoint, ProjectPaths(root, folder / "annotations", folder / "manifest"))


def _truth(predictor: Predictor, path: Path, random: np.random.Generator) -> list[dict[str, Any]]:
    with Image.open(path) as picture:
        (detections,) = predictor.detect([picture.convert("RGB")])
    truth = []
    for row in coco_results(1, detections):
        x, y, w, h = row["bbox"]
        if random.random() < 0.4 or w < 2 or h < 2 or row["category_id"] > 2:
            continue
        x, y = x + random.normal(0, 0.1) * w, y + random.normal(0, 0.1) * h
        label = int(random.integers(0, 3)) if random.random() < 0.3 else row["category_id"]
        mask = row.get("segmentation", [[x, y, x + w, y, x + w, y + h, x, y + h]])
        truth.append({"category_id": label, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0, "segmentation": mask})
    return truth
