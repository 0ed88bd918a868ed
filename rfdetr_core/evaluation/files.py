"""The command evaluate: a model file of any kind, scored on the images of the project here."""

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

_SHOWN = ("map", "map_50", "map_75", "f1")


def evaluate_file(model: Path, split: Literal["test", "valid"], output: Path, device: str = "auto") -> Iterator[str]:
    """Score a checkpoint, or a file that was exported from one, on a split of the project here; yields lines.

    Into `output` go the files of `evaluate` with all numbers (metrics.json), and model.json: the file's SHA-256, the
    digest of its weights, and in which runtime and precision, on which device it ran.

    Raises:
        UserError: no model file, or its runtime is not installed; see also `evaluate`.
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
    """A model file, and in what it is run: plain values. precision: of the computation, such as f32."""
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
    """The main scores of boxes and, of a segmenter, of masks."""
    yield f"{'':8}{'AP':>8}{'AP50':>8}{'AP75':>8}{'F1':>8}"
    for title, scores in (("boxes", result), ("masks", result.get("masks"))):
        if scores is not None:
            values = (scores[name] for name in _SHOWN)
            yield f"{title:8}" + "".join("       -" if value is None else f"{value:8.4f}" for value in values)
