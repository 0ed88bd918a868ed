"""The names of an epoch's values: the columns of history.csv. Without torch."""

from __future__ import annotations

# The column (upstream's name, if it has one) and the field of CocoScores.
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
# Before the names of a track's values on valid.
PREFIX = {"regular": "val/", "ema": "val/ema_"}


def column_of(metric: str, *, masks: bool) -> str:
    """The column, without PREFIX, of what `train.best_model_metric` names: of boxes, or of masks."""
    names = {field: name for name, field in REPORTED.items()}
    return ("segm_" if masks else "") + names["mar_100" if metric == "mar" else metric]
