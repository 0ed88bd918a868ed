"""The numbers and tables of an evaluation, and which detections are right at the threshold."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pycocotools import mask as overlaps

from rfdetr_core.base import files
from rfdetr_core.metrics.coco import RECALLS, CocoScores, ImageMatches, Row, score

DECIMALS = 6  # of the tables
TABLES = ("per_class.csv", "pr_curve.csv", "per_image.csv", "confusion.csv")


@dataclass(frozen=True)
class ImageJudgement:
    """found: pairs of a detection and the annotation of its class that it matches at IoU 0.5. Crowds are left out."""

    image: Row
    correct: list[tuple[Row, Row]]
    wrong: list[Row]
    missed: list[Row]

    @property
    def empty(self) -> bool:
        """Nothing is there and nothing was seen."""
        return not (self.correct or self.wrong or self.missed)

    @property
    def f1(self) -> float:
        """2 found / (2 found + wrong + missed); 1 where nothing is there and nothing was seen."""
        hits = len(self.correct)
        return 1.0 if self.empty else 2 * hits / (2 * hits + len(self.wrong) + len(self.missed))


def judge(
    annotations: Row, results: list[Row], matches: Mapping[int, ImageMatches], threshold: float
) -> list[ImageJudgement]:
    """Judge every image by the detections with a score above the threshold, in the order of the annotations' images."""
    truth = {annotation["id"]: annotation for annotation in annotations["annotations"]}
    judgements = []
    for image in annotations["images"]:
        match = matches[image["id"]]
        pairs = sorted(match.pairs, key=lambda pair: -results[pair[0]]["score"])
        above = [pair for pair in pairs if results[pair[0]]["score"] > threshold]
        below = {number for _, number in pairs[len(above) :] if number is not None}
        correct = [(results[place], truth[number]) for place, number in above if number is not None]
        wrong = [results[place] for place, number in above if number is None]
        missed = [truth[number] for number in sorted({*match.missed, *below})]
        judgements.append(ImageJudgement(image, correct, wrong, missed))
    return judgements


def background_name(classes: Iterable[str]) -> str:
    """The name of "nothing is there" in the confusion table: no class has it, in whichever case and white space."""
    taken, name = {"".join(class_name.split()).casefold() for class_name in classes}, "background"
    while name in taken:
        name = f"({name})"
    return name


def confusions(judgements: list[ImageJudgement], names: Mapping[int, str]) -> list[tuple[str, str]]:
    """(actual, predicted) class of every object and every detection.

    A wrong detection is a confusion with the missed object of another class that its box overlaps most, if IoU is 0.5
    or more; the best score chooses first. What is left over is paired with the background, named by background_name.
    """
    rows, background = [], background_name(names.values())
    for judgement in judgements:
        rows += [(names[truth["category_id"]], names[seen["category_id"]]) for seen, truth in judgement.correct]
        missed = dict(enumerate(judgement.missed))
        for seen in judgement.wrong:
            near = {number: iou for number, iou in _overlaps(seen, missed).items() if iou >= 0.5}
            taken = missed.pop(max(near, key=lambda number: near[number])) if near else None
            rows.append((names[taken["category_id"]] if taken else background, names[seen["category_id"]]))
        rows += [(names[truth["category_id"]], background) for truth in missed.values()]
    return rows


def _overlaps(seen: Row, missed: Mapping[int, Row]) -> dict[int, float]:
    """IoU of a detection's box with those of the objects of other classes."""
    others = {number: row for number, row in missed.items() if row["category_id"] != seen["category_id"]}
    if not others:
        return {}
    ious = overlaps.iou(np.array([seen["bbox"]]), np.array([row["bbox"] for row in others.values()]), [0] * len(others))
    return dict(zip(others, ious[0].tolist(), strict=True))


def numbers(scores: CocoScores) -> dict[str, Any]:
    """COCO's twelve numbers and the best F1; what could not be measured is null."""
    return {name: None if math.isnan(value) else value for name, value in scores.numbers().items()}


def not_measured(values: Mapping[str, Any]) -> str:
    """Why numbers are null; nothing where none is."""
    reasons: dict[str, list[str]] = {}
    for name, value in values.items():
        if value is None:
            size = name.rpartition("_")[2]
            kind = f"{size} object" if size in ("small", "medium", "large") else "object"
            reasons.setdefault(f"the split has no {kind}", []).append(name)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())


