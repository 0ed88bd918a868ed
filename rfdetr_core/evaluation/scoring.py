"""The numbers and tables of an evaluation, and which detections are right at the score threshold."""

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

DECIMALS = 6  # digits after the point in the tables
TABLES = ("per_class.csv", "pr_curve.csv", "per_image.csv", "confusion.csv")


@dataclass(frozen=True)
class ImageJudgement:
    """The right and wrong detections of an image, and its missed objects. Crowd regions are left out.

    correct: pairs of a detection and the annotation of its class that it matches at IoU 0.5. wrong: the other
    detections. missed: the annotations that no detection matches.
    """

    image: Row
    correct: list[tuple[Row, Row]]
    wrong: list[Row]
    missed: list[Row]

    @property
    def empty(self) -> bool:
        """Whether the image has no objects and no detections."""
        return not (self.correct or self.wrong or self.missed)

    @property
    def f1(self) -> float:
        """2 correct / (2 correct + wrong + missed). It is 1 for an image without objects and detections."""
        hits = len(self.correct)
        return 1.0 if self.empty else 2 * hits / (2 * hits + len(self.wrong) + len(self.missed))


def judge(
    annotations: Row, results: list[Row], matches: Mapping[int, ImageMatches], threshold: float
) -> list[ImageJudgement]:
    """Judge each image by its detections above the threshold.

    Args:
        annotations: Canonical annotations. The result has the order of their images.
        results: Detections in COCO's results format.
        matches: The matches of all detections by image id.
        threshold: Detections with a higher score count.
    """
    truth = {annotation["id"]: annotation for annotation in annotations["annotations"]}
    judgements = []
    for image in annotations["images"]:
        match = matches[image["id"]]
        pairs = sorted(match.pairs, key=lambda pair: -results[pair[0]]["score"])
        above = [pair for pair in pairs if results[pair[0]]["score"] > threshold]
        below = {number for _, number in pairs[len(above) :] if number is not None}
        correct = [(results[index], truth[number]) for index, number in above if number is not None]
        wrong = [results[index] for index, number in above if number is None]
        missed = [truth[number] for number in sorted({*match.missed, *below})]
        judgements.append(ImageJudgement(image, correct, wrong, missed))
    return judgements


def background_name(classes: Iterable[str]) -> str:
    """The name of the background in the confusion table: "background", in brackets if a class has this name.

    Case and white space are ignored in this comparison.
    """
    taken, name = {"".join(class_name.split()).casefold() for class_name in classes}, "background"
    while name in taken:
        name = f"({name})"
    return name


def confusions(judgements: list[ImageJudgement], names: Mapping[int, str]) -> list[tuple[str, str]]:
    """The pair (actual class, predicted class) of every object and every detection.

    1. A right detection is paired with its object.
    2. A wrong detection is paired with the missed object of another class that its box overlaps most, if the IoU is 0.5
       or more. The detections with the highest scores are paired first.
    3. All other objects and detections are paired with the background (`background_name`).
    """
    rows, background = [], background_name(names.values())
    for judgement in judgements:
        rows += [
            (names[truth["category_id"]], names[detection["category_id"]]) for detection, truth in judgement.correct
        ]
        missed = dict(enumerate(judgement.missed))
        for detection in judgement.wrong:
            near = {number: iou for number, iou in _overlaps(detection, missed).items() if iou >= 0.5}
            truth = missed.pop(max(near, key=lambda number: near[number])) if near else None
            rows.append((names[truth["category_id"]] if truth else background, names[detection["category_id"]]))
        rows += [(names[truth["category_id"]], background) for truth in missed.values()]
    return rows


def _overlaps(detection: Row, missed: Mapping[int, Row]) -> dict[int, float]:
    """The IoU of a detection's box with the box of each missed object of another class."""
    objects = {number: row for number, row in missed.items() if row["category_id"] != detection["category_id"]}
    if not objects:
        return {}
    boxes = np.array([row["bbox"] for row in objects.values()])
    ious = overlaps.iou(np.array([detection["bbox"]]), boxes, [0] * len(objects))
    return dict(zip(objects, ious[0].tolist(), strict=True))


