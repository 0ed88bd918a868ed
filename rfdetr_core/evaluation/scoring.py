"""Detections scored against a split's annotations, and the tables of the scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfdetr_core.evaluation import tables
from rfdetr_core.evaluation.judgement import ImageJudgement, Row, confusions, judge
from rfdetr_core.metrics.coco import CocoScores, score

TABLES = ("per_class.csv", "pr_curve.csv", "per_image.csv", "confusion.csv")


@dataclass(frozen=True)
class Scored:
    """masks: None for a detector of boxes. threshold: the score that counts in the judgements."""

    images: int
    boxes: CocoScores
    masks: CocoScores | None
    threshold: float
    judgements: list[ImageJudgement]

    @classmethod
    def of(cls, annotations: Row, results: list[Row], *, segmentation: bool, threshold: float | None) -> Scored:
        """Score results in COCO's format. threshold: None for that of the best F1, or 0.5 where there is none."""
        boxes, masks = score(annotations, results), score(annotations, results, "segm") if segmentation else None
        main = masks or boxes
        if threshold is None:
            threshold = 0.5 if math.isnan(main.threshold) else main.threshold
        return cls(
            len(annotations["images"]), boxes, masks, threshold, judge(annotations, results, main.matches, threshold)
        )

    def numbers(self) -> dict[str, Any]:
        """The numbers of metrics.json."""
        return {
            "images": self.images,
            "objects": sum(one.instances for one in self.boxes.per_class),
            **tables.numbers(self.boxes),
            **({"masks": tables.numbers(self.masks)} if self.masks else {}),
        }

    def write(self, folder: Path, names: Mapping[int, str]) -> None:
        """Write TABLES. names: of the classes, by id."""
        tables.write_per_class(folder / "per_class.csv", self.boxes, self.masks)
        tables.write_curve(folder / "pr_curve.csv", self.boxes, self.masks)
        tables.write_judgements(folder / "per_image.csv", self.judgements)
        tables.write_csv(folder / "confusion.csv", ["actual", "predicted"], confusions(self.judgements, names))
