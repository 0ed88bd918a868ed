"""The numbers and tables of an evaluation, computed again from the detections that were kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rfdetr_core import files
from rfdetr_core.evaluation.config import EvaluateConfig
from rfdetr_core.evaluation.scoring import TABLES, Scored
from rfdetr_core.manifest import read_classes
from rfdetr_core.params import parse
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.pipeline import Pipeline
from rfdetr_core.verification.report import Report

FOLDER = Path("reports/evaluate")
METRICS = (FOLDER / "metrics.json").as_posix()


def check_metrics(report: Report, contents: Contents, pipeline: Pipeline) -> None:
    """metrics.json and TABLES against detections.json, masks.json and the annotations, where all are at hand."""
    folder = contents.root / FOLDER
    if not (folder / "metrics.json").is_file():
        return
    told = files.read_json(folder / "metrics.json")
    annotations, classes = (contents.root / "annotations" / f"{name}.json" for name in (told["split"], "classes"))
    detections, masks = folder / "detections.json", folder / "masks.json"
    if not all(path.is_file() for path in (annotations, classes, detections, masks)):
        report.skip(f"numbers of {METRICS}", "gone: detections or annotations are not here")
        return
    segmentation = "masks" in told
    results = files.read_json(detections)
    if segmentation:
        results = [box | mask for box, mask in zip(results, files.read_json(masks), strict=True)]
    config = parse(EvaluateConfig, pipeline.params_of("evaluate")["evaluate"], "evaluate of dvc.lock")
    scored = Scored.of(files.read_json(annotations), results, segmentation=segmentation, threshold=config.threshold)
    again = scored.numbers()
    if segmentation:
        _compare(report, again.pop("masks"), told["masks"], "masks.")
    _compare(report, again, told, "")
    with TemporaryDirectory() as made:
        scored.write(Path(made), {index: entry.name for index, entry in enumerate(read_classes(classes))})
        for name in TABLES:
            _compare_lines(report, FOLDER / name, Path(made) / name, folder / name)


def _compare(report: Report, again: Mapping[str, Any], told: Mapping[str, Any], prefix: str) -> None:
    for key, value in again.items():
        old = told.get(key)
        close = (
            isinstance(old, int | float)
            and isinstance(value, int | float)
            and math.isclose(old, value, rel_tol=1e-9, abs_tol=1e-12)
        )
        report.equal(f"{prefix}{key} of {METRICS}", old if close else value, old, "scored again")


def _compare_lines(report: Report, shown: Path, again: Path, path: Path) -> None:
    """Name the first line that differs."""
    if not path.is_file():
        report.skip(shown.as_posix(), "gone: it is not here")
        return
    pairs = enumerate(zip_longest(again.read_text().splitlines(), path.read_text().splitlines()), 1)
    line, value, old = next(((line, *pair) for line, pair in pairs if pair[0] != pair[1]), (0, None, None))
    report.equal(f"{shown.as_posix()}{f' line {line}' if line else ''}", value, old, "scored again")
