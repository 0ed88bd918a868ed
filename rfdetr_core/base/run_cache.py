"""What a stage that DVC runs keeps: entries of DVC's run cache, and the last dvc.lock."""

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
    """Copy dvc.lock as it is while DVC runs a stage: DVC writes it in place, and killed in that moment leaves a part.

    `check` gives it back (config/dvc_files.py). Where no DVC runs the stage, nothing happens.
    """
    root = Path(os.environ.get("DVC_ROOT", "."))
    lock, backup = root / "dvc.lock", root / KEPT_LOCK
    if "DVC_STAGE" in os.environ and lock.is_file() and backup.parent.is_dir():
        files.copy(lock, backup)


def save_run(note: Callable[[Any], object]) -> None:
    """Note what the stage that DVC runs read and wrote, so that DVC restores its results when the inputs come back.

    DVC notes it for every stage but those with an out that has `cache: false` and is neither metric nor plot
    (dvc/stage/__init__.py, `run`). It restores them like any other, so the entry is made here, by DVC's own functions,
    when all outs are written. note: is given DVC's object of the stage, with the digests, before. Where no DVC runs the
    stage, nothing happens; nor in the further processes of a distributed training.
    """
    name = os.environ.get("DVC_STAGE")
    if name is None or os.environ.get("LOCAL_RANK", "0") != "0":
        return
    from dvc.exceptions import DvcException  # type: ignore[import-untyped]
    from dvc.repo import Repo  # type: ignore[import-untyped]

    try:
        with Repo() as repo:  # DVC_ROOT is another project where an experiment runs in a temporary folder
            stage = repo.stage.load_one(str(_PIPELINE.absolute()), name.rpartition(":")[2])
            stage.save_deps()
            stage.save_outs()
            note(stage)
            if any(not (out.use_cache or out.is_metric or out.is_plot) for out in stage.outs):
                repo.stage_cache.save(stage)
    except (DvcException, OSError) as error:
        problem = f"{name} may have no entry in journal/, and DVC may run it again where it could restore its results"
        say(f"{problem}: {error}", file=sys.stderr)
