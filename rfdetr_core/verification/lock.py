"""dvc.yaml, params.yaml and the files at hand against dvc.lock. Nothing is run, and torch is not needed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from graphlib import TopologicalSorter
from itertools import chain
from pathlib import Path
from typing import Any

from rfdetr_core.audit.history import History
from rfdetr_core.base import files
from rfdetr_core.base.code import FOLDER, PACKAGES, STAGE, Code
from rfdetr_core.base.dvc_config import dvc_config
from rfdetr_core.base.errors import UserError, listed
from rfdetr_core.base.files import changed_digests, copy, json_text, md5_bytes
from rfdetr_core.base.params import PARAMS_FILE, load_yaml, parse, refuse_interpolations
from rfdetr_core.config.settings import SECTIONS
from rfdetr_core.lineage.lock import LOCK, Entry, Lock, below, command
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.report import Report


@dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml as DVC makes it of templates and variables. Paths are below the root.

    outs: with whether they are in DVC's cache. params: the keys by file, none for the whole file. folder: where it
    runs. after: the stages whose outs it reads.
    """

    cmd: str
    deps: frozenset[str]
    outs: dict[str, bool]
    params: dict[str, list[str]]
    folder: str
    after: frozenset[str]


@dataclass(frozen=True)
class Pipeline:
    """What dvc.yaml asks for, each stage after those it reads from, and what dvc.lock says was done."""

    stages: dict[str, Stage]
    lock: Lock

    @classmethod
    def read(cls, root: Path) -> Pipeline:
        """Read both. Raises UserError where one is missing or unreadable."""
        entries, stages = Lock.read(root).stages, read_stages(root)
        placed = {name: Entry.of(entries[name].raw, stage.folder) for name, stage in stages.items() if name in entries}
        return cls(stages, Lock(entries | placed))


def read_stages(root: Path) -> dict[str, Stage]:
    """The stages of dvc.yaml in an order in which they can run. Nothing is locked, written or fetched.

    Raises:
        UserError: DVC cannot read dvc.yaml, its variables are not known, or two stages write one file.
    """
    from dvc.dependency import ParamsDependency  # type: ignore[import-untyped]
    from dvc.dvcfile import ProjectFile  # type: ignore[import-untyped]
    from dvc.exceptions import NotDvcRepoError  # type: ignore[import-untyped]
    from dvc.fs import localfs  # type: ignore[import-untyped]
    from dvc.repo import Repo  # type: ignore[import-untyped]
    from dvc.repo.graph import build_graph  # type: ignore[import-untyped]
    from dvc.scm import NoSCM  # type: ignore[import-untyped]

    class Reader(Repo):  # type: ignore[misc]
        """A repository whose .dvc is not found has no lock, and no .dvc/tmp and .dvc/.gitignore to write."""

        @classmethod
        def find_root(cls, *_: Any) -> str:
            raise NotDvcRepoError("not looked for")

    root = root.resolve()
    load_yaml(root / "dvc.yaml")  # it says more of a syntax error, and stops at too many aliases
    _read_params(root / PARAMS_FILE)
    with _explained(root / "dvc.yaml"):
        repo = Reader(str(root), fs=localfs, uninitialized=True, scm=NoSCM(str(root)), config=dvc_config(root))
        file = ProjectFile(repo, str(root / "dvc.yaml"))
        file.lockfile_contents = {}  # read by Lock, in a tenth of the time
        stages = list(file.stages.values())
        if not stages:
            raise ValueError("it has no stage")
        graph = build_graph(stages)
    found = {}
    for one in TopologicalSorter({stage: list(graph.successors(stage)) for stage in stages}).static_order():
        folder = Path(os.path.relpath(one.wdir, root)).as_posix()
        place = {item: below(folder, item.def_path) for item in (*one.deps, *one.outs)}
        found[str(one.name)] = Stage(
            command(one.cmd),
            deps=frozenset(place[dep] for dep in one.deps if not isinstance(dep, ParamsDependency)),
            outs={place[out]: out.use_cache for out in one.outs},
            params={place[dep]: list(dep.params) for dep in one.deps if isinstance(dep, ParamsDependency)},
            folder=folder,
            after=frozenset(str(other.name) for other in graph.successors(one)),
        )
    return found


