"""The scores of `coco.score` in a fifth of its time, for the epochs of a training. Evaluations report pycocotools'.

faster-coco-eval accumulates; only the matches at IoU 0.5, of which F1 is made, are found here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from rfdetr_core.metrics.coco import (
    CocoScores,
    Floats,
    Kind,
    Record,
    Row,
    mean_of,
    measured,
    numbered,
    require_masks,
    summary,
)

_IOU = 0.5 - 1e-10  # pycocotools' 0.5, for its smallest boxes' sake


def quick_score(annotations: Row, detections: list[Row], iou_type: Kind = "bbox", max_dets: int = 100) -> CocoScores:
    """As `coco.score`, but without matches: raises a UserError where a mask is to be scored and there is none."""
    require_masks(annotations, iou_type)
    truth = _coco(annotations, [dict(one) for one in annotations["annotations"]])
    found = _coco(annotations, numbered(detections, iou_type))
    evaluation = COCOeval_faster(truth, found, iou_type, print_function=lambda *_: None)
    evaluation.params.maxDets = [1, min(10, max_dets), max_dets]
    evaluation.evaluate()
    evaluation.accumulate()
    precision, recall = (measured(np.asarray(evaluation.eval[name])) for name in ("precision", "recall"))
    shape = (len(evaluation.params.iouThrs), len(evaluation.params.recThrs), -1, 4, 3)
    precision, recall = precision.reshape(shape), recall.reshape(shape[0], *shape[2:])
    areas, limits = range(1, 4), range(3)
    stats = [
        *(mean_of(one) for one in (precision[..., 0, 2], precision[0, ..., 0, 2], precision[5, ..., 0, 2])),
        *(mean_of(precision[..., area, 2]) for area in areas),
        *(mean_of(recall[..., 0, limit]) for limit in limits),
        *(mean_of(recall[..., area, 2]) for area in areas),
    ]
    return summary(annotations, precision[..., 0, 2], np.array(stats), _records(evaluation, truth, found, max_dets))


def _coco(annotations: Row, rows: list[Row]) -> COCO:
    return COCO(
        {"images": annotations["images"], "categories": annotations["categories"], "annotations": rows},
        print_function=lambda *_: None,
    )


def _records(evaluation: COCOeval_faster, truth: COCO, found: COCO, max_dets: int) -> dict[int, list[Record]]:
    """What COCOeval notes at IoU 0.5 of all images together, by class."""
    crowds: dict[tuple[int, int], list[int]] = {}
    for row in truth.dataset["annotations"]:
        crowds.setdefault((row["category_id"], row["image_id"]), []).append(row["iscrowd"])
    rows = [(row["category_id"], row["image_id"], -row["score"]) for row in found.dataset["annotations"]]
    table = np.array(rows, dtype=float).reshape(-1, 3)
    table = table[np.lexsort(table.T[::-1])]  # by class, image and falling score; equal rows stay in order
    starts = np.flatnonzero(np.diff(table[:, :2], axis=0, prepend=np.nan).any(axis=1))
    ranks = np.arange(len(table)) - np.repeat(starts, np.diff(starts, append=len(table)))
    matches, ignored = np.zeros(len(table), dtype=int), np.zeros(len(table), dtype=int)
    for start, (label, image) in zip(starts.tolist(), table[starts, :2].astype(int).tolist(), strict=True):
        crowd = crowds.get((label, image))
        if crowd:
            for row, column in _matched(np.asarray(evaluation.ious[image, label]), np.array(crowd)):
                matches[start + row], ignored[start + row] = 1, crowd[column]
    records: dict[int, list[Record]] = {}
    for label in sorted(truth.cats):
        own = (table[:, 0] == label) & (ranks < max_dets)
        crowd = [one for (kind, _), group in crowds.items() if kind == label for one in group]
        found_here = {"dtScores": -table[own, 2], "dtMatches": matches[None, own], "dtIgnore": ignored[None, own]}
        records[label] = [{"gtIgnore": np.array(crowd, dtype=int), **found_here}]
    return records


def _matched(overlaps: Floats, crowd: Any) -> list[tuple[int, int]]:
    """Row and column of each match: best detection first, each with the best instance left, else with a crowd.

    As COCOeval's evaluateImg: of equal overlaps the later instance, and a crowd is never used up.
    """
    pairs: list[tuple[int, int]] = []
    taken: set[int] = set()
    order = np.argsort(crowd, kind="stable")
    for row in np.flatnonzero((overlaps >= _IOU).any(axis=1)).tolist():
        best, place = _IOU, -1
        for column in order.tolist():
            if column in taken:
                continue
            if place >= 0 and not crowd[place] and crowd[column]:
                break
            if overlaps[row, column] >= best:
                best, place = overlaps[row, column], column
        if place >= 0:
            pairs.append((row, place))
            if not crowd[place]:
                taken.add(place)
    return pairs
