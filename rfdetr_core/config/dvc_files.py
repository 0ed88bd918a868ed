"""Repairs dvc.lock and .dvc/tmp/rwlock if a killed DVC left them truncated. Otherwise DVC would not start again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import yaml

from rfdetr_core.base import files, git
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.run_cache import KEPT_LOCK
from rfdetr_core.lineage.lock import LOCK

_FIRST = b"schema:"


def check_dvc_files(root: Path = Path()) -> Iterator[str]:
    """Check dvc.lock and .dvc/tmp/rwlock as DVC does, repair them, and yield a sentence for each repair.

    - A truncated dvc.lock is replaced by its backup. `keep_lock` writes the backup when a stage begins. This function
      also writes it, whenever dvc.lock is valid. Without a backup, an uncommitted dvc.lock is removed. Stages that ran
      since the backup come back from DVC's cache.
    - A truncated rwlock is removed. It only lists the files that running stages read and write.

    Nothing is repaired while a process of DVC runs in the project.

    Raises:
        UserError: dvc.lock is invalid and cannot be repaired, or a file is truncated while DVC is running.
    """
    yield from _repair_lock(root)
    yield from _repair_rwlock(root)


def _is_valid(path: Path) -> bool:
    """Whether DVC accepts the dvc.lock."""
    from dvc.exceptions import DvcException  # type: ignore[import-untyped]
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA  # type: ignore[import-untyped]
    from dvc.utils.serialize import load_yaml  # type: ignore[import-untyped]
    from dvc.utils.strictyaml import validate  # type: ignore[import-untyped]

    try:
        files.open_regular(path).close()  # DVC would wait for a pipe
        validate(load_yaml(str(path)), COMPILED_LOCKFILE_SCHEMA, path=str(path))
    except (DvcException, ValueError, OSError):
        return False
    return True


def _repair_lock(root: Path) -> Iterator[str]:
    path, backup = root / LOCK, root / KEPT_LOCK
    if not path.exists():
        return
    if _is_valid(path):
        if backup.parent.is_dir():  # the folder may be missing, for example in a new clone
            files.copy(path, backup)
        return
    restored = backup.exists() and _is_valid(backup)
    committed = git.answer(root, "cat-file", "-e", f"HEAD:./{LOCK}") is not None
    if not (path.is_file() and _is_truncated(files.read_bytes(path))) or (committed and not restored):
        remedy = f"Restore the committed file: git restore {LOCK}" if committed else "Correct or remove this file"
        raise UserError(
            f"{path} is damaged, so DVC does not start. {remedy}. Then run: dvc repro. DVC restores the results of "
            "finished stages from its cache"
        )
    _refuse_while_dvc_runs(path, root)
    part = backup.with_name(f"{LOCK}.cut")
    files.copy(path, part)
    if restored:
        files.copy(backup, path)
    else:
        path.unlink()
    outcome = (
        "was replaced by the copy from the last start of a stage or of `check`"
        if restored
        else "was removed, since there was no earlier one"
    )
    yield f"a killed `dvc` truncated {path}. The file {outcome}. The truncated file is now {part}"


def _is_truncated(content: bytes) -> bool:
    """Whether the content is the beginning of a dvc.lock. A file with merge conflicts, for example, is not."""
    if not content.startswith(_FIRST[: len(content)]):
        return False
    try:  # in a truncated file, the complete lines are valid YAML, but not enough for DVC
        yaml.safe_load(content[: content.rfind(b"\n") + 1])
    except (yaml.YAMLError, ValueError, RecursionError):
        return False
    return True


def _refuse_while_dvc_runs(path: Path, root: Path) -> None:
    if processes := list(_processes(root.resolve())):
        raise UserError(
            f"{path} is damaged, and DVC may be running (process {', '.join(map(str, processes))}). Wait until DVC has "
            "ended, or end it. Then run this command again"
        )


def _repair_rwlock(root: Path) -> Iterator[str]:
    from dvc.exceptions import DvcException
    from dvc.lock import LockError, make_lock  # type: ignore[import-untyped]
    from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK, SCHEMA  # type: ignore[import-untyped]
    from dvc.utils.strictyaml import validate

    folder = root.resolve() / ".dvc" / "tmp"
    path = folder / RWLOCK_FILE
    if not path.exists():
        return
    try:
        with make_lock(str(folder / RWLOCK_LOCK), tmp_dir=str(folder)):  # DVC holds this lock while it writes the file
            try:
                validate(json.loads(files.read_bytes(path)), SCHEMA, path=str(path))
                return
            except (ValueError, DvcException, OSError):
                pass
            _refuse_while_dvc_runs(path, root)
            path.unlink()
    except LockError:
        return  # DVC is running and writes the file
    yield f"a killed `dvc` truncated {path}. The file was removed"


def _processes(root: Path) -> Iterator[int]:
    """The ids of the DVC processes that work in a project."""
    import psutil  # type: ignore[import-untyped]

    for process in psutil.process_iter(["cwd", "cmdline"]):
        command = [Path(part).name for part in process.info["cmdline"] or ()][:3]
        if "dvc" in command and Path(process.info["cwd"] or "/").is_relative_to(root):
            yield process.pid
