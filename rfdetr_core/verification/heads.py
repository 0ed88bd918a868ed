"""The heads of the journal, as an attestation has them: what they lead to is in the history, unchanged.

An entry of the journal names the entries before it by their digests. So a signature over the latest ones, the heads,
covers all of them: whoever rewrites one of them later is found.
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


class Named(FileSchema):
    """Entries and records by their path, with the SHA-256 of the file."""

    previous: dict[_Name, Sha256]


def uncommitted(heads: Mapping[str, str], history: History) -> Iterator[str]:
    """The heads that HEAD does not have as they are."""
    contents = history.read(f"HEAD:./{name}" for name in heads)
    for (name, sha256), (_, content) in zip(heads.items(), contents, strict=True):
        if content is None or files.sha256_bytes(content) != sha256:
            yield name


def check_heads(report: Report, heads: object, history: History, source: str) -> None:
    """Compare heads, and all that they lead to, with the files of the project, else with its history.

    Raises:
        UserError: they are not laid out as heads.
    """
    waiting = list(checked({"previous": heads}, Named, source)["previous"].items())
    versions, seen = _Versions(history), set(waiting)
    while waiting:
        name, sha256 = waiting.pop()
        content = versions.read(name, sha256)
        if content is None and history.shallow:
            report.skip(name, "this clone is shallow: git fetch --unshallow")
        found = None if content is None else files.sha256_bytes(content)
        if (content is None and history.shallow) or not report.equal(name, sha256, found, source):
            continue
        if name.startswith(f"{JOURNAL}/"):
            before = checked(files.parse_json(content or b""), Named, name)["previous"].items()
            waiting += before - seen
            seen |= before


class _Versions:
    """The bytes of entries and records: of the working tree, and of every commit."""

    def __init__(self, history: History) -> None:
        self.history = history

    def read(self, name: str, sha256: str) -> bytes | None:
        """A file that is there, unless it is one that a commit added, as on another branch that ran the same; else the
        version with this digest, or any; None where no commit has the file."""
        path = self.history.root / name
        here = files.read_bytes(path) if path.is_file() else None
        if here is not None and files.sha256_bytes(here) == sha256:
            return here
        if here is not None and here not in self._contents(name, self._added):
            return here
        past = self._contents(name, self._blobs)
        return next((one for one in past if files.sha256_bytes(one) == sha256), next(iter(past), None))

    def _contents(self, name: str, blobs: Mapping[str, Mapping[str, None]]) -> list[bytes]:
        return [content for _, content in self.history.read(blobs.get(name, ())) if content is not None]

    @cached_property
    def _added(self) -> dict[str, dict[str, None]]:
        """By path, the contents with which commits, merges aside, added it."""
        return self._found("--no-merges", "--diff-filter=A")

    @cached_property
    def _blobs(self) -> dict[str, dict[str, None]]:
        """By path, git's names of the contents that it had, newest first."""
        return self._found("-m", "--diff-filter=d")

    def _found(self, *chosen: str) -> dict[str, dict[str, None]]:
        options = ("--full-history", "--raw", "--no-abbrev", "--no-renames", "--relative", *chosen)
        text = git.text(self.history.root, "log", "--all", *options, "--format=", "--", *_FOLDERS)
        found: dict[str, dict[str, None]] = {}
        for line in text.splitlines():
            meta, _, path = line.partition("\t")
            if path:
                found.setdefault(path, {})[meta.split()[3]] = None
        return found
