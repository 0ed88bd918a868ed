"""Read dvc.yaml and dvc.lock, and compare them with params.yaml and local files. Runs nothing; needs no torch."""

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
from rfdetr_core.lineage.lock import LOCK, Entry, Lock, command, path_from_root
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.report import Report


@dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml, with its templates and variables resolved. Paths are relative to the root.

    Attributes:
        cmd: The command.
        deps: The paths that it reads.
        outs: The paths that it writes, and whether DVC's cache keeps them.
        params: The keys by params file; an empty list means the whole file.
        folder: The folder in which the command runs.
        after: The stages whose outs it reads.
    """

    cmd: str
    deps: frozenset[str]
    outs: dict[str, bool]
    params: dict[str, list[str]]
    folder: str
    after: frozenset[str]


@dataclass(frozen=True)
class Pipeline:
    """The stages of dvc.yaml, in an order in which they can run, and the entries of dvc.lock."""

    stages: dict[str, Stage]
    lock: Lock

    @classmethod
    def read(cls, root: Path) -> Pipeline:
        """Read both files. Raises UserError if one is missing or unreadable."""
        entries, stages = Lock.read(root).stages, read_stages(root)
        placed = {name: Entry.of(entries[name].raw, stage.folder) for name, stage in stages.items() if name in entries}
        return cls(stages, Lock(entries | placed))


def read_stages(root: Path) -> dict[str, Stage]:
    """The stages of dvc.yaml in an order in which they can run. Nothing is locked, written or fetched.

    Raises:
        UserError: DVC cannot read dvc.yaml, a variable is not defined, or two stages write the same file.
    """
    from dvc.dependency import ParamsDependency  # type: ignore[import-untyped]
    from dvc.dvcfile import ProjectFile  # type: ignore[import-untyped]
    from dvc.exceptions import NotDvcRepoError  # type: ignore[import-untyped]
    from dvc.fs import localfs  # type: ignore[import-untyped]
    from dvc.repo import Repo  # type: ignore[import-untyped]
    from dvc.repo.graph import build_graph  # type: ignore[import-untyped]
    from dvc.scm import NoSCM  # type: ignore[import-untyped]

    class Reader(Repo):  # type: ignore[misc]
        """Hides the .dvc folder from DVC, so that DVC takes no lock and writes no .dvc/tmp or .dvc/.gitignore."""

        @classmethod
        def find_root(cls, *_: Any) -> str:
            raise NotDvcRepoError("hidden")

    root = root.resolve()
    load_yaml(root / "dvc.yaml")  # its syntax errors say more than DVC's, and it limits YAML aliases
    _read_params(root / PARAMS_FILE)
    with _dvc_errors(root / "dvc.yaml"):
        repo = Reader(str(root), fs=localfs, uninitialized=True, scm=NoSCM(str(root)), config=dvc_config(root))
        file = ProjectFile(repo, str(root / "dvc.yaml"))
        file.lockfile_contents = {}  # dvc.lock is read by Lock, which is ten times faster
        stages = list(file.stages.values())
        if not stages:
            raise ValueError("it has no stage")
        graph = build_graph(stages)
    by_name = {}
    for dvc_stage in TopologicalSorter({stage: list(graph.successors(stage)) for stage in stages}).static_order():
        folder = Path(os.path.relpath(dvc_stage.wdir, root)).as_posix()
        path_of = {item: path_from_root(folder, item.def_path) for item in (*dvc_stage.deps, *dvc_stage.outs)}
        by_name[str(dvc_stage.name)] = Stage(
            command(dvc_stage.cmd),
            deps=frozenset(path_of[dep] for dep in dvc_stage.deps if not isinstance(dep, ParamsDependency)),
            outs={path_of[out]: out.use_cache for out in dvc_stage.outs},
            params={path_of[dep]: list(dep.params) for dep in dvc_stage.deps if isinstance(dep, ParamsDependency)},
            folder=folder,
            after=frozenset(str(producer.name) for producer in graph.successors(dvc_stage)),
        )
    return by_name


def refuse_outs(output: Path, example: str) -> None:
    """Raise a UserError if writing to a file or folder would overwrite results of a pipeline.

    Args:
        output: The file or folder to write to.
        example: How the user can name another place, such as `--out runs/first`.
    """
    folder = output.resolve()
    root = next((parent for parent in (folder, *folder.parents) if (parent / "dvc.yaml").is_file()), None)
    if root is None:
        return
    try:
        outs = [root / path for stage in read_stages(root).values() for path in stage.outs]
    except UserError:
        return  # a dvc.yaml that DVC cannot read has no results
    if any(out.is_relative_to(folder) or folder.is_relative_to(out) for out in outs):
        raise UserError(
            f"The pipeline of {root / 'dvc.yaml'} keeps its results in {output}; they would be overwritten. "
            f"Name another place, such as {example}."
        )


def copy_linked_results(root: Path) -> None:
    """Replace links by files among the outs that git tracks: git would store the link.

    With `cache.type symlink`, DVC restores outs from its run cache as links to the cache.
    """
    for stage in read_stages(root).values() if (root / LOCK).exists() else ():
        for path in (root / out for out, cached in stage.outs.items() if not cached):
            if path.is_symlink() and path.is_file():
                copy(path, path)


@contextmanager
def _dvc_errors(path: Path) -> Iterator[None]:
    """Turn DVC's errors into one message about a file."""
    from dvc.exceptions import DvcException

    try:
        yield
    except (DvcException, TypeError, ValueError, KeyError, AttributeError) as error:
        reason = " ".join(f"{error}: {getattr(error, 'exc', '')}".split()).rstrip(": .")
        raise UserError(
            f"DVC cannot read {path}: {reason}. Correct the file, or run: git restore {path.name}"
        ) from None


