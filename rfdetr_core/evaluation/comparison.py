"""The comparison of two models on the same images: both scores, their difference, and its interval.

Scores that were measured on different images are never compared: both models run here, on the same split.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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

DRAWS = 40  # Bootstrap draws for each class. With 40, one draw is beyond each end of a 95 % interval.
Conclusion = Literal["better", "worse", "may be chance", "too few images", "same weights", "not measured"]


def fewest_images(classes: int = 1) -> int:
    """The lowest number of images m that the interval of a difference needs: 2^m >= 40 K for K classes.

    Rule: a result that chance alone gives with a probability above alpha must not count as a difference. alpha is the
    allowed error at one end of the interval.

    - Probability: if two models are equally good, the new one is worse on all m images in about 1 of 2^m cases.
    - alpha: 1 / 40 for one 95 % interval. If the intervals of K classes must all be right, 1 / (40 K) (Bonferroni's
      correction).
    """
    return math.ceil(math.log2(DRAWS * classes))


class NotComparableError(UserError):
    """The scores of the two models on this split do not show which of them is better."""


@dataclass(frozen=True)
class Model:
    """A model file and its detections on a split.

    path: as the user wrote it. sha256: of the file. tensors: the digest of its weights. variant: the name of its
    architecture. classes: the names of its classes. training: its training record; None: the file has none. results:
    detections in COCO's results format, with the category ids of the dataset.
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
    """One of the two models with its scores by pycocotools, its matches, and its threshold with the highest F1."""

    model: Model
    scores: CocoScores
    results: Results
    analysis: Analysis
    threshold: float

    @classmethod
    def from_model(cls, model: Model, annotations: Row, kind: Kind) -> Side:
        """Score the detections of a model.

        Args:
            model: The model with its detections.
            annotations: The canonical annotations of the split.
            kind: Score boxes or masks.
        """
        scores = score(annotations, model.results, kind)
        results = Results.from_rows(model.results, model.results if kind == "segm" else None)
        threshold = DEFAULT_THRESHOLD if math.isnan(scores.threshold) else scores.threshold
        return cls(model, scores, results, Analysis.from_results(annotations, results, kind), threshold)

    @property
    def thresholds(self) -> Floats:
        """The threshold of each class, (K,): the same for all."""
        return np.full(len(self.analysis.classes), self.threshold)

    @cached_property
    def matched(self) -> list[ClassMatches]:
        """The matches of its detections at COCO's ten IoU thresholds, by class."""
        return matches(self.analysis.evaluator)


