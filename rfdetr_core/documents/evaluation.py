"""Read the evaluation in reports/evaluate/ for the documents, if it belongs to the model's weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from rfdetr_core.audit.history import EVALUATION
from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.provenance import short
from rfdetr_core.base.schema import Count, FileSchema, Text, checked
from rfdetr_core.checkpoint.schema import Evaluation as Lineage
from rfdetr_core.evaluation.analysis import Analysis, Results
from rfdetr_core.evaluation.operating import DEFAULT_THRESHOLD
from rfdetr_core.evaluation.slices import slices
from rfdetr_core.inference.thresholds import NAME as THRESHOLDS
from rfdetr_core.inference.thresholds import Thresholds
from rfdetr_core.lineage.lock import LOCK, Lock

if TYPE_CHECKING:
    import pandas as pd

FOLDER = Path(EVALUATION).parent
Number = Annotated[float, Field(allow_inf_nan=False)] | None
_KINDS = {"boxes": ("bbox", "detections.json"), "masks": ("segm", "masks.json")}


class _About(FileSchema):
    """The content of about.json."""

    split: Text
    note: Text | None = None
    not_measured: Text | None = None


class _Metrics(FileSchema):
    """The content of metrics.json. All further values are numbers."""

    __pydantic_extra__: dict[str, Number] = Field(init=False)
    images: Count
    objects: Count
    map: Number
    threshold: Number
    masks: dict[Text, Number] = Field(default_factory=dict)


_Ends = Annotated[list[Number], Field(min_length=2, max_length=2)]


class _Intervals(FileSchema):
    """The content of intervals.json."""

    resamples: Count
    boxes: dict[Text, _Ends | None] = Field(default_factory=dict)
    masks: dict[Text, _Ends | None] = Field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """The scores of a model's weights on a split.

    Attributes:
        lineage: The scored model and the inputs of the scoring: the content of lineage.json.
        split: The split that was scored.
        about: Its remarks: `note` (why another split than the requested one was scored) and `not_measured`.
        metrics: The content of metrics.json: scores from 0 to 1, None if nothing could be measured. A
            segmentation model has the scores of its masks under `masks`.
        intervals: By "boxes" or "masks", then by metric: the ends of the 95 % interval; None if nothing
            could be measured.
        resamples: The draws of images behind the intervals.
        thresholds: The recommended score thresholds; None if they are not known.
        classes: A row for each class: the columns of per_class.csv.
        slices_at: By "boxes" or "masks": the score threshold for precision, recall and F1 of slices.
        slices: By "boxes" or "masks": a row for each part of the split (columns: `evaluation.slices.COLUMNS`).
    """

    lineage: dict[str, Any]
    split: str
    about: dict[str, Any]
    metrics: dict[str, Any]
    intervals: dict[str, dict[str, list[float | None] | None]] = field(default_factory=dict)
    resamples: int = 0
    thresholds: Thresholds | None = None
    classes: list[dict[str, Any]] = field(default_factory=list)
    slices: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    slices_at: dict[str, float] = field(default_factory=dict)

    @property
    def kinds(self) -> dict[str, dict[str, Any]]:
        """The scores of "boxes" and, for a segmentation model, of "masks"."""
        return {"boxes": self.metrics} | ({"masks": self.metrics["masks"]} if "masks" in self.metrics else {})


def read_evaluation(
    root: Path, tensors: str, annotations: bytes | None, metadata: Mapping[str, Mapping[str, str]]
) -> tuple[Evaluation | None, list[str]]:
    """Read the evaluation of these weights. Also returns a sentence for each part that is not used or not confirmed.

    Args:
        root: The project.
        tensors: The digest of the model's weights.
        annotations: The canonical annotations of the scored split; None if they are not local.
        metadata: The metadata of the split's images, as `read_metadata` returns it.
    """
    notes: list[str] = []
    written = _EvaluationFiles(root, _lock(root, notes), notes)
    try:
        lineage = written.json("lineage.json", Lineage)
        if lineage is None:
            return None, [*notes, f"there is no evaluation in {FOLDER}/"]
        if lineage["model"]["tensors"] != tensors:
            other_weights = short(lineage["model"]["tensors"])
            return None, [*notes, f"{FOLDER}/ is an evaluation of other weights ({other_weights}), so it is not used"]
        about, metrics = written.json("about.json", _About), written.json("metrics.json", _Metrics)
        if about is None or metrics is None:
            return None, [*notes, f"the scores in {FOLDER}/ are missing"]
        drawn = written.json("intervals.json", _Intervals, from_report=True) or {}
        evaluation = Evaluation(
            lineage, str(lineage["split"]), about, metrics,
            {kind: drawn[kind] for kind in _KINDS if kind in drawn}, int(drawn.get("resamples", 0)),
            written.thresholds(tensors), written.table("per_class.csv"),
            *_slices(written, lineage, metrics, annotations, metadata),
        )  # fmt: skip
    except (UserError, KeyError, TypeError, ValueError, AttributeError) as error:
        return None, [*notes, f"the evaluation in {FOLDER}/ is not readable ({without_root(error, root)})"]
    if unconfirmed := sorted({*written.unconfirmed}):
        notes.append(f"{', '.join(unconfirmed)} in {FOLDER}/ are not confirmed: no local {LOCK} names them")
    return evaluation, notes


def evaluation_lineage(root: Path) -> dict[str, Any] | None:
    """The lineage of the local evaluation; None if it is missing or cannot be read."""
    try:
        return checked(files.read_json(root / EVALUATION), Lineage, EVALUATION)
    except (OSError, UserError):
        return None


def without_root(text: object, root: Path) -> str:
    """Make the paths in a message relative to the project: documents do not name the folder of the project."""
    message = str(text)
    for folder in (root.resolve(), root):
        message = message.replace(f"{folder}/", "") if folder != Path() else message
    return message


def _lock(root: Path, notes: list[str]) -> Lock | None:
    if not (root / LOCK).is_file():
        return None
    try:
        return Lock.read(root)
    except UserError as error:
        notes.append(without_root(error, root))
        return None


@dataclass(frozen=True)
class _EvaluationFiles:
    """Reads the files of an evaluation and compares them with dvc.lock.

    Attributes:
        root: The project.
        lock: dvc.lock; None if there is none.
        notes: Receives a sentence for each file that is not used.
        unconfirmed: Receives the names of files that dvc.lock does not list.
    """

    root: Path
    lock: Lock | None
    notes: list[str]
    unconfirmed: list[str] = field(default_factory=list)

    def bytes(self, name: str, *, from_report: bool = False) -> bytes | None:
        """The content of a file; None if it is missing or differs from dvc.lock.

        from_report: The file is from the stage report. It is used only if report read the current metrics.json.
        """
        path = self.root / FOLDER / name
        if not path.is_file():
            return None
        content = files.read_bytes(path)
        expected = self.lock.out((FOLDER / name).as_posix()) if self.lock else None
        if expected is None:
            self.unconfirmed.append(name)
        if self.lock is None:
            return content
        if expected is not None and files.md5_bytes(content) != expected:
            self.notes.append(f"{FOLDER / name} differs from {LOCK}, so it is not used. Run: dvc repro")
            return None
        metrics = (FOLDER / "metrics.json").as_posix()
        if from_report and self.lock.dep("report", metrics) != self.lock.out(metrics):
            self.notes.append(
                f"{FOLDER / name} was made from another metrics.json, so it is not used. Run: dvc repro report"
            )
            return None
        return content

    def json(self, name: str, schema: type[FileSchema], *, from_report: bool = False) -> dict[str, Any] | None:
        content = self.bytes(name, from_report=from_report)
        return None if content is None else checked(files.parse_json(content), schema, str(FOLDER / name))

    def thresholds(self, tensors: str) -> Thresholds | None:
        content = self.json(THRESHOLDS, Thresholds, from_report=True)
        thresholds = Thresholds.model_validate(content) if content is not None else None
        return thresholds if thresholds is not None and thresholds.model.tensors == tensors else None

    def table(self, name: str) -> list[dict[str, Any]]:
        import pandas as pd

        path = self.root / FOLDER / name
        if self.bytes(name) is None:
            self.notes.append(f"{FOLDER / name} is missing (dvc pull), so there are no scores per class")
            return []
        table = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"class": str})
        numbers = ["instances", *(str(column) for column in table if column not in ("class", "instances"))]
        table[numbers] = table[numbers].apply(pd.to_numeric)
        return _rows(table[["class", *numbers]])


def _slices(
    written: _EvaluationFiles,
    lineage: Mapping[str, Any],
    metrics: Mapping[str, Any],
    annotations: bytes | None,
    metadata: Mapping[str, Mapping[str, str]],
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, float]]:
    """Scores of slices. Slices by brightness are left out, because they need the images."""
    kinds = {kind: source for kind, source in _KINDS.items() if kind == "boxes" or kind in metrics}
    if annotations is None or any(written.bytes(name) is None for _, name in kinds.values()):
        written.notes.append("annotations or detections are missing (dvc pull), so there are no scores of slices")
        return {}, {}
    requested = (lineage.get("params") or {}).get("evaluate", {}).get("threshold")
    folder, truth, tables, used_thresholds = written.root / FOLDER, json.loads(annotations), {}, {}
    for kind, (annotation_type, name) in kinds.items():
        results = Results.read(folder / "detections.json", folder / name if kind == "masks" else None)
        analysis = Analysis.from_results(truth, results, "segm" if annotation_type == "segm" else "bbox")
        best = (metrics if kind == "boxes" else metrics[kind])["threshold"]
        used_thresholds[kind] = requested if requested is not None else DEFAULT_THRESHOLD if best is None else best
        dark = np.zeros(len(analysis.images))
        table = slices(analysis, truth, results, np.full(len(analysis.classes), used_thresholds[kind]), dark, metadata)
        tables[kind] = _rows(table)
    return tables, used_thresholds


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as plain values; None if nothing could be measured."""
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]
