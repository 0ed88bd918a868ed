"""The lineage of a model file: everything that decided its weights, in bytes that are equal for equal inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rfdetr_core import files, provenance
from rfdetr_core.checkpoint.digest import tensor_digest
from rfdetr_core.checkpoint.files import Checkpoint
from rfdetr_core.errors import UserError

SCHEMA = 1
# What stages.strip runs; a test compares this with its imports.
CODE = (
    *("rfdetr_core/__init__.py", "rfdetr_core/errors.py", "rfdetr_core/files.py", "rfdetr_core/imports.py"),
    *("rfdetr_core/params.py", "rfdetr_core/provenance.py", "rfdetr_core/stripping.py"),
    *("rfdetr_core/checkpoint/__init__.py", "rfdetr_core/checkpoint/digest.py", "rfdetr_core/checkpoint/files.py"),
    *("rfdetr_core/checkpoint/keys.py", "rfdetr_core/lineage/__init__.py", "rfdetr_core/lineage/compose.py"),
    *("rfdetr_core/lineage/records.py", "rfdetr_core/model/__init__.py", "rfdetr_core/model/config.py"),
    *("stages/__init__.py", "stages/strip.py"),
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
