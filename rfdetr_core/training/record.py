"""The training record: every input that determines the result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rfdetr_core.base import files, provenance
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.base.provenance import flattened
from rfdetr_core.checkpoint.files import read_checkpoint, tensor_digest
from rfdetr_core.checkpoint.published import resolve_weights
from rfdetr_core.data.samples import Sample
from rfdetr_core.model.config import ModelConfig
from rfdetr_core.training.batch_size import devices
from rfdetr_core.training.config import TrainConfig
from rfdetr_core.training.trainer import device_kind, resolved_precision

# What stages.train runs; a test compares this with its imports.
_FOLDERS = ("base", "checkpoint", "data", "loss", "metrics", "model", "ops", "training")
CODE = (
    "rfdetr_core/__init__.py",
    *(f"rfdetr_core/{name}" for name in _FOLDERS),
    "stages/__init__.py",
    "stages/train.py",
)
# The rest follows from these, or names what they digest.
_DECIDING = ("params", "inputs", "weights", "code", "packages", "machine")


def fingerprint(record: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a record that decides the result, with dotted keys."""
    return flattened({key: record[key] for key in _DECIDING})


def record_of(
    where: ProjectPaths, model: ModelConfig, asked: TrainConfig, sized: TrainConfig, samples: Mapping[str, list[Sample]]
) -> dict[str, Any]:
    """Everything that decides the result, as it is; equal for equal inputs on equal machines.

    Besides the parts of the fingerprint: files (size of each input and the name git gives to its content), counts,
    parents (of weights: name, digests and lineage), lock (the SHA-256 of requirements/numeric.lock). sized: the params
    with the batch size that `auto` came to.
    """
    identities = provenance.identities(where.inputs("train", "valid"))
    weights = {"pretrain_weights": model.pretrain_weights, "resume": asked.resume}
    paths = {key: resolve_weights(name, where.weights) for key, name in weights.items()}
    parents = {key: _parent(path) for key, path in paths.items() if path is not None}
    return {
        "params": {"model": model.model_dump(mode="json"), "train": asked.model_dump(mode="json")},
        "inputs": {name: identity["sha256"] for name, identity in identities.items()},
        "weights": {key: parents[key]["sha256"] if key in parents else None for key in paths},
        "code": provenance.code_digests(CODE),
        **provenance.environment(),
        "machine": _machine(asked, sized),
        "files": {name: {"size": identity["size"], "git": identity["git"]} for name, identity in identities.items()},
        "counts": {split: _count(found) for split, found in samples.items()},
        "parents": parents,
    }


def _machine(asked: TrainConfig, sized: TrainConfig) -> dict[str, Any]:
    kind, size = device_kind(asked), int(sized.batch_size)
    return {
        "device": torch.cuda.get_device_name() if kind == "cuda" else kind,
        "cuda": torch.version.cuda if kind == "cuda" else None,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "precision": resolved_precision(asked),
        "batch_size": size,
        "grad_accum_steps": sized.grad_accum_steps,
        "effective_batch_size": size * sized.grad_accum_steps * devices(asked),
    }


def _count(samples: list[Sample]) -> dict[str, int]:
    return {"images": len(samples), "objects": sum(len(sample.labels) for sample in samples)}


def _parent(path: Path) -> dict[str, Any]:
    checkpoint = read_checkpoint(path)
    digests = {"name": path.name, "sha256": files.sha256_file(path), "tensors": tensor_digest(checkpoint.weights)}
    return digests | {"lineage": checkpoint.lineage}
