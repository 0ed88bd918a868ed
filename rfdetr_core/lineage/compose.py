"""The lineage of a model file: everything that decided its weights, in bytes that are equal for equal inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rfdetr_core.base import files, provenance
from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.files import Checkpoint, tensor_digest

SCHEMA = 1
# What stages.strip runs; a test compares this with its imports.
CODE = (
    *(f"rfdetr_core/base/{name}.py" for name in ("__init__", "errors", "files", "params", "provenance")),
    *(f"rfdetr_core/checkpoint/{name}.py" for name in ("__init__", "files", "keys")),
    *(f"rfdetr_core/{name}.py" for name in ("model/__init__", "model/config", "selection/__init__", "selection/strip")),
    *(f"rfdetr_core/lineage/{name}.py" for name in ("__init__", "compose", "records")),
    *("rfdetr_core/__init__.py", "stages/__init__.py", "stages/strip.py"),
)


def compose(checkpoint: Checkpoint, selection: Mapping[str, Any]) -> dict[str, Any]:
    """What train wrote of itself into a best file, and what was chosen and made of it since.

    Keys: schema; variant; training: the record of train (params, inputs, weights, code, packages, machine, files,
    counts, parents, lock); selection: the content of selection.json; code: SHA-256 of each source file that strip
    runs; description: the digest of what else the file says of the model; tensors: the digest of the weights, whatever
    file they are in.

    Raises:
        UserError: the file has no record of its training.
    """
    if checkpoint.training_record is None:
        raise UserError(f"{checkpoint.path} does not say what made it. Train again: dvc repro --force train")
    return {
        "schema": SCHEMA,
        "variant": checkpoint.model_name,
        "training": checkpoint.training_record,
        "selection": dict(selection),
        "code": provenance.code_digests(CODE),
        "description": description_digest(checkpoint),
        "tensors": tensor_digest(checkpoint.weights),
    }


def description_digest(checkpoint: Checkpoint) -> str:
    """SHA-256 of what loading takes from a file beside the weights: class, configuration, parameters, class names."""
    told = {"model_name": checkpoint.model_name, "model_config": checkpoint.model_config, "args": checkpoint.args}
    return files.digest(told)
