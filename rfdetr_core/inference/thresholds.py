"""Reads thresholds.json: the score threshold that an evaluation recommends for each class of a model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError, listed
from rfdetr_core.base.provenance import short
from rfdetr_core.base.schema import Count, FileSchema, Sha256, Text, checked

if TYPE_CHECKING:
    from rfdetr_core.inference.predictor import BasePredictor

RECOMMENDED = "recommended"  # given instead of a path: the file that belongs to the checkpoint
NAME = "thresholds.json"
PROJECT_FILE = Path("reports/evaluate") / NAME

Share = Annotated[float, Field(ge=0, le=1)]


class Weights(FileSchema):
    """The model that thresholds were measured for. tensors: see `tensor_digest`."""

    tensors: Sha256


class OperatingPoint(FileSchema):
    """A score threshold, and the precision, recall and F1 that it gives on the evaluated images. None: not measurable.

    reached: whether this threshold meets the target. If no threshold meets it, this is the threshold with the best F1.
    """

    threshold: Share | None
    precision: Share | None
    recall: Share | None
    f1: Share | None
    reached: bool


class Thresholds(FileSchema):
    """The content of thresholds.json.

    model: the measured model. split: the name of the evaluated split. images: the number of its images. of: "boxes" if
    the IoU of boxes decided whether a detection is right, "masks" if the IoU of masks did. target: the requested
    precision or recall; None: the best F1. all: the threshold for all classes together. classes: the threshold of each
    class, by name.
    """

    version: Literal[1] = Field(1, alias="schema")
    model: Weights
    split: Text
    images: Count
    of: Literal["boxes", "masks"]
    target: Annotated[dict[Literal["precision", "recall"], Share], Field(min_length=1, max_length=1)] | None
    all: OperatingPoint
    classes: dict[Text, OperatingPoint]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a thresholds.json that anyone may have written.

        Raises:
            UserError: the file is missing or not JSON, or a field is missing, has another type or is beyond its limit.
        """
        return cls.model_validate(checked(files.read_json(path), cls, str(path)))

    def to_dict(self) -> dict[str, Any]:
        """The content of the file, for `write_json`."""
        return self.model_dump(by_alias=True)


@dataclass(frozen=True)
class Recommendation:
    """Thresholds for a model. by_class: class name -> threshold. note: a line for the console that describes them."""

    by_class: Mapping[str, float]
    note: str


def recommended_thresholds(file: str | os.PathLike[str], predictor: BasePredictor) -> Recommendation:
    """Read thresholds from a file. "recommended" stands for the file that belongs to the predictor's checkpoint.

    That is thresholds.json next to the checkpoint, else reports/evaluate/thresholds.json of the checkpoint's project.

    Raises:
        UserError: the file is missing or malformed, is for other weights or classes, or has no threshold for a class.
    """
    path = _find(predictor.source) if file == RECOMMENDED else Path(file)
    if isinstance(file, str) and path.suffix != ".json" and not path.is_file():
        raise UserError(
            f"threshold is {file!r}: it must be {RECOMMENDED!r}, the path of a {NAME}, or a number from 0 to 1 "
            "(threshold=0.5 in Python, --threshold 0.5 on the command line)."
        )
    read = Thresholds.read(path)
    _require_model(read, path, predictor)
    by_class = {name: point.threshold for name, point in read.classes.items() if point.threshold is not None}
    if missing := [name for name in read.classes if name not in by_class]:
        raise UserError(
            f"{path} has no threshold for {listed(missing)}: nothing could be measured. Give a number instead."
        )
    return Recommendation(by_class, f"{_describe(read, list(by_class.values()))}: {path}")


def _find(checkpoint: Path | None) -> Path:
    """The path of a checkpoint's thresholds.json. Raises a UserError if there is none."""
    if checkpoint is None:
        raise UserError(
            f"threshold {RECOMMENDED!r} needs a model that was read from a file. Give a number from 0 to 1."
        )
    beside_checkpoint, folder = checkpoint.with_name(NAME), checkpoint.parent.resolve()
    root = next((parent for parent in (folder, *folder.parents) if (parent / "dvc.yaml").is_file()), None)
    paths = [beside_checkpoint, *([root / PROJECT_FILE] if root else [])]
    if existing := next((path for path in paths if path.exists()), None):
        return existing
    raise UserError(
        f"{checkpoint} has no recommended thresholds: {' and '.join(map(str, paths))} do not exist. "
        "Run dvc repro in its project to write the file, or give the path of the file."
    )


def _require_model(read: Thresholds, path: Path, predictor: BasePredictor) -> None:
    """Raise a UserError if the thresholds are for other weights or classes than the predictor's."""
    model = predictor.source or "the model"
    if read.model.tensors != predictor.tensors:
        raise UserError(
            f"{path} belongs to another model: its weights have the digest {short(read.model.tensors)}, but those of "
            f"{model} have {short(predictor.tensors)}. Evaluate this model (dvc repro), "
            "or give the thresholds that belong to it."
        )
    if different := sorted(set(predictor.class_names) ^ read.classes.keys()):
        raise UserError(f"{path} and {model} do not have the same classes: only one has {listed(different)}.")


def _describe(read: Thresholds, values: list[float]) -> str:
    low, high = min(values), max(values)
    target = " ".join(f"{name} {value:g}" for name, value in (read.target or {}).items())
    text = f"threshold {low:g}" if low == high else f"thresholds {low:g} to {high:g} by class"
    missed = [name for name, point in read.classes.items() if not point.reached] if target else []
    return f"{text} for {target or 'the best F1'}" + (f" (not reached: {listed(missed)})" if missed else "")
