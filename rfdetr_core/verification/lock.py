"""dvc.yaml, params.yaml and the files at hand against dvc.lock. Nothing is run, and torch is not needed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import md5 as new_md5
from pathlib import Path
from typing import Any

from rfdetr_core.audit.history import LOCK, History, Lock
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.params import PARAMS_FILE, load_yaml
from rfdetr_core.verification.contents import Contents, changes
from rfdetr_core.verification.report import Report

_VARIABLE = re.compile(r"\$\{([\w.-]+)\}")


@dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml, its variables filled in. params: the keys by file. uncached: outs that are in git alone."""

    cmd: str
    deps: tuple[str, ...]
    outs: tuple[str, ...]
    params: dict[str, list[str]]
    uncached: frozenset[str]


@dataclass(frozen=True)
class Pipeline:
    """What was asked for and what dvc.lock says was done. lock: by stage cmd, params, deps and outs with their MD5."""

    stages: dict[str, Stage]
    lock: dict[str, dict[str, Any]]
    strange: tuple[str, ...]

    @classmethod
    def read(cls, root: Path) -> Pipeline:
        """Read both. Raises UserError where one is missing or unreadable."""
        if not (root / LOCK).is_file():
            raise UserError(f"{root / LOCK} does not exist: nothing was run yet. Run: dvc repro")
        params = load_yaml(root / PARAMS_FILE) if (root / PARAMS_FILE).exists() else {}
        asked, locked = load_yaml(root / "dvc.yaml"), load_yaml(root / LOCK)
        try:
            known = [params, *(one for one in asked.get("vars") or [] if isinstance(one, dict))]
            stages = {name: _stage(entry, known) for name, entry in asked["stages"].items()}
            lock = {name: _locked(entry) for name, entry in locked["stages"].items()}
        except (TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"dvc.yaml or {LOCK} of {root} is not readable ({error!r}). Restore it: git restore {LOCK}"
            ) from None
        plain = {name: stage for name, stage in stages.items() if stage is not None}
        return cls(plain, lock, tuple(sorted(stages.keys() - plain.keys())))

    def out(self, path: str) -> str | None:
        """The MD5 that dvc.lock has for an out."""
        return next((entry["outs"][path]["md5"] for entry in self.lock.values() if path in entry["outs"]), None)

    def params_of(self, stage: str) -> dict[str, Any]:
        """The values of params.yaml that dvc.lock has for a stage."""
        return dict(self.lock.get(stage, {}).get("params", {}).get(str(PARAMS_FILE)) or {})


def check_pipeline(report: Report, contents: Contents, pipeline: Pipeline) -> None:
    """Stages, commands, params, and which files they read and write."""
    for name in pipeline.strange:
        report.skip(f"stage {name}", "made by foreach or matrix, or with variables of another file than params.yaml")
    for name in sorted(pipeline.lock.keys() - pipeline.stages.keys() - set(pipeline.strange)):
        if not name.startswith(tuple(f"{one}@" for one in pipeline.strange)):
            report.note(f"{LOCK} has a stage {name}, dvc.yaml has none")
    values: dict[str, Any] = {}
    for name, stage in pipeline.stages.items():
        entry = pipeline.lock.get(name)
        if entry is None:
            report.wrong(f"stage {name}", f"an entry in {LOCK}", None, "dvc.yaml")
            continue
        report.equal(f"command of {name}", entry["cmd"], stage.cmd, LOCK)
        for kind, paths in (("deps", stage.deps), ("outs", stage.outs)):
            for path in sorted(set(paths) ^ entry[kind].keys()):
                there = "an entry" if path in entry[kind] else None
                report.wrong(f"{kind} of {name}: {path}", there, None if there else "it in dvc.yaml", LOCK)
            report.checked += 1
        for file, keys in stage.params.items():
            if file not in values:
                values[file] = load_yaml(contents.root / file) if (contents.root / file).exists() else {}
            locked = entry["params"].get(file, {})
            for key in sorted({*keys, *locked}):
                _compare_params(report, f"{file}: {key}", locked.get(key), value_at(values[file], key), name)


