"""What is drawn over pictures: the labels and detections of one evaluation, coloured by what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rfdetr_core.evaluation.analysis import Analysis, Results, coded_bytes
from rfdetr_core.metrics.coco import Floats, Row
from rfdetr_core.report.evaluation.album import Outline
from rfdetr_core.report.gallery import Group

GROUPS = (
    Group("label, found", "#009E73", unnamed=True),
    Group("label, missed", "#E69F00", unnamed=True),
    Group("detection, right", "#0072B2", unnamed=True),
    Group("detection, wrong", "#D55E00", unnamed=True),
    # What a crop is about has its name drawn.
    Group("label", "#E69F00"),
    Group("detection", "#D55E00"),
)
_FOUND, _LOST, _GOOD, _BAD, LABEL, SEEN = range(6)
LEGEND = [(group.name, group.color) for group in GROUPS[:4]]
_SHAPES = 60  # drawn over one small picture


class Sketch:
    """Outlines of the labels of a split and of the detections above a threshold, by the rows of an analysis."""

    def __init__(self, analysis: Analysis, thresholds: Floats, results: Results, annotations: Row) -> None:
        self.analysis, self._results = analysis, results
        self.above, self._unmatched = (
            analysis.detections_above(thresholds),
            set(analysis.unmatched(thresholds).index.tolist()),
        )
        self._seen_in = self.above.groupby("image").indices
        self._there_in = analysis.objects.groupby("image").indices
        self._masks = {}
        if analysis.kind == "segm":
            truth = analysis.evaluator.coco_gt
            self._masks = {row["id"]: truth.ann_to_rle(row) for row in annotations["annotations"]}

    def whole(self, image: int) -> list[Outline]:
        """What `every` has of an image, as far as one small picture can show it."""
        return self.every(image)[:_SHAPES]

    def every(self, image: int) -> list[Outline]:
        """All labels and detections of an image, wrong and missed ones first."""
        seen = self.above.iloc[self._seen_in.get(image, [])]
        right = (seen.object >= 0).tolist()
        detections = [self.detection(row, _GOOD if good else _BAD) for row, good in zip(seen.index, right, strict=True)]
        return sorted([*self._labels(image), *detections], key=lambda outline: outline.group not in (_LOST, _BAD))

    def around(self, image: int, about: Sequence[Outline]) -> list[Outline]:
        """Some outlines of an image, with all labels that are not among them."""
        known = {outline.box for outline in about}
        return [*about, *(outline for outline in self._labels(image) if outline.box not in known)]

    def label(self, row: int, group: int = LABEL) -> Outline:
        """A label that a crop is about."""
        label = self.analysis.objects.loc[row]
        name = self.analysis.classes[int(label.label)]
        return Outline(_box(label), group, "dashed", name, self._masks.get(int(label.annotation)))

    def detection(self, row: int, group: int = SEEN) -> Outline:
        """A detection that a crop is about."""
        seen, mask = self.analysis.detections.loc[row], None
        if self._masks and self._results.segmentation is not None:
            mask = coded_bytes(self._results.segmentation[int(seen["row"])])
        text = f"{self.analysis.classes[int(seen.label)]} {seen.score:.2f}"
        return Outline(_box(seen), group, "bold" if group == SEEN else "", text, mask)

    def _labels(self, image: int) -> list[Outline]:
        rows: list[int] = np.asarray(self._there_in.get(image, []), dtype=np.int64).tolist()
        return [self.label(row, _LOST if row in self._unmatched else _FOUND) for row in rows]


def _box(row: Any) -> tuple[float, float, float, float]:
    return float(row.x), float(row.y), float(row.width), float(row.height)
