"""The journal: an entry in journal/ for each run of a stage, with the inputs, the outputs and facts of that run.

The file name of an entry is a digest of the stage, its command, parameters, inputs and outputs. Each entry names the
heads with their digests, as a git commit names its parents. A head is an entry or a run record that no entry names yet.
So a change of an entry or a record also needs a change of every later entry. Git branches lead to several heads. The
first stage that runs after a merge names all of them.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from rfdetr_core.base import files, git
from rfdetr_core.base.environment import observe_environment
from rfdetr_core.base.schema import Count, FileSchema, Name, Sha256, Text, checked
from rfdetr_core.lineage.lock import Entry
from rfdetr_core.lineage.records import FOLDER as RECORDS

FOLDER = Path("journal")
SCHEMA = 1
_NUMERIC = ("train", "evaluate", "export")  # stages whose numbers depend on the versions of packages
_RESULT = ("stage", "cmd", "params", "deps", "outs")
_SOURCES = ("rfdetr_core", "stages", "requirements", "dvc.yaml", "params.yaml")


class Out(FileSchema):
    """A file or folder that a stage wrote. Only files have a SHA-256."""

    md5: Text
    sha256: Sha256 | None = None
    size: Count | None = None


class Run(FileSchema):
    """The facts of a run. `dirty` says whether code, params or requirements differed from the commit."""

    began: Text
    seconds: float
    commit: Text | None
    dirty: bool | None
    environment: dict[Text, Any]


class JournalEntry(FileSchema):
    """The content of a file in journal/. Params, deps and outs are those of dvc.lock, by path."""

    schema_: Annotated[int, Field(alias="schema", ge=1, le=SCHEMA)]
    stage: Text
    cmd: Text
    params: dict[Text, dict[Text, Any]]
    deps: dict[Text, Text]
    outs: dict[Text, Out]
    previous: dict[Name, Sha256]
    run: Run


def note(stage: Any, began: float) -> None:
    """Write the entry of the stage that DVC runs in the current folder.

    In a DVC experiment, the entry and the run record are added to git's index, since an experiment contains only files
    that git tracks.

    Args:
        stage: DVC's stage object, with the digests of the files that the stage read and wrote.
        began: When the stage started, in seconds since 1970.
    """
    from dvc.stage.serialize import to_single_stage_lockfile  # type: ignore[import-untyped]

    write(Path(), stage.name, Entry.of(to_single_stage_lockfile(stage)), began)
    if "DVC_EXP_NAME" in os.environ:
        git.run(Path(), "add", "--", *(str(folder) for folder in (FOLDER, RECORDS) if folder.is_dir()))


def write(root: Path, stage: str, entry: Entry, began: float) -> Path:
    """Write the entry of a stage and return its path. An entry that exists or was committed before is kept.

    Args:
        root: The project's folder.
        stage: The name of the stage.
        entry: The stage, its command, parameters, inputs and outputs.
        began: When the stage started, in seconds since 1970.

    Raises:
        UserError: The entry cannot be written.
    """
    outs = {path: _out(root / path, md5, entry.files[path]) for path, md5 in entry.outs.items()}
    result = {"stage": stage, "cmd": entry.cmd, "params": json_params(entry.params), "deps": entry.deps, "outs": outs}
    name = entry_path(result)
    path = root / name
    commit = None if path.exists() else git.answer(root, "log", "-1", "--format=%H", "--diff-filter=A", "--", name)
    if commit:
        _restore(root, name, commit.strip())
    if path.exists():
        return path
    commit = git.answer(root, "rev-parse", "HEAD")
    dirty = git.answer(root, "status", "--porcelain", "--", *_SOURCES)
    run = {
        "began": datetime.fromtimestamp(began, UTC).isoformat(timespec="seconds"),
        "seconds": round(time.time() - began, 1),
        "commit": commit and commit.strip(),
        "dirty": bool(dirty) if commit else None,
        "environment": observe_environment(packages=stage in _NUMERIC),
    }
    files.write_json(path, {"schema": SCHEMA, **result, "previous": heads(root), "run": run})
    return path


def json_params(params: Mapping[str, Any]) -> Any:
    """Params as JSON values: keys and dates become texts."""
    return json.loads(json.dumps(params, default=str))


def entry_path(entry: Mapping[str, Any]) -> str:
    """The path of an entry from the root; it contains the digest of what was run, read and written.

    Raises:
        KeyError, TypeError, ValueError: The mapping is not an entry.
    """
    return f"{FOLDER}/{entry['stage']}-{files.digest({key: entry[key] for key in _RESULT})[:16]}.json"


def heads(root: Path) -> dict[str, str]:
    """The heads: path -> SHA-256 of each entry and record that no entry names. Paths are relative to the root."""
    digests, named = dict[str, str](), set[tuple[str, str]]()
    for name, content in contents(root).items():
        digests[name] = files.sha256_bytes(content)
        named |= _named_files(content) if name.startswith(f"{FOLDER}/") else set()
    return {name: sha256 for name, sha256 in digests.items() if (name, sha256) not in named}


def entries(root: Path) -> dict[str, dict[str, Any]]:
    """The entries of a project, by their path from the root.

    Raises:
        UserError: An entry is damaged.
    """
    names = (name for name in contents(root) if name.startswith(f"{FOLDER}/"))
    return {name: checked(files.read_json(root / name), JournalEntry, name) for name in names}


def contents(root: Path) -> dict[str, bytes]:
    """The bytes of every entry and record, by their path from the root."""
    paths = (path for folder in (FOLDER, RECORDS) for path in sorted((root / folder).glob("*.json")) if path.is_file())
    return {path.relative_to(root).as_posix(): files.read_bytes(path) for path in paths}


def _named_files(content: bytes) -> set[tuple[str, str]]:
    """The path and SHA-256 of each entry and record that an entry names.

    A damaged entry names nothing. It must not stop a stage that has run; `verify` reports it.
    """
    try:
        return {(str(name), str(sha256)) for name, sha256 in json.loads(content)["previous"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()


def _out(path: Path, md5: str, lock_facts: Mapping[str, Any]) -> dict[str, Any]:
    sha256 = {"sha256": files.sha256_file(path)} if path.is_file() else {}
    return {"md5": md5, **sha256, "size": lock_facts.get("size")}


def _restore(root: Path, name: str, commit: str) -> None:
    """Restore a file from a commit, and the missing files that it names. This is needed after `git revert`."""
    done = git.run(root, "show", f"{commit}:./{name}")
    if done.returncode == 0:
        files.write_bytes(root / name, done.stdout)
        named = (Path(previous) for previous, _ in _named_files(done.stdout))
        for path in (path for path in named if path.parent in (FOLDER, RECORDS) and not (root / path).exists()):
            _restore(root, path.as_posix(), commit)
