"""Two models on the same images: scores side by side, and how much of the difference is chance.

Numbers from different images are never compared: both models are scored here on one split.
"""

from __future__ import annotations

import math
from pathlib import Path

from rfdetr_core.base import files
from rfdetr_core.base.manifest import read_classes
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.data.samples import read_samples
from rfdetr_core.evaluation.analysis import Results, evaluate, load
from rfdetr_core.evaluation.evaluate import detect
from rfdetr_core.evaluation.resampling import ClassMatches, Times, intervals, matches, scores
from rfdetr_core.inference.predictor import Predictor
from rfdetr_core.metrics.coco import Kind, Row, score

COMPARED = ("map", "map_50", "mar_100", "f1")


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
    before, after = scored = [score(annotations, rows, kind) for rows in results]
    old_numbers, new_numbers = ({name: _plain(getattr(one, name)) for name in COMPARED} for one in scored)
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
    before, after = (matched(annotations, rows, kind) for rows in (old, new))

    def difference(times: Times) -> dict[str, float]:
        return {"map": 100 * (scores(after, times)["map"] - scores(before, times)["map"])}

    found = intervals(difference, len(annotations["images"]), resamples).get("map")
    return found or (math.nan, math.nan)


def matched(annotations: Row, rows: list[Row], kind: Kind) -> list[ClassMatches]:
    """What a model's detections match at COCO's thresholds."""
    results = Results.of(rows, rows if kind == "segm" else None)
    return matches(evaluate(*load(annotations, results, kind), kind))


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