def numbers(scores: CocoScores) -> dict[str, Any]:
    """COCO's twelve numbers and the highest F1. None: could not be measured."""
    return {name: None if math.isnan(value) else value for name, value in scores.numbers().items()}


def not_measured(values: Mapping[str, Any]) -> str:
    """Why numbers are null, as text; "" if none is null."""
    reasons: dict[str, list[str]] = {}
    for name, value in values.items():
        if value is None:
            size = name.rpartition("_")[2]
            kind = f"{size} object" if size in ("small", "medium", "large") else "object"
            reasons.setdefault(f"the split has no {kind}", []).append(name)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())


def write_per_class(path: Path, boxes: CocoScores, masks: CocoScores | None) -> None:
    """Write one row per class, in the order of the class table.

    Args:
        path: The CSV file to write.
        boxes: The scores of the boxes.
        masks: The scores of the masks. None: the table has no columns for masks.
    """
    names = ["instances", "ap", "ap_50", "precision", "recall", "f1", "best_threshold", "best_f1"]
    header = ["class", *names, *([f"mask_{name}" for name in names[1:]] if masks else [])]
    rows = [attrgetter("name", *names)(scores) for scores in boxes.per_class]
    if masks:
        rows = [row + attrgetter(*names[1:])(scores) for row, scores in zip(rows, masks.per_class, strict=True)]
    _write_rounded(path, header, rows)


def write_curve(path: Path, boxes: CocoScores, masks: CocoScores | None) -> None:
    """Write precision over recall at IoU 0.5: the mean over the classes with instances. No rows if no class has one.

    Args:
        path: The CSV file to write.
        boxes: The scores of the boxes.
        masks: The scores of the masks. None: the table has no column for masks.
    """
    curves = [RECALLS.tolist(), _mean_curve(boxes), *([_mean_curve(masks)] if masks else [])]
    _write_rounded(path, ["recall", "precision", "mask_precision"][: len(curves)], zip(*curves, strict=False))


def _write_rounded(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table. Floats have DECIMALS digits after the point."""
    rounded = ([round(value, DECIMALS) if isinstance(value, float) else value for value in row] for row in rows)
    files.write_table(path, rounded, header)


def write_results(path: Path, results: Iterable[dict[str, Any]], kind: Literal["bbox", "segmentation"]) -> None:
    """Write the boxes or the masks of detections in COCO's results format, one per line, with all digits.

    Boxes and masks are in separate files: in a file with both, COCO.loadRes would use the box area for the mask.

    Args:
        path: The JSON file to write.
        results: Detections in COCO's results format, each with its box and maybe its mask.
        kind: The key that is written. Detections without it are left out.
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
    """The scores of an evaluation. masks: None for a detector of boxes. threshold: the score threshold of the
    judgements."""

    images: int
    boxes: CocoScores
    masks: CocoScores | None
    threshold: float
    judgements: list[ImageJudgement]

    @classmethod
    def from_results(
        cls, annotations: Row, results: list[Row], *, segmentation: bool, threshold: float | None
    ) -> Scored:
        """Score detections.

        Args:
            annotations: Canonical annotations.
            results: Detections in COCO's results format.
            segmentation: Score masks too.
            threshold: The score threshold of the judgements. None: the one with the highest F1, or 0.5 without an F1.
        """
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
        """Write TABLES into a folder. names: the names of the classes by id."""
        write_per_class(folder / "per_class.csv", self.boxes, self.masks)
        write_curve(folder / "pr_curve.csv", self.boxes, self.masks)
        images = [
            [image.image["file_name"], image.f1, len(image.correct), len(image.wrong), len(image.missed)]
            for image in self.judgements
        ]
        _write_rounded(folder / "per_image.csv", ["image", "f1", "found", "wrong", "missed"], images)
        files.write_table(folder / "confusion.csv", confusions(self.judgements, names), ["actual", "predicted"])
