"""Pictures that look alike though their bytes differ: re-encoded, resized, brighter or mirrored copies.

A picture is compared by its thumbnail of 16 x 16 grey values, called cells. Two pictures are similar (in names: near)
if their cells correlate and no single cell differs much. Brightness and contrast do not matter. Encoding changes all
cells a little; another object changes a few cells by much. Measured on data/sample and data/nuclei: the most similar
different pictures correlate with 0.64. Re-encoded and resized copies correlate with at least 0.994, and their cells
differ by at most 0.46 standard deviations.
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
# Standard deviation in grey levels. Below it, a thumbnail is mostly rounding error.
FLAT = 4.0
# The cosine coefficients that the search uses, and how many nearest candidates are then compared.
_FREQUENCIES = [(0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2), (2, 1), (2, 2)]
_CLOSEST = 6
_CHUNK = 4096


class Near(NamedTuple):
    """Two similar pictures.

    number: the number of the later picture. earlier: that of the earlier picture. distance: 1 minus their correlation.
    """

    number: int
    earlier: int
    distance: float


def thumbnail(picture: Image.Image) -> bytes:
    """The grey values of 16 x 16 cells, row by row."""
    return picture.resize((SIDE, SIDE), Image.Resampling.BOX).convert("L").tobytes()


def find_near(thumbnails: Sequence[bytes], splits: Sequence[int]) -> list[Near]:
    """For each picture that is similar to earlier pictures: the most similar earlier picture.

    A similar picture of another split is preferred to one of the same split.

    Each picture is compared only with a few candidates: those with the closest coefficients. This takes far fewer than
    N^2 steps, and still finds nearly all of a thousand copies.

    Args:
        thumbnails: one per picture, see `thumbnail`.
        splits: the split number of each picture. The numbers must not decrease.
    """
    leader: dict[tuple[int, bytes], int] = {}
    first_copies = [leader.setdefault(key, number) for number, key in enumerate(zip(splits, thumbnails, strict=True))]
    greys = np.frombuffer(b"".join(thumbnails), dtype=np.uint8).reshape(-1, _CELLS)
    features, contrast = _features(greys)
    usable = np.array([number for number in leader.values() if contrast[number] >= FLAT], dtype=np.int64)
    of_split = np.asarray(splits)[usable]
    best: dict[int, Near] = {}
    for split in np.unique(of_split):
        for earlier_split in np.unique(of_split[of_split <= split]):
            for near in _search(greys, features, usable[of_split == split], usable[of_split == earlier_split]):
                nearest_yet = best.get(near.number)
                # The picture's own split is searched last. A match in a later split never replaces a match in an
                # earlier split.
                if nearest_yet is None or (
                    splits[nearest_yet.earlier] == splits[near.earlier] and near.distance < nearest_yet.distance
                ):
                    best[near.number] = near
    for number, first_copy in enumerate(first_copies):
        if number != first_copy and contrast[number] >= FLAT:
            nearest = best.get(first_copy)
            elsewhere = nearest is not None and splits[nearest.earlier] != splits[number]
            best[number] = nearest._replace(number=number) if nearest and elsewhere else Near(number, first_copy, 0.0)
    return [best[number] for number in sorted(best)]


def _features(greys: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The low cosine coefficients of each thumbnail, normalised to mean 0 and length 1; and its standard deviation."""
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
    """Yield the pairs of a member and a similar candidate, with the later picture first."""
    # Imported late: for a small dataset the import takes longer than everything else.
    from scipy.spatial import cKDTree

    # The waves are orthonormal, so the distance of two pictures' coefficients is at most that of their normalised
    # thumbnails, which is sqrt(2 - 2 correlation). The radius is a little larger, so that the approximate search
    # misses no similar pair.
    slack = 0.3
    radius = (1 + slack) * float(np.sqrt(2 - 2 * CORRELATION))
    flip = np.array([(-1.0) ** across for _, across in _FREQUENCIES])
    tree = cKDTree(features[candidates], leafsize=64)
    for mirrored in (False, True):
        for start in range(0, len(members), _CHUNK):
            chunk = members[start : start + _CHUNK]
            queries = features[chunk] * flip if mirrored else features[chunk]
            _, neighbours = tree.query(queries, _CLOSEST, eps=slack, distance_upper_bound=radius, workers=-1)
            rows, columns = np.nonzero(neighbours < len(candidates))
            firsts, seconds = chunk[rows], candidates[neighbours[rows, columns]]
            different = firsts != seconds
            yield from _confirm(greys, firsts[different], seconds[different], mirrored)


def _confirm(greys: npt.NDArray[np.uint8], firsts: Ints, seconds: Ints, mirrored: bool) -> Iterator[Near]:
    """Yield the pairs whose thumbnails correlate and have no cell that differs by more than OUTLIER."""
    for start in range(0, len(firsts), _CHUNK):
        pair = firsts[start : start + _CHUNK], seconds[start : start + _CHUNK]
        a, b = (greys[numbers].astype(np.int64) for numbers in pair)
        if mirrored:
            a = a.reshape(-1, SIDE, SIDE)[:, :, ::-1].reshape(-1, _CELLS)
        # Integer sums are exact, so every machine finds the same pairs.
        a, b = (_CELLS * grey - grey.sum(axis=1, keepdims=True) for grey in (a, b))
        squares_a, squares_b = (a * a).sum(axis=1), (b * b).sum(axis=1)
        correlation = (a * b).sum(axis=1) / np.sqrt(squares_a.astype(np.float64) * squares_b)
        scaled = a / np.sqrt(squares_a / _CELLS)[:, None] - b / np.sqrt(squares_b / _CELLS)[:, None]
        for k in np.flatnonzero((correlation >= CORRELATION) & (np.abs(scaled).max(axis=1) <= OUTLIER)):
            member, candidate = int(pair[0][k]), int(pair[1][k])
            yield Near(max(member, candidate), min(member, candidate), max(0.0, round(1 - float(correlation[k]), 6)))
