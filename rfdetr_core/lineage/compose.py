"""The lineage of a model file: every input that determined its weights. Equal inputs give equal bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rfdetr_core.base import files
from rfdetr_core.base.code import Code
from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.files import Checkpoint, tensor_digest

SCHEMA = 2  # in schema 1, the digests of code covered all bytes, comments included


def compose(checkpoint: Checkpoint, selection: Mapping[str, Any]) -> dict[str, Any]:
    """The lineage of a best checkpoint: its training record, the selection, and the digests of code and weights.

    Keys of the result:
        schema, variant.
        training: The training record (params, inputs, weights, code, packages, machine, files, counts, parents, lock).
        selection: The content of selection.json.
        code: The code digest of each source file that strip runs. Comments and docstrings do not change it.
        description: The digest of all that loading reads besides the weights (see `description_digest`).
        tensors: The weights digest. It does not depend on the file that holds them.

    Args:
        checkpoint: The best checkpoint, as train wrote it.
        selection: The content of selection.json.

    Raises:
        UserError: The checkpoint has no training record.
    """
    if checkpoint.training_record is None:
        raise UserError(f"{checkpoint.path} has no training record. Train again: dvc repro --force train")
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
    """The code digests of the source files that stages.strip runs."""
    return Code().digests("stages.strip", "rfdetr_core.selection.strip")


def description_digest(checkpoint: Checkpoint) -> str:
    """SHA-256 of what loading reads besides the weights: model class, configuration, params, class names, threshold."""
    fields = {"model_name": checkpoint.model_name, "model_config": checkpoint.model_config, "args": checkpoint.args}
    # A file without a threshold keeps the digest that it had before thresholds were introduced.
    return files.digest(fields | ({} if checkpoint.threshold is None else {"threshold": checkpoint.threshold}))
