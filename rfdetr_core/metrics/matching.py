"""Matching with hotcoco: builds its ground truth, detections and evaluator.

hotcoco gives the same matches and scores as pycocotools, to the last bit.
"""

from __future__ import annotations

from typing import Any

import hotcoco
import numpy as np
from hotcoco import mask as rle

from rfdetr_core.metrics.coco import Floats, Kind, Row


def load(annotations: Row, table: Floats, masks: list[Any] | None = None) -> tuple[hotcoco.COCO, hotcoco.COCO]:
    """Build hotcoco's ground truth and detections. The ids of detections count from 1, in the order of `table`.

    Args:
        annotations: Canonical COCO annotations.
        table: N detections, (N, 7): image_id, left, top, width, height, score, category_id.
        masks: N compressed RLEs. None or empty: boxes.
    """
    truth = hotcoco.COCO({key: annotations[key] for key in ("images", "annotations", "categories")})
    if not masks:
        return truth, truth.load_res(table)
    predictions = truth.load_res(table, segmentation=masks)
    # load_res sets the areas of the boxes; those of the masks are needed.
    predictions.update_anns(ids=np.arange(1, len(masks) + 1), area=rle.area(masks).astype(float))
    return truth, predictions


def evaluate(truth: hotcoco.COCO, predictions: hotcoco.COCO, kind: Kind, **params: Any) -> hotcoco.COCOeval:
    """Run an evaluator: match and accumulate.

    Args:
        truth: The ground truth, see `load`.
        predictions: The detections, see `load`.
        kind: Match by the IoU of boxes or of masks.
        params: Attributes of `evaluator.params` to set before.
    """
    evaluator = hotcoco.COCOeval(truth, predictions, kind)
    for name, value in params.items():
        setattr(evaluator.params, name, value)
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator
