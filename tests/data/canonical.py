"""Writes a small dataset in the form of the stage convert: images, annotations/<split>.json, manifest/<split>.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rfdetr_core.base import files
from rfdetr_core.base.manifest import ManifestRow, write_manifest
from rfdetr_core.data.augmentation import Stream
from rfdetr_core.data.samples import Sample, read_samples
from rfdetr_core.data.seeding import generator


def rectangle(x: float, y: float, w: float, h: float, label: int = 0, **more: Any) -> dict[str, Any]:
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    return {"category_id": label, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0, "segmentation": [polygon]} | more


def write_split(
    folder: Path, images: list[tuple[str, tuple[int, int], list[dict[str, Any]]]], split: str = "train"
) -> tuple[Path, Path, Path]:
    """Write noise images of (width, height) with instances. Returns the paths of root, annotations and manifest."""
    root, random = folder / "dataset", np.random.default_rng(0)
    rows, listed, annotations = [], [], []
    for number, (name, (width, height), instances) in enumerate(sorted(images, key=lambda image: image[0]), start=1):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        rows.append(ManifestRow(name, files.sha256_file(path), width, height, files.digest(instances)))
        listed.append({"id": number, "file_name": name, "width": width, "height": height})
        annotations += [
            instance | {"id": len(annotations) + k, "image_id": number} for k, instance in enumerate(instances, 1)
        ]
    categories = [{"id": index, "name": f"class{index}"} for index in range(3)]
    content = {"categories": categories, "images": listed, "annotations": annotations}
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))
    write_manifest(folder / "manifest" / f"{split}.json", rows)
    return root, folder / "annotations" / f"{split}.json", folder / "manifest" / f"{split}.json"


def several(count: int, size: tuple[int, int] = (48, 40)) -> list[tuple[str, tuple[int, int], list[dict[str, Any]]]]:
    """Images with 0, 1, 2, ... instances."""
    random = np.random.default_rng(1)

    def instance(k: int) -> dict[str, Any]:
        x, y = random.uniform(0, [size[0] - 12, size[1] - 12]).round(2).tolist()
        return rectangle(x, y, *random.uniform(4, 12, 2).round(2).tolist(), label=k % 3)

    return [(f"train/{n:02}.png", size, [instance(k) for k in range(n)]) for n in range(count)]


def streams(seed: int) -> Stream:
    """Random streams for `augment`: the shared one is `generator(seed)`."""
    return lambda *name: generator(*name, seed)


def samples_of(folder: Path, count: int, size: tuple[int, int] = (48, 40)) -> tuple[Path, list[Sample]]:
    root, annotations, manifest = write_split(folder, several(count, size))
    return root, read_samples(annotations, manifest)
