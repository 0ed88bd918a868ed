"""The command `evaluate`: scores a checkpoint or an exported file on a split of the local project."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from rfdetr_core.base import files
from rfdetr_core.base.manifest import DataConfig
from rfdetr_core.base.params import read_section
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.evaluation.config import EvaluateConfig
from rfdetr_core.evaluation.evaluate import evaluate
from rfdetr_core.inference.exported import ExportedPredictor, load_predictor
from rfdetr_core.inference.predictor import BasePredictor

_PRINTED = ("map", "map_50", "map_75", "f1")


def evaluate_file(model: Path, split: Literal["test", "valid"], output: Path, device: str = "auto") -> Iterator[str]:
    """Score a model file on a split of the project in the current folder. Yields the lines to print.

    It writes the files of `evaluate` and model.json: SHA-256 of the file, digest of its weights, runtime, precision
    and device.

    Args:
        model: A checkpoint, or a file that was exported from one.
        split: The split to score on.
        output: The folder for the results.
        device: The device to run on.

    Raises:
        UserError: the file is not a model file, or its runtime is not installed; see also `evaluate`.
    """
    config = read_section(EvaluateConfig, "evaluate").model_copy(update={"split": split})
    where = ProjectPaths(dataset=Path(read_section(DataConfig, "data").dir))
    predictor = load_predictor(model, device=device, batch_size=config.batch_size)
    about = describe_model(model, predictor)
    result = evaluate(predictor, where, config, output)
    files.write_json(output / "model.json", about)
    yield f"{model}: {about['variant']} in {about['runtime']}, {about['precision']}, {about['device']}"
    note = f" ({result['note']})" if "note" in result else ""
    yield f"{result['split']}{note}: {result['images']:,} images, {result['objects']:,} objects"
    yield from _table(result)
    yield f"all: {output / 'metrics.json'}, {output / 'model.json'}"


def describe_model(path: Path, predictor: BasePredictor) -> dict[str, Any]:
    """Describe a model file and how it is run, as plain values. precision: of the computation, such as f32."""
    if isinstance(predictor, ExportedPredictor):
        runtime, precision = predictor.session.runtime, predictor.session.precision
    else:
        runtime, precision = f"torch {torch.__version__.partition('+')[0]}", "f32"
    return {
        "file": str(path),
        "sha256": files.sha256_file(path),
        "tensors": predictor.tensors,
        "variant": predictor.architecture.name,
        "runtime": runtime,
        "precision": precision,
        "device": predictor.device,
    }


def _table(result: Mapping[str, Any]) -> Iterator[str]:
    """The main scores of boxes, and of masks if the model has them."""
    yield f"{'':8}{'AP':>8}{'AP50':>8}{'AP75':>8}{'F1':>8}"
    for title, scores in (("boxes", result), ("masks", result.get("masks"))):
        if scores is not None:
            values = (scores[name] for name in _PRINTED)
            yield f"{title:8}" + "".join("       -" if value is None else f"{value:8.4f}" for value in values)