def refuse_outs(output: Path, other: str) -> None:
    """Raise a UserError where a file or folder to write to is, holds or is within results of a pipeline.

    other: how another place is named, such as `--out runs/first`.
    """
    folder = output.resolve()
    root = next((one for one in (folder, *folder.parents) if (one / "dvc.yaml").is_file()), None)
    if root is None:
        return
    try:
        outs = [root / path for stage in read_stages(root).values() for path in stage.outs]
    except UserError:
        return  # a dvc.yaml that DVC cannot read has no results
    if any(out.is_relative_to(folder) or folder.is_relative_to(out) for out in outs):
        raise UserError(
            f"{output} is where the pipeline of {root / 'dvc.yaml'} keeps its results, which would be written over. "
            f"Name another place, such as {other}."
        )


def copy_linked_results(root: Path) -> None:
    """Put files in place of links among the outs that git keeps: git would keep the link.

    From its run cache DVC restores them as it does others, with cache.type symlink as links to the cache.
    """
    for stage in read_stages(root).values() if (root / LOCK).exists() else ():
        for path in (root / out for out, cached in stage.outs.items() if not cached):
            if path.is_symlink() and path.is_file():
                copy(path, path)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """DVC's errors as one message about a file."""
    from dvc.exceptions import DvcException

    try:
        yield
    except (DvcException, TypeError, ValueError, KeyError, AttributeError) as error:
        reason = " ".join(f"{error}: {getattr(error, 'exc', '')}".split()).rstrip(": .")
        raise UserError(f"{path} is not readable for DVC: {reason}. Correct it, or: git restore {path.name}") from None


def _read_params(path: Path) -> Any:
    """The content of a params file, of any format that DVC has; that of none is empty."""
    from dvc.fs import localfs
    from dvc.utils.serialize import LOADERS  # type: ignore[import-untyped]

    with _explained(path):
        loader = LOADERS.get(path.suffix)
        content = {} if not path.exists() else loader(str(path), fs=localfs) if loader else load_yaml(path)
    refuse_interpolations(content, str(path))
    return content


def params_of(root: Path, stage: Stage) -> dict[str, dict[str, Any]]:
    """The values that a stage would be run with now, by file and key."""
    contents = {file: _read_params(root / file) for file in stage.params}
    return {
        file: {key: value_at(contents[file], key) for key in (keys or contents[file])}
        for file, keys in stage.params.items()
    }


def check_pipeline(report: Report, contents: Contents, pipeline: Pipeline, *, by_value: bool = False) -> None:
    """Stages, commands, params, and which files they read and write.

    by_value: a key of params.yaml that is left out equals one that has the default; to DVC they differ.
    """
    for name in sorted(pipeline.lock.stages.keys() - pipeline.stages.keys()):
        report.note(f"{LOCK} has a stage {name}, dvc.yaml has none")
    values: dict[str, Any] = {}
    for name, stage in pipeline.stages.items():
        entry = pipeline.lock.stages.get(name)
        if entry is None:
            report.wrong(f"stage {name}", f"an entry in {LOCK}", None, "dvc.yaml")
            continue
        report.equal(f"command of {name}", entry.cmd, stage.cmd, LOCK)
        for kind, paths, locked in (("deps", stage.deps, entry.deps), ("outs", stage.outs, entry.outs)):
            for path in sorted({*paths} ^ locked.keys()):
                there = "an entry" if path in locked else None
                report.wrong(f"{kind} of {name}: {path}", there, None if there else "it in dvc.yaml", LOCK)
            report.checked += 1
        for file, keys in stage.params.items():
            if file not in values:
                values[file] = _read_params(contents.root / file)
            given = entry.params.get(file, {})
            for key in sorted({*(keys or values[file]), *given}):
                before, now = given.get(key), value_at(values[file], key)
                if by_value and file == PARAMS_FILE.as_posix() and before != now and _equal_settings(key, before, now):
                    told = f"{file}: {key} lists defaults that {LOCK} leaves out; the values are equal"
                    report.note(f"{told}; dvc repro would run {name} again")
                else:
                    _compare_params(report, f"{file}: {key}", before, now, name)


