"""Bootstrap: draws the images of a split again, with replacement, to measure the uncertainty of scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import hotcoco
import numpy as np
import numpy.typing as npt

from rfdetr_core.metrics.coco import RECALLS, Floats, Record

Interval = tuple[float, float]
Counts = npt.NDArray[np.int64]  # for each image: how often a draw has it
# Name in metrics.json -> the usual name.
SCORES = {"map": "AP", "map_50": "AP50", "map_75": "AP75", "mar_100": "AR", "f1": "F1"}
_AT_75 = 5  # the index of 0.75 in COCO's IoU thresholds


@dataclass(frozen=True)
class ClassMatches:
    """The N detections of a class, the highest score first, and whether they are right.

    image: index of the image, (N,). score: (N,).
    right_at_50: whether the detection is right at IoU 0.5, (N,).
    counted_at_50: whether the detection counts at IoU 0.5, (N,). COCO ignores detections that match a crowd region.
    right, counted: like right_at_50 and counted_at_50, at each of COCO's T IoU thresholds, for only the first M
        detections, (T, M). M is the rank of the last detection that is right at any threshold: later detections do not
        change the interpolated precision.
    owners: indices of the images that have objects of the class. instances: the number of objects in each of them.
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
    """The matches of an evaluator at COCO's ten IoU thresholds, by class. Images are in the order of their ids."""
    evaluator = hotcoco.COCOeval(evaluator.coco_gt, evaluator.coco_dt, evaluator.params.iou_type)
    params = evaluator.params
    params.area_rng, params.area_rng_lbl = params.area_rng[:1], params.area_rng_lbl[:1]
    evaluator.evaluate()
    index_of = {image: index for index, image in enumerate(sorted(params.img_ids))}
    records: dict[int, list[Record]] = {label: [] for label in sorted(params.cat_ids)}
    for record in evaluator.eval_imgs:
        if record is not None:
            records[record["category_id"]].append(record)
    return [_matches_of_class(of_class, index_of, len(params.iou_thrs)) for of_class in records.values()]


def _matches_of_class(records: Sequence[Record], index_of: dict[int, int], thresholds: int) -> ClassMatches:
    instances: dict[int, int] = {}
    for record in records:
        if count := int((np.asarray(record["gtIgnore"]) == 0).sum()):
            instances[index_of[int(record["image_id"])]] = count
    scores = np.concatenate([np.zeros(0), *(record["dtScores"] for record in records)])
    order = np.argsort(-scores, kind="mergesort")
    lengths = [len(record["dtScores"]) for record in records]
    images = np.repeat([index_of[int(record["image_id"])] for record in records], lengths).astype(np.int64)[order]
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


def scores(matched: Iterable[ClassMatches], counts: Counts, threshold: float = 0.5) -> dict[str, float]:
    """SCORES of a dataset in which the image i occurs counts[i] times. NaN: the dataset has no object.

    The scores equal those of pycocotools on a dataset with repeated images, except for the order of equal scores.

    Args:
        matched: See `matches`.
        counts: How often each of the I images is repeated, (I,).
        threshold: The score threshold of f1, the same for all classes.
    """
    values = class_scores(matched, counts, threshold)
    values = values[~np.isnan(values[:, 0])]
    if not len(values):
        return dict.fromkeys(SCORES, math.nan)
    return dict(zip(SCORES, np.mean(values, axis=0).tolist(), strict=True))


def class_scores(matched: Iterable[ClassMatches], counts: Counts, threshold: float = 0.5) -> Floats:
    """Like `scores`, for each class: (K, 5), in the order of SCORES. NaN: no object of the class.

    Args:
        matched: See `matches`.
        counts: How often each of the I images is repeated, (I,).
        threshold: The score threshold of f1, the same for all classes.
    """
    absent = (math.nan,) * len(SCORES)
    values = [_scores_of_class(class_matches, counts, threshold) or absent for class_matches in matched]
    return np.array(values).reshape(-1, len(SCORES))


def _scores_of_class(class_matches: ClassMatches, counts: Counts, threshold: float) -> tuple[float, ...] | None:
    objects = int((class_matches.instances * counts[class_matches.owners]).sum())
    if not objects:
        return None
    weight = (
        counts[class_matches.image[: class_matches.right.shape[1]]].astype(np.int32) * class_matches.counted
    )  # (T, M)
    hits, total = np.cumsum(weight * class_matches.right, axis=1), np.cumsum(weight, axis=1)
    recall = hits / objects
    precision = hits / np.maximum(total, 1)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    precision = np.concatenate([precision, np.zeros((len(precision), 1))], axis=1)
    curves = zip(recall, precision, strict=True)
    aps = [precisions[np.searchsorted(recalls, RECALLS)].mean() for recalls, precisions in curves]
    highest_recall = float(recall[:, -1].mean()) if recall.shape[1] else 0.0
    end = int(np.searchsorted(-class_matches.score, -threshold, side="right"))  # the first `end` reach the threshold
    repeats = counts[class_matches.image[:end]] * class_matches.counted_at_50[:end]
    right = int((repeats * class_matches.right_at_50[:end]).sum())
    f1 = 2 * right / (int(repeats.sum()) + objects)
    return float(np.mean(aps)), float(aps[0]), float(aps[_AT_75]), highest_recall, f1


def draws(images: int, resamples: int, seed: int = 0) -> Iterator[Counts]:
    """Draw the images with replacement, `resamples` times. Yields for each draw how often it has each image.

    Args:
        images: The number of images. If it is 0, there are no draws.
        resamples: The number of draws.
        seed: Equal seeds give equal draws.
    """
    random = np.random.default_rng(seed)
    count = resamples if images else 0
    return (np.bincount(random.integers(0, images, images), minlength=images) for _ in range(count))


def interval(values: Iterable[float], tail: float = 2.5) -> Interval | None:
    """The interval that leaves out `tail` % of the values at each end. NaN values are ignored; None: all are NaN."""
    measured_values = [value for value in values if not math.isnan(value)]
    low, high = np.percentile(measured_values, [tail, 100 - tail]).tolist() if measured_values else (math.nan, math.nan)
    return (low, high) if measured_values else None


def intervals(
    statistic: Callable[[Counts], dict[str, float]], images: int, resamples: int, seed: int = 0
) -> dict[str, Interval | None]:
    """The 95 % bootstrap interval of each of SCORES. None: nothing was measured.

    Args:
        statistic: Computes the scores of a draw. Its argument says how often the draw has each image.
        images: The number of images.
        resamples: The number of draws.
        seed: The seed of the draws.
    """
    drawn_scores = [statistic(counts) for counts in draws(images, resamples, seed)]
    return {name: interval([draw[name] for draw in drawn_scores]) for name in SCORES}


def _joined(parts: Iterable[npt.NDArray[np.bool_]], thresholds: int) -> npt.NDArray[np.bool_]:
    return np.concatenate([np.zeros((thresholds, 0), dtype=bool), *parts], axis=1)
