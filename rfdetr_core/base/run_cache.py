"""What stages keep for DVC: entries of its run cache for those with small results in git, and its last dvc.lock."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rfdetr_core.base import files
from rfdetr_core.base.params import load_yaml
from rfdetr_core.base.printing import say

_PIPELINE = Path("dvc.yaml")
KEPT_LOCK = Path(".dvc/tmp/dvc.lock.whole")


def keep_lock() -> None:
    """Copy dvc.lock as it is while DVC runs a stage: DVC writes it in place, and killed in that moment leaves a part.

    `check` gives it back (config/dvc_files.py). Where no DVC runs the stage, nothing happens.
    """
    root = Path(os.environ.get("DVC_ROOT", "."))
    lock, kept = root / "dvc.lock", root / KEPT_LOCK
    if "DVC_STAGE" in os.environ and lock.is_file() and kept.parent.is_dir():
        files.copy(lock, kept)


def save_run() -> None:
    """Note what the stage that DVC runs read and wrote, so that DVC restores its results when the inputs come back.

    DVC notes it for every stage but those with an out that has `cache: false` and is neither metric nor plot
    (dvc/stage/__init__.py, `run`). It restores them like any other, so the entry is made here, by DVC's own functions,
    when all outs are written. Where no DVC runs the stage, nothing happens.
    """
    name, root = os.environ.get("DVC_STAGE"), os.environ.get("DVC_ROOT")
    if name is None or root is None or not _has_small_results(name):
        return
    from dvc.exceptions import DvcException  # type: ignore[import-untyped]
    from dvc.repo import Repo  # type: ignore[import-untyped]

    try:
        with Repo(root) as repo:
            stage = repo.stage.load_one(str(_PIPELINE.absolute()), name.rpartition(":")[2])
            if any(not (out.use_cache or out.is_metric or out.is_plot) for out in stage.outs):
                stage.save_deps()
                stage.save_outs()
                repo.stage_cache.save(stage)
    except (DvcException, OSError) as error:
        say(f"DVC will run {name} again where it could restore its results: {error}", file=sys.stderr)


def _has_small_results(stage: str) -> bool:
    """Whether dvc.yaml may have an out of the stage that is not cached: to load DVC takes a second."""
    entry = load_yaml(_PIPELINE)["stages"].get(stage)
    return entry is None or "cache" in str(entry.get("outs"))
