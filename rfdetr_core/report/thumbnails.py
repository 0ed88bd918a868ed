"""Small pictures of the images of a dataset, and masks as SVG paths in their pixels. The dataset report uses them.

Images are decoded one at a time, until a budget of pixels is used up. The evaluation page needs many pictures of the
same image; it uses picture_requests.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rfdetr_core.base import files, images
from rfdetr_core.base.errors import UserError
from rfdetr_core.ingest.geometry import Box, run_lengths
from rfdetr_core.report.gallery import Picture, Shape, as_jpeg

_POINTS = 80  # the most points of a polygon
_STRIP = 2  # the height of the strips that an RLE is drawn in, in pixels of the small picture
_BUDGET = 300_000_000  # the most pixels that are decoded for a part of the page: about five seconds
_QUALITY = 74  # JPEG quality, 1 to 95
_GREY = (128, 128, 128)
_BEYOND = 2.1  # a box outside the image is shown up to this distance from the edge; 1 is the image's width or height
_FILTER = Image.Resampling.LANCZOS


def polygon_path(polygon: Sequence[float], scale: tuple[float, float]) -> str:
    """The SVG path of a polygon. If it has many points, only every n-th is used."""
    points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2) * scale
    step = math.ceil(len(points) / _POINTS)
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points[::step].tolist()) + "Z"


def rle_path(counts: Any, size: tuple[int, int], box: Box, scale: tuple[float, float]) -> str:
    """The SVG path of the part of a mask inside `box`, as strips; "" if the runs do not fill the image.

    Args:
        counts: The runs of the run-length encoded mask.
        size: Width and height of the image.
        box: Left, top, width and height in pixels of the image.
        scale: Pixels of the picture per pixel of the image, horizontally and vertically.
    """
    runs = run_lengths(counts)
    if runs is None or int(runs.sum()) != size[0] * size[1]:
        return ""
    spans = ((box[k] * scale[k] / _STRIP, (box[k] + box[k + 2]) * scale[k] / _STRIP) for k in (0, 1))
    columns, rows = (np.arange(int(start), math.ceil(end), dtype=np.int64) for start, end in spans)
    middles = [(strips + 0.5) * _STRIP / scale[k] for k, strips in enumerate((columns, rows))]
    x, y = (np.minimum(middles[k].astype(np.int64), size[k] - 1) for k in (0, 1))
    inside = np.searchsorted(np.cumsum(runs), x * size[1] + y[:, None], side="right") % 2 == 1
    edges = np.diff(np.pad(inside, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    corner = np.array([rows[0], columns[0]])
    starts, stops = ((np.argwhere(edges == sign) + corner) * _STRIP for sign in (1, -1))
    return "".join(
        f"M{left} {top}h{right - left}v{_STRIP}h{left - right}z"
        for (top, left), (_, right) in zip(starts.tolist(), stops.tolist(), strict=True)
    )


class Thumbnails:
    """Makes small pictures of the images of a dataset. When its budget of pixels is used up, it returns None.

    root: the folder of the dataset.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._left = root, _BUDGET

    def image(self, path: str, side: int, size: tuple[int, int] | None = None) -> Picture | None:
        """A picture of a whole image. None: the budget is used up, or the image cannot be read.

        Args:
            path: The path of the image below the dataset folder.
            side: The longer side of the picture in pixels, at most.
            size: The size of the image, if it is known. Then the image can be decoded at reduced size.
        """
        picture = self._open(path, _reduction(max(size), side) if size else 1)
        if picture is None:
            return None
        scale = min(1.0, side / max(picture.size))
        return as_jpeg(picture.resize(_size(*picture.size, scale), _FILTER, reducing_gap=2.0), _QUALITY)

    def crop(
        self, path: str, box: Box, size: tuple[int, int], side: int, shapes: Sequence[Shape] = ()
    ) -> Picture | None:
        """A picture of a box and its surroundings. What is outside the image is grey. None: as in `image`.

        Args:
            path: The path of the image below the dataset folder.
            box: In pixels of the image.
            size: The size of the image.
            side: The longer side of the picture in pixels, at most.
            shapes: Drawn over the picture; in pixels of the image. Their outlines are left out.
        """
        left, top, right, bottom = _view(box, *size)
        longer = max(right - left, bottom - top)
        opened = self._open(path, _reduction(longer, side))
        if opened is None:
            return None
        scale = min(1.0, side / longer)
        canvas = Image.new("RGB", _size(right - left, bottom - top, scale), _GREY)
        inside = max(left, 0), max(top, 0), min(right, size[0]), min(bottom, size[1])
        ratio = opened.width / size[0], opened.height / size[1]
        source = tuple(value * ratio[k % 2] for k, value in enumerate(inside))
        part = opened.resize(_size(inside[2] - inside[0], inside[3] - inside[1], scale), _FILTER, box=source)  # type: ignore[arg-type]
        canvas.paste(part, (round((inside[0] - left) * scale), round((inside[1] - top) * scale)))
        moved = [shape._replace(x=shape.x - left, y=shape.y - top, outline="") for shape in shapes]
        return as_jpeg(canvas, _QUALITY)._replace(shapes=[scaled(shape, (scale, scale)) for shape in moved])

    def _open(self, path: str, reduction: int) -> Image.Image | None:
        if self._left <= 0:
            return None
        try:
            picture: Image.Image = images.decode(files.read_bytes(self._root / path), path, reduction, None)
        except (OSError, UserError):
            return None  # The file was deleted or changed after validation read it. The next stage reports that.
        self._left -= picture.width * picture.height
        return picture


