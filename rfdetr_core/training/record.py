"""The training record: every input that determines the result; resuming from it; who may write to a run folder."""

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

# The rest follows from these, or names what they digest.
_DECIDING = ("params", "inputs", "weights", "code", "classes", "packages", "machine", "custom")
# How many generations of parents a record holds, for whoever has the file alone. Each adds kilobytes, and four of the
# MOST_LEVELS that a file may have. Earlier ones are found in git by the digests that are kept of them.
GENERATIONS = 10
_KEPT_OF_PARENTS = ("name", "sha256", "tensors", "record")
STATE_FILE = "checkpoint.pth"
LOCK_FILE = ".lock"
PATIENCE = 15.0  # seconds: a trainer that was told to stop finishes its step
_held: dict[Path, int] = {}  # by folder, the thread that writes to it
_MOST_EPOCHS = 10**9
_SMALL_CHANGE = 0.02  # of the learning rate, as a part of its full value: not worth a word
_CODE_SHOWN = 3  # files named of those that changed
# What must not differ when a training is gone on with on purpose, but for its length and where its weights came from.
_KEPT = ("params.", "inputs.annotations/classes.json ")
_LENGTH = (
    *(f"params.train.{name}" for name in ("epochs ", "resume ", "early_stopping", "eval_interval ")),
    *("params.model.pretrain_weights ", "weights."),
)


