"""The numbers of an evaluation, computed again from the detections that were kept."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping
from typing import Any

from rfdetr_core import files
from rfdetr_core.evaluation import tables
from rfdetr_core.metrics.coco import score
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.report import Report

METRICS = "reports/evaluate/metrics.json"


def check_metrics(report: Report, contents: Contents) -> None:
    """metrics.json against detections.json, masks.json and the annotations, where all are at hand."""
    folder = contents.root / "reports" / "evaluate"
    if not (contents.root / METRICS).is_file():
        return
    told = files.read_json(contents.root / METRICS)
    annotations = contents.root / "annotations" / f"{told['split']}.json"
    detections, masks = folder / "detections.json", folder / "masks.json"
    if not all(path.is_file() for path in (annotations, detections, masks)):
        report.skip(f"numbers of {METRICS}", "gone: detections or annotations are not here")
        return
    truth = files.read_json(annotations)
    with contextlib.redirect_stdout(io.StringIO()):
        boxes = score(truth, files.read_json(detections))
        segments = score(truth, files.read_json(masks), "segm") if "masks" in told else None
    counts = {"images": len(truth["images"]), "objects": sum(one.instances for one in boxes.per_class)}
    _compare(report, counts | tables.numbers(boxes), told, "")
    if segments is not None:
        _compare(report, tables.numbers(segments), told["masks"], "masks.")


def _compare(report: Report, again: Mapping[str, Any], told: Mapping[str, Any], prefix: str) -> None:
    for key, value in again.items():
        old = told.get(key)
        close = (
            isinstance(old, int | float)
            and isinstance(value, int | float)
            and math.isclose(old, value, rel_tol=1e-9, abs_tol=1e-12)
        )
        report.equal(f"{prefix}{key} of {METRICS}", old if close else value, old, "scored again")
