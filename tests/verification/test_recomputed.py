"""scores.json must follow from history.csv, and recomputed JSON must have the same keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfdetr_core.base import files
from rfdetr_core.lineage.lock import Entry, Lock
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.lock import Pipeline
from rfdetr_core.verification.recomputed import check_lineage_keys, check_scores, compare
from rfdetr_core.verification.report import Report

COLUMNS = ["epoch", "val/mAP_50_95", "val/ema_mAP_50_95", "val/mAP_50", "val/ema_mAP_50"]
ROWS = [[1, 0.1, 0.2, 0.4, 0.9], [2, 0.3, 0.2, 0.5, 0.1], [3, 0.2, 0.1, 0.1, 0.2]]
BEST = {"regular": {"score": 0.3, "epoch": 2}, "ema": {"score": 0.2, "epoch": 1}}
SCORES: dict[str, Any] = {"val/mAP_50_95": BEST, "epochs": 3}


def mismatches(
    folder: Path, text: str, rows: list[list[Any]] = ROWS, cmd: str = "python -m stages.train", **params: Any
) -> list[str]:
    (folder / "output").mkdir()
    (folder / "dvc.yaml").touch()
    (folder / "output" / "scores.json").write_text(text)
    files.write_table(folder / "output" / "history.csv", rows, COLUMNS)
    raw = {"cmd": cmd, "params": {"params.yaml": {"train": {"epochs": 3} | params, "model": {}}}}
    report = Report()
    with report.reading("output/history.csv"):
        check_scores(report, Contents(folder), Pipeline({}, Lock({"train": Entry.of(raw)})))
    return [subject.removesuffix(" of output/scores.json") for subject, *_ in report.mismatches]


def changed(**best: Any) -> str:
    return json.dumps({"val/mAP_50_95": BEST | best, "epochs": 3})


FORGED: dict[str, tuple[str, list[str]]] = {
    "a score, so that the other track ships": (
        changed(ema={"score": 0.9, "epoch": 1}),
        ["val/mAP_50_95.ema.score"],
    ),
    "an epoch": (changed(regular={"score": 0.3, "epoch": 3}), ["val/mAP_50_95.regular.epoch"]),
    "the number of epochs": (json.dumps(SCORES | {"epochs": 9}), ["epochs"]),
    "another metric": (json.dumps({"val/mAP_50": BEST, "epochs": 3}), ["val/mAP_50", "val/mAP_50_95"]),
    "a key more": (json.dumps(SCORES | {"clinical": 0.999}), ["clinical"]),
    "a key more of a track": (changed(ema=BEST["ema"] | {"checked": True}), ["val/mAP_50_95.ema.checked"]),
    "a track more": (changed(best={"score": 1.0, "epoch": 1}), ["val/mAP_50_95.best"]),
    "a key twice": (json.dumps(SCORES)[:-1] + ', "epochs": 3}', ["output/scores.json"]),
}


@pytest.mark.parametrize("case", FORGED)
def test_scores_that_the_history_does_not_give_are_named(tmp_path: Path, case: str) -> None:
    text, expected = FORGED[case]
    assert sorted(mismatches(tmp_path, text)) == expected


ROWS_FORGED: dict[str, tuple[list[list[Any]], list[str]]] = {
    "a row that is gone": (
        ROWS[:2],
        ["epochs", "number of epochs in output/history.csv"],
    ),
    "a row twice": ([*ROWS[:2], ROWS[1]], ["epochs", "number of epochs in output/history.csv"]),
    "rows in another order": ([ROWS[1], ROWS[0], ROWS[2]], ["epochs of output/history.csv"]),
    "a better epoch": (
        [ROWS[0], ROWS[1], [3, 0.4, 0.1, 0, 0]],
        ["val/mAP_50_95.regular.epoch", "val/mAP_50_95.regular.score"],
    ),
}


@pytest.mark.parametrize("case", ROWS_FORGED)
def test_a_history_that_the_scores_contradict_is_named(tmp_path: Path, case: str) -> None:
    rows, expected = ROWS_FORGED[case]
    subjects = mismatches(tmp_path, json.dumps(SCORES), rows)
    assert set(expected) <= set(subjects)


HONEST: dict[str, tuple[dict[str, Any], list[list[Any]], dict[str, Any]]] = {
    "as trained": (SCORES, ROWS, {}),
    "another metric": (
        {"val/mAP_50": {"regular": {"score": 0.5, "epoch": 2}, "ema": {"score": 0.9, "epoch": 1}}, "epochs": 3},
        ROWS,
        {"best_model_metric": "map_50"},
    ),
    "stopped early": (SCORES | {"epochs": 2}, ROWS[:2], {"early_stopping": True}),
    "without an average": (
        {"val/mAP_50_95": BEST | {"ema": {"score": None, "epoch": 2}}, "epochs": 3},
        [[row[0], row[1], None, row[3], None] for row in ROWS],
        {"use_ema": False},
    ),
    "first epochs skipped": (
        {
            "val/mAP_50_95": {"regular": {"score": 0.2, "epoch": 3}, "ema": {"score": 0.1, "epoch": 3}},
            "epochs": 3,
        },
        ROWS,
        {"skip_best_epochs": 2},
    ),
    "not scored in each epoch": (
        {
            "val/mAP_50_95": {"regular": {"score": 0.2, "epoch": 3}, "ema": {"score": 0.1, "epoch": 3}},
            "epochs": 3,
        },
        [[1, *[None] * 4], [2, *[None] * 4], ROWS[2]],
        {"eval_interval": 3},
    ),
    "never above zero": (
        {"val/mAP_50_95": {track: {"score": 0.0, "epoch": 3} for track in ("regular", "ema")}, "epochs": 3},
        [[epoch, 0.0, 0.0, 0.0, 0.0] for epoch in (1, 2, 3)],
        {},
    ),
}


@pytest.mark.parametrize("case", HONEST)
def test_an_honest_choice_has_no_mismatch(tmp_path: Path, case: str) -> None:
    scores, rows, params = HONEST[case]
    assert mismatches(tmp_path, json.dumps(scores), rows, **params) == []


def test_a_custom_training_may_choose_other_epochs(tmp_path: Path) -> None:
    assert mismatches(tmp_path, changed(ema={"score": 7.0, "epoch": 1}), cmd="python own.py") == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, JSON)
def test_values_agree_exactly_where_they_are_equal(first: Any, second: Any) -> None:
    """Numbers and truth values are compared as DVC does: 1 equals true."""
    report = Report()
    compare(report, "a file", {"key": first}, {"key": second}, "recomputed")
    assert (not report.mismatches) == (first == second)


@pytest.mark.parametrize(("change", "close"), [(1e-12, True), (1e-6, False)])
def test_the_last_digits_of_numbers_may_differ(change: float, close: bool) -> None:
    report = Report()
    compare(report, "a file", {"key": [0.3]}, {"key": [0.3 + change]}, "recomputed")
    assert [subject for subject, *_ in report.mismatches] == ([] if close else ["key[0] of a file"])


IDENTITY = {"sha256": "1" * 64, "size": 4, "git": "2" * 40}
KEYS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "of the file": (lambda lineage: lineage.update(certified=True), "certified"),
    "of the model": (lambda lineage: lineage["model"].update(certified=True), "model.certified"),
    "an input": (
        lambda lineage: lineage["inputs"].update({"annotations/more.json": IDENTITY}),
        "inputs.annotations/more.json",
    ),
    "of an input": (
        lambda lineage: lineage["inputs"]["manifest/test.json"].update(certified=True),
        "inputs.manifest/test.json.certified",
    ),
    "": (lambda lineage: None, ""),
}


@pytest.mark.parametrize("case", KEYS)
def test_a_key_more_in_the_lineage_of_an_evaluation_is_named(tmp_path: Path, case: str) -> None:
    add, named = KEYS[case]
    lineage: dict[str, Any] = {
        "schema": 2,
        "model": IDENTITY | {"tensors": "3" * 64},
        "split": "test",
        "inputs": {"manifest/test.json": {**IDENTITY}},
        "params": {"evaluate": {}},
        "code": {},
        "machine": {"device": "cpu"},
        "lock": None,
        "packages": {},
    }
    add(lineage)
    (tmp_path / "dvc.yaml").touch()
    files.write_json(tmp_path / "reports/evaluate/lineage.json", lineage)
    report = Report()
    check_lineage_keys(report, Contents(tmp_path), "data")
    assert [subject for subject, *_ in report.mismatches] == (
        [f"{named} of reports/evaluate/lineage.json"] if named else []
    )
