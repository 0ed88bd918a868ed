"""Check that the journal heads in an attestation, and every entry that they refer to, are unchanged in git.

A journal entry names the entries before it by digest. The heads are the entries that no other entry
names. So a signature over the heads covers all entries: if an entry is rewritten later, its digest no longer matches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated

from pydantic import Field

from rfdetr_core.audit.history import History
from rfdetr_core.base import files, git
from rfdetr_core.base.schema import FileSchema, Sha256, checked
from rfdetr_core.lineage.journal import FOLDER as JOURNAL
from rfdetr_core.lineage.records import FOLDER as RECORDS
from rfdetr_core.verification.report import Report

_FOLDERS = (JOURNAL.as_posix(), RECORDS.as_posix())
_Name = Annotated[str, Field(pattern=rf"^({'|'.join(_FOLDERS)})/[^/\x00-\x1f]+\.json$")]


class PreviousEntries(FileSchema):
    """The previous entries and records that an entry names: SHA-256 by path."""

    previous: dict[_Name, Sha256]


def uncommitted(heads: Mapping[str, str], history: History) -> Iterator[str]:
    """The heads that HEAD does not have, or has with other content."""
    contents = history.read(f"HEAD:./{name}" for name in heads)
    for (name, sha256), (_, content) in zip(heads.items(), contents, strict=True):
        if content is None or files.sha256_bytes(content) != sha256:
            yield name


def check_heads(report: Report, heads: object, history: History, source: str) -> None:
    """Compare the heads, and every entry that they refer to, with the files of the project or its history.

    Args:
        report: Receives the mismatches.
        heads: SHA-256 by path, as the statement has them.
        history: The commits of the project.
        source: The path of the statement.

    Raises:
        UserError: The heads have another layout.
    """
    waiting = list(checked({"previous": heads}, PreviousEntries, source)["previous"].items())
    versions, seen = _Versions(history), set(waiting)
    while waiting:
        name, sha256 = waiting.pop()
        content = versions.read(name, sha256)
        if content is None and history.shallow:
            report.skip(name, "this clone is shallow. Run: git fetch --unshallow")
        actual = None if content is None else files.sha256_bytes(content)
        if (content is None and history.shallow) or not report.equal(name, sha256, actual, source):
            continue
        if name.startswith(f"{JOURNAL}/"):
            previous = checked(files.parse_json(content or b""), PreviousEntries, name)["previous"].items()
            waiting += previous - seen
            seen |= previous


class _Versions:
    """The contents of journal entries and run records, from the working tree and from every commit."""

    def __init__(self, history: History) -> None:
        self.history = history

    def read(self, name: str, sha256: str) -> bytes | None:
        """Choose the version of a file to compare with a digest.

        The first of these that exists:

        1. The local file, if it has the digest.
        2. The local file, if no commit added it with this content. It was changed, so the comparison will fail.
        3. The committed version with the digest. The local file may be from another branch that ran the same stage.
        4. Any committed version.
        5. None, because no commit has the file.
        """
        path = self.history.root / name
        present = files.read_bytes(path) if path.is_file() else None
        if present is not None and files.sha256_bytes(present) == sha256:
            return present
        if present is not None and present not in self._contents(name, self._added):
            return present
        versions = self._contents(name, self._blobs)
        return next(
            (version for version in versions if files.sha256_bytes(version) == sha256), next(iter(versions), None)
        )

    def _contents(self, name: str, blobs: Mapping[str, Mapping[str, None]]) -> list[bytes]:
        return [content for _, content in self.history.read(blobs.get(name, ())) if content is not None]

    @cached_property
    def _added(self) -> dict[str, dict[str, None]]:
        """By path, the blob ids with which commits other than merges added the file."""
        return self._blobs_by_path("--no-merges", "--diff-filter=A")

    @cached_property
    def _blobs(self) -> dict[str, dict[str, None]]:
        """By path, all blob ids that the file had, newest first."""
        return self._blobs_by_path("-m", "--diff-filter=d")

    def _blobs_by_path(self, *chosen: str) -> dict[str, dict[str, None]]:
        options = ("--full-history", "--raw", "--no-abbrev", "--no-renames", "--relative", *chosen)
        text = git.text(self.history.root, "log", "--all", *options, "--format=", "--", *_FOLDERS)
        blobs: dict[str, dict[str, None]] = {}
        for line in text.splitlines():
            meta, _, path = line.partition("\t")
            if path:
                blobs.setdefault(path, {})[meta.split()[3]] = None
        return blobs
