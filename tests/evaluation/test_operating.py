"""Intervals, thresholds and calibration, compared with a second source or a written example."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from rfdetr_core.evaluation.analysis import Analysis, Results
from rfdetr_core.evaluation.operating import Calibration, Point, best_f1, intervals, reaching
from rfdetr_core.metrics.coco import THRESHOLDS, Kind, score
from tests.evaluation.scenes import Rows, random_scene, repeated

NAMES = ("map", "map_50", "map_75", "mar_100", "f1")


def analysed(annotations: dict[str, Any], rows: Rows, kind: Kind = "bbox") -> Analysis:
    return Analysis.from_results(annotations, Results.from_rows(rows, rows if kind == "segm" else None), kind)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_equal_images_give_intervals_without_width(kind: Kind) -> None:
    annotations, rows = repeated(*random_scene(3, images=1, masks=kind == "segm"), [7])
    scores = score(annotations, rows, kind)
    result = intervals(analysed(annotations, rows, kind), scores.threshold, resamples=100)
    for name in NAMES:
        assert result[name] == pytest.approx((getattr(scores, name),) * 2, abs=1e-12), name


def test_an_interval_contains_95_of_100_scores_of_pycocotools_on_drawn_images() -> None:
    annotations, rows = random_scene(4, images=20)
    threshold = score(annotations, rows).threshold
    result = intervals(analysed(annotations, rows), threshold, resamples=2000)
    random, drawn = np.random.default_rng(9), []
    for _ in range(120):
        times = np.bincount(random.integers(0, 20, 20), minlength=20).tolist()
        again, repeated_rows = repeated(annotations, rows, times)
        drawn.append(score(again, repeated_rows))
    for name in NAMES[:4]:
        low, high = result[name] or (math.nan, math.nan)
        inside = sum(low <= getattr(draw, name) <= high for draw in drawn)
        # Each score is inside with a probability of 0.95. Fewer than 106 of 120, or all: once in some hundred times.
        assert 106 <= inside < 120, name


def test_equal_seeds_give_equal_intervals() -> None:
    analysis = analysed(*random_scene(5))
    assert intervals(analysis, 0.3, 200, seed=1) == intervals(analysis, 0.3, 200, seed=1)
    assert intervals(analysis, 0.3, 200, seed=1) != intervals(analysis, 0.3, 200, seed=2)


def test_without_objects_there_is_no_interval() -> None:
    annotations, rows = random_scene(6, objects=0)
    assert intervals(analysed(annotations, rows), 0.5, 100) == dict.fromkeys(NAMES)


def curve(precision: list[float], recall: list[float]) -> Any:
    """Values at the thresholds 0, 0.01, ... The last value is repeated for all higher thresholds."""
    columns = [np.array(values + values[-1:] * (len(THRESHOLDS) - len(values))) for values in (precision, recall)]
    total = columns[0] + columns[1]
    return np.stack([*columns, 2 * columns[0] * columns[1] / np.where(total > 0, total, 1)])


def test_the_lowest_threshold_with_the_highest_f1_is_chosen() -> None:
    point = best_f1(curve([0.2, 0.5, 0.5, 0.9], [0.9, 0.8, 0.8, 0.1]))
    assert point == Point(0.01, 0.5, 0.8, pytest.approx(2 * 0.4 / 1.3))


@pytest.mark.parametrize(
    ("target", "threshold", "reached", "best"),
    [
        ({"precision": 0.5}, 0.01, True, 0.95),
        ({"precision": 0.85}, 0.03, True, 0.95),  # not 0.04: it loses more recall
        ({"precision": 0.99}, 0.01, False, 0.95),
        ({"recall": 0.75}, 0.01, True, 0.9),  # the highest precision among the thresholds with enough recall
        ({"recall": 0.95}, 0.01, False, 0.9),
    ],
)
def test_a_target_is_reached_with_the_smallest_loss_or_the_highest_f1_is_taken(
    target: dict[Any, float], threshold: float, reached: bool, best: float
) -> None:
    point = reaching(curve([0.2, 0.55, 0.5, 0.9, 0.95, 0.0], [0.9, 0.8, 0.7, 0.3, 0.1, 0.0]), target)
    assert (point.threshold, point.reached, point.best) == (threshold, reached, best)


def test_a_class_without_objects_has_nan_thresholds() -> None:
    point = reaching(np.full((3, 101), np.nan), {"recall": 0.5})
    assert math.isnan(point.threshold)
    assert not point.reached


def test_calibration_of_a_written_example() -> None:
    labels, rows = Rows(), Rows()
    # Scores and whether they are right: 0.25 and 0.27 (one of two), 0.8 (right), 0.85 (right), 0.95 (wrong).
    for number, (value, right) in enumerate([(0.25, True), (0.27, False), (0.8, True), (0.85, True), (0.95, False)]):
        box = [20.0 * number, 10.0, 15.0, 15.0]
        label = {"id": number + 1, "image_id": 1, "category_id": 0, "bbox": box, "area": 225.0, "iscrowd": 0}
        labels += [label] if right else []
        rows.append({"image_id": 1, "category_id": 0, "bbox": box, "score": value})
    images = [{"id": 1, "file_name": "a.png", "width": 100, "height": 40}]
    annotations = {"images": images, "annotations": labels, "categories": [{"id": 0, "name": "a"}]}
    calibration = Calibration.measure(analysed(annotations, rows), 0.5)
    expected = [(2, 0.26, 0.5), (2, 0.825, 1.0), (1, 0.95, 0.0)]
    assert [tuple(part.values()) for part in calibration.bins] == [pytest.approx(row) for row in expected]
    assert calibration.error == pytest.approx(2 / 5 * 0.24 + 2 / 5 * 0.175 + 1 / 5 * 0.95)
    assert calibration.by_class == {"a": pytest.approx(calibration.error)}
    assert calibration.error_above == pytest.approx(2 / 3 * 0.175 + 1 / 3 * 0.95)  # the three detections above 0.5


def test_without_detections_there_is_no_calibration() -> None:
    calibration = Calibration.measure(analysed(random_scene(0)[0], []), 0.5)
    assert (calibration.bins, calibration.by_class) == ([], {})
    assert math.isnan(calibration.error)
    assert math.isnan(calibration.error_above)
