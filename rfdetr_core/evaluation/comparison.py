"""Two models on the same images: scores side by side, and how much of the difference is chance.

Numbers from different images are never compared: both models are scored here on one split.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError, listed
from rfdetr_core.base.manifest import read_classes
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.checkpoint.exported import read_any_training_record
from rfdetr_core.data.samples import Sample, read_samples
from rfdetr_core.evaluation.analysis import Analysis, Results
from rfdetr_core.evaluation.evaluate import detect
from rfdetr_core.evaluation.operating import DEFAULT_THRESHOLD, FEW_IMAGES
from rfdetr_core.evaluation.resampling import SCORES, ClassMatches, Interval, class_scores, draws, interval, matches
from rfdetr_core.inference.exported import load_predictor
from rfdetr_core.inference.predictor import BasePredictor
from rfdetr_core.metrics.coco import CocoScores, Floats, Kind, Row, score

DRAWS = 40  # for each class: its interval then leaves out one draw at each end
Conclusion = Literal["better", "worse", "may be chance", "too few images", "same weights", "not measured"]


def fewest_images(classes: int = 1) -> int:
    """How many images an interval of a difference needs, if the intervals of so many classes are to hold at once.

    Of two equally good models, the new one is worse on all of m images about once in 2^m times. An interval may be
    wrong at one end once in 40 times, and each of K classes once in 40 K times: so 2^m must be at least 40 K.
    """
    return math.ceil(math.log2(DRAWS * classes))


class NotComparableError(UserError):
    """The scores of two models on one split would say nothing about which of them is better."""


@dataclass(frozen=True)
class Model:
    """A model file, and what it finds in a split.

    path: as it was given. variant: the name of its architecture. classes: the names that it knows. training: the record
    of its training, if it has one. results: detections in COCO's results format, labelled by the dataset's class table.
    """

    path: str
    sha256: str
    tensors: str
    variant: str
    classes: tuple[str, ...]
    segmentation: bool
    training: Row | None
    results: list[Row]


@dataclass(frozen=True)
class Side:
    """One of the two models, scored: pycocotools' scores, matches, and the threshold of its best F1 on the split."""

    model: Model
    scores: CocoScores
    results: Results
    analysis: Analysis
    threshold: float

    @classmethod
    def of(cls, model: Model, annotations: Row, kind: Kind) -> Side:
        """Score what a model found."""
        found = score(annotations, model.results, kind)
        results = Results.of(model.results, model.results if kind == "segm" else None)
        threshold = DEFAULT_THRESHOLD if math.isnan(found.threshold) else found.threshold
        return cls(model, found, results, Analysis.of(annotations, results, kind), threshold)

    @property
    def thresholds(self) -> Floats:
        """The threshold of each class, (K,)."""
        return np.full(len(self.analysis.classes), self.threshold)

    @cached_property
    def matched(self) -> list[ClassMatches]:
        """What its detections match at COCO's thresholds of the IoU."""
        return matches(self.analysis.evaluator)


