"""Suspected label errors: places where detections and labels disagree and the detector is probably right."""

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
    """The suspected label errors (COLUMNS), the most certain first.

    A label has at most one row. A place without a label also has at most one row. The certainty is from 0 to 1. Its
    formulas use these values:
        T: the threshold with the highest F1 of the class. Detections with a score of T / 2 or less are ignored.
        c: the score of the detection that matches the label and has the label's class; 0 if there is none.
        s: the highest score of a detection of any class that overlaps the label (IoU above 0.1).
        recall: the recall of the class at T.
    The certainty by suspicion:
        NO_LABEL: score * (1 - IoU with the nearest label).
        OTHER_CLASS: score * (1 - c).
        OTHER_PLACE: score * (1 - IoU with the label) * (1 - c).
        NO_DETECTION: recall * (1 - min(1, s / T)).

    x, y, width, height: the box of the detection, or of the label for NO_DETECTION. annotation (the id in the canonical
    annotations), label and the box of the label are empty for NO_LABEL.
    """
    threshold = np.array([best_f1(curve).or_default(DEFAULT_THRESHOLD).threshold for curve in analysis.curves])
    rows = pd.concat([_by_detections(analysis, threshold / 2), _by_labels(analysis, threshold)])
    rows = rows.sort_values(["certainty", "path", "x", "y"], ascending=[False, True, True, True], kind="stable")
    labelled = rows.object >= 0
    rows = _without_repetition(rows[~labelled | ~rows.object.where(labelled).duplicated()])
    ids, names = analysis.objects.annotation.to_numpy(), analysis.classes
    has = rows.object.to_numpy() >= 0
    object_rows = rows.object.to_numpy()[has]
    rows = rows.assign(annotation=pd.array([pd.NA] * len(rows), dtype="Int64"), label="", image=rows.path)
    rows.loc[has, "annotation"] = ids[object_rows]
    rows.loc[has, "label"] = [names[label] for label in analysis.objects.label.to_numpy()[object_rows].tolist()]
    boxes = np.full((len(rows), 4), np.nan)
    boxes[has] = analysis.objects[_BOX].to_numpy()[object_rows]
    rows[_LABEL_BOX] = boxes
    rows["detected"] = [names.get(label, "") for label in rows.detected.tolist()]
    return rows[COLUMNS].reset_index(drop=True)


def _by_detections(analysis: Analysis, threshold: Floats) -> pd.DataFrame:
    detections = analysis.detections_above(threshold)
    detections = detections[detections.kind.isin(["background", "localisation", "classification", "both"])]
    kind, near = detections.kind.to_numpy(), detections.near.to_numpy()
    score, overlap = detections.score.to_numpy(), detections.overlap.to_numpy()
    # The score of the detection that matches the near label; 1 if there is no near label.
    label_score = np.append(analysis.objects.matched_score.fillna(0.0).to_numpy(), 1.0)[near]
    is_better = score > label_score
    other_class, other_place = is_better & (kind == "classification"), is_better & (kind == "localisation")
    suspicion = np.select([other_class, other_place], [OTHER_CLASS, OTHER_PLACE], NO_LABEL)
    # If another detection matches the label with a higher score, a badly placed box is an error of the detector.
    doubt = np.where(other_class, label_score, np.where(other_place, 1 - (1 - overlap) * (1 - label_score), overlap))
    table = _table(analysis, detections, score * (1 - doubt), suspicion, detections.label.to_numpy(), score)
    table["object"] = np.where(other_class | other_place, near, -1)
    return table[(kind != "classification") | is_better]


def _by_labels(analysis: Analysis, threshold: Floats) -> pd.DataFrame:
    """Rows for the labels that no detection of their class matches above the threshold."""
    objects, detections = analysis.objects, analysis.detections
    labels = analysis.unmatched(threshold)
    recall = 1 - labels.groupby("label").size().div(objects.groupby("label").size(), fill_value=0)
    overlapping = detections[(detections.near >= 0) & (detections.overlap > BACKGROUND)]
    best_score = overlapping.groupby("near").score.max().reindex(labels.index).fillna(0.0).to_numpy()
    # Queries that match nothing have scores far below the threshold, and their boxes can be anywhere. So the
    # score is divided by the threshold.
    thresholds = analysis.threshold_of_rows(threshold, labels)
    share = np.divide(best_score, thresholds, out=np.ones(len(labels)), where=thresholds > 0).clip(max=1)
    certainty = labels.label.map(recall).to_numpy(dtype=float) * (1 - share)
    suspicion, detected = np.full(len(labels), NO_DETECTION), np.full(len(labels), -1)
    table = _table(analysis, labels, certainty, suspicion, detected, np.full(len(labels), np.nan))
    return table.assign(object=labels.index.to_numpy())


def _without_repetition(rows: pd.DataFrame) -> pd.DataFrame:
    """Remove detections without a label that overlap a detection with a higher certainty.

    rows: sorted by certainty, the highest first.
    """
    detected = rows[(rows.detected >= 0).to_numpy()].reset_index(drop=True)
    is_kept = np.ones(len(detected), dtype=bool)
    boxes, alone = detected[_BOX].to_numpy(), (detected.object < 0).to_numpy()
    for places in detected.groupby("path").indices.values():
        ious = np.asarray(overlaps.iou(boxes[places], boxes[places], [False] * len(places))).reshape(len(places), -1)
        for row, index in enumerate(places):
            better = places[:row]
            is_kept[index] = not (alone[index] and (is_kept[better] & (ious[row, :row] >= POSITIVE)).any())
    dropped = np.zeros(len(rows), dtype=bool)
    dropped[np.flatnonzero((rows.detected >= 0).to_numpy())] = ~is_kept
    return rows[~dropped]


def _table(
    analysis: Analysis, boxes: pd.DataFrame, certainty: Floats, suspicion: object, detected: object, score: Floats
) -> pd.DataFrame:
    table = boxes[_BOX].reset_index(drop=True)
    path = analysis.images.path.to_numpy()[boxes.image.to_numpy()]
    return table.assign(certainty=certainty, suspicion=suspicion, path=path, detected=detected, score=score)
