"""How much of a score is chance: the same detections on images drawn again, with replacement."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import hotcoco
import numpy as np
import numpy.typing as npt

from rfdetr_core.metrics.coco import RECALLS, Floats, Record

Interval = tuple[float, float]
Times = npt.NDArray[np.int64]
# Names of metrics.json, and what people call them.
SCORES = {"map": "AP", "map_50": "AP50", "map_75": "AP75", "mar_100": "AR", "f1": "F1"}
_AT_75 = 5  # the place of 0.75 among COCO's thresholds of the IoU


@dataclass(frozen=True)
class ClassMatches:
    """Detections of a class, the best score first.

    image, score, right_at_50, counted_at_50: (N,) of all. right, counted: (T, M) at T thresholds of the IoU, of those
    up to the last that is right at any: what comes after it changes no precision. owners: images with objects of the
    class. instances: how many objects each of them has.
    """

    image: npt.NDArray[np.int64]
    score: Floats
    right_at_50: npt.NDArray[np.bool_]
    counted_at_50: npt.NDArray[np.bool_]
    right: npt.NDArray[np.bool_]
    counted: npt.NDArray[np.bool_]
    owners: npt.NDArray[np.int64]
    instances: npt.NDArray[np.int64]


def matches(evaluator: hotcoco.COCOeval) -> list[ClassMatches]:
    """What an evaluator has matched at COCO's ten thresholds, class by class; images in the order of their ids."""
    evaluator = hotcoco.COCOeval(evaluator.coco_gt, evaluator.coco_dt, evaluator.params.iou_type)
    params = evaluator.params
    params.area_rng, params.area_rng_lbl = params.area_rng[:1], params.area_rng_lbl[:1]
    evaluator.evaluate()
    place = {image: number for number, image in enumerate(sorted(params.img_ids))}
    records: dict[int, list[Record]] = {label: [] for label in sorted(params.cat_ids)}
    for record in evaluator.eval_imgs:
        if record is not None:
            records[record["category_id"]].append(record)
    return [_of_class(own, place, len(params.iou_thrs)) for own in records.values()]


def _of_class(records: Sequence[Record], place: dict[int, int], thresholds: int) -> ClassMatches:
    instances: dict[int, int] = {}
    for record in records:
        if count := int((np.asarray(record["gtIgnore"]) == 0).sum()):
            instances[place[int(record["image_id"])]] = count
    scores = np.concatenate([np.zeros(0), *(record["dtScores"] for record in records)])
    order = np.argsort(-scores, kind="mergesort")
    lengths = [len(record["dtScores"]) for record in records]
    images = np.repeat([place[int(record["image_id"])] for record in records], lengths).astype(np.int64)[order]
    right = _joined((np.asarray(record["dtMatches"]) > 0 for record in records), thresholds)[:, order]
    counted = _joined((np.asarray(record["dtIgnore"]) == 0 for record in records), thresholds)[:, order]
    hits = np.flatnonzero((right & counted).any(axis=0))
    last = int(hits[-1]) + 1 if len(hits) else 0
    return ClassMatches(
        images,
        scores[order],
        right[0],
        counted[0],
        right[:, :last].copy(),
        counted[:, :last].copy(),
        np.array(list(instances), dtype=np.int64),
        np.array(list(instances.values()), dtype=np.int64),
    )


def scores(matched: Iterable[ClassMatches], times: Times, threshold: float = 0.5) -> dict[str, float]:
    """SCORES where image i is there times[i] times: (I,) integers. NaN if there is no object.

    As pycocotools on a dataset with the images repeated, but for the order of equal scores. f1 is that at one threshold
    of the score.
    """
    values = class_scores(matched, times, threshold)
    values = values[~np.isnan(values[:, 0])]
    if not len(values):
        return dict.fromkeys(SCORES, math.nan)
    return dict(zip(SCORES, np.mean(values, axis=0).tolist(), strict=True))


def class_scores(matched: Iterable[ClassMatches], times: Times, threshold: float = 0.5) -> Floats:
    """The same of each class, (K, 5) in the order of SCORES; NaN for a class without an object in these images."""
    absent = (math.nan,) * len(SCORES)
    values = [_of_times(class_matches, times, threshold) or absent for class_matches in matched]
    return np.array(values).reshape(-1, len(SCORES))


def _of_times(class_matches: ClassMatches, times: Times, threshold: float) -> tuple[float, ...] | None:
    objects = int((class_matches.instances * times[class_matches.owners]).sum())
    if not objects:
        return None
    weight = (
        times[class_matches.image[: class_matches.right.shape[1]]].astype(np.int32) * class_matches.counted
    )  # (T, M)
    hits, seen = np.cumsum(weight * class_matches.right, axis=1), np.cumsum(weight, axis=1)
    recall = hits / objects
    precision = hits / np.maximum(seen, 1)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    precision = np.concatenate([precision, np.zeros((len(precision), 1))], axis=1)
    at = [values[np.searchsorted(own, RECALLS)].mean() for own, values in zip(recall, precision, strict=True)]
    most = float(recall[:, -1].mean()) if recall.shape[1] else 0.0
    enough = int(np.searchsorted(-class_matches.score, -threshold, side="right"))  # those that reach the threshold
    counts = times[class_matches.image[:enough]] * class_matches.counted_at_50[:enough]
    right = int((counts * class_matches.right_at_50[:enough]).sum())
    return float(np.mean(at)), float(at[0]), float(at[_AT_75]), most, 2 * right / (int(counts.sum()) + objects)


def draws(images: int, resamples: int, seed: int = 0) -> Iterator[Times]:
    """How often each image is there, in as many draws with replacement."""
    random = np.random.default_rng(seed)
    count = resamples if images else 0
    return (np.bincount(random.integers(0, images, images), minlength=images) for _ in range(count))


def interval(values: Iterable[float], tail: float = 2.5) -> Interval | None:
    """The percentiles of what was measured that leave `tail` % out at each end; None where nothing was measured."""
    measured_values = [value for value in values if not math.isnan(value)]
    low, high = np.percentile(measured_values, [tail, 100 - tail]).tolist() if measured_values else (math.nan, math.nan)
    return (low, high) if measured_values else None


def intervals(
    statistic: Callable[[Times], dict[str, float]], images: int, resamples: int, seed: int = 0
) -> dict[str, Interval | None]:
    """By SCORES, the interval of what `statistic` makes of how often each image is there."""
    drawn_scores = [statistic(times) for times in draws(images, resamples, seed)]
    return {name: interval([draw[name] for draw in drawn_scores]) for name in SCORES}


def _joined(parts: Iterable[npt.NDArray[np.bool_]], thresholds: int) -> npt.NDArray[np.bool_]:
    return np.concatenate([np.zeros((thresholds, 0), dtype=bool), *parts], axis=1)