def write_per_class(path: Path, boxes: CocoScores, masks: CocoScores | None) -> None:
    """One row per class, in the order of the class table."""
    names = ["instances", "ap", "ap_50", "precision", "recall", "f1", "best_threshold", "best_f1"]
    header = ["class", *names, *([f"mask_{name}" for name in names[1:]] if masks else [])]
    rows = [attrgetter("name", *names)(scores) for scores in boxes.per_class]
    if masks:
        rows = [row + attrgetter(*names[1:])(scores) for row, scores in zip(rows, masks.per_class, strict=True)]
    _write_rounded(path, header, rows)


def write_curve(path: Path, boxes: CocoScores, masks: CocoScores | None) -> None:
    """Precision over recall at IoU 0.5, the mean over the classes with instances; no rows where there is none."""
    curves = [RECALLS.tolist(), _mean_curve(boxes), *([_mean_curve(masks)] if masks else [])]
    _write_rounded(path, ["recall", "precision", "mask_precision"][: len(curves)], zip(*curves, strict=False))


def _write_rounded(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table; floats with DECIMALS digits after the point."""
    rounded = ([round(value, DECIMALS) if isinstance(value, float) else value for value in row] for row in rows)
    files.write_table(path, rounded, header)


def write_results(path: Path, results: Iterable[dict[str, Any]], kind: Literal["bbox", "segmentation"]) -> None:
    """The boxes or the masks of detections in COCO's results format, one a line, with the digits that were scored.

    Not both in one file: COCO.loadRes would take the area of the box for that of the mask.
    """
    keys = ("image_id", "category_id", kind, "score")
    rows = [{key: result[key] for key in keys} for result in results if kind in result]
    lines = [json.dumps(row, separators=(",", ":"), allow_nan=False) for row in rows]
    files.write_text(path, "[\n" + ",\n".join(lines) + "\n]\n" if lines else "[]\n")


def _mean_curve(scores: CocoScores) -> list[float]:
    present = np.array([class_scores.precisions for class_scores in scores.per_class if class_scores.instances])
    return np.mean(present, axis=0).tolist() if len(present) else []


@dataclass(frozen=True)
class Scored:
    """masks: None for a detector of boxes. threshold: the score that counts in the judgements."""

    images: int
    boxes: CocoScores
    masks: CocoScores | None
    threshold: float
    judgements: list[ImageJudgement]

    @classmethod
    def from_results(
        cls, annotations: Row, results: list[Row], *, segmentation: bool, threshold: float | None
    ) -> Scored:
        """Score results in COCO's format. threshold: None for that of the best F1, or 0.5 where there is none."""
        boxes, masks = score(annotations, results), score(annotations, results, "segm") if segmentation else None
        main = masks or boxes
        if threshold is None:
            threshold = 0.5 if math.isnan(main.threshold) else main.threshold
        judgements = judge(annotations, results, main.matches, threshold)
        return cls(len(annotations["images"]), boxes, masks, threshold, judgements)

    def numbers(self) -> dict[str, Any]:
        """The numbers of metrics.json."""
        objects = sum(class_scores.instances for class_scores in self.boxes.per_class)
        masks = {"masks": numbers(self.masks)} if self.masks else {}
        return {"images": self.images, "objects": objects, **numbers(self.boxes), **masks}

    def write(self, folder: Path, names: Mapping[int, str]) -> None:
        """Write TABLES. names: of the classes, by id."""
        write_per_class(folder / "per_class.csv", self.boxes, self.masks)
        write_curve(folder / "pr_curve.csv", self.boxes, self.masks)
        judged = self.judgements
        every = [
            [
                judgement.image["file_name"],
                judgement.f1,
                len(judgement.correct),
                len(judgement.wrong),
                len(judgement.missed),
            ]
            for judgement in judged
        ]
        _write_rounded(folder / "per_image.csv", ["image", "f1", "found", "wrong", "missed"], every)
        files.write_table(folder / "confusion.csv", confusions(judged, names), ["actual", "predicted"])
