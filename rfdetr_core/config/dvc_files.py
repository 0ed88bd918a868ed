"""The two files that DVC writes in place: one that a kill left cut keeps every later command of DVC from starting."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from rfdetr_core.base import files, git
from rfdetr_core.base.errors import UserError
from rfdetr_core.lineage.lock import LOCK


def check_dvc_files(root: Path = Path()) -> Iterator[str]:
    """Look at dvc.lock and .dvc/tmp/rwlock as DVC will; a sentence for what was mended.

    A cut rwlock is removed where no process of DVC is left in the project: it holds nothing but who reads and writes
    what at the moment.

    Raises:
        UserError: dvc.lock is not what DVC accepts, or the rwlock is not and DVC is running.
    """
    _check_lock(root)
    yield from _mend_rwlock(root)


def _check_lock(root: Path) -> None:
    from dvc.exceptions import DvcException  # type: ignore[import-untyped]
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA  # type: ignore[import-untyped]
    from dvc.utils.serialize import load_yaml  # type: ignore[import-untyped]
    from dvc.utils.strictyaml import validate  # type: ignore[import-untyped]

    path = root / LOCK
    if not path.exists():
        return
    try:
        files.open_regular(path).close()  # DVC would wait for a pipe
        validate(load_yaml(str(path)), COMPILED_LOCKFILE_SCHEMA, path=str(path))
    except (DvcException, ValueError, OSError):
        if git.answer(root, "cat-file", "-e", f"HEAD:./{LOCK}") is None:
            remedy = f"It was never committed: remove it ({path})"
        else:
            remedy = f"Restore what was committed: git restore {LOCK}"
        raise UserError(
            f"{path} is damaged, and DVC does not start: a killed `dvc` may have left it half written. {remedy}; then "
            "dvc repro. Stages that ran since come back from DVC's cache"
        ) from None


def _mend_rwlock(root: Path) -> Iterator[str]:
    from dvc.exceptions import DvcException
    from dvc.lock import LockError, make_lock  # type: ignore[import-untyped]
    from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK, SCHEMA  # type: ignore[import-untyped]
    from dvc.utils.strictyaml import validate

    folder = root.resolve() / ".dvc" / "tmp"
    path = folder / RWLOCK_FILE
    if not path.exists():
        return
    try:
        with make_lock(str(folder / RWLOCK_LOCK), tmp_dir=str(folder)):  # DVC has it while it writes the file
            try:
                validate(json.loads(files.read_bytes(path)), SCHEMA, path=str(path))
                return
            except (ValueError, DvcException, OSError):
                pass
            if living := list(_processes(root.resolve())):
                raise UserError(
                    f"{path} is damaged, and DVC may be running: process {', '.join(map(str, living))}. Wait until it "
                    "has ended, or end it; then run this again"
                )
            path.unlink()
    except LockError:
        return  # DVC is running, and writes it
    yield f"removed {path}, which a killed `dvc` had left cut"


def _processes(root: Path) -> Iterator[int]:
    """The processes of DVC that work in a project."""
    import psutil  # type: ignore[import-untyped]

    for process in psutil.process_iter(["cwd", "cmdline"]):
        command = [Path(part).name for part in process.info["cmdline"] or ()][:3]
        if "dvc" in command and Path(process.info["cwd"] or "/").is_relative_to(root):
            yield process.pid
