"""The scores of `coco.score` in a fraction of its time, for the epochs of a training. Evaluations report pycocotools'.

hotcoco matches and accumulates as pycocotools does, bit for bit.
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
    measured,
    require_masks,
    summary,
)
from rfdetr_core.metrics.matching import evaluate, load


def quick_score(annotations: Row, detections: list[Row], iou_type: Kind = "bbox", max_dets: int = 100) -> CocoScores:
    """As `coco.score`, but without matches: raises a UserError where a mask is to be scored and there is none."""
    require_masks(annotations, iou_type)
    columns = [(row["image_id"], *row["bbox"], row["score"], row["category_id"]) for row in detections]
    table = np.array(columns, dtype=np.float64).reshape(-1, 7)
    masks = [row["segmentation"] for row in detections] if iou_type == "segm" else None
    limits = [1, min(10, max_dets), max_dets]
    evaluation = evaluate(*load(annotations, table, masks), iou_type, max_dets=limits)
    results = evaluation.eval or {}
    precision, recall = (measured(results[name]) for name in ("precision", "recall"))
    # pycocotools takes the mean over all columns of a limit, which are several if max_dets is 10 or less.
    first, middle, last = ([place for place, other in enumerate(limits) if other == limit] for limit in limits)
    areas = range(1, 4)
    stats = [
        *(mean_of(values) for values in (precision[..., 0, 2], precision[0][..., 0, last], precision[5][..., 0, last])),
        *(mean_of(precision[..., area, last]) for area in areas),
        *(mean_of(recall[..., 0, columns]) for columns in (first, middle, last)),
        *(mean_of(recall[..., area, last]) for area in areas),
    ]
    return summary(annotations, precision[..., 0, 2], np.array(stats), _records(annotations, table, evaluation))


def _records(annotations: Row, table: Floats, evaluation: hotcoco.COCOeval) -> dict[int, list[Record]]:
    """What COCOeval notes at IoU 0.5, by class and for all images together; without detections that crowds hide."""
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
        own = slice(*np.searchsorted(labels, [label, label + 1]))
        columns = {"dtScores": scores[own], "dtMatches": right[None, own]}
        hidden = np.zeros_like(columns["dtMatches"])
        records[label] = [{"gtIgnore": np.array(crowd, dtype=int), "dtIgnore": hidden, **columns}]
    return records