def _read_params(path: Path) -> Any:
    """The content of a params file in any format that DVC supports; empty if there is no such file."""
    from dvc.fs import localfs
    from dvc.utils.serialize import LOADERS  # type: ignore[import-untyped]

    with _dvc_errors(path):
        loader = LOADERS.get(path.suffix)
        content = {} if not path.exists() else loader(str(path), fs=localfs) if loader else load_yaml(path)
    refuse_interpolations(content, str(path))
    return content


def params_of(root: Path, stage: Stage) -> dict[str, dict[str, Any]]:
    """The params that a stage would run with now, by file and key."""
    contents = {file: _read_params(root / file) for file in stage.params}
    return {
        file: {key: value_at(contents[file], key) for key in (keys or contents[file])}
        for file, keys in stage.params.items()
    }


def check_pipeline(report: Report, contents: Contents, pipeline: Pipeline, *, by_value: bool = False) -> None:
    """Compare the stages of dvc.yaml with dvc.lock: commands, params, deps and outs.

    Args:
        report, contents, pipeline: See `check_contents`.
        by_value: If true, a missing key of params.yaml counts as its default value. (For DVC, the two differ.)
    """
    for name in sorted(pipeline.lock.stages.keys() - pipeline.stages.keys()):
        report.note(f"{LOCK} has a stage {name} that is not in dvc.yaml")
    values: dict[str, Any] = {}
    for name, stage in pipeline.stages.items():
        entry = pipeline.lock.stages.get(name)
        if entry is None:
            report.wrong(f"stage {name}", f"an entry in {LOCK}", None, "dvc.yaml")
            continue
        report.equal(f"command of {name}", entry.cmd, stage.cmd, LOCK)
        for kind, paths, locked in (("deps", stage.deps, entry.deps), ("outs", stage.outs, entry.outs)):
            for path in sorted({*paths} ^ locked.keys()):
                expected = "an entry in dvc.yaml" if path in locked else None
                report.wrong(f"{kind} of {name}: {path}", expected, None if expected else "an entry in dvc.yaml", LOCK)
            report.checked += 1
        for file, keys in stage.params.items():
            if file not in values:
                values[file] = _read_params(contents.root / file)
            given = entry.params.get(file, {})
            for key in sorted({*(keys or values[file]), *given}):
                locked_value, value = given.get(key), value_at(values[file], key)
                if (
                    by_value
                    and file == PARAMS_FILE.as_posix()
                    and locked_value != value
                    and _equal_settings(key, locked_value, value)
                ):
                    message = f"{file}: {key} lists defaults that {LOCK} leaves out; the values are equal"
                    report.note(f"{message}; dvc repro would run {name} again")
                else:
                    _compare_params(report, f"{file}: {key}", locked_value, value, name)


