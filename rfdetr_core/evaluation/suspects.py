"""Suspected label errors: where a detector and the labels disagree, and the detector is likely to be right."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rfdetr_core.evaluation.analysis import BACKGROUND, Analysis
from rfdetr_core.evaluation.operating import best_f1
from rfdetr_core.metrics.coco import Floats

NO_LABEL, NO_DETECTION = "no label", "no detection"
OTHER_CLASS, OTHER_PLACE = "another class", "another place"
COLUMNS = ["certainty", "suspicion", "image", "annotation", "label", "detected", "score", "x", "y", "width", "height"]
_EXPLAINED = {
    NO_LABEL: "a detection with a high score where no label is",
    NO_DETECTION: "a label that nothing finds",
    OTHER_CLASS: "a label of another class than a detection with a high score",
    OTHER_PLACE: "a label that a detection with a high score overlaps only in part",
}
"""What each suspicion means."""


def suspects(analysis: Analysis) -> pd.DataFrame:
    """Suspected label errors (COLUMNS), the most certain first; a label stands in one row at most.

    certainty: 0 to 1. Of a detection its score, lowered by what else could explain it; of a label that nothing finds
    the recall of its class without a threshold, less the best score beside it. The box is the detection's, or the
    label's where nothing finds it; annotation is empty where there is no label.
    """
    threshold = np.array([best_f1(curve).threshold for curve in analysis.curves])
    rows = pd.concat([_by_detections(analysis, np.nan_to_num(threshold, nan=0.5)), _by_labels(analysis)])
    rows = rows.sort_values(["certainty", "path", "x", "y"], ascending=[False, True, True, True], kind="stable")
    labelled = rows.object >= 0
    rows = rows[~labelled | ~rows.object.where(labelled).duplicated()]
    ids, names = analysis.objects.annotation.to_numpy(), analysis.classes
    has = rows.object.to_numpy() >= 0
    place = rows.object.to_numpy()[has]
    rows = rows.assign(annotation=pd.array([pd.NA] * len(rows), dtype="Int64"), label="", image=rows.path)
    rows.loc[has, "annotation"] = ids[place]
    rows.loc[has, "label"] = [names[label] for label in analysis.objects.label.to_numpy()[place].tolist()]
    rows["detected"] = [names.get(label, "") for label in rows.detected.tolist()]
    return rows[COLUMNS].reset_index(drop=True)


def _by_detections(analysis: Analysis, threshold: Floats) -> pd.DataFrame:
    found = analysis.above(threshold)
    found = found[found.kind.isin(["background", "localisation", "classification", "both"])]
    unfound = set(analysis.unfound(threshold).index.tolist())
    free = np.array([row in unfound for row in found.near.tolist()], dtype=bool)
    kind = found.kind.to_numpy()
    score, overlap = found.score.to_numpy(), found.overlap.to_numpy()
    other_class, other_place = free & (kind == "classification"), free & (kind == "localisation")
    suspicion = np.select([other_class, other_place], [OTHER_CLASS, OTHER_PLACE], NO_LABEL)
    # A box beside a label that something else found is the detector's own error rather than a label's.
    certainty = score * np.where(other_class, 1.0, np.where(other_place, 1.0 - overlap, 1.0 - overlap))
    table = _table(analysis, found, certainty, suspicion, found.label.to_numpy(), score)
    table["object"] = np.where(other_class | other_place, found.near.to_numpy(), -1)
    return table[(kind != "classification") | free]


def _by_labels(analysis: Analysis) -> pd.DataFrame:
    """Labels that no detection of their class matches, whatever its score."""
    objects, found = analysis.objects, analysis.detections
    left = objects[objects.found.isna()]
    recall = 1 - left.groupby("label").size().div(objects.groupby("label").size(), fill_value=0)
    beside = found[(found.near >= 0) & (found.overlap > BACKGROUND)].groupby("near").score.max()
    best = beside.reindex(left.index).fillna(0.0).to_numpy()
    certainty = left.label.map(recall).to_numpy(dtype=float) * (1 - best)
    nothing = np.full(len(left), -1)
    table = _table(analysis, left, certainty, np.full(len(left), NO_DETECTION), nothing, np.full(len(left), np.nan))
    return table.assign(object=left.index.to_numpy())


def _table(
    analysis: Analysis, boxes: pd.DataFrame, certainty: Floats, suspicion: object, detected: object, score: Floats
) -> pd.DataFrame:
    table = boxes[["x", "y", "width", "height"]].reset_index(drop=True)
    path = analysis.images.path.to_numpy()[boxes.image.to_numpy()]
    return table.assign(certainty=certainty, suspicion=suspicion, path=path, detected=detected, score=score)
