"""Pictures that look the same though their bytes differ: encoded anew, resized, a little brighter, mirrored.

A picture is compared by its thumbnail of 16 x 16 greys. Two are near when their greys correlate, whatever brightness
and contrast, and no single cell stands out: encoding moves all cells by little, another object moves a few by much.
On data/sample and data/nuclei the closest different pictures correlate with 0.64; re-encoded and resized ones with
0.994 at least, and their cells differ by 0.46 standard deviations at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

Ints = npt.NDArray[np.int64]
SIDE = 16
_CELLS = SIDE * SIDE
CORRELATION = 0.99
OUTLIER = 0.6
# In levels of grey; below it a thumbnail is mostly rounding.
FLAT = 4.0
# Coefficients of the cosine transform to search by, and how many of the closest are looked at.
_FREQUENCIES = [(0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2), (2, 1), (2, 2)]
_CLOSEST = 6
_CHUNK = 4096


class Near(NamedTuple):
    """A picture that is like an earlier one: their numbers, and 1 less their correlation."""

    number: int
    earlier: int
    distance: float


def thumbnail(picture: Image.Image) -> bytes:
    """The greys of 16 x 16 cells, row by row."""
    return picture.resize((SIDE, SIDE), Image.Resampling.BOX).convert("L").tobytes()


def find_near(thumbnails: Sequence[bytes], splits: Sequence[int]) -> list[Near]:
    """For each picture that is near an earlier one, the nearest of them: of another split if there is one.

    splits: a number for each picture, not decreasing. Of the pictures that are alike by their coefficients only the
    closest few are compared: of a thousand copies nearly each is found, in far fewer than N^2 steps.
    """
    leader: dict[tuple[int, bytes], int] = {}
    first = [leader.setdefault(key, number) for number, key in enumerate(zip(splits, thumbnails, strict=True))]
    greys = np.frombuffer(b"".join(thumbnails), dtype=np.uint8).reshape(-1, _CELLS)
    features, contrast = _features(greys)
    usable = np.array([number for number in leader.values() if contrast[number] >= FLAT], dtype=np.int64)
    of_split = np.asarray(splits)[usable]
    best: dict[int, Near] = {}
    for own in np.unique(of_split):
        for other in np.unique(of_split[of_split <= own]):
            for near in _search(greys, features, usable[of_split == own], usable[of_split == other]):
                known = best.get(near.number)
                # Splits come in order: only a nearer one of the same split is better than what is known.
                if known is None or (splits[known.earlier] == splits[near.earlier] and near.distance < known.distance):
                    best[near.number] = near
    for number, its in enumerate(first):
        if number != its and contrast[number] >= FLAT:
            found = best.get(its)
            elsewhere = found is not None and splits[found.earlier] != splits[number]
            best[number] = found._replace(number=number) if found and elsewhere else Near(number, its, 0.0)
    return [best[number] for number in sorted(best)]


def _features(greys: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Low coefficients of each thumbnail, brought to mean 0 and length 1; and its standard deviation."""
    angles = np.pi * (2 * np.arange(SIDE) + 1) / (2 * SIDE)
    waves = [np.outer(np.cos(down * angles), np.cos(across * angles)).ravel() for down, across in _FREQUENCIES]
    basis = np.stack([wave / np.linalg.norm(wave) for wave in waves], axis=1)  # (256, F)
    features = np.empty((len(greys), len(waves)))
    contrast = np.empty(len(greys))
    for start in range(0, len(greys), _CHUNK):
        rows = greys[start : start + _CHUNK].astype(np.float64)
        contrast[start : start + _CHUNK] = rows.std(axis=1)
        features[start : start + _CHUNK] = rows @ basis
    return features / np.maximum(contrast * SIDE, 1e-9)[:, None], contrast


def _search(
    greys: npt.NDArray[np.uint8], features: npt.NDArray[np.float64], members: Ints, candidates: Ints
) -> Iterator[Near]:
    """Pairs of a member and a candidate that are near, as the later and the earlier of the two."""
    # Importing it takes longer than all else of a small dataset.
    from scipy.spatial import cKDTree

    # Coefficients of orthonormal waves are at most as far apart as the thumbnails; of unit vectors that are
    # sqrt(2 - 2 correlation). Looking a little further makes the approximate search miss none of them.
    slack = 0.3
    radius = (1 + slack) * float(np.sqrt(2 - 2 * CORRELATION))
    flip = np.array([(-1.0) ** across for _, across in _FREQUENCIES])
    tree = cKDTree(features[candidates], leafsize=64)
    for mirrored in (False, True):
        for start in range(0, len(members), _CHUNK):
            some = members[start : start + _CHUNK]
            wanted = features[some] * flip if mirrored else features[some]
            _, found = tree.query(wanted, _CLOSEST, eps=slack, distance_upper_bound=radius, workers=-1)
            rows, columns = np.nonzero(found < len(candidates))
            ones, others = some[rows], candidates[found[rows, columns]]
            different = ones != others
            yield from _confirm(greys, ones[different], others[different], mirrored)


def _confirm(greys: npt.NDArray[np.uint8], ones: Ints, others: Ints, mirrored: bool) -> Iterator[Near]:
    """Those pairs whose thumbnails correlate, without a cell that stands out."""
    for start in range(0, len(ones), _CHUNK):
        pair = ones[start : start + _CHUNK], others[start : start + _CHUNK]
        a, b = (greys[numbers].astype(np.int64) for numbers in pair)
        if mirrored:
            a = a.reshape(-1, SIDE, SIDE)[:, :, ::-1].reshape(-1, _CELLS)
        # Sums of integers are exact: every machine finds the same pairs.
        a, b = (_CELLS * grey - grey.sum(axis=1, keepdims=True) for grey in (a, b))
        a_squares, b_squares = (a * a).sum(axis=1), (b * b).sum(axis=1)
        correlation = (a * b).sum(axis=1) / np.sqrt(a_squares.astype(np.float64) * b_squares)
        scaled = a / np.sqrt(a_squares / _CELLS)[:, None] - b / np.sqrt(b_squares / _CELLS)[:, None]
        for k in np.flatnonzero((correlation >= CORRELATION) & (np.abs(scaled).max(axis=1) <= OUTLIER)):
            one, other = int(pair[0][k]), int(pair[1][k])
            yield Near(max(one, other), min(one, other), max(0.0, round(1 - float(correlation[k]), 6)))
