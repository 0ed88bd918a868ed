"""The two files that DVC writes in place: one that a kill left cut keeps every later command of DVC from starting."""

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
    """Look at dvc.lock and .dvc/tmp/rwlock as DVC will; a sentence for what was mended.

    A cut dvc.lock becomes what it was when the last stage began, of which `keep_lock` keeps a copy, or when this last
    looked; it is removed if it was the first of all. What ran since comes back from DVC's cache. A cut rwlock is
    removed: it holds nothing but who reads and writes what at the moment. Both where no process of DVC is left.

    Raises:
        UserError: dvc.lock is not what DVC accepts and is not to be mended, or DVC is running and one of them is cut.
    """
    yield from _mend_lock(root)
    yield from _mend_rwlock(root)


def _is_whole(path: Path) -> bool:
    """Whether DVC accepts a dvc.lock."""
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


def _mend_lock(root: Path) -> Iterator[str]:
    path, backup = root / LOCK, root / KEPT_LOCK
    if not path.exists():
        return
    if _is_whole(path):
        if backup.parent.is_dir():  # of a lock that came with a branch, no stage may have begun yet
            files.copy(path, backup)
        return
    restored = backup.exists() and _is_whole(backup)
    committed = git.answer(root, "cat-file", "-e", f"HEAD:./{LOCK}") is not None
    if not (path.is_file() and _is_cut(files.read_bytes(path))) or (committed and not restored):
        remedy = f"Restore what was committed: git restore {LOCK}" if committed else f"Correct or remove it ({path})"
        raise UserError(
            f"{path} is damaged, and DVC does not start. {remedy}; then dvc repro. Stages that ran since come back "
            "from DVC's cache"
        )
    _refuse_while_dvc_runs(path, root)
    part = backup.with_name(f"{LOCK}.cut")
    files.copy(path, part)
    if restored:
        files.copy(backup, path)
    else:
        path.unlink()
    outcome = "is again what it was when a stage or `check` last began" if restored else "was removed: it was the first"
    yield f"{path}, which a killed `dvc` had left cut, {outcome}. The part is {part}"


def _is_cut(content: bytes) -> bool:
    """Whether it is the beginning of a dvc.lock as DVC writes it; not, for instance, a merge that is to be resolved."""
    if not content.startswith(_FIRST[: len(content)]):
        return False
    try:  # its whole lines are YAML, if not all that DVC asks for
        yaml.safe_load(content[: content.rfind(b"\n") + 1])
    except (yaml.YAMLError, ValueError, RecursionError):
        return False
    return True


def _refuse_while_dvc_runs(path: Path, root: Path) -> None:
    if living := list(_processes(root.resolve())):
        raise UserError(
            f"{path} is damaged, and DVC may be running: process {', '.join(map(str, living))}. Wait until it has "
            "ended, or end it; then run this again"
        )


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
            _refuse_while_dvc_runs(path, root)
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
