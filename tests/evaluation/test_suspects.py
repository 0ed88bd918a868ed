"""Labels that were broken on purpose are suspected first."""

from __future__ import annotations

from typing import Any

import pytest

from rfdetr_core.evaluation.analysis import Analysis, Results
from rfdetr_core.evaluation.suspects import COLUMNS, suspects
from tests.broken import MOVED, break_labels
from tests.evaluation.scenes import Rows, random_scene
from tests.rendered import coco


def seen_by_a_good_detector(annotations: dict[str, Any]) -> Rows:
    keys = ("image_id", "category_id", "bbox")
    return [{key: row[key] for key in keys} | {"score": 0.9} for row in annotations["annotations"]]


def test_of_a_detector_that_is_right_all_broken_labels_are_suspected_and_no_other() -> None:
    annotations = coco(range(100))
    broken, done = break_labels(annotations, 20)
    table = suspects(Analysis.of(broken, Results.of(seen_by_a_good_detector(annotations))))
    assert list(table.columns) == COLUMNS
    assert all(one.is_suspected(table) for one in done)
    moved = sum(one.kind == MOVED for one in done)
    assert len(table) <= len(done) + moved  # one that was moved away is a label and a detection
    assert set(table.image) <= {one.image for one in done}


def test_the_annotation_and_the_classes_are_named() -> None:
    annotations = coco(range(5))
    rows = seen_by_a_good_detector(annotations)
    first = annotations["annotations"][0]
    first["category_id"] = 1 - first["category_id"]
    table = suspects(Analysis.of(annotations, Results.of(rows)))
    names = [one["name"] for one in annotations["categories"]]
    row = table.iloc[0]
    assert (row.suspicion, row.annotation, row.image) == ("another class", first["id"], "000.png")
    assert (row.label, row.detected) == (names[first["category_id"]], names[1 - first["category_id"]])
    assert row.certainty == row.score == pytest.approx(0.9)


@pytest.mark.parametrize("seed", range(3))
def test_the_most_certain_come_first_and_no_label_comes_twice(seed: int) -> None:
    table = suspects(Analysis.of(*(lambda scene: (scene[0], Results.of(scene[1])))(random_scene(seed))))
    assert table.certainty.is_monotonic_decreasing
    assert table.certainty.between(0, 1).all()
    assert not table.annotation.dropna().duplicated().any()
    assert table.annotation.isna().equals(table.label == "")


def test_where_there_is_nothing_nothing_is_suspected() -> None:
    annotations, _ = random_scene(0, objects=0)
    assert len(suspects(Analysis.of(annotations, Results.of([])))) == 0