def check_contents(
    report: Report, contents: Contents, pipeline: Pipeline, leave: str, only_git: bool, code: CodeDigests | None
) -> None:
    """Compare every local dep and out with its MD5 in dvc.lock.

    Args:
        report: Receives the mismatches.
        contents: The working tree.
        pipeline: dvc.yaml and dvc.lock.
        leave: A dep that is skipped, since another check compares it; "" to skip none.
        only_git: Read only files that git tracks. For data that DVC tracks, compare the MD5 in its .dvc file.
        code: Compare code by newly computed digests and name the modules that differ. None: compare the files in
            digests/ as they are.
    """
    makers = {path: (name, md5) for name, path, md5 in pipeline.lock.outs()}
    actual: dict[str, str | None] = {}
    for name, entry in pipeline.lock.stages.items():
        for kind, digests in (("deps", entry.deps), ("outs", entry.outs)):
            for path, md5 in digests.items():
                source = f"{LOCK}: {name}"
                if kind == "deps" and path in makers:
                    maker, written = makers[path]
                    report.equal(f"{path} in {LOCK}", written, md5, f"{maker} wrote it, {name} read it")
                if path in contents.pointers:
                    report.equal(f"{path} in {path}.dvc", md5, contents.pointers[path], source)
                if kind == "outs" and _deleted(contents, path, md5):
                    report.wrong(path, "the committed file", "a deleted file", f"git log -- {path}")
                    continue
                if kind == "deps" and code and code.check(report, name, entry, path, source):
                    continue
                if path == leave or (only_git and not contents.in_git(path)):
                    continue
                if path not in actual:
                    actual[path] = contents.md5(path)
                if actual[path] is None:
                    report.skip(path, "missing: not in this clone")
                elif not report.equal(path, md5, actual[path], source):
                    _name_files(report, contents, path, md5, source)
                else:
                    check_size(report, contents, path, entry.files[path], source)


class CodeDigests:
    """The digests that stage `code` would write now, to be compared with those in dvc.lock."""

    def __init__(self, contents: Contents) -> None:
        self.contents, self.code = contents, Code(contents.root)
        self.stages = {f"{FOLDER}/{stage}.json": stage for stage in self.code.stages}

    def check(self, report: Report, stage: str, entry: Entry, path: str, source: str) -> bool:
        """Compare a code dep by newly computed digests. False if it is neither a digests file nor a code folder."""
        if path in self.stages:
            compared = {path: entry.deps[path]}
        elif stage == STAGE and path in PACKAGES and entry.outs.keys() <= self.stages.keys():
            # If the folders match dvc.lock, DVC will not run `code`. If outs then differ, the entry contradicts itself.
            source = source if self.will_run(entry) else f"the folders of code in {LOCK}"
            compared = entry.outs
        else:
            return False
        for out, md5 in compared.items():
            report.checked += 1
            for subject, expected, actual in self.differences(out, md5):
                report.wrong(subject, expected, actual, source)
        return True

    def differences(self, path: str, md5: str) -> list[tuple[str, str | None, str | None]]:
        """The modules that differ between digests/<stage>.json with this MD5 and the digests as of now.

        Only the file is named if its content with this MD5 is neither local nor in git.
        """
        digests = self.code.digests_of(self.stages[path])
        digests_md5 = md5_bytes(json_text(digests).encode())
        if digests_md5 == md5:
            return []
        present = files.read_bytes(self.contents.root / path) if self.contents.md5(path) else b""
        blobs = (self.contents.blob(blob) or b"" for _, blob in reversed(self.contents.events(path)) if blob)
        text = next((text for text in chain([present], blobs) if md5_bytes(text) == md5), None)
        if text is None:
            return [(path, md5, digests_md5)]
        return [(f"code {module}", old, new) for module, old, new in changed_digests(json.loads(text), digests)]

    def will_run(self, entry: Entry) -> bool:
        """Whether DVC will run `code`: its folders or its outs differ from dvc.lock."""
        return any(self.contents.md5(path) != md5 for path, md5 in (entry.deps | entry.outs).items())


def changed_code_lines(root: Path) -> Iterator[str]:
    """A line of text for each stage in dvc.lock whose code has changed."""
    lock, digests = Lock.read(root), CodeDigests(Contents(root))
    for path, stage in digests.stages.items():
        modules = [
            subject.removeprefix("code ") for subject, _, _ in digests.differences(path, lock.dep(stage, path) or "")
        ]
        if modules and stage in lock.stages:
            yield f"{stage:12} will run because its code changed: {listed(modules)}"


