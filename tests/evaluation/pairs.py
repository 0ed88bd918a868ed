"""Comparisons of two models without a network: their detections are arguments."""

from __future__ import annotations

from typing import Any

import numpy as np

from rfdetr_core.evaluation.comparison import Comparison, Model
from tests.evaluation.scenes import Rows


def model(annotations: dict[str, Any], rows: Rows, name: str = "a", **changes: Any) -> Model:
    """A model with these detections and the classes of the annotations. The digest of its weights depends on `name`.

    changes: other values of fields of Model.
    """
    classes = tuple(row["name"] for row in annotations["categories"])
    fields = {"path": f"{name}.pth", "sha256": "0" * 64, "tensors": name * 64, "variant": "TinyDetector"}
    masks = bool(rows) and "segmentation" in rows[0]
    return Model(**fields | {"classes": classes, "segmentation": masks, "training": None, "results": rows} | changes)


def compared(annotations: dict[str, Any], old: Rows, new: Rows, resamples: int = 50) -> Comparison:
    """The comparison of two models, named a and b."""
    return Comparison.from_models("test", annotations, model(annotations, old), model(annotations, new, "b"), resamples)


def random_subset(rows: Rows, share: float, seed: int) -> Rows:
    """A random subset of the detections. share: the probability that a detection is in it."""
    is_chosen = np.random.default_rng(seed).random(len(rows)) < share
    return [row for row, keep in zip(rows, is_chosen, strict=True) if keep]
