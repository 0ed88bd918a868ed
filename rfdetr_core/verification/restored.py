"""Which stages DVC would take from its run cache. Nothing is restored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rfdetr_core.base.code import STAGE
from rfdetr_core.base.dvc_config import cache_folder
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.files import json_text, md5_bytes
from rfdetr_core.base.params import load_yaml
from rfdetr_core.lineage.lock import Entry, listing_md5
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.lock import CodeDigests, Pipeline, Stage, params_of


def restored(contents: Contents, pipeline: Pipeline, changed: set[str]) -> tuple[set[str], set[str]]:
    """Of the stages whose inputs are known beforehand: those that DVC restores, and those after them that it runs.

    changed: the stages that differ from dvc.lock. A stage after one that runs has inputs that are not known yet.
    """
    cached, runs = set[str](), set[str]()
    if not _folder(contents.root).is_dir():
        return cached, runs
    digests = CodeDigests(contents)
    makers = {path for stage in pipeline.stages.values() for path in stage.outs}
    known = dict[str, str]()
    for name, stage in pipeline.stages.items():
        if name == STAGE:  # what it writes is known before it runs
            known |= {
                path: md5_bytes(json_text(digests.code.digests_of(module)).encode())
                for path, module in digests.stages.items()
            }
            continue
        entry = pipeline.lock.stages.get(name)
        deps = _deps(contents, stage, makers, known, None if name in changed else entry)
        if deps is None:
            continue
        if name not in changed and entry and entry.deps == deps:
            known |= entry.outs
        elif (outs := _run_of(contents, stage, deps)) is not None:
            cached.add(name)
            known |= outs
        else:
            runs.add(name)
    return cached, runs - changed


def _deps(
    contents: Contents, stage: Stage, makers: set[str], known: Mapping[str, str], entry: Entry | None
) -> dict[str, str] | None:
    """The MD5 of each dep as it will be when the stage begins; None where one is not known.

    entry: of a stage that does not differ from it: then its other deps are as it says.
    """
    found = dict[str, str]()
    for path in stage.deps:
        if path in makers:
            md5 = known.get(path) or _of_folder(path, known)
        elif entry is not None:
            md5 = entry.deps.get(path)
        else:
            md5 = contents.md5(path) or contents.pointers.get(path)
        if not md5:
            return None
        found[path] = md5
    return found


def _of_folder(path: str, known: Mapping[str, str]) -> str | None:
    """The MD5 of a folder whose files are outs of one stage; None where none of them is known."""
    inside = {name.removeprefix(f"{path}/"): md5 for name, md5 in known.items() if name.startswith(f"{path}/")}
    return listing_md5(inside) if inside else None


def _run_of(contents: Contents, stage: Stage, deps: Mapping[str, str]) -> dict[str, str] | None:
    """The outs of a run with these inputs, where the cache has it with all its files (dvc/stage/cache.py)."""
    from dvc.utils import dict_sha256  # type: ignore[import-untyped]

    if stage.folder != "." or not (deps and stage.outs):
        return None
    key: dict[str, Any] = {
        "cmd": stage.cmd,
        "deps": [{"path": path, "hash": "md5", "md5": deps[path]} for path in sorted(deps)],
        "outs": sorted(stage.outs),
    }
    if params := params_of(contents.root, stage):
        key["params"] = params
    try:
        name = dict_sha256(key)
    except TypeError:  # a date, of which DVC keeps no run
        return None
    folder = _folder(contents.root) / name[:2] / name
    runs = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime) if folder.is_dir() else []
    if not runs:
        return None
    try:
        outs = Entry.of(load_yaml(runs[-1])).outs  # DVC takes the newest
    except (UserError, KeyError, TypeError, AttributeError):
        return None
    return outs if all(_is_cached(contents, md5) for md5 in outs.values()) else None


def _is_cached(contents: Contents, md5: str) -> bool:
    members = contents.cached_listing(md5) if md5.endswith(".dir") else {}
    return members is not None and all(contents.cached(one).is_file() for one in (md5, *members.values()))


def _folder(root: Path) -> Path:
    return cache_folder(root) / "runs"
