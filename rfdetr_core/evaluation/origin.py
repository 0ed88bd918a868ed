"""What an evaluation was made of, so that its numbers lead back to the model file and the images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rfdetr_core import files, provenance
from rfdetr_core.checkpoint.digest import tensor_digest
from rfdetr_core.checkpoint.files import read_checkpoint
from rfdetr_core.evaluation.config import EvaluateConfig
from rfdetr_core.evaluation.evaluate import EvaluationFiles

# What stages.evaluate runs; a test compares this with its imports.
CODE = (
    *(f"rfdetr_core/{name}.py" for name in ("__init__", "boxes", "errors", "files", "images", "imports", "inference")),
    *(f"rfdetr_core/{name}.py" for name in ("manifest", "params", "provenance", "sampling", "structures")),
    *(f"rfdetr_core/checkpoint/{name}.py" for name in ("__init__", "coco", "digest", "files", "keys", "loading")),
    *(f"rfdetr_core/data/{name}.py" for name in ("__init__", "preprocess", "samples")),
    *(f"rfdetr_core/metrics/{name}.py" for name in ("__init__", "coco")),
    *("rfdetr_core/evaluation", "rfdetr_core/model", "stages/__init__.py", "stages/evaluate.py"),
)


def write_origin(path: Path, model: Path, where: EvaluationFiles, config: EvaluateConfig, split: str) -> None:
    """Write the digests of the model file, its tensors and the inputs, the params, the code and the packages."""
    named = [folder / f"{split}.json" for folder in (where.annotations, where.manifests)]
    content: dict[str, Any] = {
        "schema": 1,
        "model": provenance.identity(model) | {"tensors": tensor_digest(read_checkpoint(model).weights)},
        "split": split,
        "inputs": provenance.identities([*named, where.annotations / "classes.json"]),
        "params": {"evaluate": config.model_dump(mode="json")},
        "code": provenance.code_digests(CODE),
        **provenance.environment(),
    }
    files.write_json(path, content)
