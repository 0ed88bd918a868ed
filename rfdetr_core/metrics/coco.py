"""COCO's twelve scores and the highest F1, of boxes or of masks.

pycocotools matches detections with objects. It returns -1 where there is nothing to measure; here that is NaN.
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

RECALLS = np.linspace(0, 1, 101)  # the recalls at which precision is sampled
THRESHOLDS = np.linspace(0, 1, 101)  # the score thresholds at which F1 is computed
Kind = Literal["bbox", "segm"]  # boxes or masks
Row = dict[str, Any]  # an image, annotation or detection in COCO's format, or the content of an annotation file
Record = dict[str, Any]  # the matches of one image and one class, as COCOeval stores them in `evalImgs`
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class; NaN if the class has no instance. Crowd regions are not instances.

    precision, recall, f1: at IoU 0.5 and the threshold of `CocoScores`, which is the same for all classes.
    best_threshold, best_f1: the threshold with the highest F1 of this class, and that F1.
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
    """Which detection of an image matches which annotation of its class, at IoU 0.5.

    Crowd regions and the detections that match them are left out.

    pairs: for each detection its index in the list of all detections, and the id of the annotation that it matches, or
        None. To get the matches above a score threshold, drop the pairs with lower scores. No new matching is needed,
        because detections are matched in the order of their scores.
    missed: the ids of the annotations that no detection matches.
    """

    pairs: tuple[tuple[int, int | None], ...]
    missed: tuple[int, ...]


@dataclass(frozen=True)
class CocoScores:
    """COCO's twelve numbers in COCO's order, then the highest F1.

    f1 is the highest F1 over 101 score thresholds, at IoU 0.5: the mean over the classes with instances. threshold is
    the lowest threshold with this F1. precision and recall are the means at this threshold.
    """

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
        """The numbers of metrics.json by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, float)}


def coco_results(image_id: int, detections: Detections) -> list[Row]:
    """Convert the detections of an image to COCO's results format.

    Boxes become left, top, width and height; masks become compressed RLE.
    """
    boxes = detections.boxes.double().cpu()
    boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()
    rows = zip(detections.labels.tolist(), boxes, detections.scores.tolist(), strict=True)
    results = [{"image_id": image_id, "category_id": row[0], "bbox": row[1], "score": row[2]} for row in rows]
    if detections.masks is not None:
        for result, mask in zip(results, detections.masks.cpu(), strict=True):
            result["segmentation"] = coded_mask(mask)
    return results


def coded_mask(mask: Tensor) -> dict[str, Any]:
    """Encode a bool mask (H, W) as compressed RLE."""
    coded: dict[str, Any] = rle.encode(np.asfortranarray(mask.numpy(), dtype=np.uint8))
    return coded | {"counts": coded["counts"].decode("ascii")}


def score(annotations: Row, detections: list[Row], iou_type: Kind = "bbox", max_dets: int = 100) -> CocoScores:
    """Score detections against annotations. Neither is changed.

    Objects are small, medium or large by the `area` of their annotation; detections by the area of their box or mask.

    Args:
        annotations: Canonical COCO annotations.
        detections: Rows in COCO's results format.
        iou_type: Score boxes or masks.
        max_dets: How many detections of an image and class count, the highest scores first. COCO counts 100. The
            score is called `mar_100` for every value.

    Raises:
        UserError: masks are scored and an annotation has no mask.
    """
    require_masks(annotations, iou_type)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = build_coco(annotations, [dict(row) for row in annotations["annotations"]])
        evaluation = COCOeval(truth, build_coco(annotations, as_annotations(detections, iou_type)), iou_type)
        evaluation.params.maxDets = [1, min(10, max_dets), max_dets]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precisions = nan_for_minus_one(evaluation.eval["precision"])[:, :, :, 0, -1]
    stats = nan_for_minus_one(evaluation.stats)
    if max_dets != 100:  # pycocotools computes AP only for max_dets = 100
        stats[0] = mean_of(precisions)
    records: dict[int, list[Record]] = {category["id"]: [] for category in annotations["categories"]}
    for record in evaluation.evalImgs:
        if record and record["aRng"] == evaluation.params.areaRng[0]:
            records[record["category_id"]].append(record)
    return replace(summary(annotations, precisions, stats, records), matches=_matches(annotations, records))


def require_masks(annotations: Row, iou_type: str) -> None:
    """Raise a UserError if masks are scored and an annotation has no mask."""
    for annotation in annotations["annotations"] if iou_type == "segm" else ():
        if not annotation.get("segmentation"):
            raise UserError(
                f"annotation {annotation['id']} has no segmentation, so masks cannot be scored. Add its segmentation."
            )


def summary(annotations: Row, precisions: Floats, stats: Floats, records: dict[int, list[Record]]) -> CocoScores:
    """Build CocoScores. The field `matches` stays empty; `score` fills it.

    Args:
        annotations: Canonical COCO annotations; their classes are used.
        precisions: Precision by IoU, recall and class, (10, 101, K).
        stats: COCO's twelve numbers.
        records: The records of COCOeval by class.
    """
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


def build_coco(annotations: Row, rows: list[Row]) -> COCO:
    """A pycocotools dataset: images and classes of the annotations, with `rows` as objects. pycocotools may change
    the rows."""
    coco = COCO()
    coco.dataset = {"images": annotations["images"], "categories": annotations["categories"], "annotations": rows}
    coco.createIndex()
    return coco


def as_annotations(detections: list[Row], iou_type: str) -> list[Row]:
    """Detections with the keys of annotations: id, area and iscrowd.

    This replaces COCO.loadRes, which fails on an empty list and uses the area of the box for a mask.
    """
    if iou_type == "segm":
        # One at a time: for a list of more than 255 masks, pycocotools 2.0.11 overflows under numpy 2.
        areas = [int(rle.area(row["segmentation"])) for row in detections]
    else:
        areas = [row["bbox"][2] * row["bbox"][3] for row in detections]
    rows = enumerate(zip(detections, areas, strict=True), start=1)
    return [row | {"id": number, "area": area, "iscrowd": 0} for number, (row, area) in rows]


def nan_for_minus_one(values: Floats) -> Floats:
    """Replace -1, which pycocotools returns where there is nothing to measure, by NaN."""
    return np.where(values == -1, np.nan, values)


def mean_of(values: Floats) -> float:
    """The mean of the values that are not NaN; NaN if all values are NaN."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


def _curves(records: list[Record]) -> Floats:
    """Precision, recall and F1 of a class at IoU 0.5 and each of THRESHOLDS, (3, 101).

    A detection counts if its score is at least the threshold (as in upstream's `evaluation/f1_sweep.py`). 0 / 0 is 0.
    All values are NaN if the class has no instance.
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
