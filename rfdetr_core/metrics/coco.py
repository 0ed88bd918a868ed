"""COCO's twelve scores and the best F1, of boxes or of masks.

pycocotools does the matching; where it says -1 (nothing to measure) the scores here are NaN.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from rfdetr_core.base.errors import UserError
from rfdetr_core.ops.structures import Detections

RECALLS = np.linspace(0, 1, 101)  # where precision is sampled
THRESHOLDS = np.linspace(0, 1, 101)  # of the score, where F1 is tried
Kind = Literal["bbox", "segm"]  # boxes or masks
Row = dict[str, Any]  # an image, annotation or detection in COCO's format, or the content of an annotation file
Record = dict[str, Any]  # what COCOeval notes of one image and one class
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class, NaN where it has no instance; crowds are no instances.

    precision, recall, f1: at IoU 0.5 and the threshold that is best for all classes. best_threshold, best_f1: its own.
    precisions: at IoU 0.5 and each of RECALLS.
    """

    index: int
    name: str
    instances: int
    ap: float
    ap_50: float
    precision: float
    recall: float
    f1: float
    best_threshold: float
    best_f1: float
    precisions: tuple[float, ...]


@dataclass(frozen=True)
class ImageMatches:
    """Which detection found which annotation of its class in an image, at IoU 0.5; crowds and what they hide left out.

    pairs: places in the list of detections, each with the id of its annotation, or None where it is wrong. Matching is
    greedy by score, so the pairs above a threshold are those that the detections above it would form alone.
    missed: ids of the annotations that no detection found.
    """

    pairs: tuple[tuple[int, int | None], ...]
    missed: tuple[int, ...]


@dataclass(frozen=True)
class CocoScores:
    """The twelve numbers in COCO's order. Then, at IoU 0.5, the highest F1 over 101 thresholds of the score, as a mean
    over the classes with instances; the lowest threshold that gives it, and the mean precision and recall there."""

    map: float
    map_50: float
    map_75: float
    map_small: float
    map_medium: float
    map_large: float
    mar_1: float
    mar_10: float
    mar_100: float
    mar_small: float
    mar_medium: float
    mar_large: float
    threshold: float
    precision: float
    recall: float
    f1: float
    per_class: tuple[ClassScores, ...]
    matches: dict[int, ImageMatches]  # by image id

    def numbers(self) -> dict[str, float]:
        """The single numbers by name, those of metrics.json."""
        return {name: value for name, value in vars(self).items() if isinstance(value, float)}


def coco_results(image_id: int, detections: Detections) -> list[Row]:
    """Detections of an image in COCO's results format: boxes as left, top, width, height; masks as compressed RLE."""
    boxes = detections.boxes.double().cpu()
    boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()
    rows = zip(detections.labels.tolist(), boxes, detections.scores.tolist(), strict=True)
    results = [{"image_id": image_id, "category_id": row[0], "bbox": row[1], "score": row[2]} for row in rows]
    if detections.masks is not None:
        for result, mask in zip(results, detections.masks.cpu(), strict=True):
            result["segmentation"] = coded_mask(mask)
    return results


def coded_mask(mask: Tensor) -> dict[str, Any]:
    """A bool mask (H, W) as compressed RLE."""
    coded: dict[str, Any] = rle.encode(np.asfortranarray(mask.numpy(), dtype=np.uint8))
    return coded | {"counts": coded["counts"].decode("ascii")}


def score(annotations: Row, detections: list[Row], iou_type: Kind = "bbox", max_dets: int = 100) -> CocoScores:
    """Score detections (COCO's results format) against canonical COCO annotations; neither is changed.

    Small, medium and large go by an annotation's `area`, and by the area of a detection's box or mask.
    max_dets: how many detections of an image and class count, the best first; mar_100 is named for COCO's 100.

    Raises:
        UserError: masks are to be scored and an annotation has none.
    """
    require_masks(annotations, iou_type)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = indexed(annotations, [dict(row) for row in annotations["annotations"]])
        evaluation = COCOeval(truth, indexed(annotations, numbered(detections, iou_type)), iou_type)
        evaluation.params.maxDets = [1, min(10, max_dets), max_dets]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precisions = measured(evaluation.eval["precision"])[:, :, :, 0, -1]
    stats = measured(evaluation.stats)
    if max_dets != 100:  # pycocotools looks for this one at 100 alone
        stats[0] = mean_of(precisions)
    records: dict[int, list[Record]] = {category["id"]: [] for category in annotations["categories"]}
    for record in evaluation.evalImgs:
        if record and record["aRng"] == evaluation.params.areaRng[0]:
            records[record["category_id"]].append(record)
    return replace(summary(annotations, precisions, stats, records), matches=_matches(annotations, records))