def check_contents(
    report: Report, contents: Contents, pipeline: Pipeline, leave: str, only_git: bool, code: CodeDigests | None
) -> None:
    """Every dep and out that is at hand, by its MD5 in dvc.lock. leave: a dep that is looked at elsewhere.

    only_git: those that git tracks; of what DVC tracks, the MD5 in its .dvc file. code: digests computed anew, with
    which the folders behind them may differ, and where it matters, the modules are named; None: files as they are.
    """
    makers = {path: (name, md5) for name, path, md5 in pipeline.lock.outs()}
    seen: dict[str, str | None] = {}
    for name, entry in pipeline.lock.stages.items():
        for kind, digests in (("deps", entry.deps), ("outs", entry.outs)):
            for path, md5 in digests.items():
                by = f"{LOCK}: {name}"
                if kind == "deps" and path in makers:
                    maker, written = makers[path]
                    report.equal(f"{path} in {LOCK}", written, md5, f"{maker} wrote it, {name} read it")
                if path in contents.pointers:
                    report.equal(f"{path} in {path}.dvc", md5, contents.pointers[path], by)
                if kind == "outs" and _deleted(contents, path, md5):
                    report.wrong(path, "the file, as it was committed", "it was deleted", f"git log -- {path}")
                    continue
                if kind == "deps" and code and code.check(report, name, entry, path, by):
                    continue
                if path == leave or (only_git and not contents.in_git(path)):
                    continue
                if path not in seen:
                    seen[path] = contents.md5(path)
                if seen[path] is None:
                    report.skip(path, "gone: it is not here")
                elif not report.equal(path, md5, seen[path], by):
                    _name_files(report, contents, path, md5, by)
                else:
                    check_size(report, contents, path, entry.files[path], by)


class CodeDigests:
    """What stage `code` would write now, against what dvc.lock says it wrote and other stages read."""

    def __init__(self, contents: Contents) -> None:
        self.contents, self.code = contents, Code(contents.root)
        self.stages = {f"{FOLDER}/{stage}.json": stage for stage in self.code.stages}

    def check(self, report: Report, stage: str, entry: Entry, path: str, by: str) -> bool:
        """Compare a dep of code by digests computed anew. False: it is no digests file, and no folder of `code`."""
        if path in self.stages:
            compared = {path: entry.deps[path]}
        elif stage == STAGE and path in PACKAGES and entry.outs.keys() <= self.stages.keys():
            # Where the folders are those of dvc.lock, DVC will not run `code`: its entry contradicts itself.
            by = by if self.will_run(entry) else f"the folders of code in {LOCK}"
            compared = entry.outs
        else:
            return False
        for out, md5 in compared.items():
            report.checked += 1
            for what, expected, found in self.differences(out, md5):
                report.wrong(what, expected, found, by)
        return True

    def differences(self, path: str, md5: str) -> list[tuple[str, str | None, str | None]]:
        """Between digests/<stage>.json of this MD5 and what it would be now: modules, or the file if its content is
        neither at hand nor in git."""
        found = self.code.digests_of(self.stages[path])
        again = md5_bytes(json_text(found).encode())
        if again == md5:
            return []
        here = files.read_bytes(self.contents.root / path) if self.contents.md5(path) else b""
        blobs = (self.contents.blob(blob) or b"" for _, blob in reversed(self.contents.events(path)) if blob)
        text = next((text for text in chain([here], blobs) if md5_bytes(text) == md5), None)
        if text is None:
            return [(path, md5, again)]
        return [(f"code {module}", old, new) for module, old, new in changed_digests(json.loads(text), found)]

    def will_run(self, entry: Entry) -> bool:
        """Whether DVC will run `code`: its folders or its files are not those of dvc.lock."""
        return any(self.contents.md5(path) != md5 for path, md5 in (entry.deps | entry.outs).items())


