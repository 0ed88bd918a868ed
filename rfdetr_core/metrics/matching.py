"""hotcoco's ground truth, detections and evaluator: it matches and accumulates as pycocotools does, bit for bit."""

from __future__ import annotations

from typing import Any

import hotcoco
import numpy as np
from hotcoco import mask as rle

from rfdetr_core.metrics.coco import Floats, Kind, Row


def load(annotations: Row, table: Floats, masks: list[Any] | None = None) -> tuple[hotcoco.COCO, hotcoco.COCO]:
    """hotcoco's ground truth and detections; the ids of detections count from 1 in their order.

    table: (N, 7) image_id, left, top, width, height, score, category_id. masks: N compressed RLEs.
    """
    truth = hotcoco.COCO({key: annotations[key] for key in ("images", "annotations", "categories")})
    if not masks:
        return truth, truth.load_res(table)
    predictions = truth.load_res(table, segmentation=masks)
    predictions.update_anns(
        ids=np.arange(1, len(masks) + 1), area=rle.area(masks).astype(float)
    )  # it has those of the boxes
    return truth, predictions


def evaluate(truth: hotcoco.COCO, predictions: hotcoco.COCO, kind: Kind, **params: Any) -> hotcoco.COCOeval:
    """An evaluator that has matched and accumulated; params: other values of its Params."""
    evaluator = hotcoco.COCOeval(truth, predictions, kind)
    for name, value in params.items():
        setattr(evaluator.params, name, value)
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator
