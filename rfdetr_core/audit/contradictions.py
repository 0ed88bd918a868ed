"""Finds contradictions between a model file, its weights, and the records of the runs that may have produced it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rfdetr_core.base.errors import listed
from rfdetr_core.base.provenance import flattened

if TYPE_CHECKING:
    from rfdetr_core.checkpoint.files import Checkpoint

_CHANGED = "its detections may have other class names, or be computed differently"


def contradictions_of(
    checkpoint: Checkpoint | None, tensors: str | None, runs: Sequence[dict[str, Any]]
) -> Iterator[str]:
    """Where a file's lineage or description contradicts its weights or its records.

    Args:
        checkpoint: The content of the file, if it is a model file.
        tensors: Its weights digest.
        runs: The records of the runs that may have produced it.
    """
    lineage, training = (checkpoint.lineage, checkpoint.training_record) if checkpoint else (None, None)
    if lineage is None:
        if training is not None and runs and all(training != run["lineage"]["training"] for run in runs):
            yield "the training record in the file differs from those in the run records of its weights"
        elif checkpoint and checkpoint.model_config and training is None and runs and not _matches(checkpoint, runs):
            yield f"classes or configuration in the file differ from those of its run record, so {_CHANGED}"
    elif lineage["tensors"] != tensors:
        yield "the weights in the file differ from those that its lineage names: weights or lineage were changed"
    elif checkpoint and not _matches(checkpoint, [{"lineage": lineage}]):
        yield f"classes or configuration in the file differ from those that its lineage names, so {_CHANGED}"
    elif len(runs) > 1 and all(lineage != run["lineage"] for run in runs):
        yield "the lineage in the file differs from those in the run records of its weights"
    elif runs and (keys := differing_keys(flattened(runs[0]["lineage"]), flattened(lineage))):
        yield f"the file and its run record have different values of {listed(keys)}. The answer is from the run record"


def differing_keys(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The keys with different values, params first."""
    keys = (key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    return sorted(keys, key=lambda key: (not key.startswith("training.params."), key))


def _matches(checkpoint: Checkpoint, runs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the file's description has the digest that one of these lineages names.

    A lineage that is too old to name a digest matches every description.
    """
    from rfdetr_core.lineage.compose import description_digest

    return any(run["lineage"].get("description") in (None, description_digest(checkpoint)) for run in runs)
