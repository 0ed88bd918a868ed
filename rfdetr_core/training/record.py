"""The training record, the check whether a run may resume, and the lock of a run folder.

The training record has every input that determines a training's result. Its fingerprint is the part that decides the
result, as keys and values. An interrupted run resumes only if the fingerprint in its state equals that of the new run.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch

from rfdetr_core.base import files, provenance
from rfdetr_core.base.code import CLASSES, Code
from rfdetr_core.base.environment import processor, settings
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.manifest import read_manifest, roots
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.base.printing import say
from rfdetr_core.checkpoint.files import check_content, content_digest, read_checkpoint, read_plain, tensor_digest
from rfdetr_core.checkpoint.published import resolve_weights
from rfdetr_core.checkpoint.schema import ResumeState
from rfdetr_core.data.samples import Sample
from rfdetr_core.model.config import VARIANTS, ModelConfig
from rfdetr_core.training.compilation import code_generator
from rfdetr_core.training.config import TrainConfig
from rfdetr_core.training.optimization import installed_classes
from rfdetr_core.training.schedule import SCHEDULES, learning_rate_factor
from rfdetr_core.training.trainer import cpu_kind, device_kind, devices, resolved_precision

# The parts of a record that decide the result. The other parts follow from these, or describe the same files.
_DECIDING = ("params", "inputs", "weights", "code", "classes", "packages", "machine", "custom")
# A record has this many generations of parents, so that they are known without git. Each generation adds kilobytes, and
# four levels of nesting (MOST_LEVELS is the limit). Earlier generations are found in git by the digests that are kept.
GENERATIONS = 10
_KEPT_PARENT_KEYS = ("name", "sha256", "tensors", "record")
STATE_FILE = "checkpoint.pth"
LOCK_FILE = ".lock"
PATIENCE = 15.0  # seconds to wait for the lock: a trainer that was asked to stop finishes its step
_writers: dict[Path, int] = {}  # the thread that writes to each folder
_MOST_EPOCHS = 10**9
_SMALL_CHANGE = 0.02  # smaller changes, relative to the full learning rate, are not mentioned
_NAMED_CODE_FILES = 3  # the number of changed files of code that a message names
# Prefixes of keys. With train.resume, keys of _REQUIRED must be equal, unless they are keys of _LENGTH, which set the
# length of the training, its evaluation interval or its initial weights.
_REQUIRED = ("params.", "inputs.annotations/classes.json ")
_LENGTH = (
    *(f"params.train.{name}" for name in ("epochs ", "resume ", "early_stopping", "eval_interval ")),
    *("params.model.pretrain_weights ", "weights."),
)


def fingerprint(record: Mapping[str, Any]) -> dict[str, Any]:
    """The fingerprint: the part of a training record that decides the result, as dotted keys and their values."""
    return provenance.flattened({key: record[key] for key in _DECIDING if key in record})


def record_of(
    where: ProjectPaths,
    model: ModelConfig,
    requested: TrainConfig,
    resolved: TrainConfig,
    samples: Mapping[str, list[Sample]],
) -> dict[str, Any]:
    """The training record. Equal inputs on equal machines give an equal record.

    Beside the parts of the fingerprint, it has: files (the size of each input, and the id that git gives to its
    content), counts, parents (name, digests, and lineage or training record of the weights), roots (of Merkle trees
    over the images of each split, see `base.manifest.trees`), lock (the SHA-256 of requirements/numeric.lock), and
    classes if params name a class of an installed package (see `installed_classes`). A training that a script changed
    also has the part `custom` (see rfdetr_core/api/custom_record.py).

    Args:
        where: the folders of the project.
        model: the section `model`.
        requested: the section `train` as the user wrote it.
        resolved: the same with numbers instead of `batch_size: auto`.
        samples: the images of train and valid.
    """
    code, keys = Code(), set(CLASSES["train"])
    identities = provenance.identities(where.inputs("train", "valid"))
    weights = {"pretrain_weights": model.pretrain_weights, "resume": requested.resume}
    paths = {key: resolve_weights(name, where.weights) for key, name in weights.items()}
    parents = {key: parent_of(path) for key, path in paths.items() if path is not None}
    kind, size = device_kind(requested), int(resolved.batch_size)
    machine = {
        "device": torch.cuda.get_device_name() if kind == "cuda" else kind,
        "cuda": torch.version.cuda if kind == "cuda" else None,
        "cpu": cpu_kind(portable=requested.portable),
        **({"processor": processor()} if kind == "cpu" and not requested.portable else {}),
        "settings": settings(),
        "threads": torch.get_num_threads(),
        "precision": resolved_precision(requested),
        "batch_size": size,
        "grad_accum_steps": resolved.grad_accum_steps,
        "effective_batch_size": size * resolved.grad_accum_steps * devices(requested),
        **({} if requested.compile == "off" else {"compiler": code_generator(kind)}),
    }
    return {
        "params": {"model": model.model_dump(mode="json"), "train": requested.model_dump(mode="json")},
        "inputs": {name: identity["sha256"] for name, identity in identities.items()},
        "weights": {key: parents[key]["sha256"] if key in parents else None for key in paths},
        "code": code.digests(
            "stages.train", "rfdetr_core.training.run", *code.class_modules(requested.model_dump(include=keys))
        ),
        **({"classes": classes} if (classes := installed_classes(requested)) else {}),
        **provenance.environment(),
        "machine": machine,
        "files": {name: {"size": identity["size"], "git": identity["git"]} for name, identity in identities.items()},
        "counts": {
            split: {"images": len(split_samples), "objects": sum(len(sample.labels) for sample in split_samples)}
            for split, split_samples in samples.items()
        },
        "parents": parents,
        "roots": {split: roots(read_manifest(where.split(split)[1])) for split in samples},
    }


def parent_of(path: Path) -> dict[str, Any]:
    """The entry for a weights file in `parents` of a training record.

    It has name and sha256 of the file, tensors (the digest of its weights), record (the digest of its training record),
    and lineage or training as in the file, with GENERATIONS generations of its parents.

    Raises:
        UserError: the file is not a checkpoint.
    """
    checkpoint = read_checkpoint(path)
    entry: dict[str, Any] = {"name": path.name, "sha256": files.sha256_file(path)}
    entry |= {"tensors": tensor_digest(checkpoint.weights), "lineage": checkpoint.lineage}
    entry |= {"record": files.digest(checkpoint.training)} if checkpoint.training else {}
    return _nearest(entry | ({"training": checkpoint.training_record} if checkpoint.training_record else {}))


def _nearest(parent: Mapping[str, Any], generations: int = GENERATIONS) -> dict[str, Any]:
    """A parent's entry, shortened to this many generations. Of earlier ones, only name and digests stay."""

    def cut(training: Mapping[str, Any]) -> dict[str, Any]:
        parents = (training.get("parents") or {}).items()
        return {**training, "parents": {key: _nearest(grandparent, generations - 1) for key, grandparent in parents}}

    if not generations:
        return {key: parent[key] for key in _KEPT_PARENT_KEYS if key in parent} | {"lineage": None}
    lineage, training = parent.get("lineage"), parent.get("training")
    kept = {**parent} | ({"lineage": {**lineage, "training": cut(lineage["training"])}} if lineage else {})
    return kept | ({"training": cut(training)} if training else {})


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """A phrase for each key in which two fingerprints differ.

    A missing option counts as its default. A missing size of the model counts as the size of the variant. A key of
    `custom` whose value is None (unknown) always differs.
    """
    old, new = _sized(old, new), _sized(new, old)
    defaults = {f"params.train.{name}": field.get_default() for name, field in TrainConfig.model_fields.items()}
    common = {name: value for name, value in defaults.items() if name in old or name in new}
    old, new = {**common, **old}, {**common, **new}
    unknown = {
        key
        for record_part in (old, new)
        for key in record_part
        if key.startswith("custom.") and record_part[key] is None
    }
    keys = [key for key in sorted(old.keys() | new.keys()) if key in unknown or old.get(key) != new.get(key)]
    return [
        f"{key} is unknown"
        if key in unknown
        else f"{key} was {provenance.short(old.get(key))}, is {provenance.short(new.get(key))}"
        for key in keys
    ]


