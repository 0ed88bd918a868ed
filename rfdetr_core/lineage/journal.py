"""journal/: an entry for each run of a stage, in git: what it read and wrote, the entries before it, facts of the run.

An entry has the name of its content. It names the heads with their digests: the entries, and the records of models,
that no entry named before. So whoever changes an entry or a record has to change every entry after it. Branches of git
give several heads, and the first stage that runs after a merge names them all.
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
_NUMERIC = ("train", "evaluate", "export")  # stages in which packages decide numbers
_RESULT = ("stage", "cmd", "params", "deps", "outs")
_SOURCES = ("rfdetr_core", "stages", "requirements", "dvc.yaml", "params.yaml")


class Out(FileSchema):
    """A file or folder that a stage wrote; sha256: of a file."""

    md5: Text
    sha256: Sha256 | None = None
    size: Count | None = None


class Run(FileSchema):
    """The facts of a run. dirty: whether code, params or requirements were not those of the commit."""

    began: Text
    seconds: float
    commit: Text | None
    dirty: bool | None
    environment: dict[Text, Any]


class JournalEntry(FileSchema):
    """A file in journal/. params, deps and outs: as dvc.lock has them, by path."""

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

    stage: DVC's own object, with the digests of what the stage read and wrote. began: when it started, in seconds since
    1970. Files of an experiment of DVC are added to its index: what git does not track would be left out of it.
    """
    from dvc.stage.serialize import to_single_stage_lockfile  # type: ignore[import-untyped]

    write(Path(), stage.name, Entry.of(to_single_stage_lockfile(stage)), began)
    if "DVC_EXP_NAME" in os.environ:
        git.run(Path(), "add", "--", *(str(folder) for folder in (FOLDER, RECORDS) if folder.is_dir()))


def write(root: Path, stage: str, ran: Entry, began: float) -> Path:
    """Write the entry of a stage of the project at `root`. An entry that is there, or was committed, is kept.

    Raises:
        UserError: it cannot be written.
    """
    outs = {one: _out(root / one, md5, ran.files[one]) for one, md5 in ran.outs.items()}
    result = {"stage": stage, "cmd": ran.cmd, "params": plain(ran.params), "deps": ran.deps, "outs": outs}
    name = name_of(result)
    path = root / name
    added = None if path.exists() else git.answer(root, "log", "-1", "--format=%H", "--diff-filter=A", "--", name)
    if added:
        _restore(root, name, added.strip())
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


def plain(params: Mapping[str, Any]) -> Any:
    """Params as JSON has them: each key is a text, and so is a date."""
    return json.loads(json.dumps(params, default=str))


def name_of(entry: Mapping[str, Any]) -> str:
    """The path of an entry below the root, by what was run, read and written.

    Raises:
        KeyError, TypeError, ValueError: it is not an entry.
    """
    return f"{FOLDER}/{entry['stage']}-{files.digest({key: entry[key] for key in _RESULT})[:16]}.json"


def heads(root: Path) -> dict[str, str]:
    """The entries and records that no entry names: the SHA-256 of each file, by its path below the root."""
    found, named = dict[str, str](), set[tuple[str, str]]()
    for name, content in contents(root).items():
        found[name] = files.sha256_bytes(content)
        named |= _previous(content) if name.startswith(f"{FOLDER}/") else set()
    return {name: sha256 for name, sha256 in found.items() if (name, sha256) not in named}


def entries(root: Path) -> dict[str, dict[str, Any]]:
    """The entries of a project, by their path below the root.

    Raises:
        UserError: one is damaged.
    """
    read = (name for name in contents(root) if name.startswith(f"{FOLDER}/"))
    return {name: checked(files.read_json(root / name), JournalEntry, name) for name in read}


def contents(root: Path) -> dict[str, bytes]:
    """The bytes of every entry and record, by their path below the root."""
    paths = (path for folder in (FOLDER, RECORDS) for path in sorted((root / folder).glob("*.json")) if path.is_file())
    return {path.relative_to(root).as_posix(): files.read_bytes(path) for path in paths}


def _previous(content: bytes) -> set[tuple[str, str]]:
    """What an entry names. A damaged one names nothing: the stage ran, and `verify` tells of the damage."""
    try:
        return {(str(name), str(sha256)) for name, sha256 in json.loads(content)["previous"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()


def _out(path: Path, md5: str, measured: Mapping[str, Any]) -> dict[str, Any]:
    sha256 = {"sha256": files.sha256_file(path)} if path.is_file() else {}
    return {"md5": md5, **sha256, "size": measured.get("size")}


def _restore(root: Path, name: str, commit: str) -> None:
    """Bring back a file as a commit has it, and the files that it names, as after `git revert`."""
    done = git.run(root, "show", f"{commit}:./{name}")
    if done.returncode == 0:
        files.write_bytes(root / name, done.stdout)
        named = (Path(before) for before, _ in _previous(done.stdout))
        for path in (path for path in named if path.parent in (FOLDER, RECORDS) and not (root / path).exists()):
            _restore(root, path.as_posix(), commit)
