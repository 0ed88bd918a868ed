"""Thresholds to deploy, intervals of scores, and calibration: whether a score is a probability."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from hotcoco import metrics

from rfdetr_core.evaluation.analysis import Analysis
from rfdetr_core.evaluation.resampling import Interval, matches, scores
from rfdetr_core.evaluation.resampling import intervals as resampled
from rfdetr_core.metrics.coco import THRESHOLDS, Floats

FEW_IMAGES = 100  # With fewer images, intervals are too wide, and their ends too uncertain, for a decision.
BINS = 10  # The number of bins of a reliability diagram.
DEFAULT_THRESHOLD = 0.5  # The threshold if none can be measured.
Goal = Literal["precision", "recall"]


@dataclass(frozen=True)
class Point:
    """A score threshold, and precision, recall and F1 at this threshold and IoU 0.5. NaN: there is no object.

    reached: whether the target precision or recall is reached. best: the highest value of the target metric at any
    threshold. Without a target, reached is True and best is NaN.
    """

    threshold: float
    precision: float
    recall: float
    f1: float
    reached: bool = True
    best: float = float("nan")

    def or_default(self, threshold: float) -> Point:
        """Return this point; if its F1 is 0 or NaN, the same point with `threshold` instead of its own.

        If F1 is 0 at every threshold, all thresholds are equally good, and `best_f1` returns the lowest threshold.
        """
        return self if self.f1 > 0 else replace(self, threshold=threshold)


def best_f1(curve: Floats) -> Point:
    """The lowest threshold with the highest F1. curve: precision, recall and F1 at each of THRESHOLDS, (3, 101)."""
    return _point(curve, 0 if np.isnan(curve).any() else int(curve[2].argmax()))


def reaching(curve: Floats, target: Mapping[Goal, float]) -> Point:
    """The best threshold of those that reach a target.

    Among the thresholds that reach a target precision, the one with the highest recall is best; among those that reach
    a target recall, the one with the highest precision. Of equally good thresholds the lowest is taken. If no threshold
    reaches the target, the one with the highest F1 is taken.
    target: "precision" or "recall", and its value. curve: see `best_f1`.
    """
    (goal, value), *_ = target.items()
    goal_curve, other_curve = (curve[0], curve[1]) if goal == "precision" else (curve[1], curve[0])
    reached = np.flatnonzero(goal_curve >= value)
    index = int(reached[other_curve[reached].argmax()]) if len(reached) else None
    point = best_f1(curve) if index is None else _point(curve, index)
    best = float("nan") if np.isnan(goal_curve).any() else float(goal_curve.max())
    return Point(point.threshold, point.precision, point.recall, point.f1, index is not None, best)


def _point(curve: Floats, index: int) -> Point:
    threshold = float("nan") if np.isnan(curve).any() else float(THRESHOLDS[index])
    precision, recall, f1 = map(float, curve[:, index])
    return Point(threshold, precision, recall, f1)


def intervals(analysis: Analysis, threshold: float, resamples: int, seed: int = 0) -> dict[str, Interval | None]:
    """The 95 % bootstrap interval of each score, by its name in metrics.json. None: there is nothing to measure.

    The images are drawn with replacement; an interval goes from the 2.5th to the 97.5th percentile of the draws.

    Args:
        analysis: The matched detections.
        threshold: The score threshold of F1, the same for all classes and all draws.
        resamples: The number of draws.
        seed: The seed of the draws.
    """
    matched = matches(analysis.evaluator)
    return resampled(lambda counts: scores(matched, counts, threshold), len(analysis.images), resamples, seed)


@dataclass(frozen=True)
class Calibration:
    """Calibration of the scores: are 80 % of the detections with a score of 0.8 right?

    bins: the scores from 0 to 1 in BINS equal parts. For each part: count (of detections), score (their mean score) and
        right (the share of them that is right). Parts without a detection are left out.
    error: the detection expected calibration error (D-ECE; Küppers et al., CVPR workshops 2020). It is the mean over
        all detections of the difference between `score` and `right` of their bin. NaN: there is no detection.
    error_above: the D-ECE of only the detections above a threshold. Most queries of a detector match nothing and have
        scores near 0. These scores are correct, so in `error` they hide the calibration error of the higher scores.
    by_class: the D-ECE of each class.
    """

    bins: list[dict[str, float]]
    error: float
    error_above: float
    by_class: dict[str, float]

    @classmethod
    def measure(cls, analysis: Analysis, threshold: float) -> Calibration:
        """Measure the calibration. A detection is right if it matches an object of its class at IoU 0.5.

        threshold: the score above which detections count for `error_above`.
        """
        if not len(analysis.detections):
            return cls([], float("nan"), float("nan"), {})
        calibration = analysis.evaluator.calibration(n_bins=BINS, iou_threshold=0.5)
        bins = [
            {"count": entry["count"], "score": entry["avg_confidence"], "right": entry["avg_accuracy"]}
            for entry in calibration["bins"]
            if entry["count"]
        ]
        above = analysis.detections[analysis.detections.score > threshold]
        matched = (above.object >= 0).to_numpy()
        error, _ = metrics.calibration_error(above.score.to_numpy(), matched, n_bins=BINS)
        return cls(
            bins,
            float(calibration["ece"]),
            float(error) if len(above) else float("nan"),
            dict(calibration["per_category"]),
        )
