"""The lineage of a model file: everything that decided its weights, in bytes that are equal for equal inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rfdetr_core.base import files
from rfdetr_core.base.code import Code
from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.files import Checkpoint, tensor_digest

SCHEMA = 2  # 1: the digests of code are of the bytes, comments and all


def compose(checkpoint: Checkpoint, selection: Mapping[str, Any]) -> dict[str, Any]:
    """What train wrote of itself into a best file, and what was chosen and made of it since.

    Keys: schema; variant; training: the record of train (params, inputs, weights, code, packages, machine, files,
    counts, parents, lock); selection: the content of selection.json; code: the semantic digest of each source file that
    strip runs; description: the digest of what else the file says of the model; tensors: the digest of the weights,
    whatever file they are in.

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
        "code": strip_code(),
        "description": description_digest(checkpoint),
        "tensors": tensor_digest(checkpoint.weights),
    }


def strip_code() -> dict[str, str]:
    """The semantic digests of what stages.strip runs."""
    return Code().digests("stages.strip", "rfdetr_core.selection.strip")


def description_digest(checkpoint: Checkpoint) -> str:
    """SHA-256 of what loading takes from a file beside the weights: class, configuration, params, names, threshold."""
    told = {"model_name": checkpoint.model_name, "model_config": checkpoint.model_config, "args": checkpoint.args}
    # A file without a threshold keeps the digest that it had before there were any.
    return files.digest(told | ({} if checkpoint.threshold is None else {"threshold": checkpoint.threshold}))