def check_contents(report: Report, contents: Contents, pipeline: Pipeline, leave: str, only_git: bool) -> None:
    """Every dep and out that is at hand, by its MD5 in dvc.lock. leave: a dep that is looked at elsewhere.

    only_git: those that git tracks; of what DVC tracks, the MD5 in its .dvc file.
    """
    makers = {path: (name, one["md5"]) for name, entry in pipeline.lock.items() for path, one in entry["outs"].items()}
    seen: dict[str, str | None] = {}
    for name, entry in pipeline.lock.items():
        for kind in ("deps", "outs"):
            for path, one in entry[kind].items():
                by = f"{LOCK}: {name}"
                if kind == "deps" and path in makers:
                    report.equal(
                        f"{path} in {LOCK}", makers[path][1], one["md5"], f"{makers[path][0]} wrote it, {name} read it"
                    )
                if path in contents.pointers:
                    report.equal(f"{path} in {path}.dvc", one["md5"], contents.pointers[path], by)
                if kind == "outs" and _deleted(contents, path, one["md5"]):
                    report.wrong(path, "the file, as it was committed", "it was deleted", f"git log -- {path}")
                    continue
                if path == leave or (only_git and not contents.in_git(path)):
                    continue
                if path not in seen:
                    seen[path] = contents.md5(path)
                if seen[path] is None:
                    report.skip(path, "gone: it is not here")
                elif not report.equal(path, one["md5"], seen[path], by):
                    _name_files(report, contents, path, one["md5"], by)
                else:
                    check_size(report, contents, path, one, by)


def _deleted(contents: Contents, path: str, md5: str) -> bool:
    """Whether git once had an out as dvc.lock names it, and neither git nor the working tree has it now."""
    if contents.in_git(path) or (contents.root / path).exists():
        return False
    past = (blob for _, blob in contents.events(path) if blob is not None)
    return any(new_md5(contents.blob(blob) or b"", usedforsecurity=False).hexdigest() == md5 for blob in past)


def check_size(report: Report, contents: Contents, path: str, one: Mapping[str, Any], by: str) -> None:
    """What an entry says besides the MD5, of something whose MD5 is right."""
    report.equal(f"kind of hash of {path}", one["hash"], "md5", by)
    for key, value in (contents.measure(path) or {}).items():
        if one[key] is not None:
            report.equal(f"{key} of {path}", one[key], value, by)


def check_cache(report: Report, contents: Contents, pipeline: Pipeline) -> None:
    """The objects in DVC's cache that dvc.lock and the .dvc files name."""
    outs = {path: one["md5"] for entry in pipeline.lock.values() for path, one in entry["outs"].items()}
    uncached = {path for stage in pipeline.stages.values() for path in stage.uncached}
    wanted = {path: md5 for path, md5 in outs.items() if path not in uncached} | contents.pointers
    gone = []
    for path, md5 in wanted.items():
        members = contents.cached_listing(md5) or {}
        for name, digest in ({path: md5} | {f"{path}/{inside}": one for inside, one in members.items()}).items():
            place = contents.cached(digest)
            if not place.is_file():
                gone.append(name)
            else:
                found = contents.digests(place)[0] + (".dir" if digest.endswith(".dir") else "")
                shown = f"cache object {place.relative_to(place.parents[3]).as_posix()} of {name}"
                report.equal(shown, digest, found, "its name is its MD5")
    if gone:
        more = f" and {len(gone) - 3} more" if len(gone) > 3 else ""
        report.skip(f"cache objects of {', '.join(gone[:3])}{more}", "gone: not in the cache")


