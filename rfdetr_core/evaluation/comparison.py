"""Two models on the same images: scores side by side, and how much of the difference is chance.

Numbers from different images are never compared: both models are scored here on one split.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pycocotools.cocoeval import COCOeval

from rfdetr_core.base import files
from rfdetr_core.base.manifest import read_classes
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.data.samples import read_samples
from rfdetr_core.evaluation.evaluate import detect
from rfdetr_core.inference.predictor import Predictor
from rfdetr_core.metrics.coco import RECALLS, Kind, Row, indexed, numbered, score

COMPARED = ("map", "map_50", "mar_100", "f1")


@dataclass(frozen=True)
class _ClassMatches:
    """Detections of a class, the best score first: (N,) place of the image, (T, N) right, (T, N) counted, T IoUs.

    instances: (I,) objects in each image.
    """

    image: npt.NDArray[np.int64]
    right: npt.NDArray[np.bool_]
    counted: npt.NDArray[np.bool_]
    instances: npt.NDArray[np.int64]


def compare_models(old: Path, new: Path, dataset: Path, split: str, resamples: int, batch_size: int = 1) -> Row:
    """Score two model files on a split of annotations/ and manifest/; plain values, for `write_json`.

    `difference` is in points of mAP (of masks, where both models find them): new less old, with the interval that
    holds 95 of 100 resamplings of the images. Null where there is no object to measure with.
    """
    where = ProjectPaths(dataset)
    annotations, samples = files.read_json(where.split(split)[0]), read_samples(*where.split(split))
    names = [entry.name for entry in read_classes(where.classes)]
    predictors = [Predictor.from_checkpoint(path, batch_size=batch_size) for path in (old, new)]
    results = [detect(one, dataset, samples, names) for one in predictors]
    kind: Kind = "segm" if all(one.architecture.segmentation for one in predictors) else "bbox"
    before, after = scores = [score(annotations, rows, kind) for rows in results]
    old_numbers, new_numbers = ({name: _plain(getattr(one, name)) for name in COMPARED} for one in scores)
    low, high = interval(annotations, results[0], results[1], kind, resamples)
    return {
        "split": split,
        "of": "masks" if kind == "segm" else "boxes",
        "images": len(samples),
        "objects": sum(one.instances for one in after.per_class),
        "old": old_numbers,
        "new": new_numbers,
        "difference": _plain(100 * (after.map - before.map)),
        "interval": [_plain(low), _plain(high)],
        "resamples": resamples,
        "unknown_to_old": sorted(set(names) - set(predictors[0].class_names)),
        "per_class": [
            {"class": a.name, "instances": a.instances, "old": _plain(b.ap), "new": _plain(a.ap)}
            for b, a in zip(before.per_class, after.per_class, strict=True)
        ],
    }


def interval(annotations: Row, old: list[Row], new: list[Row], kind: Kind, resamples: int) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of (new less old mAP) x 100 over images drawn with replacement, seed 0.

    Both models see the same draws. NaN if no draw has an object.
    """
    count = len(annotations["images"])
    random = np.random.default_rng(0)
    matched = [matches(annotations, rows, kind) for rows in (old, new)]
    drops = []
    for _ in range(resamples):
        times = np.bincount(random.integers(0, count, count), minlength=count)
        drops.append(100 * (mean_precision(matched[1], times) - mean_precision(matched[0], times)))
    there = [one for one in drops if not math.isnan(one)]
    low, high = np.percentile(there, [2.5, 97.5]).tolist() if there else (math.nan, math.nan)
    return low, high


def matches(annotations: Row, detections: list[Row], kind: Kind) -> list[_ClassMatches]:
    """pycocotools' matching, once; each class by itself, images in the order of their ids."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = indexed(annotations, [dict(one) for one in annotations["annotations"]])
        evaluation = COCOeval(truth, indexed(annotations, []), kind)
        evaluation.cocoDt = indexed(annotations, numbered(detections, kind))
        evaluation.params.areaRng, evaluation.params.areaRngLbl = evaluation.params.areaRng[:1], ["all"]
        evaluation.evaluate()
    place = {image: number for number, image in enumerate(evaluation.params.imgIds)}
    found = []
    for category in evaluation.params.catIds:
        records = [one for one in evaluation.evalImgs if one and one["category_id"] == category]
        instances = np.zeros(len(place), dtype=np.int64)
        for one in records:
            instances[place[one["image_id"]]] = int((one["gtIgnore"] == 0).sum())
        scores = np.array([value for one in records for value in one["dtScores"]])
        order = np.argsort(-scores, kind="mergesort")
        owners = np.array([place[one["image_id"]] for one in records for _ in one["dtScores"]], dtype=np.int64)
        thresholds = len(evaluation.params.iouThrs)
        right = _joined((one["dtMatches"] > 0 for one in records), thresholds)
        counted = _joined((one["dtIgnore"] == 0 for one in records), thresholds)
        found.append(_ClassMatches(owners[order], right[:, order], counted[:, order], instances))
    return found


def mean_precision(matched: Iterable[_ClassMatches], times: npt.NDArray[np.int64]) -> float:
    """COCO's mAP where image i is there times[i] times: (I,) integers. NaN if there is no object.

    As pycocotools' `accumulate` on a dataset with the images repeated, but for the order of equal scores.
    """
    precisions = []
    for one in matched:
        objects = int((one.instances * times).sum())
        if not objects:
            continue
        weight = times[one.image] * one.counted  # (T, N)
        hits, wrong = np.cumsum(weight * one.right, axis=1), np.cumsum(weight * ~one.right, axis=1)
        recall = hits / objects
        precision = hits / np.maximum(hits + wrong, 1)
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        for at, values in zip(recall, precision, strict=True):
            places = np.searchsorted(at, RECALLS, side="left")
            precisions.append(float(np.append(values, 0.0)[places].mean()))
    return float(np.mean(precisions)) if precisions else math.nan


def _joined(parts: Iterable[npt.NDArray[np.bool_]], thresholds: int) -> npt.NDArray[np.bool_]:
    return np.concatenate([np.zeros((thresholds, 0), dtype=bool), *parts], axis=1)


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