@dataclass(frozen=True)
class Comparison:
    """Two models on a split. kind: masks where both find them, else boxes. resamples: draws behind each interval."""

    split: str
    annotations: Row
    kind: Kind
    old: Side
    new: Side
    resamples: int

    @classmethod
    def of(cls, split: str, annotations: Row, old: Model, new: Model, resamples: int) -> Comparison:
        """Score both on canonical annotations.

        Raises:
            UserError: masks are to be scored and an annotation has none.
        """
        kind: Kind = "segm" if old.segmentation and new.segmentation else "bbox"
        before, after = (Side.of(model, annotations, kind) for model in (old, new))
        return cls(split, annotations, kind, before, after, resamples)

    @property
    def measure(self) -> str:
        """What the scores are of."""
        return "masks" if self.kind == "segm" else "boxes"

    @property
    def images(self) -> int:
        """How many images the split has."""
        return len(self.annotations["images"])

    @property
    def objects(self) -> int:
        """How many objects the split has; crowds are none."""
        return len(self.new.analysis.objects)

    @property
    def names(self) -> list[str]:
        """The classes of the dataset."""
        return list(self.new.analysis.classes.values())

    def unknown_to(self, side: Side) -> list[str]:
        """The classes of the dataset that a model does not know: their objects count as not found."""
        return sorted(set(self.names) - set(side.model.classes))

    @cached_property
    def differences(self) -> dict[str, float]:
        """By SCORES, new less old in points (hundredths); NaN: not measured."""
        return {name: 100 * (getattr(self.new.scores, name) - getattr(self.old.scores, name)) for name in SCORES}

    @cached_property
    def _drawn(self) -> Floats:
        """New less old in points, of each draw of the images with replacement, class and score: (draws, K, 5).

        Both models see the same draws, seed 0. F1 is that at each model's own threshold, which the draws do not choose
        anew. NaN: the draw has no object of the class.
        """
        found = [
            class_scores(self.new.matched, times, self.new.threshold)
            - class_scores(self.old.matched, times, self.old.threshold)
            for times in draws(self.images, self.resamples)
        ]
        return 100 * np.reshape(found, (len(found), len(self.names), len(SCORES)))

    @cached_property
    def intervals(self) -> dict[str, Interval | None]:
        """By SCORES, the 2.5th and 97.5th percentile of the difference in points; None: no draw has an object."""
        means = np.ma.masked_invalid(self._drawn).mean(axis=1).filled(math.nan)
        return {name: interval(means[:, place].tolist()) for place, name in enumerate(SCORES)}

    @cached_property
    def class_intervals(self) -> list[Interval | None]:
        """The interval of the change of each class's AP in points, over the draws that have an object of the class.

        All of them are to hold at once: of K classes with objects, each leaves out 2.5 / K % of the draws at each end
        (Bonferroni's correction), which takes DRAWS * K draws. None: fewer than `fewest_images(K)` images have an
        object of the class.
        """
        classes = max(1, sum(count > 0 for count in self.class_images))
        return [
            interval(self._drawn[:, k, 0].tolist(), 2.5 / classes) if count >= fewest_images(classes) else None
            for k, count in enumerate(self.class_images)
        ]

    @property
    def class_images(self) -> list[int]:
        """How many images have an object of each class."""
        return [len(one.owners) for one in self.new.matched]

    @property
    def images_with_objects(self) -> int:
        """How many images have an object."""
        return len({image for one in self.new.matched for image in one.owners.tolist()})

    @property
    def lost(self) -> list[bool]:
        """Whether the old model finds objects of a class at its threshold, and the new one finds none at its own."""
        both = zip(self.old.scores.per_class, self.new.scores.per_class, strict=True)
        return [before.recall > 0 and after.recall == 0 for before, after in both]

    @property
    def conclusion(self) -> Conclusion:
        """Whether the new model is better: by the interval of the difference of AP, if the images are enough for it."""
        ends = self.intervals["map"]
        if self.old.model.tensors == self.new.model.tensors:
            return "same weights"
        if ends is None:
            return "not measured"
        if self.images < FEW_IMAGES:
            return "too few images"
        return "better" if ends[0] > 0 else "worse" if ends[1] < 0 else "may be chance"

    def sentence(self, old: str = "A", new: str = "B") -> str:
        """The conclusion in words; old, new: what the models are called."""
        if (found := self.conclusion) == "same weights":
            return f"{_upper(old)} and {new} have the same weights."
        if found == "not measured":
            return "No verdict: the split has no object."
        low, high = self.intervals["map"] or (math.nan, math.nan)
        change = self.differences["map"]
        by = f"AP of {self.measure} changed by {change:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}."
        if found == "too few images":
            few = f"{self.images:,} {'image is' if self.images == 1 else 'images are'} few, so the intervals are wide"
            return f"No verdict: {few}. {by} Compare on {FEW_IMAGES} images or more."
        if found == "may be chance":
            return f"The difference may be chance. {by}"
        return f"{_upper(new)} is {found} than {old}. {by}"

    def to_dict(self) -> Row:
        """Plain values, for `write_json`; null where nothing was measured, or for an interval of too few images."""
        old, new = self.old.scores, self.new.scores
        ends = self.intervals["map"] if self.images_with_objects >= fewest_images() else None
        classes = zip(old.per_class, new.per_class, self.class_images, self.class_intervals, self.lost, strict=True)
        return {
            "split": self.split,
            "of": self.measure,
            "images": self.images,
            "images_with_objects": self.images_with_objects,
            "objects": self.objects,
            "old": {name: _plain(getattr(old, name)) for name in SCORES},
            "new": {name: _plain(getattr(new, name)) for name in SCORES},
            "difference": _plain(self.differences["map"]),
            "interval": list(ends or (None, None)),
            "resamples": self.resamples,
            "conclusion": self.conclusion,
            "sentence": self.sentence("the base", "the new model"),
            "unknown_to_old": self.unknown_to(self.old),
            "no_longer_known": sorted({*filter(None, self.old.model.classes)} - {*self.new.model.classes}),
            "per_class": [
                {"class": after.name, "instances": after.instances, "images": images, "lost": lost}
                | {"old": _plain(before.ap), "new": _plain(after.ap), "interval": list(ends or (None, None))}
                for before, after, images, ends, lost in classes
            ],
        }


def compare_models(
    old: Path, new: Path, where: ProjectPaths, split: str, resamples: int, batch_size: int = 1
) -> Comparison:
    """Score two model files on a split of annotations/ and manifest/.

    Raises:
        NotComparableError: the models, or one of them and the dataset, have no class in common; or the split is empty.
        UserError: an input is missing or damaged, or an image is not the one of the manifest.
    """
    annotations, samples = files.read_json(where.split(split)[0]), read_samples(*where.split(split))
    names = [entry.name for entry in read_classes(where.classes)]
    if not samples:
        raise NotComparableError(f"the {split} split has no image to compare on. Name another one: --split valid")
    predictors = [load_predictor(path, batch_size=batch_size) for path in (old, new)]
    known = [list(filter(None, one.class_names)) for one in predictors]
    _require_common(str(old), known[0], str(new), known[1])
    for path, classes in zip((old, new), known, strict=True):
        _require_common(str(path), classes, f"the dataset {where.dataset}", names)
    models = [_model(path, one, where, samples, names) for path, one in zip((old, new), predictors, strict=True)]
    return Comparison.of(split, annotations, models[0], models[1], resamples)


def _model(path: Path, one: BasePredictor, where: ProjectPaths, samples: Sequence[Sample], names: list[str]) -> Model:
    return Model(
        path=str(path),
        sha256=files.sha256_file(path),
        tensors=one.tensors,
        variant=one.architecture.name,
        classes=one.class_names,
        segmentation=one.architecture.segmentation,
        training=read_any_training_record(path),
        results=detect(one, where.dataset, samples, names),
    )


def _require_common(one: str, known: Iterable[str], other: str, others: Iterable[str]) -> None:
    """Raise where two class tables share no name: every object of one is a class that the other cannot find."""
    known, others = list(known), list(others)
    if not set(known) & set(others):
        raise NotComparableError(
            f"{one} and {other} have no class in common: {listed(known) or 'none'}; {listed(others) or 'none'}. "
            "Classes are matched by name. Compare models of one class table, on a dataset that has it."
        )


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
