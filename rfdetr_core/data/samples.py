"""Reads the samples of a split: its canonical annotations joined with its manifest. No image is opened."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.manifest import read_manifest


@dataclass(frozen=True, eq=False, slots=True)
class Sample:
    """An image and its N instances, in pixels of the image.

    path: below the dataset folder, with "/". image_id: in the canonical annotations. labels: (N,) int64 class indexes.
    boxes: (N, 4) float64: left, top, width, height. segmentations: N polygon lists or RLEs as in COCO; None if an
    instance has none. crowd: (N,) bool.
    """

    path: str
    sha256: str
    width: int
    height: int
    image_id: int
    labels: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float64]
    segmentations: tuple[Any, ...]
    crowd: npt.NDArray[np.bool_]


def read_samples(annotations: Path, manifest: Path) -> list[Sample]:
    """Join annotations/<split>.json with manifest/<split>.json. The samples are sorted by path.

    Raises:
        UserError: a file is missing or malformed, or the two do not name the same images with the same sizes.
    """
    content, rows = files.read_json(annotations), read_manifest(manifest)
    digests = {row.path: row.sha256 for row in rows}
    instances: dict[int, list[dict[str, Any]]] = defaultdict(list)
    try:
        for annotation in content["annotations"]:
            instances[annotation["image_id"]].append(annotation)
        named = {(image["file_name"], image["width"], image["height"]) for image in content["images"]}
        for path, width, height in sorted(named ^ {(row.path, row.width, row.height) for row in rows})[:1]:
            raise UserError(
                f"{annotations} and {manifest} differ: only one of them has {path} ({width} x {height}). "
                "Write both again: dvc repro -f validate convert"
            )
        ordered = sorted(content["images"], key=lambda image: str(image["file_name"]))
        return [_sample(image, digests[image["file_name"]], instances[image["id"]]) for image in ordered]
    except (KeyError, TypeError, ValueError) as error:
        problem = f"{annotations} is not canonical COCO ({error!r}). Write it again: dvc repro -f convert"
        raise UserError(problem) from error


def _sample(image: dict[str, Any], sha256: str, instances: list[dict[str, Any]]) -> Sample:
    return Sample(
        path=image["file_name"],
        sha256=sha256,
        width=image["width"],
        height=image["height"],
        image_id=image["id"],
        labels=np.array([instance["category_id"] for instance in instances], dtype=np.int64),
        boxes=np.array([instance["bbox"] for instance in instances], dtype=np.float64).reshape(-1, 4),
        segmentations=tuple(instance.get("segmentation") or None for instance in instances),
        crowd=np.array([instance.get("iscrowd", 0) for instance in instances], dtype=np.bool_),
    )
