"""Boxes (left, top, width, height) and polygons (x, y, x, y, ...) as plain numbers, in pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

Box = tuple[float, float, float, float]
_LARGEST = 1e9


def numbers(values: Any) -> list[float] | None:
    """A list of numbers as floats, infinite where no image could be as large; None if it is anything else."""
    if not isinstance(values, list | tuple) or any(type(value) not in (int, float) for value in values):
        return None
    # Adding zero makes -0.0 equal to 0.0 in the bytes too.
    return [float(value) + 0.0 if abs(value) < _LARGEST else math.inf for value in values]


def bounds(polygon: Sequence[float]) -> Box:
    """The box around a polygon."""
    xs, ys = polygon[0::2], polygon[1::2]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def overshoot(box: Sequence[float], width: float, height: float) -> float:
    """How far a box reaches over the edge of the image; negative where it stays inside."""
    return max(-box[0], -box[1], box[0] + box[2] - width, box[1] + box[3] - height)


def clip_box(box: Sequence[float], width: float, height: float) -> Box:
    """The part of a box inside the image; its width or height is 0 or less where there is none."""
    left, top = max(box[0], 0.0), max(box[1], 0.0)
    if overshoot(box, width, height) <= 0:
        return left, top, box[2], box[3]
    return left, top, min(box[0] + box[2], width) - left, min(box[1] + box[3], height) - top


def clip_polygon(polygon: Sequence[float], width: float, height: float) -> list[float]:
    """The part of a polygon inside the image (Sutherland and Hodgman 1974), empty where there is none."""
    points = list(zip(polygon[0::2], polygon[1::2], strict=True))
    for axis, limit, sign in ((0, 0.0, 1), (0, width, -1), (1, 0.0, 1), (1, height, -1)):
        kept: list[tuple[float, float]] = []
        for start, end in pairwise([*points[-1:], *points]):
            inside, was_inside = (sign * (point[axis] - limit) >= 0 for point in (end, start))
            if inside != was_inside:
                part = (limit - start[axis]) / (end[axis] - start[axis])
                crossing = start[1 - axis] + part * (end[1 - axis] - start[1 - axis])
                kept.append((crossing, limit) if axis else (limit, crossing))
            if inside:
                kept.append(end)
        points = kept
    return [value for point in points for value in point]


def polygon_area(polygon: Sequence[float]) -> float:
    """Area by the shoelace formula."""
    points = list(zip(polygon[0::2], polygon[1::2], strict=True))
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise([*points[-1:], *points]))) / 2
