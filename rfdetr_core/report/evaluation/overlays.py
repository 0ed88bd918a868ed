"""The labels and detections of an evaluation as outlines over pictures, coloured by found, missed, right and wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rfdetr_core.evaluation.analysis import Analysis, Results, coded_bytes
from rfdetr_core.metrics.coco import Floats, Row
from rfdetr_core.report.evaluation.picture_requests import Outline
from rfdetr_core.report.gallery import Group

GROUPS = (
    Group("label, found", "#009E73", unnamed=True),
    Group("label, missed", "#E69F00", unnamed=True),
    Group("detection, right", "#0072B2", unnamed=True),
    Group("detection, wrong", "#D55E00", unnamed=True),
    # The label and the detection that a crop shows have their names drawn.
    Group("label", "#E69F00"),
    Group("detection", "#D55E00"),
)
_FOUND, _LOST, _GOOD, _BAD, LABEL, DETECTION = range(6)
LEGEND = [(group.name, group.color) for group in GROUPS[:4]]
_SHAPES = 60  # the most outlines over a small picture


class Overlays:
    """Outlines of the labels of a split and of the detections above the thresholds. Rows are those of `analysis`."""

    def __init__(self, analysis: Analysis, thresholds: Floats, results: Results, annotations: Row) -> None:
        self.analysis, self._results = analysis, results
        self.above = analysis.detections_above(thresholds)
        self._unmatched = set(analysis.unmatched(thresholds).index.tolist())
        self._detections_of_image = self.above.groupby("image").indices
        self._objects_of_image = analysis.objects.groupby("image").indices
        self._masks = {}
        if analysis.kind == "segm":
            truth = analysis.evaluator.coco_gt
            self._masks = {row["id"]: truth.ann_to_rle(row) for row in annotations["annotations"]}

    def first_outlines(self, image: int) -> list[Outline]:
        """The first of `all_outlines`, as many as a small picture can show."""
        return self.all_outlines(image)[:_SHAPES]

    def all_outlines(self, image: int) -> list[Outline]:
        """All labels and detections of an image. Wrong detections and missed labels come first."""
        table = self.above.iloc[self._detections_of_image.get(image, [])]
        right = (table.object >= 0).tolist()
        detections = [
            self.detection(row, _GOOD if is_right else _BAD) for row, is_right in zip(table.index, right, strict=True)
        ]
        return sorted([*self._labels(image), *detections], key=lambda outline: outline.group not in (_LOST, _BAD))

    def with_labels(self, image: int, outlines: Sequence[Outline]) -> list[Outline]:
        """The given outlines of an image, and all its other labels."""
        boxes = {outline.box for outline in outlines}
        return [*outlines, *(outline for outline in self._labels(image) if outline.box not in boxes)]

    def label(self, row: int, group: int = LABEL) -> Outline:
        """The outline of a label. group: by default that of the label that a crop shows."""
        label = self.analysis.objects.loc[row]
        name = self.analysis.classes[int(label.label)]
        return Outline(_box(label), group, "dashed", name, self._masks.get(int(label.annotation)))

    def detection(self, row: int, group: int = DETECTION) -> Outline:
        """The outline of a detection. group: by default that of the detection that a crop shows."""
        detection, mask = self.analysis.detections.loc[row], None
        if self._masks and self._results.segmentation is not None:
            mask = coded_bytes(self._results.segmentation[int(detection["row"])])
        text = f"{self.analysis.classes[int(detection.label)]} {detection.score:.2f}"
        return Outline(_box(detection), group, "bold" if group == DETECTION else "", text, mask)

    def _labels(self, image: int) -> list[Outline]:
        rows: list[int] = np.asarray(self._objects_of_image.get(image, []), dtype=np.int64).tolist()
        return [self.label(row, _LOST if row in self._unmatched else _FOUND) for row in rows]


def _box(row: Any) -> tuple[float, float, float, float]:
    return float(row.x), float(row.y), float(row.width), float(row.height)
