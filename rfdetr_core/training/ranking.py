"""The best epoch of each track, by the history of a training alone. Without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rfdetr_core.metrics.names import PREFIX


@dataclass(frozen=True)
class BestEpoch:
    """epoch: from 0. score: its value, None if it is not finite. ranked: the value that was compared; None: there was
    none, and it is the last epoch."""

    epoch: int
    score: float | None
    ranked: float | None


def best_epoch(values: Sequence[float], *, skip: int = 0, smooth: float = 0.0, finished: bool) -> BestEpoch | None:
    """The first epoch with the highest value above zero. If none is above zero: the last epoch of a finished training.

    values: of each epoch, NaN where it was not scored. skip: the first epochs that cannot be the best. smooth: the part
    of the smoothed value that is kept: from 0, each value moves it by 1 - smooth, and smoothed values are compared
    (upstream's training/callbacks/best_model.py); 0: values are compared as they are.
    """
    best, smoothed = None, 0.0
    for epoch, value in enumerate(values):
        if not math.isfinite(value):
            continue
        smoothed = smooth * smoothed + (1 - smooth) * value
        ranked = smoothed if smooth else value
        if epoch >= skip and ranked > (best.ranked if best and best.ranked else 0.0):
            best = BestEpoch(epoch, value, ranked)
    if best is None and finished and values:
        return BestEpoch(len(values) - 1, values[-1] if math.isfinite(values[-1]) else None, None)
    return best


def recommended_threshold(row: Mapping[str, float], track: str, key: str) -> float | None:
    """The score to exceed that an epoch recommends: that of its best F1, if it is above 0. key: see `scores_of`."""
    start = PREFIX[track] + ("segm_" if key.startswith("segm_") else "")
    return round(row[f"{start}threshold"], 2) if row.get(f"{start}F1", 0.0) > 0 else None


def scores_content(key: str, tracks: Mapping[str, tuple[float | None, int | None]], epochs: int) -> dict[str, Any]:
    """The content of scores.json. tracks: score and epoch, from 0, of the best. epochs: how many were trained."""
    # Epochs count from 1 in what people read; in checkpoints from 0, as upstream's.
    rows = {
        track: {"score": score, "epoch": None if epoch is None else epoch + 1}
        for track, (score, epoch) in tracks.items()
    }
    return {f"val/{key}": rows, "epochs": epochs}


def scores_of(history: Sequence[Mapping[str, float]], key: str, *, ema: bool, skip: int, smooth: float) -> Any:
    """The content of scores.json of a finished training. key: the column, without PREFIX, that picks the best epoch.

    history: the rows of history.csv. ema: whether the weights were averaged; if not, both tracks are the regular one.
    skip, smooth: see `best_epoch`; only regular weights are ranked by smoothed values.
    """
    tracks: dict[str, tuple[float | None, int | None]] = {}
    for track, prefix in PREFIX.items():
        values = [row.get(prefix + key, math.nan) for row in history]
        best = best_epoch(values, skip=skip, smooth=smooth if track == "regular" else 0.0, finished=True)
        tracks[track] = (best.score, best.epoch) if best else (None, None)
    return scores_content(key, tracks if ema else tracks | {"ema": (None, tracks["regular"][1])}, len(history))