def _deleted(contents: Contents, path: str, md5: str) -> bool:
    """Whether an out was committed as dvc.lock names it, and is now neither in git nor in the working tree."""
    if contents.in_git(path) or (contents.root / path).exists():
        return False
    blobs = (blob for _, blob in contents.events(path) if blob is not None)
    return any(md5_bytes(contents.blob(blob) or b"") == md5 for blob in blobs)


def check_size(report: Report, contents: Contents, path: str, entry: Mapping[str, Any], source: str) -> None:
    """Compare the size and file count in an entry of dvc.lock whose MD5 matches."""
    report.equal(f"kind of hash of {path}", entry.get("hash"), "md5", source)
    for key, value in (contents.measure(path) or {}).items():
        if entry.get(key) is not None:
            report.equal(f"{key} of {path}", entry[key], value, source)


def check_cache(report: Report, contents: Contents, pipeline: Pipeline) -> None:
    """Check the cache objects that dvc.lock and the .dvc files name: each file name must be the MD5 of its content."""
    uncached = {path for stage in pipeline.stages.values() for path, cached in stage.outs.items() if not cached}
    expected = {path: md5 for _, path, md5 in pipeline.lock.outs() if path not in uncached} | contents.pointers
    missing = []
    for path, md5 in expected.items():
        members = contents.cached_listing(md5) or {}
        for name, digest in ({path: md5} | {f"{path}/{inside}": digest for inside, digest in members.items()}).items():
            cache_file = contents.cached(digest)
            if not cache_file.is_file():
                missing.append(name)
            else:
                actual = contents.digests(cache_file)[0] + (".dir" if digest.endswith(".dir") else "")
                label = f"cache object {cache_file.relative_to(cache_file.parents[3]).as_posix()} of {name}"
                report.equal(label, digest, actual, "its file name is the MD5 of its content")
    if missing:
        report.skip(f"cache objects of {listed(missing)}", "missing: not in the cache")


def check_history(report: Report, root: Path) -> None:
    """Note committed versions of dvc.lock with other results for the same command, deps and params.

    This is not a mismatch: another machine or a non-deterministic training may have made them.
    """
    history, present = History(root), Lock.read(root)
    for commit in history.commits:
        old_lock = history.lock(commit.changed[LOCK]) if LOCK in commit.changed else None
        for name, entry in present.stages.items():
            old = old_lock.stages.get(name) if old_lock is not None else None
            if old is None or (old.cmd, old.deps, old.params) != (entry.cmd, entry.deps, entry.params):
                continue
            report.checked += 1
            differing = sorted(path for path, md5 in entry.outs.items() if old.outs.get(path, md5) != md5)
            if differing:
                paths = f"{', '.join(differing[:3])}{', ...' if len(differing) > 3 else ''}"
                source = f"{LOCK} of commit {commit.id[:10]}"
                report.note(f"{source} has other results of {name} for the same inputs: {paths}")


def _name_files(report: Report, contents: Contents, path: str, md5: str, source: str) -> None:
    """Report the files of a folder that differ, if the cache has the folder's listing."""
    expected = contents.cached_listing(md5)
    listing = contents.listing(path) if expected and (contents.root / path).is_dir() else None
    for name, before, after in changed_digests(expected, listing) if expected and listing is not None else ():
        report.wrong(f"{path}/{name}", before, after, source)


def _equal_settings(section: str, before: Any, after: Any) -> bool:
    """Whether two versions of a section of params.yaml have the same values once defaults are filled in."""
    try:
        configs = [parse(SECTIONS[section], {} if value is None else value, where=section) for value in (before, after)]
    except (KeyError, UserError):  # an unknown or invalid section is compared key by key
        return False
    return configs[0] == configs[1]


def _compare_params(report: Report, subject: str, locked: Any, present: Any, stage: str) -> None:
    """Compare mappings key by key, so that the report names the key that differs."""
    if isinstance(locked, Mapping) and isinstance(present, Mapping):
        for key in sorted(locked.keys() | present.keys(), key=str):
            _compare_params(report, f"{subject}.{key}", locked.get(key), present.get(key), stage)
    else:
        report.equal(subject, locked, present, f"{LOCK}: {stage}")


def value_at(value: Any, key: str) -> Any:
    """The value at a dotted key in nested mappings; None if there is none."""
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