def _sized(fingerprint: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The fingerprint, with the variant's number added for each size of the model that only `other` has."""
    variant = VARIANTS.get(str(fingerprint.get("params.model.variant")))
    if variant is None:
        return {**fingerprint}
    sizes = {"resolution": variant.resolution, "num_queries": variant.queries, "group_detr": variant.groups}
    defaults = {f"params.model.{name}": number for name, number in sizes.items()}
    missing = [key for key in defaults if fingerprint.get(key) is None and other.get(key) is not None]
    return {**fingerprint, **{key: defaults[key] for key in missing}}


@dataclass(frozen=True)
class State:
    """The resume state at `path`: the epochs that are trained, and whether the training is finished."""

    path: Path
    epochs: int
    finished: bool


def state_to_resume(folder: Path, fingerprint: Mapping[str, Any]) -> tuple[State | None, str]:
    """The state that an interrupted training of the same inputs left in a folder, and a sentence for the user.

    A finished training counts as interrupted only if DVC did not record its result. If DVC did, the new run starts from
    scratch.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return None, ""
    try:
        content = read_plain(path, ResumeState)
        _check_unchanged(content, path, required=True)
    except UserError as error:
        return None, f"cannot resume from {path} ({error}): starting from scratch."
    run, state = content["run"], State(path, content["epoch"] + 1, content["run"]["finished"])
    changed = differences(run["fingerprint"], fingerprint)
    recorded = state.finished and _recorded(run.get("result", ()))
    if changed and state.finished and not recorded:
        # DVC has since restored the result of another training, so these differences would mislead the user.
        return None, f"starting from scratch, because {path} belongs to another training than dvc.lock."
    if changed:
        kind = "finished" if state.finished else "interrupted"
        code = [phrase for phrase in changed if phrase.startswith("code.")]
        listed = "; ".join([phrase for phrase in changed if phrase not in code] + code[:_NAMED_CODE_FILES])
        listed += f"; and {len(code) - _NAMED_CODE_FILES} more files of code" if len(code) > _NAMED_CODE_FILES else ""
        message = f"starting from scratch, because the {kind} training in {folder} differs: {listed}."
        if any(phrase.startswith("params.train.epochs ") for phrase in changed):
            message += f" To resume it for more epochs: python -m rfdetr_core promote {path}"
        return None, message
    if recorded:
        return None, ""
    if state.finished:
        return state, f"the training in {folder} had finished, but DVC had not recorded it: writing its files again."
    return state, f"resuming after epoch {state.epochs} of the interrupted training in {folder}."


def named_state(path: Path, config: TrainConfig, fingerprint: Mapping[str, Any]) -> tuple[State, str]:
    """The state that `train.resume` names, and a message for the user. The resumed training ends at `train.epochs`.

    Args:
        path: the file.
        config: the section `train`.
        fingerprint: that of the new training.

    Raises:
        UserError: the file is not a checkpoint.pth of a training; the classes differ; a parameter other than the
            number of epochs differs; or the state has more epochs than `train.epochs`.
    """
    content = read_plain(path)
    if content.get("run") is None:
        raise UserError(
            f"{path} has no state of a training. train.resume needs a checkpoint.pth. To start from its weights, set "
            "model.pretrain_weights to this file instead."
        )
    check_content(content, ResumeState, path)
    _check_unchanged(content, path, required=False)
    changed = differences(content["run"]["fingerprint"], fingerprint)
    changes = [phrase for phrase in changed if not phrase.startswith(_LENGTH)]
    if refused := [phrase for phrase in changes if phrase.startswith(_REQUIRED)]:
        raise UserError(
            f"train.resume: {path.name} was trained with other parameters or classes: {'; '.join(refused)}. "
            f"For a new training from its weights, set model.pretrain_weights: {path.name}"
        )
    state = State(path, content["epoch"] + 1, finished=False)
    if state.epochs > config.epochs:
        raise UserError(f"{path} has {state.epochs} epochs, but train.epochs is {config.epochs}. Raise train.epochs.")
    messages = [f"resuming after epoch {state.epochs} of {path}.", *(f"{phrase}." for phrase in changes)]
    planned, steps = content["run"]["fingerprint"].get("params.train.epochs"), content.get("global_step", 0)
    if type(planned) is not int or not 0 < planned < _MOST_EPOCHS:
        raise UserError(f"{path}: run.fingerprint.params.train.epochs: it must be a whole number above 0.")
    if state.epochs < config.epochs and planned != config.epochs and config.lr_scheduler in SCHEDULES:
        messages += _rate_change(max(steps, state.epochs), state.epochs, planned, config)
    if state.epochs < min(planned, config.epochs) and config.early_stopping and content["run"]["finished"]:
        messages.append("That training had stopped early. Early stopping counts again from 0.")
    return state, " ".join(messages)


def _check_unchanged(content: Mapping[str, Any], path: Path, *, required: bool) -> None:
    """Compare a state with the digest in it.

    Args:
        content: of the file.
        path: of the file, for messages.
        required: refuse a state without a digest, which an older version wrote.

    Raises:
        UserError: the content does not match its digest, or a required digest is missing.
    """
    recorded_digest = content["run"].get("digest")
    if recorded_digest is None and required:
        raise UserError(f"{path} was written by an older version, without a digest of its content.")
    if recorded_digest is not None and recorded_digest != content_digest(content):
        raise UserError(f"{path} was changed after the training wrote it: its content does not match its digest.")


def _rate_change(step: int, trained: int, planned: int, config: TrainConfig) -> Iterator[str]:
    """A sentence for the user if the learning rate jumps because the resumed training has another number of epochs.

    Args:
        step: optimiser steps so far.
        trained: epochs so far.
        planned: epochs that the training had planned.
        config: the section `train`, with the new number of epochs.
    """
    numbers: dict[str, Any] = {"warmup_epochs": config.warmup_epochs, **config.lr_scheduler_kwargs}
    numbers |= {"kind": config.lr_scheduler, "steps_per_epoch": step // trained}
    before = learning_rate_factor(step - 1, epochs=planned, **numbers)
    after = learning_rate_factor(step, epochs=config.epochs, **numbers)
    if abs(after - before) > _SMALL_CHANGE:
        schedule = f"the {config.lr_scheduler} schedule now has {config.epochs} epochs, not {planned}"
        yield f"The learning rate goes from {before:.0%} to {after:.0%} of its full value, because {schedule}."


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder, if its file system has locks. The system releases it when the process ends.

    The thread that holds the lock may take it again: `train` of the API holds it from its first file to its last, and
    calls `train_model`, which takes it too.

    Raises:
        UserError: another process or thread writes to the folder, or the folder cannot be written.
    """
    if not first_process():
        yield  # rank 0 holds the lock for all ranks
        return
    place = folder.resolve()
    # The system's lock belongs to the process, and ends when any handle of the file is closed.
    thread = threading.get_ident()
    if _writers.get(place) == thread:
        yield
        return
    if _writers.setdefault(place, thread) != thread:
        raise UserError(
            f"another training or evaluation of this process ({os.getpid()}) writes to {folder}. Wait for it."
        )
    try:
        with _locked(folder):
            yield
    finally:
        del _writers[place]


def first_process() -> bool:
    """Whether this is rank 0, from the variables of torchrun, Kubeflow, SLURM, LSF, MPI or Lightning's launcher."""
    variables = ("SLURM_PROCID", "JSM_NAMESPACE_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "NODE_RANK", "LOCAL_RANK")
    names = ("RANK",) if "RANK" in os.environ else variables
    return not any(int(os.environ.get(name) or 0) for name in names)


def _locked(folder: Path) -> TextIO:
    """Lock the folder: write this process's id into the lock file, and remove half-written files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK_FILE).open("a+")
        deadline = time.monotonic() + PATIENCE
        while not _acquired(lock):
            if time.monotonic() > deadline:
                lock.seek(0)
                writer = f"process {lock.read() or 'unknown'}"
                lock.close()
                raise UserError(
                    f"another training or evaluation ({writer}) writes to {folder}. Wait for it, or end it."
                )
            time.sleep(0.1)
        for name in ("checkpoint*.pth", "history.csv", "steps.csv", "scores.json"):
            for path in folder.glob(f".{name}.????????"):  # left by `files.replacing` of a killed trainer
                path.unlink()
        lock.truncate(0)
        print(os.getpid(), end="", file=lock, flush=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}). Make it a writable folder.") from error
    return lock


def _acquired(lock: TextIO) -> bool:
    """False if another process holds the lock. A file system without locks: a note to the user, and True."""
    try:
        # Unlike flock, this lock is not inherited by loader workers, which can outlive a killed trainer.
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        note = f"the file system of {Path(lock.name).parent} has no locks ({error.strerror})"
        say(f"{note}. Do not start a second training there while this one runs.")
    return True


def _recorded(result: Sequence[str]) -> bool:
    """Whether dvc.lock has these MD5s. True if DVC does not run this process."""
    if (root := os.environ.get("DVC_ROOT")) is None:
        return True
    lock = Path(root) / "dvc.lock"
    text = files.read_text(lock) if lock.exists() else ""
    return all(md5 in text for md5 in result)
