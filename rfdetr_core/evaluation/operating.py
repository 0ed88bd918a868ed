"""What to expect of a detector in use: intervals of its scores, thresholds, and whether scores are probabilities."""

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

FEW_IMAGES = 100  # of fewer, an interval is too wide, and its ends too uncertain, to base a decision on
BINS = 10  # of a reliability diagram
DEFAULT_THRESHOLD = 0.5  # where nothing was measured
Goal = Literal["precision", "recall"]


@dataclass(frozen=True)
class Point:
    """A threshold of the score, and what a detector does there at IoU 0.5; NaN: there is no object to measure with.

    reached: whether it has the precision or recall that was asked for. best: the highest value of it at any threshold.
    """

    threshold: float
    precision: float
    recall: float
    f1: float
    reached: bool = True
    best: float = float("nan")

    def useful(self, otherwise: float) -> Point:
        """The same, or at another threshold where nothing is found at any: with F1 0 everywhere, 0 is as good as 1."""
        return self if self.f1 > 0 else replace(self, threshold=otherwise)


def best_f1(curve: Floats) -> Point:
    """The lowest threshold with the highest F1, of a curve (3, 101) of precision, recall and F1 over THRESHOLDS."""
    return _point(curve, 0 if np.isnan(curve).any() else int(curve[2].argmax()))


def reaching(curve: Floats, target: Mapping[Goal, float]) -> Point:
    """The threshold that has a precision or recall at the smallest loss of the other, or else the best F1.

    target: one goal and its value. Of equal ones, the lowest threshold.
    """
    (goal, value), *_ = target.items()
    goal_curve, other = (curve[0], curve[1]) if goal == "precision" else (curve[1], curve[0])
    enough = np.flatnonzero(goal_curve >= value)
    place = int(enough[other[enough].argmax()]) if len(enough) else None
    point = best_f1(curve) if place is None else _point(curve, place)
    best = float("nan") if np.isnan(goal_curve).any() else float(goal_curve.max())
    return Point(point.threshold, point.precision, point.recall, point.f1, place is not None, best)


def _point(curve: Floats, place: int) -> Point:
    threshold = float("nan") if np.isnan(curve).any() else float(THRESHOLDS[place])
    precision, recall, f1 = map(float, curve[:, place])
    return Point(threshold, precision, recall, f1)


def intervals(analysis: Analysis, threshold: float, resamples: int, seed: int = 0) -> dict[str, Interval | None]:
    """By name of metrics.json, the 2.5th and the 97.5th percentile over images drawn with replacement.

    f1 is that at one threshold for all classes, which the draws do not choose anew. None: there is nothing to measure.
    """
    matched = matches(analysis.evaluator)
    return resampled(lambda times: scores(matched, times, threshold), len(analysis.images), resamples, seed)


@dataclass(frozen=True)
class Calibration:
    """Whether a score is the share of right detections among those of that score.

    bins: of BINS equal parts of 0..1, how many detections, the mean of their scores, and the share of right ones; bins
    without a detection are left out. error: the detection expected calibration error (D-ECE), the mean over detections
    of the difference between these two, of all and by class (Küppers et al., CVPR workshops 2020). NaN: no detection.
    error_above: that of the detections above a threshold. Most of a detector's queries see nothing and have scores near
    0, which is true and hides what the higher scores are worth.
    """

    bins: list[dict[str, float]]
    error: float
    error_above: float
    by_class: dict[str, float]

    @classmethod
    def of(cls, analysis: Analysis, threshold: float) -> Calibration:
        """Right: matched with an object of its class at IoU 0.5."""
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