def check_history(report: Report, root: Path) -> None:
    """Whether a committed dvc.lock has other results for the same command, deps and params: a note, as another machine
    or a training that is not deterministic may have made them."""
    history, inputs = History(root), ("cmd", "deps", "params")
    present = Lock.parse((root / LOCK).read_bytes())
    for commit in history.commits:
        past = history.lock(commit.changed[LOCK]) if LOCK in commit.changed else None
        for name, entry in present.stages.items() if past is not None else ():
            old = past.stages.get(name) if past is not None else None
            if old is None or any(old[key] != entry[key] for key in inputs):
                continue
            report.checked += 1
            differing = sorted(path for path, md5 in entry["outs"].items() if old["outs"].get(path, md5) != md5)
            if differing:
                shown = f"{', '.join(differing[:3])}{', ...' if len(differing) > 3 else ''}"
                report.note(
                    f"{LOCK} of commit {commit.id[:10]} has other results of {name} for the same inputs: {shown}"
                )


def _name_files(report: Report, contents: Contents, path: str, md5: str, by: str) -> None:
    """The files of a folder that differ, where the cache has the listing."""
    expected = contents.cached_listing(md5)
    found = contents.listing(path) if expected and (contents.root / path).is_dir() else None
    for name, before, after in changes(expected, found) if expected and found is not None else ():
        report.wrong(f"{path}/{name}", before, after, by)


def _compare_params(report: Report, what: str, locked: Any, asked: Any, stage: str) -> None:
    """Key by key where both are mappings, so that the one that differs is named."""
    if isinstance(locked, Mapping) and isinstance(asked, Mapping):
        for key in sorted(locked.keys() | asked.keys(), key=str):
            _compare_params(report, f"{what}.{key}", locked.get(key), asked.get(key), stage)
    else:
        report.equal(what, locked, asked, f"{LOCK}: {stage}")


def _stage(entry: Mapping[str, Any], known: list[Any]) -> Stage | None:
    """Read an entry of dvc.yaml; None where only DVC can. known: where variables are looked up."""
    own = [one for one in entry.get("vars") or [] if isinstance(one, dict)]
    try:
        entry = _filled({key: one for key, one in entry.items() if key != "vars"}, [*known, *own])
    except LookupError:
        return None
    if "cmd" not in entry:
        return None
    outs, uncached = [], set()
    for kind in ("outs", "metrics", "plots"):
        for path, options in _named(entry.get(kind)):
            outs.append(path)
            uncached |= {path} if options.get("cache") is False else set()
    params: dict[str, list[str]] = {}
    for one in entry.get("params") or []:
        for file, keys in one.items() if isinstance(one, dict) else [(str(PARAMS_FILE), [one])]:
            params.setdefault(file, []).extend(keys or [])
    deps = tuple(path for path, _ in _named(entry.get("deps")))
    return Stage(_command(entry["cmd"]), deps, tuple(outs), params, frozenset(uncached))


def _named(entries: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for one in entries or []:
        yield from (
            ((str(path), options or {}) for path, options in one.items()) if isinstance(one, dict) else [(str(one), {})]
        )


def _locked(entry: Mapping[str, Any]) -> dict[str, Any]:
    files = {
        kind: {
            str(one["path"]): {"md5": str(one.get("md5")), **{key: one.get(key) for key in ("hash", "size", "nfiles")}}
            for one in entry.get(kind) or []
        }
        for kind in ("deps", "outs")
    }
    return {"cmd": _command(entry["cmd"]), "params": entry.get("params") or {}, **files}


def _command(value: Any) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def _filled(value: Any, known: list[Any]) -> Any:
    """An entry of dvc.yaml with values in place of ${...}. Raises LookupError for one that is not known."""
    if isinstance(value, Mapping):
        return {_filled(key, known): _filled(one, known) for key, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, known) for one in value]
    return _VARIABLE.sub(lambda found: _text(found[1], known), value) if isinstance(value, str) else value


def _text(name: str, known: list[Any]) -> str:
    values = [value for value in (value_at(one, name) for one in known) if value is not None]
    if not values or isinstance(values[0], Mapping | list):
        raise LookupError(name)
    return str(values[0]).lower() if isinstance(values[0], bool) else str(values[0])


def value_at(value: Any, key: str) -> Any:
    """What a dotted key names in nested mappings; None where there is no such thing."""
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