def require_masks(annotations: Row, iou_type: str) -> None:
    """Raise a UserError where masks are to be scored and an annotation has none."""
    for annotation in annotations["annotations"] if iou_type == "segm" else ():
        if not annotation.get("segmentation"):
            raise UserError(f"annotation {annotation['id']} has no segmentation, so masks cannot be scored. Add it.")


def summary(annotations: Row, precisions: Floats, stats: Floats, records: dict[int, list[Record]]) -> CocoScores:
    """Scores from precisions (IoU, recall, K), COCO's twelve numbers and what was noted of every class; no matches."""
    records = dict(sorted(records.items()))
    names = {category["id"]: category["name"] for category in annotations["categories"]}
    curves = np.array([_curves(of_class) for of_class in records.values()]).reshape(-1, 3, len(THRESHOLDS))
    instances = [sum(int((record["gtIgnore"] == 0).sum()) for record in of_class) for of_class in records.values()]
    present = np.array(instances, dtype=int) > 0
    mean = curves[present].mean(axis=0) if present.any() else np.full(curves.shape[1:], np.nan)
    best = int(mean[2].argmax())
    per_class = tuple(
        ClassScores(
            index,
            names[index],
            instances[k],
            float(precisions[:, :, k].mean()),
            float(precisions[0, :, k].mean()),
            precision=float(curves[k, 0, best]),
            recall=float(curves[k, 1, best]),
            f1=float(curves[k, 2, best]),
            best_threshold=float(THRESHOLDS[curves[k, 2].argmax()]) if present[k] else float("nan"),
            best_f1=float(curves[k, 2].max()),
            precisions=tuple(precisions[0, :, k].tolist()),
        )
        for k, index in enumerate(records)
    )
    threshold = float(THRESHOLDS[best]) if present.any() else float("nan")
    fields: list[Any] = [*stats.tolist(), threshold, *mean[:, best].tolist(), per_class, {}]
    return CocoScores(*fields)


def indexed(annotations: Row, rows: list[Row]) -> COCO:
    """The images and classes of canonical annotations with these rows, which pycocotools may change."""
    coco = COCO()
    coco.dataset = {"images": annotations["images"], "categories": annotations["categories"], "annotations": rows}
    coco.createIndex()
    return coco


def numbered(detections: list[Row], iou_type: str) -> list[Row]:
    """Detections as annotations, as by COCO.loadRes, which fails on an empty list and gives a mask its box's area."""
    if iou_type == "segm":
        # One by one: given a list of more than 255, pycocotools 2.0.11 overflows under numpy 2.
        areas = [int(rle.area(row["segmentation"])) for row in detections]
    else:
        areas = [row["bbox"][2] * row["bbox"][3] for row in detections]
    rows = enumerate(zip(detections, areas, strict=True), start=1)
    return [row | {"id": number, "area": area, "iscrowd": 0} for number, (row, area) in rows]


def measured(values: Floats) -> Floats:
    """The same, NaN where pycocotools says -1."""
    return np.where(values == -1, np.nan, values)


def mean_of(values: Floats) -> float:
    """The mean of what was measured; NaN where nothing was."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


def _curves(records: list[Record]) -> Floats:
    """Precision, recall and F1 of a class at IoU 0.5 and each of THRESHOLDS: (3, 101); 0 / 0 is 0, NaN if no instance.

    A detection counts when its score reaches the threshold (upstream's `evaluation/f1_sweep.py`).
    """
    instances = sum(int((record["gtIgnore"] == 0).sum()) for record in records)
    if not instances:
        return np.full((3, len(THRESHOLDS)), np.nan)
    counted = np.concatenate([record["dtIgnore"][0] == 0 for record in records])
    scores = np.concatenate([record["dtScores"] for record in records])[counted]
    correct = np.concatenate([record["dtMatches"][0] > 0 for record in records])[counted]
    above = scores[None, :] >= THRESHOLDS[:, None]
    hits, total = (above & correct).sum(axis=1), above.sum(axis=1)
    return np.stack([hits / np.maximum(total, 1), hits / instances, 2 * hits / (total + instances)])


def _matches(annotations: Row, records: dict[int, list[Record]]) -> dict[int, ImageMatches]:
    pairs: dict[int, list[tuple[int, int | None]]] = {image["id"]: [] for image in annotations["images"]}
    missed: dict[int, list[int]] = {image: [] for image in pairs}
    for record in (record for of_class in records.values() for record in of_class):
        detections = zip(record["dtIds"], record["dtMatches"][0], record["dtIgnore"][0], strict=True)
        pairs[record["image_id"]] += [
            (number - 1, int(match) or None) for number, match, hidden in detections if not hidden
        ]
        labels = zip(record["gtIds"], record["gtMatches"][0], record["gtIgnore"], strict=True)
        missed[record["image_id"]] += [number for number, match, ignored in labels if not match and not ignored]
    return {image: ImageMatches(tuple(pairs[image]), tuple(missed[image])) for image in pairs}
