"""Boxes, polygons and run-length encoded (RLE) masks. Values from label files are unchecked and may be anything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Box = tuple[float, float, float, float]
Runs = npt.NDArray[np.int64]
_LARGEST = 1e9
# The most pairs of sides that are compared for one polygon. They take a tenth of a second and 100 MB.
_MOST_PAIRS = 500_000
# A compressed RLE has five bits per character, from character code 48 on, as in pycocotools' common/maskApi.c.
_FIRST, _BITS, _CONTINUES, _SIGN = 48, 5, 0x20, 0x10
_MOST_CHARACTERS = 8
_LONGEST_RUN = 2**40


def numbers(values: Any) -> list[float] | None:
    """A list of numbers as floats; None if it is anything else. Numbers beyond any image size become infinite."""
    if not isinstance(values, list | tuple) or any(type(value) not in (int, float) for value in values):
        return None
    # Adding zero turns -0.0 into 0.0, so that equal values have equal bytes.
    return [float(value) + 0.0 if abs(value) < _LARGEST else math.inf for value in values]


def drawable(box: Any) -> Box | None:
    """A box as four finite numbers; None if it is anything else."""
    values = numbers(box) or []
    if len(values) != 4 or not all(map(math.isfinite, values)):
        return None
    return values[0], values[1], values[2], values[3]


def bounds(polygon: Sequence[float]) -> Box:
    """The box around a polygon."""
    xs, ys = polygon[0::2], polygon[1::2]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def overshoot(box: Sequence[float], width: float, height: float) -> float:
    """How far a box reaches over the edge of the image, in pixels; negative if it stays inside.

    Args:
        box: left, top, width and height in pixels.
        width: of the image, in pixels.
        height: of the image, in pixels.
    """
    return max(-box[0], -box[1], box[0] + box[2] - width, box[1] + box[3] - height)


def clip_box(box: Sequence[float], width: float, height: float) -> Box:
    """The part of a box inside the image. Without such a part, its width or height is 0 or less.

    Args:
        box: left, top, width and height in pixels.
        width: of the image, in pixels.
        height: of the image, in pixels.
    """
    left, top = max(box[0], 0.0), max(box[1], 0.0)
    if overshoot(box, width, height) <= 0:
        return left, top, box[2], box[3]
    return left, top, min(box[0] + box[2], width) - left, min(box[1] + box[3], height) - top


def clip_polygon(polygon: Sequence[float], width: float, height: float) -> list[float]:
    """The part of a polygon inside the image (Sutherland and Hodgman 1974); empty if there is none.

    Args:
        polygon: x and y of each point in turn, in pixels.
        width: of the image, in pixels.
        height: of the image, in pixels.
    """
    points = list(zip(polygon[0::2], polygon[1::2], strict=True))
    for axis, limit, sign in ((0, 0.0, 1), (0, width, -1), (1, 0.0, 1), (1, height, -1)):
        clipped: list[tuple[float, float]] = []
        for start, end in pairwise([*points[-1:], *points]):
            inside, was_inside = (sign * (point[axis] - limit) >= 0 for point in (end, start))
            if inside != was_inside:
                part = (limit - start[axis]) / (end[axis] - start[axis])
                crossing = start[1 - axis] + part * (end[1 - axis] - start[1 - axis])
                clipped.append((crossing, limit) if axis else (limit, crossing))
            if inside:
                clipped.append(end)
        points = clipped
    return [value for point in points for value in point]


def polygon_area(polygon: Sequence[float]) -> float:
    """Area by the shoelace formula."""
    points = list(zip(polygon[0::2], polygon[1::2], strict=True))
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise([*points[-1:], *points]))) / 2


def crosses_itself(polygon: Sequence[float]) -> bool:
    """Whether two sides of a polygon cross at a point inside both. Sides that only touch do not count.

    For a polygon with very many sides, the number of compared pairs is limited, so that the time is too.
    """
    if len(polygon) <= 6:
        return False
    starts = np.array(polygon, dtype=np.float64).reshape(-1, 2)
    ends = np.roll(starts, -1, axis=0)
    left, right = np.minimum(starts, ends)[:, 0], np.maximum(starts, ends)[:, 0]
    order = np.argsort(left, kind="stable")
    starts, ends, left, right = starts[order], ends[order], left[order], right[order]
    # Sorted by their left ends, a side can only cross later sides that begin before it ends.
    counts = np.maximum(np.searchsorted(left, right, side="left") - np.arange(len(left)) - 1, 0)
    counts[np.cumsum(counts) > _MOST_PAIRS] = 0
    first = np.repeat(np.arange(len(left)), counts)
    second = first + 1 + np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts)
    a, b, c, d = starts[first], ends[first], starts[second], ends[second]
    return bool((_apart(a, b, c, d) & _apart(c, d, a, b)).any())


def _apart(a: Any, b: Any, c: Any, d: Any) -> Any:
    """Whether c and d are on different sides of the line from a to b, by more than rounding."""
    along, offsets = b - a, [point - a for point in (c, d)]
    left, right = (along[:, 0] * offset[:, 1] - along[:, 1] * offset[:, 0] for offset in offsets)
    noise = 1e-6 * np.hypot(along[:, 0], along[:, 1])
    return (np.minimum(left, right) < -noise) & (np.maximum(left, right) > noise)


def run_lengths(counts: Any) -> Runs | None:
    """The runs of a COCO RLE, given as a list or as a compressed string; None if it is neither.

    Runs go down the columns, and alternate between outside and inside the mask. The first one is outside.
    """
    if isinstance(counts, list):
        good = all(type(run) is int and 0 <= run < _LONGEST_RUN for run in counts)
        return np.array(counts, dtype=np.int64) if good else None
    if not isinstance(counts, str) or not counts.isascii():
        return None
    digits = np.frombuffer(counts.encode(), dtype=np.uint8).astype(np.int64) - _FIRST
    last = np.flatnonzero(digits & _CONTINUES == 0)
    if not len(digits) or digits.min() < 0 or digits.max() >= 64 or not len(last) or last[-1] != len(digits) - 1:
        return None
    starts = np.concatenate([[0], last[:-1] + 1])
    lengths = last - starts + 1
    if lengths.max() > _MOST_CHARACTERS:
        return None
    shifts = _BITS * (np.arange(len(digits)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((digits & (_CONTINUES - 1)) << shifts, starts)
    runs -= np.where(digits[last] & _SIGN, np.int64(1) << (_BITS * lengths), 0)
    # From the fourth run on, the difference to the run two places before is stored.
    for first in (1, 2):
        runs[first::2] = np.cumsum(runs[first::2])
    return runs if runs.min() >= 0 and runs.max() < _LONGEST_RUN else None


def mask_problem(segmentation: dict[str, Any], height: int, width: int) -> str | None:
    """Why an RLE is not a valid mask for an image; None if it is valid.

    Args:
        segmentation: COCO's RLE, with the keys size and counts. Its values are unchecked.
        height: of the image, in pixels.
        width: of the image, in pixels.
    """
    size = segmentation.get("size")
    if size != [height, width] or any(type(side) is not int for side in size):
        return f"the size of the run lengths is not [{height}, {width}], the height and width of the image"
    runs = run_lengths(segmentation.get("counts"))
    if runs is None:
        return "the counts of the run lengths are neither a list of lengths nor COCO's compressed form"
    if runs.sum() != height * width:
        return f"the run lengths sum up to {runs.sum()}, but the image has {height} x {width} pixels"
    return None if runs[1::2].any() else "the mask of the run lengths has no pixel"


def mask_area(segmentation: Any) -> float:
    """The number of pixels of a valid mask, RLE or polygons. Pixels where polygons overlap count twice."""
    if not isinstance(segmentation, dict):
        return float(sum(map(polygon_area, segmentation or ())))
    runs = run_lengths(segmentation["counts"])
    return 0.0 if runs is None else float(runs[1::2].sum())


def mask_bounds(segmentation: dict[str, Any]) -> Box:
    """The box around a valid RLE mask."""
    runs, height = run_lengths(segmentation["counts"]), segmentation["size"][0]
    assert runs is not None
    ends = np.cumsum(runs)
    inside = np.flatnonzero(np.diff(ends, prepend=0)[1::2])
    firsts, lasts = ends[0::2][inside], ends[1::2][inside] - 1
    left, right = firsts[0] // height, lasts[-1] // height
    if (
        firsts // height != lasts // height
    ).any():  # a run that continues in the next column reaches both bottom and top
        return float(left), 0.0, float(right - left + 1), float(height)
    top, bottom = (firsts % height).min(), (lasts % height).max()
    return float(left), float(top), float(right - left + 1), float(bottom - top + 1)