def fingerprint(record: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a record that decides the result, with dotted keys."""
    return provenance.flattened({key: record[key] for key in _DECIDING if key in record})


def record_of(
    where: ProjectPaths, model: ModelConfig, asked: TrainConfig, sized: TrainConfig, samples: Mapping[str, list[Sample]]
) -> dict[str, Any]:
    """Everything that decides the result, as it is; equal for equal inputs on equal machines.

    Besides the parts of the fingerprint: files (size of each input and the name git gives to its content), counts,
    parents (of weights: name, digests, lineage or training record), roots (of Merkle trees over the images of each
    split, see `base.manifest.trees`), lock (the SHA-256 of requirements/numeric.lock), and classes where params name
    one that is installed (see `installed_classes`). A training that a script changed has the part `custom` as well (see
    rfdetr_core/api/custom_record.py).
    sized: the params with the batch size that `auto` came to.
    """
    code, keys = Code(), set(CLASSES["train"])
    identities = provenance.identities(where.inputs("train", "valid"))
    weights = {"pretrain_weights": model.pretrain_weights, "resume": asked.resume}
    paths = {key: resolve_weights(name, where.weights) for key, name in weights.items()}
    parents = {key: parent_of(path) for key, path in paths.items() if path is not None}
    kind, size = device_kind(asked), int(sized.batch_size)
    machine = {
        "device": torch.cuda.get_device_name() if kind == "cuda" else kind,
        "cuda": torch.version.cuda if kind == "cuda" else None,
        "cpu": cpu_kind(portable=asked.portable),
        **({"processor": processor()} if kind == "cpu" and not asked.portable else {}),
        "settings": settings(),
        "threads": torch.get_num_threads(),
        "precision": resolved_precision(asked),
        "batch_size": size,
        "grad_accum_steps": sized.grad_accum_steps,
        "effective_batch_size": size * sized.grad_accum_steps * devices(asked),
        **({} if asked.compile == "off" else {"compiler": code_generator(kind)}),
    }
    return {
        "params": {"model": model.model_dump(mode="json"), "train": asked.model_dump(mode="json")},
        "inputs": {name: identity["sha256"] for name, identity in identities.items()},
        "weights": {key: parents[key]["sha256"] if key in parents else None for key in paths},
        "code": code.digests(
            "stages.train", "rfdetr_core.training.run", *code.class_modules(asked.model_dump(include=keys))
        ),
        **({"classes": classes} if (classes := installed_classes(asked)) else {}),
        **provenance.environment(),
        "machine": machine,
        "files": {name: {"size": identity["size"], "git": identity["git"]} for name, identity in identities.items()},
        "counts": {
            split: {"images": len(found), "objects": sum(len(sample.labels) for sample in found)}
            for split, found in samples.items()
        },
        "parents": parents,
        "roots": {split: roots(read_manifest(where.split(split)[1])) for split in samples},
    }


def parent_of(path: Path) -> dict[str, Any]:
    """The entry in `parents` of a training record for the weights of a file.

    name, sha256: of the file. tensors: digest of its weights. record: digest of its training record. lineage or
    training: as the file has them, with GENERATIONS generations of its own parents.

    Raises:
        UserError: no checkpoint.
    """
    checkpoint = read_checkpoint(path)
    found: dict[str, Any] = {"name": path.name, "sha256": files.sha256_file(path)}
    found |= {"tensors": tensor_digest(checkpoint.weights), "lineage": checkpoint.lineage}
    found |= {"record": files.digest(checkpoint.training)} if checkpoint.training else {}
    return _nearest(found | ({"training": checkpoint.training_record} if checkpoint.training_record else {}))


def _nearest(parent: Mapping[str, Any], generations: int = GENERATIONS) -> dict[str, Any]:
    """The entry of a parent with so many generations, its own included; of earlier ones the name and digests stay."""

    def cut(training: Mapping[str, Any]) -> dict[str, Any]:
        parents = (training.get("parents") or {}).items()
        return {**training, "parents": {key: _nearest(one, generations - 1) for key, one in parents}}

    if not generations:
        return {key: parent[key] for key in _KEPT_OF_PARENTS if key in parent} | {"lineage": None}
    lineage, training = parent.get("lineage"), parent.get("training")
    kept = {**parent} | ({"lineage": {**lineage, "training": cut(lineage["training"])}} if lineage else {})
    return kept | ({"training": cut(training)} if training else {})


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """A phrase for each key in which two fingerprints differ. An option that one does not have has its default.

    What a script changed and nobody knows, which is None in `custom`, always differs.
    A size of the model that one leaves to the variant is the variant's: a model that is read from a file has each size.
    """
    old, new = _sized(old, new), _sized(new, old)
    defaults = {f"params.train.{name}": field.get_default() for name, field in TrainConfig.model_fields.items()}
    common = {name: value for name, value in defaults.items() if name in old or name in new}
    old, new = {**common, **old}, {**common, **new}
    unknown = {key for one in (old, new) for key in one if key.startswith("custom.") and one[key] is None}
    keys = [key for key in sorted(old.keys() | new.keys()) if key in unknown or old.get(key) != new.get(key)]
    return [
        f"{key} is unknown"
        if key in unknown
        else f"{key} was {provenance.short(old.get(key))}, is {provenance.short(new.get(key))}"
        for key in keys
    ]


def _sized(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """A fingerprint with the variant's own number for each size of the model that only the other one gives."""
    variant = VARIANTS.get(str(one.get("params.model.variant")))
    if variant is None:
        return {**one}
    sizes = {"resolution": variant.resolution, "num_queries": variant.queries, "group_detr": variant.groups}
    own = {f"params.model.{name}": number for name, number in sizes.items()}
    return {**one, **{key: own[key] for key in own if one.get(key) is None and other.get(key) is not None}}


@dataclass(frozen=True)
class State:
    """The resume state at `path`: the epochs that it has trained, and whether that was all."""

    path: Path
    epochs: int
    finished: bool


def state_to_resume(folder: Path, fingerprint: Mapping[str, Any]) -> tuple[State | None, str]:
    """What an interrupted training of the same inputs left in a folder, and a sentence for the user.

    A finished one counts as interrupted only if DVC was, before it recorded the result: else to run again is to train
    again.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return None, ""
    try:
        content = read_plain(path, ResumeState)
        _check_unchanged(content, path, required=True)
    except UserError as error:
        return None, f"{path} cannot be gone on from ({error}): starting anew."
    run, state = content["run"], State(path, content["epoch"] + 1, content["run"]["finished"])
    changed = differences(run["fingerprint"], fingerprint)
    recorded = state.finished and _recorded(run.get("result", ()))
    if changed and state.finished and not recorded:
        # DVC has since restored another result, so what differs is not what changed since the last one.
        return None, f"starting anew; {path} is of another training than dvc.lock."
    if changed:
        kind = "finished" if state.finished else "interrupted"
        code = [one for one in changed if one.startswith("code.")]
        listed = "; ".join([one for one in changed if one not in code] + code[:_CODE_SHOWN])
        listed += f"; and {len(code) - _CODE_SHOWN} more files of code" if len(code) > _CODE_SHOWN else ""
        told = f"starting anew, since the {kind} training in {folder} differs: {listed}."
        if any(one.startswith("params.train.epochs ") for one in changed):
            told += f" To go on to more epochs: python -m rfdetr_core promote {path}"
        return None, told
    if recorded:
        return None, ""
    if state.finished:
        return state, f"the training in {folder} had finished, but DVC had not recorded it: writing its files again."
    return state, f"going on after epoch {state.epochs} of the interrupted training in {folder}."


def named_state(path: Path, config: TrainConfig, fingerprint: Mapping[str, Any]) -> tuple[State, str]:
    """The state that `train.resume` names, to be gone on with up to `train.epochs`, and sentences for the user.

    Raises:
        UserError: it is no checkpoint.pth of a training, or of one with other parameters than the length, other
            classes, or more epochs.
    """
    content = read_plain(path)
    if content.get("run") is None:
        raise UserError(
            f"{path} has no state of a training; train.resume needs a checkpoint.pth. To start from its weights, name "
            "it as model.pretrain_weights."
        )
    check_content(content, ResumeState, path)
    _check_unchanged(content, path, required=False)
    changed = differences(content["run"]["fingerprint"], fingerprint)
    changes = [one for one in changed if not one.startswith(_LENGTH)]
    if refused := [one for one in changes if one.startswith(_KEPT)]:
        raise UserError(
            f"train.resume goes on with the same parameters, but {'; '.join(refused)}. For a new training from its "
            f"weights, name {path.name} as model.pretrain_weights."
        )
    state = State(path, content["epoch"] + 1, finished=False)
    if state.epochs > config.epochs:
        raise UserError(f"{path} has trained {state.epochs} epochs, more than train.epochs: {config.epochs}. Raise it.")
    told = [f"going on after epoch {state.epochs} of {path}.", *(f"{one}." for one in changes)]
    planned, steps = content["run"]["fingerprint"].get("params.train.epochs"), content.get("global_step", 0)
    if type(planned) is not int or not 0 < planned < _MOST_EPOCHS:
        raise UserError(f"{path}: run.fingerprint.params.train.epochs: it must be a whole number above 0.")
    if state.epochs < config.epochs and planned != config.epochs and config.lr_scheduler in SCHEDULES:
        told += _rate_change(max(steps, state.epochs), state.epochs, planned, config)
    if state.epochs < min(planned, config.epochs) and config.early_stopping and content["run"]["finished"]:
        told.append("It had stopped early: early stopping waits anew.")
    return state, " ".join(told)


def _check_unchanged(content: Mapping[str, Any], path: Path, *, required: bool) -> None:
    """Compare a state with the digest in it. required: whether a state without one, as of older versions, is refused.

    Raises:
        UserError: it is not as it was written.
    """
    told = content["run"].get("digest")
    if told is None and required:
        raise UserError(f"{path} was written by an older version, without a digest of its content.")
    if told is not None and told != content_digest(content):
        raise UserError(f"{path} was changed after the training wrote it: its content is not that of its digest.")


def _rate_change(step: int, trained: int, planned: int, config: TrainConfig) -> Iterator[str]:
    """A sentence on the learning rate, if it changes where a training of `planned` epochs gets another length.

    step: optimiser steps in the epochs that are trained.
    """
    numbers: dict[str, Any] = {"warmup_epochs": config.warmup_epochs, **config.lr_scheduler_kwargs}
    numbers |= {"kind": config.lr_scheduler, "steps_per_epoch": step // trained}
    before = learning_rate_factor(step - 1, epochs=planned, **numbers)
    after = learning_rate_factor(step, epochs=config.epochs, **numbers)
    if abs(after - before) > _SMALL_CHANGE:
        schedule = f"the {config.lr_scheduler} schedule of {config.epochs} epochs, not of {planned}"
        yield f"The learning rate goes from {before:.0%} to {after:.0%} of its full value: {schedule}."


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder, if its file system has locks; the system releases it when the process ends.

    A thread that holds it may take it again: `train` of the API holds it from its first file to its last, and
    `train_model` within it.

    Raises:
        UserError: another process or thread writes there, or the folder cannot be written.
    """
    if not first_process():
        yield  # that of rank 0 holds the lock for all
        return
    place = folder.resolve()
    # The system's lock is the process's, and gone when any file on it is closed.
    thread = threading.get_ident()
    if _held.get(place) == thread:
        yield
        return
    if _held.setdefault(place, thread) != thread:
        raise UserError(
            f"another training or evaluation of this process ({os.getpid()}) writes to {folder}. Wait for it."
        )
    try:
        with _locked(folder):
            yield
    finally:
        del _held[place]


def first_process() -> bool:
    """Whether this is rank 0, by the variables of torchrun, Kubeflow, SLURM, LSF, MPI, or Lightning's own launcher."""
    others = ("SLURM_PROCID", "JSM_NAMESPACE_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "NODE_RANK", "LOCAL_RANK")
    names = ("RANK",) if "RANK" in os.environ else others
    return not any(int(os.environ.get(name) or 0) for name in names)


def _locked(folder: Path) -> TextIO:
    """The lock file, locked and with this process's id, in a folder that has no half-written file."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK_FILE).open("a+")
        deadline = time.monotonic() + PATIENCE
        while not _acquired(lock):
            if time.monotonic() > deadline:
                lock.seek(0)
                who = f"process {lock.read() or 'unknown'}"
                lock.close()
                raise UserError(f"another training or evaluation ({who}) writes to {folder}. Wait for it, or end it.")
            time.sleep(0.1)
        for name in ("checkpoint*.pth", "history.csv", "steps.csv", "scores.json"):
            for path in folder.glob(f".{name}.????????"):  # what `files.replacing` of a killed trainer left
                path.unlink()
        lock.truncate(0)
        print(os.getpid(), end="", file=lock, flush=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}). Make it a folder that can be.") from error
    return lock


def _acquired(lock: TextIO) -> bool:
    """False where another process holds the lock. A file system without locks, which is said, refuses nobody."""
    try:
        # Unlike flock, this lock is not inherited by loader workers, which may outlive a killed trainer.
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        what = f"the file system of {Path(lock.name).parent} has no locks ({error.strerror})"
        say(f"{what}: start no second training there while this one runs.")
    return True


def _recorded(result: Sequence[str]) -> bool:
    """Whether DVC, if it runs this process, has files of these MD5s in dvc.lock."""
    if (root := os.environ.get("DVC_ROOT")) is None:
        return True
    lock = Path(root) / "dvc.lock"
    text = files.read_text(lock) if lock.exists() else ""
    return all(md5 in text for md5 in result)
