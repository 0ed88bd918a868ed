"""The images and objects of a dataset as tables, from which its statistics and its page are computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rfdetr_core.base.manifest import SPLITS
from rfdetr_core.ingest.clean import CleanDataset

if TYPE_CHECKING:
    import pandas as pd


def tables(dataset: CleanDataset) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The images, in the order of the splits, and their objects.

    Columns of images: split (its number in SPLITS), width, height, objects (how many). Columns of objects: image (the
    row), split, label (the index of its class), crowd and mask (1 or 0), width, height, area (of the mask; without one,
    of the box).
    """
    import pandas as pd

    splits = [(k, image) for k, name in enumerate(SPLITS) for image in dataset.splits[name]]
    images = pd.DataFrame(
        [(k, image.width, image.height, len(image.instances)) for k, image in splits],
        columns=["split", "width", "height", "objects"],
        dtype=np.int64,
    )
    objects = pd.DataFrame(
        [
            (
                row,
                k,
                instance.entry.index,
                instance.crowd,
                instance.segmentation is not None,
                instance.box[2],
                instance.box[3],
                instance.area,
            )
            for row, (k, image) in enumerate(splits)
            for instance in image.instances
        ],
        columns=["image", "split", "label", "crowd", "mask", "width", "height", "area"],
    )
    types = dict.fromkeys(objects.columns[:5], np.int64) | dict.fromkeys(objects.columns[5:], float)
    return images, objects.astype(types)
