"""Find the stages that DVC would restore from its run cache. Nothing is restored here."""

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


def restored_stages(contents: Contents, pipeline: Pipeline, changed: set[str]) -> tuple[set[str], set[str]]:
    """Predict which stages DVC restores from its run cache, and which later stages it then runs.

    Only stages whose inputs are already known are considered: a stage after a running stage has unknown inputs.

    Args:
        contents: The working tree.
        pipeline: dvc.yaml and dvc.lock.
        changed: The stages that differ from dvc.lock.

    Returns:
        The names of restored stages, and the names of stages that run although they do not differ from dvc.lock.
    """
    cached, runs = set[str](), set[str]()
    if not _run_cache(contents.root).is_dir():
        return cached, runs
    digests = CodeDigests(contents)
    makers = {path for stage in pipeline.stages.values() for path in stage.outs}
    known_md5s = dict[str, str]()
    for name, stage in pipeline.stages.items():
        if name == STAGE:  # its outs can be computed before it runs
            known_md5s |= {
                path: md5_bytes(json_text(digests.code.digests_of(module)).encode())
                for path, module in digests.stages.items()
            }
            continue
        entry = pipeline.lock.stages.get(name)
        deps = _expected_deps(contents, stage, makers, known_md5s, None if name in changed else entry)
        if deps is None:
            continue
        if name not in changed and entry and entry.deps == deps:
            known_md5s |= entry.outs
        elif (outs := _cached_outs(contents, stage, deps)) is not None:
            cached.add(name)
            known_md5s |= outs
        else:
            runs.add(name)
    return cached, runs - changed


def _expected_deps(
    contents: Contents, stage: Stage, makers: set[str], known_md5s: Mapping[str, str], entry: Entry | None
) -> dict[str, str] | None:
    """The MD5 that each dep will have when the stage begins; None if one of them is not known.

    Args:
        contents: The working tree.
        stage: The stage.
        makers: All paths that stages write.
        known_md5s: The MD5 of the outs that are already known.
        entry: The entry of the stage in dvc.lock, if the stage does not differ from it. Deps that no stage writes are
            then taken from it.
    """
    digests = dict[str, str]()
    for path in stage.deps:
        if path in makers:
            md5 = known_md5s.get(path) or _folder_md5(path, known_md5s)
        elif entry is not None:
            md5 = entry.deps.get(path)
        else:
            md5 = contents.md5(path) or contents.pointers.get(path)
        if not md5:
            return None
        digests[path] = md5
    return digests


def _folder_md5(path: str, known_md5s: Mapping[str, str]) -> str | None:
    """The MD5 of a folder whose files are outs of one stage; None if none of them is known."""
    inside = {name.removeprefix(f"{path}/"): md5 for name, md5 in known_md5s.items() if name.startswith(f"{path}/")}
    return listing_md5(inside) if inside else None


def _cached_outs(contents: Contents, stage: Stage, deps: Mapping[str, str]) -> dict[str, str] | None:
    """The outs of a cached run with these inputs, if the cache has all files of these outs (see dvc/stage/cache.py)."""
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
    except TypeError:  # DVC caches no run with a date in its params
        return None
    folder = _run_cache(contents.root) / name[:2] / name
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
    return members is not None and all(contents.cached(digest).is_file() for digest in (md5, *members.values()))


def _run_cache(root: Path) -> Path:
    return cache_folder(root) / "runs"
