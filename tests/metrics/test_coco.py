from __future__ import annotations

import copy
import io
import json
import math
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rfdetr_core.base.errors import UserError
from rfdetr_core.metrics.coco import RECALLS, THRESHOLDS, CocoScores, coco_results, score
from rfdetr_core.ops.structures import Detections

SIDE = 300
NAMES = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")
NAMES += ("mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large")


def polygon(x: float, y: float, w: float, h: float) -> list[list[float]]:
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def ground_truth(images: int, classes: int, seed: int = 0, crowds: bool = False) -> dict[str, Any]:
    """Annotations of rectangles in all three size ranges. The last image has none."""
    random = np.random.default_rng(seed)
    annotations = []
    for image in range(1, images):
        for _ in range(int(random.integers(1, 8))):
            w, h = np.exp(random.uniform(np.log(6), np.log(140), 2)).tolist()
            x, y = random.uniform(0, SIDE - 140, 2).tolist()
            annotation = {"id": len(annotations) + 1, "image_id": image, "category_id": int(random.integers(classes))}
            crowd = int(crowds and random.random() < 0.2)
            annotations.append(
                annotation
                | {"bbox": [x, y, w, h], "area": w * h, "iscrowd": crowd, "segmentation": polygon(x, y, w, h)}
            )
    listed = [
        {"id": image, "file_name": f"{image}.png", "width": SIDE, "height": SIDE} for image in range(1, images + 1)
    ]
    categories = [{"id": index, "name": f"class{index}"} for index in range(classes)]
    return {"categories": categories, "images": listed, "annotations": annotations}


def guesses(truth: dict[str, Any], seed: int = 0, masks: bool = False) -> list[dict[str, Any]]:
    """Detections: shifted copies of the annotations, some with a wrong class or image. Some scores are equal."""
    random = np.random.default_rng(seed)
    classes = len(truth["categories"])
    results = []
    for annotation in [*truth["annotations"], *truth["annotations"]]:
        x, y, w, h = (np.array(annotation["bbox"]) + random.normal(0, 4, 4)).clip(1, SIDE).tolist()
        label = annotation["category_id"] if random.random() < 0.8 else int(random.integers(classes))
        image = annotation["image_id"] if random.random() < 0.9 else int(random.integers(1, len(truth["images"]) + 1))
        results.append(
            {"image_id": image, "category_id": label, "bbox": [x, y, w, h], "score": round(random.random(), 2)}
        )
        if masks:
            coded = rle.merge(rle.frPyObjects(polygon(x, y, w, h), SIDE, SIDE))
            results[-1]["segmentation"] = coded | {"counts": coded["counts"].decode()}
    return results


