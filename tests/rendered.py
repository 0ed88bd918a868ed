"""A dataset of rendered images with two classes: what is in them is known, and a Pico learns it in minutes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIDE = 128  # pixels
NAMES = ("disc", "ring")


def render(number: int) -> tuple[Image.Image, list[dict[str, Any]]]:
    """Image and objects of a number: discs and rings of any colour, some of them faint, on noise, with distractors."""
    random = np.random.default_rng([7, number])
    shade = random.uniform(60, 200)
    picture = Image.fromarray(random.normal(shade, 18, (SIDE, SIDE, 3)).clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for _ in range(int(random.integers(1, 4))):  # lines, which are no objects
        x, y, u, v = random.uniform(0, SIDE, 4).tolist()
        pen.line((x, y, u, v), fill=_colour(random, shade, 60), width=2)
    objects: list[dict[str, Any]] = []
    for _ in range(int(random.integers(2, 6))):
        size = float(random.uniform(14, 34))
        x, y = random.uniform(2, SIDE - size - 2, 2).tolist()
        box = (x, y, x + size, y + size)
        if any(_overlap(box, one["box"]) for one in objects):
            continue
        label, colour = int(random.integers(0, 2)), _colour(random, shade, 45)
        if label == 0:
            pen.ellipse(box, fill=colour)
        else:
            pen.ellipse(box, outline=colour, width=4)
        objects.append({"box": box, "label": label})
    return picture.filter(ImageFilter.GaussianBlur(0.7)), objects


def _colour(random: np.random.Generator, shade: float, contrast: float) -> tuple[int, int, int]:
    """A colour whose channels are at least a third of `contrast` away from the shade of the background."""
    away = random.uniform(contrast / 3, contrast, 3) * (1 if shade < 130 else -1)
    red, green, blue = (shade + away).clip(0, 255).astype(int).tolist()
    return red, green, blue


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def coco(numbers: range, prefix: str = "") -> dict[str, Any]:
    """Annotations of these images in COCO's format; ids count from 1."""
    images, annotations = [], list[dict[str, Any]]()
    for place, number in enumerate(numbers, start=1):
        images.append({"id": place, "file_name": f"{prefix}{number:03}.png", "width": SIDE, "height": SIDE})
        for one in render(number)[1]:
            x, y, u, v = one["box"]
            row = {"id": len(annotations) + 1, "image_id": place, "category_id": one["label"], "iscrowd": 0}
            annotations.append(row | {"bbox": [x, y, u - x, v - y], "area": (u - x) * (v - y)})
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_dataset(folder: Path, splits: dict[str, range]) -> None:
    """Write a dataset in Roboflow's COCO layout."""
    for split, numbers in splits.items():
        (folder / split).mkdir(parents=True)
        for number in numbers:
            render(number)[0].save(folder / split / f"{number:03}.png")
        (folder / split / "_annotations.coco.json").write_text(json.dumps(coco(numbers)))


def break_labels(annotations: dict[str, Any], each: int, seed: int = 0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotations with 4 x `each` labels broken, and what was done: kind, image_id and box of each.

    moved: by half its side or more, removed, added: where nothing is, class: the other one.
    """
    random = np.random.default_rng(seed)
    rows = [dict(row) for row in annotations["annotations"]]
    chosen = random.permutation(len(rows))[: 3 * each].tolist()
    broken: list[dict[str, Any]] = []
    for turn, place in enumerate(chosen):
        row = rows[place]
        kind = ("moved", "removed", "class")[turn % 3]
        if kind == "moved":
            x, y, w, h = row["bbox"]
            step = float(random.uniform(0.5, 0.8)) * w
            row["bbox"] = [x + step if x + step + w < SIDE else x - step, y, w, h]
        elif kind == "class":
            row["category_id"] = 1 - row["category_id"]
        broken.append({"kind": kind, "image_id": row["image_id"], "box": row["bbox"]})
    removed = {place for turn, place in enumerate(chosen) if turn % 3 == 1}
    kept = [row for place, row in enumerate(rows) if place not in removed]
    ids = [image["id"] for image in annotations["images"]]
    number = max(row["id"] for row in rows)
    while len(broken) < 4 * each:
        image, size = ids[int(random.integers(len(ids)))], float(random.uniform(14, 34))
        x, y = random.uniform(2, SIDE - size - 2, 2).tolist()
        box = (x, y, x + size, y + size)
        there = [row["bbox"] for row in rows if row["image_id"] == image]
        if any(_overlap(box, (u, v, u + w, v + h)) for u, v, w, h in there):
            continue
        number += 1
        bbox = [x, y, size, size]
        row = {"id": number, "image_id": image, "category_id": 0, "iscrowd": 0, "bbox": bbox, "area": size * size}
        kept.append(row)
        broken.append({"kind": "added", "image_id": image, "box": bbox})
    return annotations | {"annotations": kept}, broken
