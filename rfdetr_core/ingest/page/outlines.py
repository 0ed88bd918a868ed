"""Masks as SVG paths in the pixels of a small picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rfdetr_core.ingest.geometry import Box
from rfdetr_core.ingest.run_lengths import run_lengths

_POINTS = 80
# An RLE is drawn in strips of this many pixels of the small picture.
_STRIP = 2


def polygon_path(polygon: Sequence[float], scale: tuple[float, float]) -> str:
    """A polygon; of many points, every n-th."""
    points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2) * scale
    step = math.ceil(len(points) / _POINTS)
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points[::step].tolist()) + "Z"


def rle_path(counts: Any, size: tuple[int, int], box: Box, scale: tuple[float, float]) -> str:
    """The part of a run-length encoded mask inside `box`, as strips; nothing where the runs do not fill the image.

    size: width and height of the image.
    """
    runs = run_lengths(counts)
    if runs is None or int(runs.sum()) != size[0] * size[1]:
        return ""
    ends = np.cumsum(runs)
    columns, rows = (_strips(box[k], box[k + 2], scale[k]) for k in (0, 1))
    x, y = ((strips + 0.5) * _STRIP / scale[k] for k, strips in enumerate((columns, rows)))
    pixels = (
        np.minimum(x.astype(np.int64), size[0] - 1) * size[1] + np.minimum(y.astype(np.int64), size[1] - 1)[:, None]
    )
    inside = np.searchsorted(ends, pixels, side="right") % 2 == 1
    edges = np.diff(np.pad(inside, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    corner = np.array([rows[0], columns[0]])
    starts, stops = ((np.argwhere(edges == sign) + corner) * _STRIP for sign in (1, -1))
    return "".join(
        f"M{left} {top}h{right - left}v{_STRIP}h{left - right}z"
        for (top, left), (_, right) in zip(starts.tolist(), stops.tolist(), strict=True)
    )


def _strips(start: float, length: float, scale: float) -> npt.NDArray[np.int64]:
    return np.arange(int(start * scale / _STRIP), math.ceil((start + length) * scale / _STRIP), dtype=np.int64)
