"""The versions of an image under one path: which bytes it had, and the commit that removed it from the dataset."""

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
    """The bytes that an image had under a path.

    Attributes:
        path: The path in the dataset, such as train/a.jpg.
        sha256: The digest of the bytes.
        manifest: The path of its split's manifest.
        commit: The newest commit whose manifest has these bytes.
    """

    path: str
    sha256: str
    manifest: str
    commit: Commit


def versions_of(image: str, history: History) -> list[Version]:
    """All versions of a path in the committed manifests, the newest first. A file outside the dataset has none."""
    path = _in_dataset(image, history.root)
    if path is None:
        return []
    first = PurePosixPath(path).parts[0]
    needle = files.canonical_json({"path": path}).decode()[1:-1]
    versions: dict[str, Version] = {}
    for split in (first,) if first in SPLITS else SPLITS:
        manifest = f"manifest/{split}.json"
        newest: dict[str, Commit] = {}
        for commit in history.commits:
            if manifest in commit.changed and commit.id != NOT_COMMITTED:
                newest.setdefault(commit.changed[manifest], commit)
        lines = history.lines_with([needle], manifest, [commit.id for commit in newest.values()])
        for commit in (commit for commit in newest.values() if commit.id in lines):
            for row in rows_in(lines[commit.id], commit.changed[manifest], history):
                if row["path"] == path:
                    versions.setdefault(row["sha256"], Version(path, row["sha256"], manifest, commit))
    return list(versions.values())


def withdrawal_error(image: str, history: History) -> UserError | None:
    """The error for an image that is in no manifest at HEAD: the commit that removed it, or the last commit with it.

    None if no committed manifest has the image.
    """
    versions = versions_of(image, history)
    if not versions:
        return None
    last = versions[0]
    query = ("rev-list", "--reverse", "--ancestry-path", f"{last.commit.id}..HEAD", "--", last.manifest)
    later = (git.answer(history.root, *query) or "").split()
    if later:
        date = git.text(history.root, "log", "-1", "--format=%aI", later[0]).strip()
        reason = f"commit {later[0]} (dated {date}) withdrew it"
    else:
        reason = f"commit {last.commit.id} has it, but that commit is not an ancestor of HEAD"
    return UserError(
        f"{image} is not in a manifest at HEAD: {reason}. Ask for its last bytes: audit --image {last.sha256}"
    )


def _in_dataset(image: str, root: Path) -> str | None:
    """The path in the dataset's folder that the user means; None for a digest, or a file outside the dataset."""
    try:
        folder = (root / read_section(DataConfig, "data", root / PARAMS_FILE).dir).absolute()
    except UserError:  # an old project may have a params.yaml that this version cannot read
        folder = None
    for place in (Path(image).absolute(), root.absolute() / image) if folder else ():
        if folder and place != folder and place.is_relative_to(folder):
            return place.relative_to(folder).as_posix()
    if Path(image).exists() or re.fullmatch("[0-9a-fA-F]{64}", image):
        return None
    parts = PurePosixPath(image).parts  # the dataset may have been in another folder then: start at the split's name
    start = next((number for number, part in enumerate(parts) if part in SPLITS), 0)
    return PurePosixPath(*parts[start:]).as_posix()
