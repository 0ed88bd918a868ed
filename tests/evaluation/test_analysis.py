"""The tables of an analysis, beside pycocotools', hotcoco's, and what AP gains where errors are mended by hand."""

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
    return Analysis.of(annotations, Results.of(rows, rows if kind == "segm" else None), kind)


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
    expected, found = score(annotations, rows, kind), analysed(annotations, rows, kind)
    objects, detections = found.objects, found.detections
    names = [*objects.annotation.tolist(), None]  # the last one is of row -1
    pairs = {(row, names[there]) for row, there in zip(detections.row, detections.object, strict=True)}
    assert pairs == {pair for one in expected.matches.values() for pair in one.pairs}
    missed = {number for one in expected.matches.values() for number in one.missed}
    assert set(objects.annotation[objects.found.isna()]) == missed
    best = int(found.mean_curve[2].argmax())
    assert (float(THRESHOLDS[best]), *found.mean_curve[:, best].tolist()) == pytest.approx(
        (expected.threshold, expected.precision, expected.recall, expected.f1), abs=1e-12
    )
    own = [(float(THRESHOLDS[curve[2].argmax()]), curve[2].max()) for curve in found.curves]
    assert own == [(one.best_threshold, pytest.approx(one.best_f1, abs=1e-12)) for one in expected.per_class]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(4))
def test_as_many_errors_of_each_kind_as_hotcoco_counts(seed: int, kind: Kind) -> None:
    found = analysed(*random_scene(seed, masks=kind == "segm"), kind)
    everything = np.full(len(found.classes), -1.0)
    counts = Counter(found.detections.kind) | Counter({MISSED: len(found.missed(everything))})
    theirs = found.evaluator.tide_errors()["counts"]
    assert {name: counts[name] for name in ERRORS} == {name: theirs[short] for name, short in ERRORS.items()}
    assert all(counts[name] for name in ("localisation", "classification", "duplicate", "background"))


@pytest.mark.parametrize("seed", range(3))
def test_a_cost_is_what_ap50_gains_where_the_errors_are_mended_by_hand(seed: int) -> None:
    annotations, rows = random_scene(seed, images=30)
    found = analysed(annotations, rows)
    cost, base = costs(found), score(annotations, rows).map_50
    table = found.detections.sort_values("score", ascending=False, kind="stable")
    # An object that nothing finds can be given to one detection: the best that is near it, in place or in class.
    partly = table[table.kind.isin(["localisation", "classification"])]
    best = set(partly[found.objects.found.reindex(partly.near).isna().to_numpy()].groupby("near").head(1).index)
    for name in ERRORS:
        kept = {row: dict(rows[row]) for row in table.row}
        labels = [dict(row) for row in annotations["annotations"]]
        if name == MISSED:
            lost = set(found.missed(np.full(len(found.classes), -1.0)).annotation)
            labels = [row for row in labels if row["id"] not in lost]
        for one in table[table.kind == name].itertuples():
            if one.Index in best and name in ("localisation", "classification"):
                there = found.objects.loc[one.near]
                box = there[["x", "y", "width", "height"]].tolist()
                kept[one.row] |= {"bbox": box, "category_id": int(there.label)}
            else:
                del kept[one.row]
        gained = score(annotations | {"annotations": labels}, list(kept.values())).map_50 - base
        assert cost[name] == pytest.approx(max(0.0, gained), abs=1e-9), name


@pytest.mark.parametrize("seed", range(4))
def test_confusions_are_those_of_the_evaluation(seed: int) -> None:
    annotations, rows = random_scene(seed, crowds=0.1)
    found = analysed(annotations, rows)
    table = found.confusions(np.full(len(found.classes), 0.3))
    names = found.classes | {-1: "background"}
    expected = confusions(judge(annotations, rows, score(annotations, rows).matches, 0.3), found.classes)
    assert Counter(zip(table.actual.map(names), table.predicted.map(names), strict=True)) == Counter(expected)
    images = found.objects.image.reindex(table.object[table.object >= 0]).tolist()
    assert table.image[table.object >= 0].tolist() == images


def test_an_error_is_about_an_object_of_its_image() -> None:
    found = analysed(*random_scene(5))
    near = found.detections[found.detections.near >= 0]
    assert (found.objects.image.loc[near.near].to_numpy() == near.image.to_numpy()).all()
    assert (near.overlap > 0).all()


@pytest.mark.parametrize("objects", [0, 3])
def test_a_split_without_objects_or_detections_has_empty_tables(objects: int) -> None:
    annotations, _ = random_scene(0, objects=objects)
    found = analysed(annotations, [])
    assert len(found.detections) == 0
    assert len(found.unfound(np.full(3, 0.5))) == len(found.objects) == len(annotations["annotations"])
    assert len(found.confusions(np.full(3, 0.5))) == len(found.objects)
    assert all(math.isnan(value) for value in costs(found).values()) == (objects == 0)
