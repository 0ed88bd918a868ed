from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as rle

from rfdetr_core.base.errors import UserError
from rfdetr_core.metrics.coco import CocoScores, score
from rfdetr_core.metrics.quick import quick_score
from tests.metrics.test_coco import SIDE, ground_truth, guesses, polygon


def assert_same(first: CocoScores, second: CocoScores) -> None:
    """Compare every number to its last bit: a repr has all digits, and NaN equals NaN."""
    assert repr(first.numbers()) == repr(second.numbers())
    assert repr(first.per_class) == repr(second.per_class)


@pytest.mark.parametrize("max_dets", [100, 1, 3, 300])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_quick_scores_equal_those_of_pycocotools(iou_type: Any, seed: int, max_dets: int) -> None:
    truth = ground_truth(12, 3, seed, crowds=seed % 2 == 1)
    detections = guesses(truth, seed, masks=True)
    assert_same(quick_score(truth, detections, iou_type, max_dets), score(truth, detections, iou_type, max_dets))


@pytest.mark.parametrize("max_dets", [100, 5, 300])
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_many_equal_boxes_in_crowds_get_equal_scores(iou_type: Any, max_dets: int) -> None:
    """Boxes on a coarse grid have IoUs of exactly 0.5, and equal IoUs and scores: the order of the rows decides.

    There are more detections of an image and class than count. Images and classes are not sorted.
    """
    random = np.random.default_rng(0)
    labels, images = [7, 2], [4, 1, 3, 2]

    def rows(count: int, **more: Any) -> list[dict[str, Any]]:
        sides = 8.0 * np.concatenate([random.integers(0, 4, (count, 2)), random.integers(1, 4, (count, 2))], axis=1)
        return [
            {"id": n, "image_id": int(random.choice(images)), "category_id": int(random.choice(labels, p=[0.9, 0.1]))}
            | {"bbox": box, "area": box[2] * box[3], "iscrowd": int(random.random() < 0.3)}
            | {"segmentation": rle.merge(rle.frPyObjects(polygon(*box), SIDE, SIDE))}
            | {name: value() for name, value in more.items()}
            for n, box in enumerate(sides.tolist(), start=1)
        ]

    categories = [{"id": label, "name": f"class{label}"} for label in labels]
    listed = [{"id": image, "width": SIDE, "height": SIDE} for image in images]
    truth = {"categories": categories, "images": listed, "annotations": rows(120)}
    detections = rows(1500, score=lambda: float(random.integers(0, 5)) / 4)
    counts = Counter((row["image_id"], row["category_id"]) for row in detections)
    assert max(counts.values()) > 300 > 100 > min(counts.values())
    assert_same(quick_score(truth, detections, iou_type, max_dets), score(truth, detections, iou_type, max_dets))


def test_training_batches_are_scored_without_image_sizes_and_masks() -> None:
    truth = ground_truth(6, 2)
    bare = truth | {
        "images": [{"id": image["id"]} for image in truth["images"]],
        "annotations": [{key: row[key] for key in row if key != "segmentation"} for row in truth["annotations"]],
    }
    assert_same(quick_score(bare, guesses(truth)), score(truth, guesses(truth)))


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_missing_detections_or_objects_get_equal_scores(iou_type: Any) -> None:
    truth = ground_truth(4, 2)
    results = guesses(truth, masks=True)
    empty = truth | {"annotations": []}
    for labels, detections in ((truth, []), (empty, results), (empty, []), (empty | {"images": []}, [])):
        assert_same(quick_score(labels, detections, iou_type), score(labels, detections, iou_type))
    assert_same(quick_score(empty | {"categories": []}, []), score(empty | {"categories": []}, []))


def test_neither_annotations_nor_detections_are_changed(capsys: Any) -> None:
    truth = ground_truth(5, 2)
    detections = guesses(truth, masks=True)
    before = repr([truth, detections])
    quick_score(truth, detections, "segm")
    assert repr([truth, detections]) == before
    assert capsys.readouterr() == ("", "")


def test_scoring_masks_needs_masks_in_the_annotations() -> None:
    truth = ground_truth(3, 1)
    del truth["annotations"][0]["segmentation"]
    with pytest.raises(UserError, match="annotation 1 has no segmentation"):
        quick_score(truth, [], "segm")
