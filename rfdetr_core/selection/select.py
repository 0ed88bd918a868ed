"""Choosing the winner: the moving average (EMA) or the regular weights. It compares two scores, without torch."""

from __future__ import annotations

import math
from typing import Any

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.schema import require
from rfdetr_core.checkpoint.schema import Scores, Tracks

RULE = "EMA wins only with a strictly higher score; on a tie, or without an EMA score, the regular weights win."
TRACKS = ("regular", "ema")


def select(scores: dict[str, Any]) -> dict[str, Any]:
    """Choose the winner from the content of scores.json. Returns the content of selection.json.

    The rule is upstream's (training/callbacks/best_model.py). A score that is missing or not finite never wins.

    Raises:
        UserError: another version wrote the scores, or neither track has a finite score.
    """
    try:
        require(Scores, scores, "scores.json")
        (key,) = scores.keys() - {"epochs"}
        require(Tracks, scores[key], "scores.json", key)
    except (UserError, ValueError) as error:
        raise UserError(f"{error}. Another version wrote scores.json. Train again: dvc repro --force train") from None
    best = {track: (_finite(scores[key][track]["score"]), scores[key][track]["epoch"]) for track in TRACKS}
    epochs = scores["epochs"]
    regular, ema = best["regular"][0], best["ema"][0]
    if regular is None and ema is None:
        raise UserError(
            f"neither the regular nor the EMA weights have a finite {key}, so there is no best checkpoint: "
            "valid has no image, or the training diverged. See output/history.csv."
        )
    ema_wins = ema is not None and (regular is None or ema > regular)
    return {
        "winner": "ema" if ema_wins else "regular",
        "key": key,
        **{track: {"score": score, "epoch": epoch} for track, (score, epoch) in best.items()},
        "epochs": epochs,
        "rule": RULE,
    }


def _finite(score: float | None) -> float | None:
    return score if score is not None and math.isfinite(score) else None
