from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rfdetr_core.base.errors import UserError
from rfdetr_core.metrics.coco import CocoScores, score
from rfdetr_core.metrics.quick import quick_score
from tests.metrics.test_coco import ground_truth, guesses


def assert_same(one: CocoScores, other: CocoScores) -> None:
    assert list(one.numbers()) == list(other.numbers())
    np.testing.assert_allclose(list(one.numbers().values()), list(other.numbers().values()), rtol=0, atol=1e-9)
    for left, right in zip(one.per_class, other.per_class, strict=True):
        assert (left.index, left.name, left.instances) == (right.index, right.name, right.instances)
        for name in ("ap", "ap_50", "precision", "recall", "f1", "best_threshold", "best_f1", "precisions"):
            np.testing.assert_allclose(getattr(left, name), getattr(right, name), rtol=0, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("max_dets", [100, 3, 300])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_quick_scores_are_those_of_pycocotools(iou_type: Any, seed: int, max_dets: int) -> None:
    truth = ground_truth(12, 3, seed, crowds=seed % 2 == 1)
    found = guesses(truth, seed, masks=True)
    assert_same(quick_score(truth, found, iou_type, max_dets), score(truth, found, iou_type, max_dets))


def test_many_equal_boxes_in_crowds_are_scored_alike() -> None:
    """Boxes on a coarse grid: overlaps of exactly 0.5 and equal overlaps and scores, which only an order decides."""
    random = np.random.default_rng(0)

    def rows(count: int, **more: Any) -> list[dict[str, Any]]:
        sides = 8.0 * np.concatenate([random.integers(0, 4, (count, 2)), random.integers(1, 4, (count, 2))], axis=1)
        return [
            {"id": n, "image_id": int(random.integers(1, 5)), "category_id": int(random.integers(0, 2)), "bbox": box}
            | {"area": box[2] * box[3], "iscrowd": int(random.random() < 0.3)}
            | {name: value() for name, value in more.items()}
            for n, box in enumerate(sides.tolist(), start=1)
        ]

    truth = ground_truth(4, 2) | {"annotations": rows(120)}
    found = rows(600, score=lambda: float(random.integers(0, 5)) / 4)
    assert_same(quick_score(truth, found), score(truth, found))


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_nothing_found_and_nothing_there_are_scored_alike(iou_type: Any) -> None:
    truth = ground_truth(4, 2)
    found = guesses(truth, masks=True)
    none = truth | {"annotations": []}
    for there, detections in ((truth, []), (none, found), (none, []), (none | {"images": []}, [])):
        assert_same(quick_score(there, detections, iou_type), score(there, detections, iou_type))
    assert_same(quick_score(none | {"categories": []}, []), score(none | {"categories": []}, []))


def test_neither_annotations_nor_detections_are_changed(capsys: Any) -> None:
    truth = ground_truth(5, 2)
    found = guesses(truth, masks=True)
    before = repr([truth, found])
    quick_score(truth, found, "segm")
    assert repr([truth, found]) == before
    assert capsys.readouterr().out == ""


def test_masks_cannot_be_scored_without_masks() -> None:
    truth = ground_truth(3, 1)
    del truth["annotations"][0]["segmentation"]
    with pytest.raises(UserError, match="annotation 1 has no segmentation"):
        quick_score(truth, [], "segm")
