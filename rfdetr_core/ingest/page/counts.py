"""What the page's tables and charts show, counted once over a dataset: its size does not grow with the images."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rfdetr_core.base.manifest import SPLITS
from rfdetr_core.ingest.clean import CleanDataset

# COCO's borders between small, medium and large objects, as the side of a square.
SMALL, LARGE = 32, 96
# Of more classes, co-occurrence is shown for those with the most objects.
MATRIX = 100
_SIZES = 12
_BARS = 25
_SIDES = [round(2 ** (k / 2), 3) for k in range(29)]
_ASPECTS = [round(2 ** (k / 4), 4) for k in range(-16, 17)]
_SHARES = [k / 20 for k in range(21)]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class _Objects(NamedTuple):
    """All images in the order of the splits, and their objects: one row each."""

    split: Ints  # of an image
    size: Ints  # of an image, width and height
    image: Ints  # of an object, its image's row
    label: Ints
    crowd: Ints
    box: Floats  # width and height
    area: Floats


def count(dataset: CleanDataset) -> dict[str, Any]:
    """Counts by split and class, distributions of sizes, and which classes share images."""
    objects = _gather(dataset)
    of_split = objects.split[objects.image]
    side = np.sqrt(objects.box[:, 0] * objects.box[:, 1])
    whole = np.sqrt(objects.size[objects.image].prod(axis=1))
    each = [np.bincount(objects.image, minlength=len(objects.split))[objects.split == k] for k in range(len(SPLITS))]
    return {
        "splits": [_split(objects, k, name) for k, name in enumerate(SPLITS)],
        "classes": _classes(objects, dataset),
        "together": _together(objects, len(dataset.classes)),
        "sizes": _sizes(objects),
        "side": _histogram(side, of_split, _SIDES),
        "aspect": _histogram(objects.box[:, 0] / objects.box[:, 1], of_split, _ASPECTS),
        "share": _histogram(side / whole, of_split, _SHARES),
        "width_height": _density(objects.box),
        "image_width_height": _density(objects.size.astype(np.float64)),
        "per_image": _whole_numbers(each),
    }


def _gather(dataset: CleanDataset) -> _Objects:
    images = [image for name in SPLITS for image in dataset.splits[name]]
    ones = [one for image in images for one in image.instances]
    each = np.fromiter((len(image.instances) for image in images), np.int64)
    return _Objects(
        split=np.repeat(np.arange(len(SPLITS)), [len(dataset.splits[name]) for name in SPLITS]),
        size=np.array([(image.width, image.height) for image in images], dtype=np.int64).reshape(-1, 2),
        image=np.repeat(np.arange(len(images)), each),
        label=np.fromiter((one.entry.index for one in ones), np.int64),
        crowd=np.fromiter((one.crowd for one in ones), np.int64),
        box=np.fromiter(chain.from_iterable(one.box[2:] for one in ones), np.float64).reshape(-1, 2),
        area=np.fromiter((one.area for one in ones), np.float64),
    )


def _split(objects: _Objects, number: int, name: str) -> dict[str, Any]:
    images = np.flatnonzero(objects.split == number)
    own = objects.split[objects.image] == number
    return {
        "name": name,
        "images": len(images),
        "background": len(images) - len(np.unique(objects.image[own])),
        "objects": int(own.sum()),
        "crowds": int(objects.crowd[own].sum()),
        "classes": len(np.unique(objects.label[own])),
        "scales": _scales(objects.area[own]),
    }


def _classes(objects: _Objects, dataset: CleanDataset) -> list[dict[str, Any]]:
    count, splits = len(dataset.classes), len(SPLITS)
    cell = objects.label * splits + objects.split[objects.image]
    by_split = np.bincount(cell, minlength=count * splits).reshape(count, splits)
    image_and_label = np.unique(objects.image * max(1, count) + objects.label)
    images = np.bincount(image_and_label % max(1, count), minlength=count)
    order = np.argsort(objects.label, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(objects.label, minlength=count))[:-1]) if count else []
    return [
        {
            "name": entry.name,
            "id": entry.id,
            "objects": by_split[entry.index].tolist(),
            "images": int(images[entry.index]),
            "scales": _scales(objects.area[part]),
            "median": [round(float(value), 1) for value in np.median(objects.box[part], axis=0)] if len(part) else [],
        }
        for entry, part in zip(sorted(dataset.classes, key=lambda entry: entry.index), parts, strict=True)
    ]


def _scales(areas: Floats) -> list[int]:
    """How many objects are small, medium and large."""
    small, large = int((areas < SMALL**2).sum()), int((areas >= LARGE**2).sum())
    return [small, len(areas) - small - large, large]


def _together(objects: _Objects, count: int) -> dict[str, Any]:
    """Of the most frequent classes, in their order: how many images have both of two, above and on the diagonal."""
    frequency = np.bincount(objects.label, minlength=count)
    shown = np.sort(np.argsort(-frequency, kind="stable")[:MATRIX])
    column = np.full(count, -1)
    column[shown] = np.arange(len(shown))
    has = np.zeros((len(objects.split), len(shown)), dtype=np.float32)
    used = column[objects.label] >= 0
    has[objects.image[used], column[objects.label[used]]] = 1
    both = np.triu(has.T @ has).astype(np.int64)
    rows, columns = np.nonzero(both)
    cells = np.stack([rows, columns, both[rows, columns]], axis=1)
    return {"classes": shown.tolist(), "cells": cells.tolist()}


def _sizes(objects: _Objects) -> dict[str, Any]:
    """The most frequent sizes of images, and how many there are."""
    every = Counter(map(tuple, objects.size.tolist()))
    ordered = sorted(every.items(), key=lambda item: (-item[1], item[0]))
    return {"distinct": len(every), "most": [[*size, number] for size, number in ordered[:_SIZES]]}


def _histogram(values: Floats, of_split: Ints, edges: list[float]) -> dict[str, Any]:
    """How many values of each split are in each bin; beyond the ends count as in the last one; empty ends are cut."""
    bins = _bin(values, edges)
    counts = [np.bincount(bins[of_split == k], minlength=len(edges) - 1) for k in range(len(SPLITS))]
    used = np.flatnonzero(sum(counts))
    first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
    return {"edges": edges[first : last + 1], "counts": [some[first:last].tolist() for some in counts]}


def _whole_numbers(each: list[Ints]) -> dict[str, Any]:
    largest = max((int(some.max()) for some in each if len(some)), default=0)
    width = -(-(largest + 1) // _BARS)
    edges = [float(edge) for edge in range(0, largest + width + 1, width)]
    of_split = np.repeat(np.arange(len(each)), [len(some) for some in each])
    return _histogram(np.concatenate(each).astype(np.float64), of_split, edges)


def _density(pairs: Floats) -> dict[str, Any]:
    """How many widths and heights are in each cell of a logarithmic grid."""
    cells = Counter(zip(*(_bin(pairs[:, side], _SIDES).tolist() for side in (0, 1)), strict=True))
    return {"edges": _SIDES, "cells": [[*cell, number] for cell, number in sorted(cells.items())]}


def _bin(values: Floats, edges: list[float]) -> Ints:
    return np.clip(np.searchsorted(np.array(edges), values, side="right") - 1, 0, len(edges) - 2)