@dataclass(frozen=True)
class Comparison:
    """Two models on a split.

    kind: masks are compared if both models have them, else boxes. resamples: the number of bootstrap draws.
    """

    split: str
    annotations: Row
    kind: Kind
    old: Side
    new: Side
    resamples: int

    @classmethod
    def from_models(cls, split: str, annotations: Row, old: Model, new: Model, resamples: int) -> Comparison:
        """Score both models on canonical annotations.

        Args:
            split: The name of the split.
            annotations: Its canonical annotations.
            old: The first model.
            new: The second model.
            resamples: The number of bootstrap draws.

        Raises:
            UserError: masks are scored and an annotation has no mask.
        """
        kind: Kind = "segm" if old.segmentation and new.segmentation else "bbox"
        before, after = (Side.from_model(model, annotations, kind) for model in (old, new))
        return cls(split, annotations, kind, before, after, resamples)

    @property
    def measure(self) -> str:
        """The scored shapes: "masks" or "boxes"."""
        return "masks" if self.kind == "segm" else "boxes"

    @property
    def images(self) -> int:
        """The number of images of the split."""
        return len(self.annotations["images"])

    @property
    def objects(self) -> int:
        """The number of objects of the split, without crowd regions."""
        return len(self.new.analysis.objects)

    @property
    def names(self) -> list[str]:
        """The classes of the dataset."""
        return list(self.new.analysis.classes.values())

    def unknown_to(self, side: Side) -> list[str]:
        """The classes of the dataset that a model does not have. Their objects count as not found."""
        return sorted(set(self.names) - set(side.model.classes))

    @cached_property
    def differences(self) -> dict[str, float]:
        """For each of SCORES the new value minus the old one, in points (hundredths). NaN: not measured."""
        return {name: 100 * (getattr(self.new.scores, name) - getattr(self.old.scores, name)) for name in SCORES}

    @cached_property
    def _drawn(self) -> Floats:
        """New minus old in points, for each bootstrap draw, class and score, (draws, K, 5).

        Both models are scored on the same draws of the images, with seed 0. F1 uses the threshold of the model, which
        is the same in all draws. NaN: the draw has no object of the class.
        """
        rows = [
            class_scores(self.new.matched, counts, self.new.threshold)
            - class_scores(self.old.matched, counts, self.old.threshold)
            for counts in draws(self.images, self.resamples)
        ]
        return 100 * np.reshape(rows, (len(rows), len(self.names), len(SCORES)))

    @cached_property
    def intervals(self) -> dict[str, Interval | None]:
        """For each of SCORES the 95 % interval of the difference, in points. None: no draw has an object."""
        means = np.ma.masked_invalid(self._drawn).mean(axis=1).filled(math.nan)
        return {name: interval(means[:, column].tolist()) for column, name in enumerate(SCORES)}

    @cached_property
    def class_intervals(self) -> list[Interval | None]:
        """For each class the interval of the difference of AP, in points, over the draws with an object of the class.

        The intervals of all K classes with objects must all be right, with a probability of 95 %. So each leaves out
        2.5 / K % of the draws at each end (Bonferroni's correction). This needs DRAWS * K draws. None: fewer than
        `fewest_images(K)` images have an object of the class.
        """
        classes = max(1, sum(count > 0 for count in self.class_images))
        return [
            interval(self._drawn[:, k, 0].tolist(), 2.5 / classes) if count >= fewest_images(classes) else None
            for k, count in enumerate(self.class_images)
        ]

    @property
    def class_images(self) -> list[int]:
        """For each class the number of images with an object of the class."""
        return [len(class_matches.owners) for class_matches in self.new.matched]

    @property
    def images_with_objects(self) -> int:
        """The number of images with an object."""
        return len({image for class_matches in self.new.matched for image in class_matches.owners.tolist()})

    @property
    def class_lost(self) -> list[bool]:
        """For each class: whether only the old model finds objects of it. Each model uses its own threshold."""
        both = zip(self.old.scores.per_class, self.new.scores.per_class, strict=True)
        return [before.recall > 0 and after.recall == 0 for before, after in both]

    @property
    def conclusion(self) -> Conclusion:
        """Whether the new model is better, by the interval of the difference of AP, if there are enough images."""
        ends = self.intervals["map"]
        if self.old.model.tensors == self.new.model.tensors:
            return "same weights"
        if ends is None:
            return "not measured"
        if self.images < FEW_IMAGES:
            return "too few images"
        return "better" if ends[0] > 0 else "worse" if ends[1] < 0 else "may be chance"

    def sentence(self, old: str = "A", new: str = "B") -> str:
        """The conclusion in words. old, new: the names of the models in the sentence."""
        if (conclusion := self.conclusion) == "same weights":
            return f"{_upper(old)} and {new} have the same weights."
        if conclusion == "not measured":
            return "No verdict: the split has no object."
        low, high = self.intervals["map"] or (math.nan, math.nan)
        change = self.differences["map"]
        numbers = f"AP of {self.measure} changed by {change:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}."
        if conclusion == "too few images":
            images = f"{self.images:,} {'image is' if self.images == 1 else 'images are'}"
            return f"No verdict: {images} too few. {numbers} Compare on {FEW_IMAGES} images or more."
        if conclusion == "may be chance":
            return f"The difference may be chance. {numbers}"
        return f"{_upper(new)} is {conclusion} than {old}. {numbers}"

    def to_dict(self) -> Row:
        """Plain values for `write_json`. None: nothing was measured, or there are too few images for an interval."""
        old, new = self.old.scores, self.new.scores
        ends = self.intervals["map"] if self.images_with_objects >= fewest_images() else None
        classes = zip(
            old.per_class, new.per_class, self.class_images, self.class_intervals, self.class_lost, strict=True
        )
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
    """Run and score two model files on a split.

    Args:
        old: The first model file.
        new: The second model file.
        where: The folders of the project's data.
        split: The split to score on.
        resamples: The number of bootstrap draws.
        batch_size: Images at a time.

    Raises:
        NotComparableError: the models, or one of them and the dataset, have no class in common; or the split is empty.
        UserError: an input is missing or damaged, or an image differs from the manifest.
    """
    annotations, samples = files.read_json(where.split(split)[0]), read_samples(*where.split(split))
    names = [entry.name for entry in read_classes(where.classes)]
    if not samples:
        raise NotComparableError(f"the split {split} has no image to compare on. Use another split: --split valid")
    predictors = [load_predictor(path, batch_size=batch_size) for path in (old, new)]
    model_classes = [list(filter(None, predictor.class_names)) for predictor in predictors]
    _require_common_class(str(old), model_classes[0], str(new), model_classes[1])
    for path, classes in zip((old, new), model_classes, strict=True):
        _require_common_class(str(path), classes, f"the dataset {where.dataset}", names)
    models = [
        _model(path, predictor, where, samples, names) for path, predictor in zip((old, new), predictors, strict=True)
    ]
    return Comparison.from_models(split, annotations, models[0], models[1], resamples)


def _model(
    path: Path, predictor: BasePredictor, where: ProjectPaths, samples: Sequence[Sample], names: list[str]
) -> Model:
    return Model(
        path=str(path),
        sha256=files.sha256_file(path),
        tensors=predictor.tensors,
        variant=predictor.architecture.name,
        classes=predictor.class_names,
        segmentation=predictor.architecture.segmentation,
        training=read_any_training_record(path),
        results=detect(predictor, where.dataset, samples, names),
    )


def _require_common_class(first: str, first_classes: list[str], second: str, second_classes: list[str]) -> None:
    """Raise a NotComparableError if two class tables have no name in common."""
    if not set(first_classes) & set(second_classes):
        classes = f"The first has {listed(first_classes) or 'none'}; the second has {listed(second_classes) or 'none'}"
        raise NotComparableError(
            f"{first} and {second} have no class in common. {classes}. Classes are matched by name. Compare models "
            "with the same classes, on a dataset with these classes."
        )


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
