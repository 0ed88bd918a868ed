from __future__ import annotations

import torch
import torch.nn.functional as F

from rfdetr_core.model.postprocess import MASKS_AT_ONCE, postprocess, resize_masks
from rfdetr_core.ops.structures import DetectorOutput

SIZES = [(20, 30), (7, 9)]


def output(queries: int = 50, rows: int = 4) -> DetectorOutput:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, queries, rows, generator=generator)
    boxes = torch.rand(2, queries, 4, generator=generator) * 1.4 - 0.2
    return DetectorOutput(logits, boxes, torch.randn(2, queries, 5, 6, generator=generator))


def test_every_detection_is_a_query_and_a_class_best_first() -> None:
    given = output()
    for index, detections in enumerate(postprocess(given, SIZES, 40)):
        probabilities = given.logits[index].sigmoid()
        assert detections.scores.tolist() == sorted(probabilities.flatten().tolist(), reverse=True)[:40]
        for score, label in zip(detections.scores, detections.labels, strict=True):
            assert (probabilities[:, label] == score).any()


def test_boxes_stay_in_the_image() -> None:
    for detections, (height, width) in zip(postprocess(output(), SIZES, 200), SIZES, strict=True):
        assert (detections.boxes >= 0).all()
        assert (detections.boxes <= torch.tensor([width, height, width, height])).all()
        assert (detections.boxes[:, 2:] >= detections.boxes[:, :2]).all()


def test_a_tie_goes_to_the_lower_query_then_the_lower_class() -> None:
    (detections,) = postprocess(DetectorOutput(torch.zeros(1, 300, 3), torch.rand(1, 300, 4)), [(10, 10)], 7)
    assert detections.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert detections.masks is None


def test_a_threshold_only_removes_detections() -> None:
    everything, some = (next(postprocess(output(), SIZES, 40, threshold)) for threshold in (None, 0.8))
    kept = everything.scores > 0.8
    assert 0 < kept.sum() < 40
    assert some.masks is not None
    assert everything.masks is not None
    for part, of_everything in (
        (some.scores, everything.scores),
        (some.boxes, everything.boxes),
        (some.masks, everything.masks),
    ):
        assert part.equal(of_everything[kept])


def test_without_a_score_above_the_threshold_there_is_no_detection() -> None:
    detections = next(postprocess(output(), SIZES, 40, 1.0))
    assert detections.boxes.shape == (0, 4)
    assert detections.masks is not None
    assert detections.masks.shape == (0, 20, 30)


def test_masks_are_resized_the_same_in_any_number() -> None:
    logits = torch.randn(2 * MASKS_AT_ONCE + 1, 6, 8)
    expected = F.interpolate(logits[:, None], (25, 14), mode="bilinear")[:, 0] > 0
    assert resize_masks(logits, (25, 14)).equal(expected)
