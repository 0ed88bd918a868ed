"""The scores of `coco.score`, computed faster with hotcoco. Training uses them after each epoch.

hotcoco gives the same numbers as pycocotools, to the last bit. The stage `evaluate` reports those of pycocotools.
"""

from __future__ import annotations

import hotcoco
import numpy as np

from rfdetr_core.metrics.coco import (
    CocoScores,
    Floats,
    Kind,
    Record,
    Row,
    mean_of,
    nan_for_minus_one,
    require_masks,
    summary,
)
from rfdetr_core.metrics.matching import evaluate, load


def quick_score(annotations: Row, detections: list[Row], iou_type: Kind = "bbox", max_dets: int = 100) -> CocoScores:
    """Like `coco.score`, but `matches` stays empty.

    Args:
        annotations: Canonical COCO annotations.
        detections: Rows in COCO's results format.
        iou_type: Score boxes or masks.
        max_dets: How many detections of an image and class count, the highest scores first.

    Raises:
        UserError: masks are scored and an annotation has no mask.
    """
    require_masks(annotations, iou_type)
    columns = [(row["image_id"], *row["bbox"], row["score"], row["category_id"]) for row in detections]
    table = np.array(columns, dtype=np.float64).reshape(-1, 7)
    masks = [row["segmentation"] for row in detections] if iou_type == "segm" else None
    limits = [1, min(10, max_dets), max_dets]
    evaluation = evaluate(*load(annotations, table, masks), iou_type, max_dets=limits)
    results = evaluation.eval or {}
    precision, recall = (nan_for_minus_one(results[name]) for name in ("precision", "recall"))
    # If max_dets is 10 or less, two limits are equal. Then pycocotools averages the columns of the equal limits.
    first, middle, last = ([column for column, equal in enumerate(limits) if equal == limit] for limit in limits)
    areas = range(1, 4)
    stats = [
        *(mean_of(values) for values in (precision[..., 0, 2], precision[0][..., 0, last], precision[5][..., 0, last])),
        *(mean_of(precision[..., area, last]) for area in areas),
        *(mean_of(recall[..., 0, columns]) for columns in (first, middle, last)),
        *(mean_of(recall[..., area, last]) for area in areas),
    ]
    return summary(annotations, precision[..., 0, 2], np.array(stats), _records(annotations, table, evaluation))


def _records(annotations: Row, table: Floats, evaluation: hotcoco.COCOeval) -> dict[int, list[Record]]:
    """A record for each class, for all images together, at IoU 0.5.

    The keys are those of `COCOeval.evalImgs`. Detections that match a crowd region are left out.
    """
    status = evaluation.image_diagnostics(iou_thr=0.5, score_thr=0.5)["dt_status"]
    rows = np.fromiter(status, dtype=np.int64, count=len(status)) - 1
    right = np.array([state == "tp" for state in status.values()], dtype=np.int64)
    order = np.argsort(table[rows, 6], kind="stable")
    rows, right = rows[order], right[order]
    labels, scores = table[rows, 6], table[rows, 5]
    crowds: dict[int, list[int]] = {category["id"]: [] for category in annotations["categories"]}
    for row in annotations["annotations"]:
        crowds[row["category_id"]].append(row["iscrowd"])
    records: dict[int, list[Record]] = {}
    for label, crowd in crowds.items():
        of_class = slice(*np.searchsorted(labels, [label, label + 1]))
        columns = {"dtScores": scores[of_class], "dtMatches": right[None, of_class]}
        hidden = np.zeros_like(columns["dtMatches"])
        records[label] = [{"gtIgnore": np.array(crowd, dtype=int), "dtIgnore": hidden, **columns}]
    return records
