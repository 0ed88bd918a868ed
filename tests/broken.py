"""Breaks labels on purpose, in four ways, and checks which of them a list of suspects contains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

Box = tuple[float, float, float, float]  # left, top, width, height
MOVED, REMOVED, ADDED, OTHER = "moved", "removed", "added", "another class"
_MOST_MOVED = 0.7  # share of a side, an IoU of 0.18 with the old box; at least 0.5 of it, an IoU of 0.33


@dataclass(frozen=True)
class Broken:
    """A broken label.

    image: the path of its image. annotation: the id of the label, if it exists. place: the box of the object; None for
    an added label.
    """

    kind: str
    image: str
    annotation: int | None
    place: Box | None

    def is_suspected(self, table: pd.DataFrame) -> bool:
        """Whether a list of suspects names the label, or has a box at the object without a label (IoU 0.5)."""
        rows = table[table.image == self.image]
        if self.annotation is not None and (rows.annotation == self.annotation).any():
            return True
        free = rows[rows.annotation.isna()][["x", "y", "width", "height"]].to_numpy(dtype=float).tolist()
        return self.place is not None and any(_iou((x, y, w, h), self.place) >= 0.5 for x, y, w, h in free)


def break_labels(annotations: dict[str, Any], count: int, seed: int = 0) -> tuple[dict[str, Any], list[Broken]]:
    """Break `count` labels, in the four ways in turn. Returns the new annotations and the broken labels.

    moved: by at least half of a side; only the box, not a mask. removed: the label is deleted. added: a box of the size
    of another label, where no object is. another class: only if there are several classes.
    """
    random = np.random.default_rng(seed)
    images = {image["id"]: image for image in annotations["images"]}
    classes = [category["id"] for category in annotations["categories"]]
    rows = {row["id"]: dict(row) for row in annotations["annotations"] if not row.get("iscrowd", 0)}
    ways = [MOVED, REMOVED, ADDED, *([OTHER] if len(classes) > 1 else [])]
    waiting = random.permutation(sorted(rows)).tolist()
    labels = dict(rows)
    done: list[Broken] = []
    while len(done) < count:
        way = ways[len(done) % len(ways)]
        number = waiting.pop()
        row, image = rows[number], images[rows[number]["image_id"]]
        place: Box | None = tuple(row["bbox"])
        if way == MOVED:
            if (moved := _moved(row["bbox"], image, random)) is None:
                continue
            labels[number] = row | {"bbox": moved}
        elif way == OTHER:
            others = [category for category in classes if category != row["category_id"]]
            labels[number] = row | {"category_id": others[int(random.integers(len(others)))]}
        elif way == REMOVED:
            del labels[number]
        else:
            image, added = _added(row, list(images.values()), list(rows.values()), random)
            number, place = max(labels) + 1, None
            labels[number] = row | {"id": number, "image_id": image["id"], "bbox": added}
        done.append(Broken(way, image["file_name"], None if way == REMOVED else number, place))
    return annotations | {"annotations": list(labels.values())}, done


def _moved(box: list[float], image: dict[str, Any], random: np.random.Generator) -> list[float] | None:
    """A box moved left, right, up or down within its image; None if there is no room."""
    x, y, w, h = box
    part = float(random.uniform(0.5, _MOST_MOVED))
    moved = [[x + way * part * w, y, w, h] for way in (-1, 1)] + [[x, y + way * part * h, w, h] for way in (-1, 1)]
    inside = [
        candidate
        for candidate in moved
        if 0 <= candidate[0] <= image["width"] - w and 0 <= candidate[1] <= image["height"] - h
    ]
    return inside[int(random.integers(len(inside)))] if inside else None


def _added(
    like: dict[str, Any], images: list[dict[str, Any]], rows: list[dict[str, Any]], random: np.random.Generator
) -> tuple[dict[str, Any], list[float]]:
    """An image, and a box in it that overlaps no label."""
    w, h = like["bbox"][2:]
    while True:
        image = images[int(random.integers(len(images)))]
        x, y = float(random.uniform(0, image["width"] - w)), float(random.uniform(0, image["height"] - h))
        boxes = [tuple(row["bbox"]) for row in rows if row["image_id"] == image["id"]]
        if w <= image["width"] and h <= image["height"] and not any(_iou((x, y, w, h), box) for box in boxes):
            return image, [x, y, w, h]


def _iou(first: Box, second: Box) -> float:
    wide = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    high = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    both = max(0.0, wide) * max(0.0, high)
    return both / (first[2] * first[3] + second[2] * second[3] - both)
