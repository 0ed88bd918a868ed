"""A rendered dataset with two classes and exact labels, which a Pico learns in minutes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIDE = 64  # pixels
NAMES = ("disc", "frame")
_SIZES = (14.0, 26.0)  # pixels: the least and the largest side of an object


def render(number: int) -> tuple[Image.Image, list[dict[str, Any]]]:
    """The image with a number, and its objects: discs and square frames on noise. The lines in it are not objects."""
    random = np.random.default_rng([7, number])
    shade = random.uniform(60, 195)
    picture = Image.fromarray(random.normal(shade, 14, (SIDE, SIDE, 3)).clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for _ in range(int(random.integers(1, 4))):
        x, y, u, v = random.uniform(0, SIDE, 4).tolist()
        pen.line((x, y, u, v), fill=_colour(random, shade), width=2)
    objects: list[dict[str, Any]] = []
    for _ in range(int(random.integers(1, 5))):
        box = _square(random)
        if any(_overlap(box, placed["box"]) for placed in objects):
            continue
        label, colour = int(random.integers(0, 2)), _colour(random, shade)
        if label == 0:
            pen.ellipse(box, fill=colour)
        else:
            pen.rectangle(box, outline=colour, width=4)
        objects.append({"box": box, "label": label})
    return picture.filter(ImageFilter.GaussianBlur(0.5)), objects


def _square(random: np.random.Generator) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a square in an image."""
    size = float(random.uniform(*_SIZES))
    x, y = random.uniform(1, SIDE - size - 1, 2).tolist()
    return x, y, x + size, y + size


def _colour(random: np.random.Generator, shade: float) -> tuple[int, int, int]:
    """A colour. Each channel differs by 40 to 110 from the shade of the background."""
    away = random.uniform(40, 110, 3) * (1 if shade < 128 else -1)
    red, green, blue = (shade + away).clip(0, 255).astype(int).tolist()
    return red, green, blue


def _overlap(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def coco(numbers: range, prefix: str = "") -> dict[str, Any]:
    """Annotations of these images in COCO's format; ids count from 1."""
    images, annotations = [], list[dict[str, Any]]()
    for place, number in enumerate(numbers, start=1):
        images.append({"id": place, "file_name": f"{prefix}{number:03}.png", "width": SIDE, "height": SIDE})
        for item in render(number)[1]:
            x, y, u, v = item["box"]
            row = {"id": len(annotations) + 1, "image_id": place, "category_id": item["label"], "iscrowd": 0}
            annotations.append(row | {"bbox": [x, y, u - x, v - y], "area": (u - x) * (v - y)})
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_dataset(
    folder: Path, splits: Mapping[str, range], labels: Mapping[str, dict[str, Any]] | None = None
) -> None:
    """Write a dataset in Roboflow's COCO layout. labels: other annotations for a split."""
    for split, numbers in splits.items():
        (folder / split).mkdir(parents=True)
        for number in numbers:
            render(number)[0].save(folder / split / f"{number:03}.png")
        annotations = (labels or {}).get(split) or coco(numbers)
        (folder / split / "_annotations.coco.json").write_text(json.dumps(annotations))
