"""The numbers of an evaluation as files: JSON and CSV that `dvc metrics` and `dvc plots` read. NaN is an empty cell."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rfdetr_core import files
from rfdetr_core.evaluation.judgement import ImageJudgement
from rfdetr_core.metrics.coco import RECALLS, CocoScores

DECIMALS = 6


def numbers(scores: CocoScores) -> dict[str, Any]:
    """COCO's twelve numbers and the best F1; what could not be measured is null, and `not_measured` says why."""
    values: dict[str, Any] = {name: None if math.isnan(value) else value for name, value in scores.numbers().items()}
    reasons: dict[str, list[str]] = {}
    for name, value in values.items():
        if value is None:
            size = name.rpartition("_")[2]
            kind = f"{size} object" if size in ("small", "medium", "large") else "object"
            reasons.setdefault(f"the split has no {kind}", []).append(name)
    told = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())
    return values | ({"not_measured": told} if told else {})


def write_per_class(path: Path, boxes: CocoScores, masks: CocoScores | None) -> None:
    """One row per class, in the order of the class table."""
    names = ["instances", "ap", "ap_50", "precision", "recall", "f1", "best_threshold", "best_f1"]
    header = ["class", *names, *([f"mask_{name}" for name in names[1:]] if masks else [])]
    rows = [[one.name, *(getattr(one, name) for name in names)] for one in boxes.per_class]
    if masks:
        rows = [
            row + [getattr(one, name) for name in names[1:]] for row, one in zip(rows, masks.per_class, strict=True)
        ]
    write_csv(path, header, rows)


def write_curve(path: Path, boxes: CocoScores, masks: CocoScores | None) -> None:
    """Precision over recall at IoU 0.5, the mean over the classes with instances; no rows where there is none."""
    curves = [RECALLS.tolist(), _mean_curve(boxes), *([_mean_curve(masks)] if masks else [])]
    write_csv(path, ["recall", "precision", "mask_precision"][: len(curves)], zip(*curves, strict=False))


def write_judgements(path: Path, judgements: Iterable[ImageJudgement]) -> None:
    """One row per image."""
    rows = [[one.image["file_name"], one.f1, len(one.found), len(one.wrong), len(one.missed)] for one in judgements]
    write_csv(path, ["image", "f1", "found", "wrong", "missed"], rows)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table; floats with DECIMALS digits after the point."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_cell(value) for value in row] for row in rows)
    files.write_text(path, text.getvalue())


def write_results(path: Path, results: Iterable[dict[str, Any]], kind: Literal["bbox", "segmentation"]) -> None:
    """The boxes or the masks of detections in COCO's results format, one a line, with the digits that were scored.

    Not both in one file: COCO.loadRes would take the area of the box for that of the mask.
    """
    keys = ("image_id", "category_id", kind, "score")
    rows = [{key: one[key] for key in keys} for one in results if kind in one]
    lines = [json.dumps(row, separators=(",", ":"), allow_nan=False) for row in rows]
    files.write_text(path, "[\n" + ",\n".join(lines) + "\n]\n" if lines else "[]\n")


def _mean_curve(scores: CocoScores) -> list[float]:
    present = np.array([one.precisions for one in scores.per_class if one.instances])
    return np.mean(present, axis=0).tolist() if len(present) else []


def _cell(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else round(value, DECIMALS)
