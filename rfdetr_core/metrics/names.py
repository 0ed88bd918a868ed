"""The column names of history.csv, which hold the values of an epoch. This module does not import torch."""

from __future__ import annotations

# Column of history.csv -> field of CocoScores. The columns have upstream's names where upstream has the value.
REPORTED = {
    "mAP_50_95": "map",
    "mAP_50": "map_50",
    "mAP_75": "map_75",
    "mAR": "mar_100",
    "F1": "f1",
    "precision": "precision",
    "recall": "recall",
    "threshold": "threshold",
}
# Track -> the prefix of its columns. The values are measured on valid.
PREFIX = {"regular": "val/", "ema": "val/ema_"}


def column_of(metric: str, *, masks: bool) -> str:
    """The column, without PREFIX, of a metric that `train.best_model_metric` can name.

    masks: the column with the score of masks, else the one with the score of boxes.
    """
    names = {field: name for name, field in REPORTED.items()}
    return ("segm_" if masks else "") + names["mar_100" if metric == "mar" else metric]
