"""A dataset and settings that train in a second, with the canonical files that training reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rfdetr_core.base import files
from rfdetr_core.base.manifest import ClassEntry, ManifestRow, write_classes, write_manifest
from rfdetr_core.base.params import parse
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.checkpoint.files import content_digest, write_plain
from rfdetr_core.model.config import ModelConfig
from rfdetr_core.training.config import RuntimeConfig, TrainConfig
from rfdetr_core.training.run import train_model

SIDE = 4
COLOURS = ((250, 40, 40), (40, 250, 40))
MODEL = {"variant": "pico", "resolution": 64, "num_queries": 64, "group_detr": 2}
# Of the epochs 0 to 2, epoch 1 is the best of both tracks, so a training can be stopped after its best epoch.
TRAIN = {"epochs": 3, "batch_size": 2, "lr": 1e-3, "amp_dtype": None, "seed": 2}
RUNTIME = {"num_workers": 0, "mlflow": False, "threads": 1}
OUTS = ("checkpoint_best_ema.pth", "checkpoint_best_regular.pth", "history.csv", "scores.json", "steps.csv")


def make_files(folder: Path, train: int = 4, valid: int = 2, objects: int = 2, kinds: int = 2) -> ProjectPaths:
    """Write a dataset of bright squares on noise, with manifests and annotations.

    Args:
        folder: of the project.
        train, valid: images of each split.
        objects: in each image.
        kinds: classes.
    """
    random = np.random.default_rng(0)
    classes = [ClassEntry(id=5, index=0, name="red"), ClassEntry(id=7, index=1, name="green")][:kinds]
    write_classes(folder / "annotations" / "classes.json", classes)
    for split, count in {"train": train, "valid": valid}.items():
        rows, images, annotations = [], [], []
        for number in range(1, count + 1):
            pixels = random.integers(0, 90, (64, 64, 3), dtype=np.uint8)
            name, path = f"{split}/{number:03}.png", folder / "data" / split / f"{number:03}.png"
            for _ in range(objects):
                # An untrained detector proposes 3 pixels in the middle of each cell of 8, so it scores above 0.
                (x, y), kind = 8 * random.integers(0, 8, 2) + 2, int(random.integers(0, kinds))
                pixels[y : y + SIDE, x : x + SIDE] = COLOURS[kind]
                box = [float(v) for v in (x, y, SIDE, SIDE)]
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": number, "category_id": kind, "bbox": box,
                     "area": float(SIDE**2), "iscrowd": 0, "segmentation": [_outline(*box)]}
                )  # fmt: skip
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
            rows.append(ManifestRow(name, files.sha256_file(path), 64, 64, ""))
            images.append({"id": number, "file_name": name, "width": 64, "height": 64})
        write_manifest(folder / "manifest" / f"{split}.json", rows)
        content = {"categories": [{"id": entry.index, "name": entry.name} for entry in classes], "images": images}
        files.write_json(folder / "annotations" / f"{split}.json", content | {"annotations": annotations})
    weights = folder / "weights"
    weights.mkdir()
    return ProjectPaths(folder / "data", folder / "annotations", folder / "manifest", weights)


def train(where: ProjectPaths, output: Path, **changes: dict[str, Any]) -> dict[str, bytes]:
    """Train with changed sections. Returns the bytes of the outs."""
    model = parse(ModelConfig, MODEL | changes.get("model", {}), "model")
    config = parse(TrainConfig, TRAIN | changes.get("train", {}), "train")
    runtime = parse(RuntimeConfig, RUNTIME | changes.get("runtime", {}), "runtime")
    train_model(where, model, config, runtime, output)
    return outs(output)


def outs(output: Path) -> dict[str, bytes]:
    """The bytes of the outs of a run folder."""
    return {name: (output / name).read_bytes() for name in OUTS}


def script(where: ProjectPaths, output: Path, **changes: dict[str, Any]) -> str:
    """Python source that does the same as `train`, for a separate process."""
    paths = [str(path) for path in (where.dataset, where.annotations, where.manifests, where.weights)]
    return (
        "from pathlib import Path; import json\n"
        "from tests.training.tiny import train\n"
        "from rfdetr_core.base.paths import ProjectPaths\n"
        f"train(ProjectPaths(*map(Path, {paths!r})), Path({str(output)!r}), **json.loads({json.dumps(changes)!r}))\n"
    )


def _outline(x: float, y: float, w: float, h: float) -> list[float]:
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def write_state(folder: Path, content: dict[str, Any], name: str = "checkpoint.pth") -> None:
    """Write a state with the digest of its content, as a training does."""
    content["run"]["digest"] = content_digest(content)
    write_plain(folder / name, content)