def scaled(shape: Shape, scale: tuple[float, float]) -> Shape:
    """Convert a shape from pixels of the image to pixels of the picture."""
    x, y, width, height = (round(value * scale[k % 2], 1) for k, value in enumerate(shape[1:5]))
    return shape._replace(x=x, y=y, width=width, height=height)


def _reduction(size: float, side: int) -> int:
    return next(reduction for reduction in (8, 4, 2, 1) if reduction == 1 or size / reduction >= side)


def _size(width: int, height: int, scale: float) -> tuple[int, int]:
    return max(1, round(width * scale)), max(1, round(height * scale))


def _view(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the region around a box. It always includes a part of the image."""
    sides = (width, height)
    longest = min(max(abs(box[2]), abs(box[3])), 2.0 * max(sides))
    padding = max(0.5 * longest, 0.05 * max(sides), 12.0)
    spans = [_span(box[k], box[k] + box[k + 2], longest / 2 + padding, sides[k]) for k in (0, 1)]
    reach = max(high - low for low, high in spans) / 2
    for k, (low, high) in enumerate(spans):
        # A narrow strip would show little. Within the image, its short side is extended to half of the long side.
        extra = max(0.0, (reach - (high - low)) / 2)
        spans[k] = (max(low - extra, min(low, 0.0)), min(high + extra, max(high, float(sides[k]))))
    (left, right), (top, bottom) = ((math.floor(low), max(math.ceil(high), math.floor(low) + 1)) for low, high in spans)
    return left, top, right, bottom


def _span(start: float, end: float, reach: float, side: int) -> tuple[float, float]:
    """The visible range along an axis: `reach` to both sides of the middle of a box from `start` to `end`."""
    # A box can be far outside the image.
    first, last = (min(max(value, -_BEYOND * side), (1 + _BEYOND) * side) for value in sorted((start, end)))
    middle, margin = (first + last) / 2, 0.03 * side + 4
    low, high = max(middle - reach, min(0.0, first - margin)), min(middle + reach, max(float(side), last + margin))
    # If the box is outside the image, the range goes from the far edge of the image to the box.
    return (0.0 if low >= side else low), (float(side) if high <= 0 else high)
