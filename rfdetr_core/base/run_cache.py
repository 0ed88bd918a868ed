"""Adds entries to DVC's run cache, and keeps a backup of dvc.lock, while DVC runs a stage."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rfdetr_core.base import files
from rfdetr_core.base.printing import say

_PIPELINE = Path("dvc.yaml")
KEPT_LOCK = Path(".dvc/tmp/dvc.lock.whole")


def keep_lock() -> None:
    """Copy dvc.lock while DVC runs a stage. If DVC is killed while it writes dvc.lock, only a part of the file remains.

    `check` restores the copy (config/dvc_files.py). Does nothing if the stage was not started by DVC.
    """
    root = Path(os.environ.get("DVC_ROOT", "."))
    lock, backup = root / "dvc.lock", root / KEPT_LOCK
    if "DVC_STAGE" in os.environ and lock.is_file() and backup.parent.is_dir():
        files.copy(lock, backup)


def save_run(note: Callable[[Any], object]) -> None:
    """Record the inputs and outputs of the current stage in DVC's run cache.

    If a later run of the stage has the same inputs, DVC restores the outputs.

    DVC itself makes no entry for a stage with an out that has `cache: false` and is neither metric nor plot
    (dvc/stage/__init__.py, `run`). But it restores such a stage from an entry. So this function makes the entry with
    DVC's own functions. Call it when all outs are written. It does nothing if the stage was not started by DVC, and in
    the further processes of a distributed training.

    note: A function. It is called before the entry is saved, with DVC's object of the stage, which has the digests.
    """
    name = os.environ.get("DVC_STAGE")
    if name is None or os.environ.get("LOCAL_RANK", "0") != "0":
        return
    from dvc.exceptions import DvcException  # type: ignore[import-untyped]
    from dvc.repo import Repo  # type: ignore[import-untyped]

    try:
        with Repo() as repo:  # not Repo(DVC_ROOT): in a temporary experiment, DVC_ROOT names the original project
            stage = repo.stage.load_one(str(_PIPELINE.absolute()), name.rpartition(":")[2])
            stage.save_deps()
            stage.save_outs()
            note(stage)
            if any(not (out.use_cache or out.is_metric or out.is_plot) for out in stage.outs):
                repo.stage_cache.save(stage)
    except (DvcException, OSError) as error:
        problem = f"{name} may have no entry in journal/, and DVC may run it again instead of restoring its results"
        say(f"{problem}: {error}", file=sys.stderr)
