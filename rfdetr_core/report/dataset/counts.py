"""The counts for the tables and charts of the dataset report. Their size does not depend on the number of images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from rfdetr_core.base.manifest import SPLITS
from rfdetr_core.ingest.clean import CleanDataset
from rfdetr_core.ingest.tables import tables

if TYPE_CHECKING:
    import pandas as pd

# COCO's borders between small, medium and large objects: sides of a square, in pixels.
SMALL, LARGE = 32, 96
MATRIX = 100  # the most classes in the co-occurrence matrix: those with the most objects
_SIZES = 12  # the most image sizes in the table
_BARS = 25  # the bins of the histogram of objects per image
_SIDES = [round(2 ** (k / 2), 3) for k in range(29)]
_ASPECTS = [round(2 ** (k / 4), 4) for k in range(-16, 17)]
_SHARES = [k / 20 for k in range(21)]


def count(dataset: CleanDataset) -> dict[str, Any]:
    """Count images and objects by split and class, their sizes, and how often two classes are in the same image."""
    images, objects = tables(dataset)
    bin_width = -(-(max(images.objects, default=0) + 1) // _BARS)
    sizes = images.groupby(["width", "height"]).size()
    most = sizes.sort_values(ascending=False, kind="stable")[:_SIZES]
    objects["scale"] = _bin(objects.area, [0, SMALL**2, LARGE**2, math.inf])
    area, image = objects.width * objects.height, images.loc[objects.image]
    side = np.sqrt(area)
    share = side / np.sqrt(image.width * image.height).to_numpy()
    splits = [_split(name, images[images.split == k], objects[objects.split == k]) for k, name in enumerate(SPLITS)]
    return {
        "splits": splits,
        "classes": _classes(objects, dataset),
        "together": _co_occurrence(objects, len(dataset.classes)),
        "sizes": {"distinct": len(sizes), "most": most.reset_index().to_numpy().tolist()},
        "side": _histogram(side, objects.split, _SIDES),
        "aspect": _histogram(objects.width / objects.height, objects.split, _ASPECTS),
        "share": _histogram(share, objects.split, _SHARES),
        "width_height": _density(objects),
        "image_width_height": _density(images),
        "per_image": _histogram(images.objects, images.split, [float(bin_width * k) for k in range(_BARS + 1)]),
    }


def _split(name: str, images: pd.DataFrame, objects: pd.DataFrame) -> dict[str, Any]:
    return {
        "name": name,
        "images": len(images),
        "background": int((images.objects == 0).sum()),
        "objects": len(objects),
        "crowds": int(objects.crowd.sum()),
        "classes": objects.label.nunique(),
        "scales": objects.scale.value_counts().reindex(range(3), fill_value=0).tolist(),
    }


def _classes(objects: pd.DataFrame, dataset: CleanDataset) -> list[dict[str, Any]]:
    indexes = range(len(dataset.classes))
    images = objects.groupby("label").image.nunique()
    by_split, scales = (_cross(objects.label, objects[name], indexes, range(3)) for name in ("split", "scale"))
    medians = objects.groupby("label")[["width", "height"]].median()
    return [
        {
            "name": entry.name,
            "id": entry.id,
            "objects": by_split[entry.index],
            "images": int(images.get(entry.index, 0)),
            "scales": scales[entry.index],
            "median": [round(side, 1) for side in medians.loc[entry.index].tolist()] if entry.index in images else [],
        }
        for entry in sorted(dataset.classes, key=lambda entry: entry.index)
    ]


def _co_occurrence(objects: pd.DataFrame, count: int) -> dict[str, Any]:
    """The co-occurrence matrix of the most frequent classes: for each pair, how many images have both classes.

    `cells` has the entries that are not 0, on and above the diagonal. count: the number of classes.
    """
    frequency = objects.label.value_counts().reindex(range(count), fill_value=0)
    classes = frequency.sort_values(ascending=False, kind="stable").index[:MATRIX].sort_values()
    used = objects[objects.label.isin(classes)]
    has = np.zeros((objects.image.max() + 1 if len(objects) else 0, len(classes)), dtype=np.float32)
    has[used.image, classes.get_indexer(used.label)] = 1
    both = np.triu(has.T @ has).astype(np.int64)
    rows, columns = np.nonzero(both)
    return {"classes": classes.tolist(), "cells": np.stack([rows, columns, both[rows, columns]], axis=1).tolist()}


def _histogram(values: pd.Series, split: pd.Series, edges: list[float]) -> dict[str, Any]:
    """The number of values of each split in each bin.

    Values outside the edges are in the nearest end bin. Empty end bins are dropped.
    """
    bins = _bin(values, edges)
    first, last = (int(bins.min()), int(bins.max()) + 1) if len(bins) else (0, 0)
    return {"edges": edges[first : last + 1], "counts": _cross(split, bins, range(len(SPLITS)), range(first, last))}


def _density(table: pd.DataFrame) -> dict[str, Any]:
    """The number of rows in each cell of a logarithmic grid of width and height."""
    cells = table.groupby([_bin(table[side], _SIDES) for side in ("width", "height")]).size()
    return {"edges": _SIDES, "cells": cells.reset_index().to_numpy().tolist()}


def _cross(rows: pd.Series, columns: pd.Series, every_row: range, every_column: range) -> list[list[int]]:
    """The contingency table of two columns, with all values of both, also those that do not occur."""
    import pandas as pd

    table = pd.crosstab(rows, columns).reindex(index=every_row, columns=every_column, fill_value=0)
    return table.to_numpy().tolist()  # type: ignore[no-any-return]


def _bin(values: pd.Series, edges: list[float]) -> pd.Series:
    """The bin of each value. A value on an edge is in the bin that begins there; outside the edges, the end bin."""
    import pandas as pd

    return pd.cut(values, [-math.inf, *edges[1:-1], math.inf], right=False, labels=False)
