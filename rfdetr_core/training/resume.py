"""Going on after an interruption: what must be equal for it, who may write to a run folder, how a run ends early."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import rfdetr_core
from rfdetr_core import files
from rfdetr_core.checkpoint.files import read_plain
from rfdetr_core.errors import UserError

STATE_FILE = "checkpoint.pth"
LOCK_FILE = ".lock"
# What decides numerics. A package that is not here can change without a training starting anew.
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "numpy", "scipy", "pillow", "pycocotools")
# The parts of the core that stages.train runs; a test compares this with its imports.
CODE = (
    *("boxes.py", "errors.py", "files.py", "images.py", "manifest.py", "params.py", "structures.py"),
    *("checkpoint", "data", "loss", "metrics", "model", "training"),
)


def code_digest() -> str:
    """One digest of the source of everything that training runs."""
    root = Path(rfdetr_core.__file__).parent
    paths = [path for part in CODE for path in ((root / part).rglob("*.py") if "." not in part else [root / part])]
    return files.digest({path.relative_to(root).as_posix(): files.sha256_file(path) for path in sorted(paths)})


def package_versions() -> dict[str, str]:
    """Python and the packages that decide numerics."""
    return {"python": ".".join(map(str, sys.version_info[:3]))} | {name: metadata.version(name) for name in PACKAGES}


def flattened(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """A phrase for each key in which two fingerprints differ."""
    keys = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    return [f"{key} was {_short(old.get(key))}, is {_short(new.get(key))}" for key in keys]


def state_to_resume(folder: Path, fingerprint: Mapping[str, Any]) -> tuple[Path | None, str]:
    """The state that an interrupted training of the same inputs left in a folder, and a sentence for the user."""
    path = folder / STATE_FILE
    if not path.exists():
        return None, ""
    try:
        state = read_plain(path)
        run, epoch = state["run"], state["epoch"]
        changed = differences(run["fingerprint"], fingerprint)
    except (UserError, KeyError, TypeError) as error:
        return None, f"{path} cannot be gone on from ({error}): starting anew."
    if changed:
        kind = "finished" if run["finished"] else "interrupted"
        told = f"starting anew, since the {kind} training in {folder} differs: {'; '.join(changed)}."
        if any(one.startswith("params.train.epochs ") for one in changed):
            told += f" To go on to more epochs, copy {path} to weights/ and name it as train.resume."
        return None, told
    if run["finished"]:
        return None, ""
    return path, f"going on after epoch {epoch} of the interrupted training in {folder}."


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder; the system releases it when the process ends, however that happens.

    Raises:
        UserError: another process trains there, or the folder cannot be written.
    """
    if _rank():
        yield  # the process of rank 0 holds the lock for all
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK_FILE).open("a+")
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}). Make it writable.") from error
    with lock:
        try:
            # Unlike flock, this lock is not inherited by loader workers, which may outlive a killed trainer.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            holder = f"another training (process {lock.read() or 'unknown'})"
            raise UserError(f"{holder} writes to {folder}. Wait for it, or end it.") from None
        lock.truncate(0)
        print(os.getpid(), end="", file=lock, flush=True)
        for left_over in folder.glob(".checkpoint*.pth.*"):  # of a writer that was killed
            left_over.unlink()
        yield


def end_with_parent() -> None:
    """Have Linux send SIGTERM to this process when its parent dies: a killed `dvc` leaves no trainer behind."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGTERM, 0, 0, 0)


def _rank() -> int:
    ranks = (os.environ.get(name) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
    return int(next((rank for rank in ranks if rank), "0"))


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text[:12] + "..." if len(text) == 64 else text
