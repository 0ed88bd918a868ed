"""The tables of an analysis, compared with pycocotools, hotcoco, and with AP after errors are corrected by hand."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from rfdetr_core.evaluation.analysis import ERRORS, MISSED, Analysis, Results, costs
from rfdetr_core.evaluation.scoring import confusions, judge
from rfdetr_core.metrics.coco import THRESHOLDS, Kind, score
from tests.evaluation.scenes import Rows, random_scene


def analysed(annotations: dict[str, Any], rows: Rows, kind: Kind = "bbox") -> Analysis:
    return Analysis.from_results(annotations, Results.from_rows(rows, rows if kind == "segm" else None), kind)


@pytest.mark.parametrize(
    ("seed", "kind", "settings"),
    [
        (0, "bbox", {}),
        (1, "bbox", {"crowds": 0.3}),
        (2, "bbox", {"classes": 1, "detections": 130, "images": 3}),  # COCO counts the best 100
        (3, "segm", {"crowds": 0.2}),
        (4, "segm", {"classes": 1, "detections": 270, "images": 2}),
    ],
)
def test_matches_and_curves_are_those_of_pycocotools(seed: int, kind: Kind, settings: dict[str, Any]) -> None:
    annotations, rows = random_scene(seed, masks=kind == "segm", **settings)
    expected, analysis = score(annotations, rows, kind), analysed(annotations, rows, kind)
    objects, detections = analysis.objects, analysis.detections
    names = [*objects.annotation.tolist(), None]  # the last one is of row -1
    pairs = {(row, names[object_row]) for row, object_row in zip(detections.row, detections.object, strict=True)}
    assert pairs == {pair for matches in expected.matches.values() for pair in matches.pairs}
    missed = {number for matches in expected.matches.values() for number in matches.missed}
    assert set(objects.annotation[objects.matched_score.isna()]) == missed
    best = int(analysis.mean_curve[2].argmax())
    assert (float(THRESHOLDS[best]), *analysis.mean_curve[:, best].tolist()) == pytest.approx(
        (expected.threshold, expected.precision, expected.recall, expected.f1), abs=1e-12
    )
    best_points = [(float(THRESHOLDS[curve[2].argmax()]), curve[2].max()) for curve in analysis.curves]
    assert best_points == [
        (scores.best_threshold, pytest.approx(scores.best_f1, abs=1e-12)) for scores in expected.per_class
    ]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(4))
def test_errors_of_each_kind_are_as_many_as_hotcoco_counts(seed: int, kind: Kind) -> None:
    analysis = analysed(*random_scene(seed, masks=kind == "segm"), kind)
    everything = np.full(len(analysis.classes), -1.0)
    counts = Counter(analysis.detections.kind) | Counter({MISSED: len(analysis.missed(everything))})
    theirs = analysis.evaluator.tide_errors()["counts"]
    assert {name: counts[name] for name in ERRORS} == {name: theirs[short] for name, short in ERRORS.items()}
    assert all(counts[name] for name in ("localisation", "classification", "duplicate", "background"))


@pytest.mark.parametrize("seed", range(3))
def test_the_cost_of_an_error_is_the_ap50_gained_after_correcting_it_by_hand(seed: int) -> None:
    annotations, rows = random_scene(seed, images=30)
    analysis = analysed(annotations, rows)
    cost, base = costs(analysis), score(annotations, rows).map_50
    table = analysis.detections.sort_values("score", ascending=False, kind="stable")
    # Only one detection is corrected for an unmatched object: the best one near it, wrong in place or in class.
    partly = table[table.kind.isin(["localisation", "classification"])]
    unmatched = analysis.objects.matched_score.reindex(partly.near).isna().to_numpy()
    best = set(partly[unmatched].groupby("near").head(1).index)
    for name in ERRORS:
        corrected = {row: dict(rows[row]) for row in table.row}
        labels = [dict(row) for row in annotations["annotations"]]
        if name == MISSED:
            lost = set(analysis.missed(np.full(len(analysis.classes), -1.0)).annotation)
            labels = [row for row in labels if row["id"] not in lost]
        for error in table[table.kind == name].itertuples():
            if error.Index in best and name in ("localisation", "classification"):
                label = analysis.objects.loc[error.near]
                box = label[["x", "y", "width", "height"]].tolist()
                corrected[error.row] |= {"bbox": box, "category_id": int(label.label)}
            else:
                del corrected[error.row]
        gained = score(annotations | {"annotations": labels}, list(corrected.values())).map_50 - base
        assert cost[name] == pytest.approx(max(0.0, gained), abs=1e-9), name


@pytest.mark.parametrize("seed", range(4))
def test_confusions_are_those_of_the_evaluation(seed: int) -> None:
    annotations, rows = random_scene(seed, crowds=0.1)
    analysis = analysed(annotations, rows)
    table = analysis.confusions(np.full(len(analysis.classes), 0.3))
    names = analysis.classes | {-1: "background"}
    expected = confusions(judge(annotations, rows, score(annotations, rows).matches, 0.3), analysis.classes)
    assert Counter(zip(table.actual.map(names), table.predicted.map(names), strict=True)) == Counter(expected)
    images = analysis.objects.image.reindex(table.object[table.object >= 0]).tolist()
    assert table.image[table.object >= 0].tolist() == images


def test_the_near_object_of_an_error_is_in_the_same_image() -> None:
    analysis = analysed(*random_scene(5))
    near = analysis.detections[analysis.detections.near >= 0]
    assert (analysis.objects.image.loc[near.near].to_numpy() == near.image.to_numpy()).all()
    assert (near.overlap > 0).all()


@pytest.mark.parametrize("objects", [0, 3])
def test_a_split_without_objects_or_detections_has_empty_tables(objects: int) -> None:
    annotations, _ = random_scene(0, objects=objects)
    analysis = analysed(annotations, [])
    assert len(analysis.detections) == 0
    assert len(analysis.unmatched(np.full(3, 0.5))) == len(analysis.objects) == len(annotations["annotations"])
    assert len(analysis.confusions(np.full(3, 0.5))) == len(analysis.objects)
    assert all(math.isnan(value) for value in costs(analysis).values()) == (objects == 0)
