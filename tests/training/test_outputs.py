from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rfdetr_core.base import files
from rfdetr_core.checkpoint.files import make_checkpoint, read_checkpoint
from rfdetr_core.model.config import VARIANTS
from rfdetr_core.model.detector import build_detector
from rfdetr_core.observers.history import read_history
from rfdetr_core.training.config import TrainConfig
from rfdetr_core.training.module import TrainingModule
from rfdetr_core.training.outputs import RunFiles
from rfdetr_core.training.ranking import scores_of

NAN = math.nan
SMALL = replace(
    VARIANTS["pico"], resolution=64, encoder_width=24, encoder_blocks=6, width=16, self_heads=2, cross_heads=2,
    feedforward_width=16, queries=4, groups=2, classes=1, position_grid=4,
)  # fmt: skip


def play(
    folder: Path, scores: list[tuple[float, float]], state: dict[str, Any] | None = None, **ranking: Any
) -> RunFiles:
    """Simulate epochs with these (regular, EMA) scores, after those of a state. The weights name the epoch."""
    detector, average = build_detector(SMALL), build_detector(SMALL)
    module = TrainingModule(detector, SMALL, TrainConfig())
    module.tracks["ema"] = average
    describe = partial(make_checkpoint, SMALL, class_names=["a"], args={})
    written = RunFiles(folder, "mAP_50_95", describe, **ranking)
    if state is not None:
        written.load_state_dict(state)
    first = len(written.history)
    trainer: Any = SimpleNamespace(
        max_epochs=first + len(scores), should_stop=False, is_global_zero=True, save_checkpoint=lambda path: None
    )
    for trainer.current_epoch, (regular, ema) in enumerate(scores, start=first):
        for network in module.tracks.values():
            torch.nn.init.constant_(network.get_parameter("class_head.bias"), trainer.current_epoch)
        module.epoch_metrics = {"val/mAP_50_95": regular, "val/ema_mAP_50_95": ema}
        written.on_train_epoch_end(trainer, module)
    return written


def run(
    folder: Path, scores: list[tuple[float, float]], state: dict[str, Any] | None = None, **ranking: Any
) -> dict[str, Any]:
    """Simulate epochs, and read both tracks of scores.json."""
    play(folder, scores, state, **ranking)
    content = json.loads((folder / "scores.json").read_text())
    # history.csv alone gives the same scores, even after an interruption.
    options = {"skip": 0, "smooth": 0.0} | ranking
    assert scores_of([*read_history(folder / "history.csv").values()], "mAP_50_95", ema=True, **options) == content
    return cast(dict[str, Any], content["val/mAP_50_95"])


@pytest.mark.parametrize(
    ("scores", "best", "score"),
    [
        ([0.1, 0.3, 0.2], 1, 0.3),
        ([0.1, 0.3, 0.3], 1, 0.3),
        ([NAN, 0.3, NAN], 1, 0.3),
        ([0.0, 0.0, 0.0], 2, 0.0),
        ([NAN, NAN], 1, None),
        ([0.0], 0, 0.0),
    ],
)
def test_the_first_highest_score_wins_and_a_run_without_one_keeps_its_last_epoch(
    tmp_path: Path, scores: list[float], best: int, score: float | None
) -> None:
    content = run(tmp_path, [(score, 0.0) for score in scores])
    assert content["regular"] == {"score": score, "epoch": best + 1}
    assert content["ema"] == {"score": 0.0, "epoch": len(scores)}
    checkpoint = read_checkpoint(tmp_path / "checkpoint_best_regular.pth")
    assert checkpoint.epoch == best
    assert checkpoint.weights["class_head.bias"].unique().tolist() == [best]


@pytest.mark.parametrize(
    ("scores", "ranking", "best"),
    [
        ([0.9, 0.3, 0.4], {"skip": 1}, 2),
        ([0.0, 0.9, 0.0], {"skip": 2}, 2),
        # Smoothed, they are 0.05, 0.475, 0.4875 and 0.24: because of epoch 1, epoch 2 has the highest value.
        ([0.1, 0.9, 0.5, 0.0], {"smooth": 0.5}, 2),
        ([0.1, 0.9, NAN, 0.0], {"smooth": 0.5}, 1),
    ],
)
def test_first_epochs_can_be_skipped_and_scores_smoothed(
    tmp_path: Path, scores: list[float], ranking: dict[str, Any], best: int
) -> None:
    content = run(tmp_path, [(score, score) for score in scores], **ranking)
    assert content["regular"] == {"score": scores[best], "epoch": best + 1}
    first = ranking.get("skip", 0)
    known = [-1.0 if math.isnan(score) else score for score in scores[first:]]
    assert content["ema"]["epoch"] == (first + known.index(max(known)) + 1 if max(known) else len(scores))


def test_the_history_has_a_row_per_epoch_and_blanks_for_values_that_are_not_finite(tmp_path: Path) -> None:
    run(tmp_path, [(NAN, 0.25), (0.5, NAN)])
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert lines == ["epoch,val/mAP_50_95,val/ema_mAP_50_95", "1,,0.25", "2,0.5,"]


@given(st.lists(st.dictionaries(st.sampled_from(["train/loss", "val/map", 'val/ap/a, "b"']), st.floats())))
def test_the_history_is_read_back_bit_for_bit_without_values_that_are_not_finite(
    tmp_path_factory: pytest.TempPathFactory, values: list[dict[str, float]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "history.csv"
    files.write_table(path, [{"epoch": epoch} | row for epoch, row in enumerate(values)], None if values else ["epoch"])
    kept = [{name: value.hex() for name, value in row.items() if math.isfinite(value)} for row in values]
    history = read_history(path)
    assert {epoch: {name: value.hex() for name, value in row.items()} for epoch, row in history.items()} == dict(
        enumerate(kept)
    )


def test_a_resumed_run_without_a_score_keeps_its_new_last_epoch(tmp_path: Path) -> None:
    state = play(tmp_path / "short", [(0.0, 0.5)]).state_dict()
    content = run(tmp_path / "long", [(0.0, 0.2)], state)
    assert content["regular"] == {"score": 0.0, "epoch": 2}
    assert content["ema"] == {"score": 0.5, "epoch": 1}
