"""Suspected label errors: labels that were broken on purpose come first."""

from __future__ import annotations

from typing import Any

import pytest

from rfdetr_core.evaluation.analysis import Analysis, Results
from rfdetr_core.evaluation.suspects import COLUMNS, suspects
from tests.broken import MOVED, break_labels
from tests.evaluation.scenes import Rows, random_scene
from tests.rendered import coco


def detections_of_a_good_detector(annotations: dict[str, Any]) -> Rows:
    keys = ("image_id", "category_id", "bbox")
    return [{key: row[key] for key in keys} | {"score": 0.9} for row in annotations["annotations"]]


def test_a_perfect_detector_suspects_exactly_the_broken_labels() -> None:
    annotations = coco(range(100))
    broken, done = break_labels(annotations, 20)
    table = suspects(Analysis.from_results(broken, Results.from_rows(detections_of_a_good_detector(annotations))))
    assert list(table.columns) == COLUMNS
    assert all(label.is_suspected(table) for label in done)
    moved = sum(label.kind == MOVED for label in done)
    assert len(table) <= len(done) + moved  # a moved label can give two suspects: the label and the detection
    assert set(table.image) <= {label.image for label in done}


def test_the_annotation_and_the_classes_are_named() -> None:
    annotations = coco(range(5))
    rows = detections_of_a_good_detector(annotations)
    first = annotations["annotations"][0]
    first["category_id"] = 1 - first["category_id"]
    table = suspects(Analysis.from_results(annotations, Results.from_rows(rows)))
    names = [category["name"] for category in annotations["categories"]]
    row = table.iloc[0]
    assert (row.suspicion, row.annotation, row.image) == ("another class", first["id"], "000.png")
    assert (row.label, row.detected) == (names[first["category_id"]], names[1 - first["category_id"]])
    assert row.certainty == row.score == pytest.approx(0.9)
    assert [row[f"label_{name}"] for name in ("x", "y", "width", "height")] == first["bbox"]


def broken_scene() -> tuple[dict[str, Any], Rows, dict[str, Any]]:
    """A hundred images, the detections of a good detector, and an annotation of the first image."""
    annotations = coco(range(100))
    return annotations, detections_of_a_good_detector(annotations), annotations["annotations"][0]


def queries_that_match_nothing() -> Rows:
    """Detections of both classes in corners of all images, with score 0.3. F1 is highest from threshold 0.31 on."""
    corners = {0: [0, 0, 1, 1], 1: [63, 63, 1, 1]}
    return [
        {"image_id": image, "category_id": label, "bbox": box, "score": 0.3}
        for image in range(1, 101)
        for label, box in corners.items()
    ]


def test_a_query_that_matches_nothing_does_not_confirm_a_label() -> None:
    annotations, rows, first = broken_scene()
    rows[0]["score"] = 0.02
    table = suspects(Analysis.from_results(annotations, Results.from_rows([*rows, *queries_that_match_nothing()])))
    assert (table.suspicion[0], table.annotation[0]) == ("no detection", first["id"])
    assert 0.9 < table.certainty[0] < 1
    rows[0]["score"] = 0.32
    table = suspects(Analysis.from_results(annotations, Results.from_rows([*rows, *queries_that_match_nothing()])))
    assert set(table.suspicion) == {"no label"}


def test_a_label_is_suspected_if_another_class_has_a_higher_score() -> None:
    annotations, rows, first = broken_scene()
    for label_score, certainty in ((0.3, 0.9 * 0.7), (0.6, 0.9 * 0.4)):
        rows[0]["score"] = label_score
        detection = rows[0] | {"category_id": 1 - first["category_id"], "score": 0.9}
        (row,) = suspects(Analysis.from_results(annotations, Results.from_rows([*rows, detection]))).itertuples()
        assert (row.suspicion, row.annotation) == ("another class", first["id"])
        assert row.certainty == pytest.approx(certainty)
    detection["score"] = 0.5
    assert not len(suspects(Analysis.from_results(annotations, Results.from_rows([*rows, detection]))))


def test_a_place_without_a_label_is_listed_once_with_the_best_class() -> None:
    annotations, rows, first = broken_scene()
    annotations["annotations"] = annotations["annotations"][1:]
    detection = rows[0] | {"category_id": 1 - first["category_id"], "score": 0.7}
    x, y, w, h = first["bbox"]
    near = rows[0] | {"bbox": [x + 0.1 * w, y, w, h], "score": 0.6}
    (row,) = suspects(Analysis.from_results(annotations, Results.from_rows([*rows, detection, near]))).itertuples()
    assert (row.suspicion, row.score) == ("no label", pytest.approx(0.9))


def test_detections_up_to_half_the_threshold_are_ignored() -> None:
    annotations, rows, first = broken_scene()
    annotations["annotations"] = annotations["annotations"][1:]
    for score, count in ((0.16, 1), (0.15, 0)):
        rows[0]["score"] = score
        table = suspects(Analysis.from_results(annotations, Results.from_rows([*rows, *queries_that_match_nothing()])))
        assert (table.x == first["bbox"][0]).sum() == count


@pytest.mark.parametrize("seed", range(3))
def test_suspects_are_sorted_by_certainty_and_no_label_is_listed_twice(seed: int) -> None:
    table = suspects(
        Analysis.from_results(*(lambda scene: (scene[0], Results.from_rows(scene[1])))(random_scene(seed)))
    )
    assert table.certainty.is_monotonic_decreasing
    assert table.certainty.between(0, 1).all()
    assert not table.annotation.dropna().duplicated().any()
    for column in ("label_x", "label_height", "annotation"):
        assert table[column].isna().equals(table.label == "")


def test_without_labels_and_detections_there_are_no_suspects() -> None:
    annotations, _ = random_scene(0, objects=0)
    assert len(suspects(Analysis.from_results(annotations, Results.from_rows([])))) == 0