def reached_by_code(root: Path) -> Iterator[str]:
    """A line for each stage of dvc.lock whose code is another now."""
    lock, digests = Lock.read(root), CodeDigests(Contents(root))
    for path, stage in digests.stages.items():
        found = [what.removeprefix("code ") for what, _, _ in digests.differences(path, lock.dep(stage, path) or "")]
        if found and stage in lock.stages:
            yield f"{stage:12} runs, since its code changed: {listed(found)}"


def _deleted(contents: Contents, path: str, md5: str) -> bool:
    """Whether git once had an out as dvc.lock names it, and neither git nor the working tree has it now."""
    if contents.in_git(path) or (contents.root / path).exists():
        return False
    past = (blob for _, blob in contents.events(path) if blob is not None)
    return any(md5_bytes(contents.blob(blob) or b"") == md5 for blob in past)


def check_size(report: Report, contents: Contents, path: str, one: Mapping[str, Any], by: str) -> None:
    """What an entry says besides the MD5, of something whose MD5 is right."""
    report.equal(f"kind of hash of {path}", one.get("hash"), "md5", by)
    for key, value in (contents.measure(path) or {}).items():
        if one.get(key) is not None:
            report.equal(f"{key} of {path}", one[key], value, by)


def check_cache(report: Report, contents: Contents, pipeline: Pipeline) -> None:
    """The objects in DVC's cache that dvc.lock and the .dvc files name."""
    uncached = {path for stage in pipeline.stages.values() for path, cached in stage.outs.items() if not cached}
    wanted = {path: md5 for _, path, md5 in pipeline.lock.outs() if path not in uncached} | contents.pointers
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
        report.skip(f"cache objects of {listed(gone)}", "gone: not in the cache")


def check_history(report: Report, root: Path) -> None:
    """Whether a committed dvc.lock has other results for the same command, deps and params: a note, as another machine
    or a training that is not deterministic may have made them."""
    history, present = History(root), Lock.read(root)
    for commit in history.commits:
        past = history.lock(commit.changed[LOCK]) if LOCK in commit.changed else None
        for name, entry in present.stages.items():
            old = past.stages.get(name) if past is not None else None
            if old is None or (old.cmd, old.deps, old.params) != (entry.cmd, entry.deps, entry.params):
                continue
            report.checked += 1
            differing = sorted(path for path, md5 in entry.outs.items() if old.outs.get(path, md5) != md5)
            if differing:
                shown = f"{', '.join(differing[:3])}{', ...' if len(differing) > 3 else ''}"
                by = f"{LOCK} of commit {commit.id[:10]}"
                report.note(f"{by} has other results of {name} for the same inputs: {shown}")


def _name_files(report: Report, contents: Contents, path: str, md5: str, by: str) -> None:
    """The files of a folder that differ, where the cache has the listing."""
    expected = contents.cached_listing(md5)
    found = contents.listing(path) if expected and (contents.root / path).is_dir() else None
    for name, before, after in changed_digests(expected, found) if expected and found is not None else ():
        report.wrong(f"{path}/{name}", before, after, by)


def _equal_settings(section: str, before: Any, now: Any) -> bool:
    """Whether two versions of a section of params.yaml have the same values, with the defaults of what they omit."""
    try:
        configs = [parse(SECTIONS[section], {} if one is None else one, where=section) for one in (before, now)]
    except (KeyError, UserError):  # not a section of this project, or not a valid one: compared key by key
        return False
    return configs[0] == configs[1]


def _compare_params(report: Report, what: str, locked: Any, asked: Any, stage: str) -> None:
    """Key by key where both are mappings, so that the one that differs is named."""
    if isinstance(locked, Mapping) and isinstance(asked, Mapping):
        for key in sorted(locked.keys() | asked.keys(), key=str):
            _compare_params(report, f"{what}.{key}", locked.get(key), asked.get(key), stage)
    else:
        report.equal(what, locked, asked, f"{LOCK}: {stage}")


def value_at(value: Any, key: str) -> Any:
    """What a dotted key names in nested mappings; None where there is no such thing."""
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
