"""Suspected label errors: where a detector and the labels disagree, and the detector is likely to be right."""

from __future__ import annotations

import numpy as np
import pandas as pd
from hotcoco import mask as overlaps

from rfdetr_core.evaluation.analysis import BACKGROUND, POSITIVE, Analysis
from rfdetr_core.evaluation.operating import DEFAULT_THRESHOLD, best_f1
from rfdetr_core.metrics.coco import Floats

NO_LABEL, NO_DETECTION = "no label", "no detection"
OTHER_CLASS, OTHER_PLACE = "another class", "another place"
_BOX = ["x", "y", "width", "height"]
_LABEL_BOX = [f"label_{name}" for name in _BOX]
COLUMNS = ["certainty", "suspicion", "image", "annotation", "label", "detected", "score", *_BOX, *_LABEL_BOX]


def suspects(analysis: Analysis) -> pd.DataFrame:
    """Suspected label errors (COLUMNS), the most certain first; a label, and a place without one, has one row at most.

    certainty: 0 to 1. Of a detection its score, lowered by what else could explain it: a label that it overlaps, or
    the score of a detection that confirms the label. Of a label that nothing finds above the threshold of the best F1,
    the share of its class's labels that are found so, lowered by the best score beside it. Detections count from half
    of that threshold. The box is the detection's, or the label's where nothing finds it. annotation, its id in the
    canonical annotations, and the box of the label are empty where there is no label.
    """
    threshold = np.array([best_f1(curve).or_default(DEFAULT_THRESHOLD).threshold for curve in analysis.curves])
    rows = pd.concat([_by_detections(analysis, threshold / 2), _by_labels(analysis, threshold)])
    rows = rows.sort_values(["certainty", "path", "x", "y"], ascending=[False, True, True, True], kind="stable")
    labelled = rows.object >= 0
    rows = _without_repetition(rows[~labelled | ~rows.object.where(labelled).duplicated()])
    ids, names = analysis.objects.annotation.to_numpy(), analysis.classes
    has = rows.object.to_numpy() >= 0
    place = rows.object.to_numpy()[has]
    rows = rows.assign(annotation=pd.array([pd.NA] * len(rows), dtype="Int64"), label="", image=rows.path)
    rows.loc[has, "annotation"] = ids[place]
    rows.loc[has, "label"] = [names[label] for label in analysis.objects.label.to_numpy()[place].tolist()]
    boxes = np.full((len(rows), 4), np.nan)
    boxes[has] = analysis.objects[_BOX].to_numpy()[place]
    rows[_LABEL_BOX] = boxes
    rows["detected"] = [names.get(label, "") for label in rows.detected.tolist()]
    return rows[COLUMNS].reset_index(drop=True)


def _by_detections(analysis: Analysis, threshold: Floats) -> pd.DataFrame:
    detections = analysis.detections_above(threshold)
    detections = detections[detections.kind.isin(["background", "localisation", "classification", "both"])]
    kind, near = detections.kind.to_numpy(), detections.near.to_numpy()
    score, overlap = detections.score.to_numpy(), detections.overlap.to_numpy()
    # The score of the detection that confirms the label nearby.
    confirmed = np.append(analysis.objects.matched_score.fillna(0.0).to_numpy(), 1.0)[near]
    free = confirmed < score
    other_class, other_place = free & (kind == "classification"), free & (kind == "localisation")
    suspicion = np.select([other_class, other_place], [OTHER_CLASS, OTHER_PLACE], NO_LABEL)
    # A box beside a label that something else found is the detector's own error rather than a label's.
    doubt = np.where(other_class, confirmed, np.where(other_place, 1 - (1 - overlap) * (1 - confirmed), overlap))
    table = _table(analysis, detections, score * (1 - doubt), suspicion, detections.label.to_numpy(), score)
    table["object"] = np.where(other_class | other_place, near, -1)
    return table[(kind != "classification") | free]


def _by_labels(analysis: Analysis, threshold: Floats) -> pd.DataFrame:
    """Labels that no detection of their class matches above the threshold."""
    objects, detections = analysis.objects, analysis.detections
    left = analysis.unmatched(threshold)
    recall = 1 - left.groupby("label").size().div(objects.groupby("label").size(), fill_value=0)
    beside = detections[(detections.near >= 0) & (detections.overlap > BACKGROUND)].groupby("near").score.max()
    best = beside.reindex(left.index).fillna(0.0).to_numpy()
    # Queries that see nothing have scores too, far below the threshold, and may lie anywhere.
    enough = analysis.threshold_of_rows(threshold, left)
    seen = np.divide(best, enough, out=np.ones(len(left)), where=enough > 0).clip(max=1)
    certainty = left.label.map(recall).to_numpy(dtype=float) * (1 - seen)
    nothing = np.full(len(left), -1)
    table = _table(analysis, left, certainty, np.full(len(left), NO_DETECTION), nothing, np.full(len(left), np.nan))
    return table.assign(object=left.index.to_numpy())


def _without_repetition(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows without the detections that show the place of a better one again, as of another class. rows: best first."""
    detected = rows[(rows.detected >= 0).to_numpy()].reset_index(drop=True)
    kept = np.ones(len(detected), dtype=bool)
    boxes, alone = detected[_BOX].to_numpy(), (detected.object < 0).to_numpy()
    for places in detected.groupby("path").indices.values():
        ious = np.asarray(overlaps.iou(boxes[places], boxes[places], [False] * len(places))).reshape(len(places), -1)
        for row, place in enumerate(places):
            better = places[:row]
            kept[place] = not (alone[place] and (kept[better] & (ious[row, :row] >= POSITIVE)).any())
    dropped = np.zeros(len(rows), dtype=bool)
    dropped[np.flatnonzero((rows.detected >= 0).to_numpy())] = ~kept
    return rows[~dropped]


def _table(
    analysis: Analysis, boxes: pd.DataFrame, certainty: Floats, suspicion: object, detected: object, score: Floats
) -> pd.DataFrame:
    table = boxes[_BOX].reset_index(drop=True)
    path = analysis.images.path.to_numpy()[boxes.image.to_numpy()]
    return table.assign(certainty=certainty, suspicion=suspicion, path=path, detected=detected, score=score)
