"""The best epoch of each track, computed from the rows of history.csv. Without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rfdetr_core.metrics.names import PREFIX


@dataclass(frozen=True)
class BestEpoch:
    """The best epoch.

    epoch: from 0. score: its value, None if it is not finite. ranked: the value by which the epochs were compared. It
    is None if no epoch had a value above zero; then `epoch` is the last epoch.
    """

    epoch: int
    score: float | None
    ranked: float | None


def best_epoch(values: Sequence[float], *, skip: int = 0, smooth: float = 0.0, finished: bool) -> BestEpoch | None:
    """The first epoch with the highest value above zero. If there is none: the last epoch of a finished training.

    Args:
        values: the score of each epoch; NaN if it was not evaluated.
        skip: number of first epochs that cannot be the best.
        smooth: compare smoothed values s = smooth * s + (1 - smooth) * value, beginning with s = 0 (upstream's
            training/callbacks/best_model.py); 0: compare the values.
        finished: whether the training is over. Otherwise None is returned if no value is above zero.
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
    """The score threshold with the epoch's best F1; None if that F1 is 0.

    Args:
        row: the epoch's row of history.csv.
        track: regular or ema.
        key: see `scores_of`.
    """
    start = PREFIX[track] + ("segm_" if key.startswith("segm_") else "")
    return round(row[f"{start}threshold"], 2) if row.get(f"{start}F1", 0.0) > 0 else None


def scores_content(key: str, tracks: Mapping[str, tuple[float | None, int | None]], epochs: int) -> dict[str, Any]:
    """The content of scores.json.

    Args:
        key: see `scores_of`.
        tracks: score and number, from 0, of the best epoch of each track.
        epochs: how many were trained.
    """
    # Epochs are numbered from 1 in texts and files for people, and from 0 in checkpoints (as in upstream's).
    rows = {
        track: {"score": score, "epoch": None if epoch is None else epoch + 1}
        for track, (score, epoch) in tracks.items()
    }
    return {f"val/{key}": rows, "epochs": epochs}


def scores_of(history: Sequence[Mapping[str, float]], key: str, *, ema: bool, skip: int, smooth: float) -> Any:
    """The content of scores.json of a finished training.

    Args:
        history: the rows of history.csv.
        key: the column that chooses the best epoch, without its PREFIX.
        ema: whether the weights were averaged; if not, both tracks are the regular one.
        skip, smooth: see `best_epoch`. Only the values of regular weights are smoothed.
    """
    tracks: dict[str, tuple[float | None, int | None]] = {}
    for track, prefix in PREFIX.items():
        values = [row.get(prefix + key, math.nan) for row in history]
        best = best_epoch(values, skip=skip, smooth=smooth if track == "regular" else 0.0, finished=True)
        tracks[track] = (best.score, best.epoch) if best else (None, None)
    return scores_content(key, tracks if ema else tracks | {"ema": (None, tracks["regular"][1])}, len(history))
