"""Going on after an interruption: what must be equal for it, who may write to a run folder, how a run ends early."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.provenance import short
from rfdetr_core.checkpoint.files import read_plain

STATE_FILE = "checkpoint.pth"
LOCK_FILE = ".lock"
PATIENCE = 15.0  # seconds: a trainer that was told to stop finishes its step
_held: set[Path] = set()
_CODE_SHOWN = 3  # files named of those that changed
# What must not differ when a training is gone on with on purpose, but for its length and where its weights came from.
_KEPT = ("params.", "inputs.annotations/classes.json ")
_LENGTH = (
    *(f"params.train.{name}" for name in ("epochs ", "resume ", "early_stopping", "eval_interval ")),
    *("params.model.pretrain_weights ", "weights."),
)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """A phrase for each key in which two fingerprints differ."""
    keys = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    return [f"{key} was {short(old.get(key))}, is {short(new.get(key))}" for key in keys]


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
        content = read_plain(path)
        run, state = content["run"], State(path, content["epoch"] + 1, content["run"]["finished"])
        changed = differences(run["fingerprint"], fingerprint)
        recorded = state.finished and _recorded(run["result"])
    except (UserError, KeyError, TypeError) as error:
        return None, f"{path} cannot be gone on from ({error}): starting anew."
    if changed:
        kind = "finished" if state.finished else "interrupted"
        told = f"starting anew, since the {kind} training in {folder} differs: {_listed(changed)}."
        if any(one.startswith("params.train.epochs ") for one in changed):
            told += f" To go on to more epochs, copy {path} to weights/ and name it as train.resume."
        return None, told
    if recorded:
        return None, ""
    if state.finished:
        return state, f"the training in {folder} had finished, but DVC had not recorded it: writing its files again."
    return state, f"going on after epoch {state.epochs} of the interrupted training in {folder}."


def named_state(path: Path, epochs: int, fingerprint: Mapping[str, Any]) -> tuple[State, str]:
    """The state that `train.resume` names, to be gone on with up to `epochs`, and a sentence for the user.

    Raises:
        UserError: it is no checkpoint.pth of a training, or of one with other parameters than the length, other
            classes, or more epochs.
    """
    content = read_plain(path)
    if "run" not in content:
        raise UserError(
            f"{path} has no state of a training; train.resume needs a checkpoint.pth. To start from its weights, name "
            "it as model.pretrain_weights."
        )
    changes = differences(content["run"]["fingerprint"], fingerprint)
    changes = [one for one in changes if not one.startswith(_LENGTH)]
    refused = [one for one in changes if one.startswith(_KEPT)]
    if refused:
        raise UserError(
            f"train.resume goes on with the same parameters, but {'; '.join(refused)}. For a new training from its "
            f"weights, name {path.name} as model.pretrain_weights."
        )
    state = State(path, content["epoch"] + 1, finished=False)
    if state.epochs > epochs:
        raise UserError(f"{path} has trained {state.epochs} epochs, more than train.epochs: {epochs}. Raise it.")
    return state, f"going on after epoch {state.epochs} of {path}." + "".join(f" {one}." for one in changes)


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder; the system releases it when the process ends, however that happens.

    Raises:
        UserError: another process trains there, or the folder cannot be written.
    """
    if not first_process():
        yield  # that of rank 0 holds the lock for all
        return
    place = folder.resolve()
    if place in _held:  # by a thread; the system's lock is the process's, and gone when any file on it is closed
        raise UserError(f"another training of this process ({os.getpid()}) writes to {folder}. Wait for it.")
    _held.add(place)
    try:
        with _locked(folder):
            yield
    finally:
        _held.discard(place)


def first_process() -> bool:
    """Whether this is rank 0, by the variables of torchrun, SLURM, or Lightning's own launcher."""
    names = ("RANK",) if "RANK" in os.environ else ("SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")
    return not any(int(os.environ.get(name) or 0) for name in names)


def _locked(folder: Path) -> TextIO:
    """The lock file, locked and with this process's id, in a folder that has no half-written file."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK_FILE).open("a+")
        _acquire(lock, folder)
        _remove_left_overs(folder)
        lock.truncate(0)
        print(os.getpid(), end="", file=lock, flush=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}). Make it a folder that can be.") from error
    return lock


def _acquire(lock: TextIO, folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            # Unlike flock, this lock is not inherited by loader workers, which may outlive a killed trainer.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            lock.seek(0)
            holder = f"another training (process {lock.read() or 'unknown'}) writes to {folder}"
        if time.monotonic() > deadline:
            lock.close()
            raise UserError(f"{holder}. Wait for it, or end it.")
        time.sleep(0.1)


def _remove_left_overs(folder: Path) -> None:
    """Remove what `files.replacing` of a killed trainer left."""
    for name in ("checkpoint*.pth", "history.csv", "scores.json"):
        for path in folder.glob(f".{name}.????????"):
            path.unlink()


def _recorded(result: Sequence[str]) -> bool:
    """Whether DVC, if it runs this process, has files of these MD5s in dvc.lock."""
    root = os.environ.get("DVC_ROOT")
    if root is None:
        return True
    lock = Path(root) / "dvc.lock"
    text = lock.read_text() if lock.exists() else ""
    return all(md5 in text for md5 in result)


def _listed(changes: Sequence[str]) -> str:
    code = [one for one in changes if one.startswith("code.")]
    shown = [one for one in changes if one not in code] + code[:_CODE_SHOWN]
    return "; ".join(shown) + f"; and {len(code) - _CODE_SHOWN} more files of code" * (len(code) > _CODE_SHOWN)
