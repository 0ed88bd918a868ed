"""What the history knows of an image by its path: the bytes that were there, and since when they are not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rfdetr_core.audit.history import NOT_COMMITTED, Commit, History, rows_in
from rfdetr_core.base import files, git
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.manifest import SPLITS, DataConfig
from rfdetr_core.base.params import PARAMS_FILE, read_section


@dataclass(frozen=True)
class Version:
    """The bytes that an image had at a path. manifest: of its split. commit: the newest whose manifest has them."""

    path: str
    sha256: str
    manifest: str
    commit: Commit


def versions_of(image: str, history: History) -> list[Version]:
    """All bytes that the committed manifests name for a path, the newest first. A file outside the dataset has none."""
    path = _in_dataset(image, history.root)
    if path is None:
        return []
    first = PurePosixPath(path).parts[0]
    needle = files.canonical_json({"path": path}).decode()[1:-1]
    found: dict[str, Version] = {}
    for split in (first,) if first in SPLITS else SPLITS:
        manifest = f"manifest/{split}.json"
        newest: dict[str, Commit] = {}
        for commit in history.commits:
            if manifest in commit.changed and commit.id != NOT_COMMITTED:
                newest.setdefault(commit.changed[manifest], commit)
        lines = history.lines_with([needle], manifest, [one.id for one in newest.values()])
        for commit in (one for one in newest.values() if one.id in lines):
            for row in rows_in(lines[commit.id], commit.changed[manifest], history):
                if row["path"] == path:
                    found.setdefault(row["sha256"], Version(path, row["sha256"], manifest, commit))
    return list(found.values())


def withdrawn(image: str, history: History) -> UserError | None:
    """The error about an image that earlier manifests have and those of HEAD have not; None: no manifest has it."""
    versions = versions_of(image, history)
    if not versions:
        return None
    last = versions[0]
    asked = ("rev-list", "--reverse", "--ancestry-path", f"{last.commit.id}..HEAD", "--", last.manifest)
    after = (git.answer(history.root, *asked) or "").split()
    if after:
        date = git.text(history.root, "log", "-1", "--format=%aI", after[0]).strip()
        gone = f"it was withdrawn in commit {after[0]} (dated {date})"
    else:
        gone = f"commit {last.commit.id} has it, which HEAD does not come from"
    return UserError(
        f"{image} is in no manifest at HEAD: {gone}. Ask for the bytes that it had: audit --image {last.sha256}"
    )


def _in_dataset(image: str, root: Path) -> str | None:
    """The path below the dataset's folder that is meant; None: a digest, or a file somewhere else."""
    try:
        folder = (root / read_section(DataConfig, "data", root / PARAMS_FILE).dir).absolute()
    except UserError:  # the history may be older than a params.yaml that can be read
        folder = None
    for place in (Path(image).absolute(), root.absolute() / image) if folder else ():
        if folder and place != folder and place.is_relative_to(folder):
            return place.relative_to(folder).as_posix()
    if Path(image).exists() or re.fullmatch("[0-9a-fA-F]{64}", image):
        return None
    parts = PurePosixPath(image).parts  # of a dataset that had another folder then
    start = next((place for place, part in enumerate(parts) if part in SPLITS), 0)
    return PurePosixPath(*parts[start:]).as_posix()
