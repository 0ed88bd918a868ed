"""COCO's run-length encoded masks: read without trust, unlike by pycocotools, whose decoder gives random pixels where
runs are too few."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rfdetr_core.ingest.geometry import Box

Runs = npt.NDArray[np.int64]
# Five bits a character, from the character 48 on: the format of pycocotools' common/maskApi.c.
_FIRST, _BITS, _CONTINUES, _SIGN = 48, 5, 0x20, 0x10
_MOST_CHARACTERS = 8
_LARGEST = 2**40


def run_lengths(counts: Any) -> Runs | None:
    """The runs of an RLE as in COCO, a list or a compressed string; None where it is neither.

    Runs go down the columns and are outside and inside in turn, beginning outside.
    """
    if isinstance(counts, list):
        good = all(type(run) is int and 0 <= run < _LARGEST for run in counts)
        return np.array(counts, dtype=np.int64) if good else None
    return _uncompressed(counts) if isinstance(counts, str) and counts.isascii() else None


def _uncompressed(counts: str) -> Runs | None:
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
    # From the fourth on, a run is stored as what it is more than the one before the last.
    for first in (1, 2):
        runs[first::2] = np.cumsum(runs[first::2])
    return runs if runs.min() >= 0 and runs.max() < _LARGEST else None


def mask_fault(segmentation: dict[str, Any], height: int, width: int) -> str | None:
    """Why an RLE is no mask of an image of height x width; None if it is one."""
    size = segmentation.get("size")
    if size != [height, width] or any(type(side) is not int for side in size):
        return f"the size of the run lengths is not [{height}, {width}], the height and width of the image"
    runs = run_lengths(segmentation.get("counts"))
    if runs is None:
        return "the counts of the run lengths are neither a list of lengths nor COCO's compressed form"
    if runs.sum() != height * width:
        return f"the run lengths sum up to {runs.sum()}, the image has {height} x {width} pixels"
    return None if runs[1::2].any() else "the run lengths have no pixel inside"


def mask_area(segmentation: dict[str, Any]) -> float:
    """Pixels of a mask without fault."""
    runs = run_lengths(segmentation["counts"])
    return 0.0 if runs is None else float(runs[1::2].sum())


def mask_bounds(segmentation: dict[str, Any]) -> Box:
    """The box around a mask without fault."""
    runs, height = run_lengths(segmentation["counts"]), segmentation["size"][0]
    assert runs is not None
    ends = np.cumsum(runs)
    inside = np.flatnonzero(np.diff(ends, prepend=0)[1::2])
    firsts, lasts = ends[0::2][inside], ends[1::2][inside] - 1
    left, right = firsts[0] // height, lasts[-1] // height
    if (firsts // height != lasts // height).any():  # it goes on in the next column: from the bottom to the top
        top, bottom = 0, height - 1
    else:
        top, bottom = (firsts % height).min(), (lasts % height).max()
    return float(left), float(top), float(right - left + 1), float(bottom - top + 1)