def directly(truth: dict[str, Any], detections: list[dict[str, Any]], iou_type: str) -> COCOeval:
    """Run pycocotools in the usual way. Results of masks have no box, so that sizes are those of the masks."""
    with redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = copy.deepcopy(truth)
        reference.createIndex()
        results = copy.deepcopy(detections)
        for result in results if iou_type == "segm" else ():
            del result["bbox"]
        evaluation = COCOeval(reference, reference.loadRes(results), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def test_the_first_12_fields_are_the_scores_in_order() -> None:
    assert tuple(CocoScores.__dataclass_fields__)[:12] == NAMES


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_scores_equal_those_of_pycocotools(iou_type: Any, seed: int) -> None:
    truth = ground_truth(12, 3, seed, crowds=seed % 2 == 1)
    detections = guesses(truth, seed, masks=True)
    scores, evaluation = score(truth, detections, iou_type), directly(truth, detections, iou_type)
    expected = [math.nan if value == -1 else value for value in evaluation.stats.tolist()]
    np.testing.assert_array_equal([getattr(scores, name) for name in NAMES], expected)
    precision = evaluation.eval["precision"][:, :, :, 0, 2]
    for index, of_class in enumerate(scores.per_class):
        assert of_class.ap == pytest.approx(precision[:, :, index].mean(), abs=1e-12)
        assert of_class.ap_50 == pytest.approx(precision[0, :, index].mean(), abs=1e-12)
        np.testing.assert_array_equal(of_class.precisions, precision[0, :, index])
    np.testing.assert_array_equal(RECALLS, evaluation.params.recThrs)


def test_neither_annotations_nor_detections_are_changed_and_nothing_is_printed(capsys: Any) -> None:
    truth = ground_truth(5, 2)
    detections = guesses(truth, masks=True)
    before = json.dumps([truth, detections])
    score(truth, detections, "segm")
    assert json.dumps([truth, detections]) == before
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_perfect_detections_have_score_1(iou_type: Any) -> None:
    truth = ground_truth(8, 3)
    detections = []
    for annotation in truth["annotations"]:
        coded = rle.merge(rle.frPyObjects(annotation["segmentation"], SIDE, SIDE))
        detections.append(
            {key: annotation[key] for key in ("image_id", "category_id", "bbox")}
            | {"score": 1.0, "segmentation": coded}
        )
    scores = score(truth, detections, iou_type)
    for name in ("map", "map_50", "map_75", "mar_100", "precision", "recall", "f1"):
        assert getattr(scores, name) == pytest.approx(1.0, abs=1e-9), name
    assert all(
        class_scores.ap == pytest.approx(1.0) and class_scores.best_f1 == 1.0 for class_scores in scores.per_class
    )
    assert not any(matches.missed for matches in scores.matches.values())


def brute_force(
    scores: CocoScores, truth: dict[str, Any], detections: list[dict[str, Any]], threshold: float, label: int
) -> list[float]:
    """Precision, recall and F1 of a class, counted from the matches of the images."""
    pairs = [pair for matches in scores.matches.values() for pair in matches.pairs]
    matches_above = [
        match
        for index, match in pairs
        if detections[index]["score"] >= threshold and detections[index]["category_id"] == label
    ]
    hits = sum(match is not None for match in matches_above)
    instances = sum(
        annotation["category_id"] == label and not annotation["iscrowd"] for annotation in truth["annotations"]
    )
    precision, recall = hits / len(matches_above) if matches_above else 0.0, hits / instances
    return [precision, recall, 2 * precision * recall / (precision + recall) if hits else 0.0]


@pytest.mark.parametrize("seed", range(3))
def test_f1_is_the_highest_class_mean_over_101_thresholds(seed: int) -> None:
    truth = ground_truth(10, 3, seed, crowds=True)
    detections = guesses(truth, seed)
    scores = score(truth, detections)
    curves = np.array([[brute_force(scores, truth, detections, t, label) for label in range(3)] for t in THRESHOLDS])
    means = curves.mean(axis=1)
    best = int(means[:, 2].argmax())
    assert [scores.precision, scores.recall, scores.f1] == pytest.approx(means[best].tolist())
    assert scores.threshold == THRESHOLDS[best]
    for label, class_scores in enumerate(scores.per_class):
        assert [class_scores.precision, class_scores.recall, class_scores.f1] == pytest.approx(
            curves[best, label].tolist()
        )
        assert class_scores.best_f1 == pytest.approx(curves[:, label, 2].max())
        assert class_scores.best_threshold == THRESHOLDS[curves[:, label, 2].argmax()]


@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_filtering_matches_by_threshold_equals_matching_filtered_detections(threshold: float) -> None:
    truth = ground_truth(10, 2)
    detections = guesses(truth)
    indices = [index for index, row in enumerate(detections) if row["score"] >= threshold]
    alone = score(truth, [detections[index] for index in indices]).matches
    for image, matches in score(truth, detections).matches.items():
        above = {(index, match) for index, match in matches.pairs if detections[index]["score"] >= threshold}
        assert {(indices[index], match) for index, match in alone[image].pairs} == above
        instances = {annotation["id"] for annotation in truth["annotations"] if annotation["image_id"] == image}
        assert set(alone[image].missed) == instances - {match for _, match in above}


def test_without_detections_everything_is_missed() -> None:
    truth = ground_truth(4, 2)
    for iou_type in ("bbox", "segm"):
        scores = score(truth, [], iou_type)  # type: ignore[arg-type]
        assert scores.map == scores.map_50 == scores.mar_100 == scores.f1 == scores.precision == scores.recall == 0.0
        assert sum(len(matches.missed) for matches in scores.matches.values()) == len(truth["annotations"])


@pytest.mark.parametrize("classes", [0, 2])
@pytest.mark.parametrize("images", [0, 3])
def test_without_objects_scores_are_nan(classes: int, images: int) -> None:
    truth = ground_truth(images, 1) | {"annotations": [], "categories": ground_truth(1, classes)["categories"]}
    detections = [{"image_id": 1, "category_id": 0, "bbox": [1, 1, 5, 5], "score": 0.5}] if images and classes else []
    scores = score(truth, detections)
    assert all(math.isnan(value) for value in scores.numbers().values())
    assert list(scores.numbers())[:16] == [*NAMES, "threshold", "precision", "recall", "f1"]
    assert [class_scores.name for class_scores in scores.per_class] == [f"class{index}" for index in range(classes)]
    assert all(
        math.isnan(class_scores.ap) and math.isnan(class_scores.f1) and class_scores.instances == 0
        for class_scores in scores.per_class
    )


def test_a_class_without_instances_does_not_count() -> None:
    truth = ground_truth(6, 2)
    extended = truth | {"categories": [*truth["categories"], {"id": 2, "name": "absent"}]}
    detections = guesses(truth)
    assert score(extended, detections).numbers() == score(truth, detections).numbers()
    assert math.isnan(score(extended, detections).per_class[2].ap)


def test_scoring_masks_needs_masks_in_the_annotations() -> None:
    truth = ground_truth(3, 1)
    del truth["annotations"][0]["segmentation"]
    assert not math.isnan(score(truth, []).map)
    with pytest.raises(UserError, match="annotation 1 has no segmentation"):
        score(truth, [], "segm")


def test_results_are_plain_values_from_which_detections_can_be_restored() -> None:
    random = torch.Generator().manual_seed(0)
    start = torch.rand(4, 2, generator=random) * 20
    masks = torch.rand(4, 30, 40, generator=random) > 0.5
    boxes = torch.cat([start, start + 5], dim=1)
    detections = Detections(torch.tensor([0.9, 0.5, 0.25, 0.125]), torch.tensor([1, 0, 2, 1]), boxes, masks)
    results = json.loads(json.dumps(coco_results(7, detections)))
    assert [row["image_id"] for row in results] == [7] * 4
    assert [row["category_id"] for row in results] == [1, 0, 2, 1]
    assert [row["score"] for row in results] == detections.scores.tolist()
    np.testing.assert_allclose([row["bbox"] for row in results], torch.cat([start, boxes[:, 2:] - start], 1), atol=1e-5)
    for row, mask in zip(results, masks, strict=True):
        np.testing.assert_array_equal(rle.decode(row["segmentation"]), mask)


@pytest.mark.parametrize("masks", [None, torch.zeros(0, 30, 40, dtype=torch.bool)])
def test_no_detections_give_no_results(masks: torch.Tensor | None) -> None:
    nothing = Detections(torch.zeros(0), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), masks)
    assert coco_results(1, nothing) == []


def test_more_than_255_masks_are_scored() -> None:
    mask = np.asfortranarray(np.ones((8, 8), dtype=np.uint8))
    coded = rle.encode(mask)
    detection = {
        "image_id": 1,
        "category_id": 0,
        "bbox": [0.0, 0.0, 8.0, 8.0],
        "score": 0.5,
        "segmentation": {"size": [8, 8], "counts": coded["counts"].decode()},
    }
    truth = {
        "id": 1,
        "image_id": 1,
        "category_id": 0,
        "bbox": [0.0, 0.0, 8.0, 8.0],
        "area": 64.0,
        "iscrowd": 0,
        "segmentation": [[0, 0, 8, 0, 8, 8, 0, 8]],
    }
    image = {"id": 1, "file_name": "a.png", "width": 8, "height": 8}
    annotations = {"images": [image], "categories": [{"id": 0, "name": "a"}], "annotations": [truth]}
    assert score(annotations, [detection] * 300, "segm").map == pytest.approx(1.0)
