"""The history of a project, read from git: dvc.lock, manifests and records of all branches, tags and experiments."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from rfdetr_core.base import files, git
from rfdetr_core.base.dvc_config import cache_folder
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.schema import require
from rfdetr_core.checkpoint.schema import Manifest as ManifestRows
from rfdetr_core.lineage.lock import LOCK, Lock
from rfdetr_core.lineage.records import FOLDER, RECORD

MODEL = "output/checkpoint_best_total.pth"
EVALUATION = "reports/evaluate/lineage.json"
EXPORT = "output/export.json"
NOT_COMMITTED = "0" * 40
_WATCHED = (LOCK, FOLDER.as_posix(), RECORD.as_posix(), "manifest", EVALUATION, EXPORT)
_BASES = "core.deltaBaseCacheLimit=512m"
_GREP = {
    "grep.threads": 1, "grep.lineNumber": "false", "grep.column": "false", "submodule.recurse": "false",
    **dict([_BASES.split("=")]),
}  # fmt: skip
_KEEP_MEMORY = "glibc.malloc.mmap_threshold=8589934592:glibc.malloc.trim_threshold=17179869184"
_SEARCHERS = 2
_MOST_ARGUMENTS = 1000
_SHA1 = 40  # hexadecimal digits; repositories with SHA-256 have more
_COMMIT = "%x01%H%x00%P%x00%an%x00%ae%x00%aI%x00%s"


@dataclass(frozen=True)
class Commit:
    """A commit.

    Attributes:
        id, parents, author, email, subject: As git has them.
        date: The author's date, ISO 8601.
        changed: The git blob of each watched file that it changed, by path.
    """

    id: str
    parents: tuple[str, ...]
    author: str
    email: str
    date: str
    subject: str
    changed: dict[str, str] = field(default_factory=dict, compare=False, hash=False)


class History:
    """The git history that the folder `root` belongs to. It is only read: nothing is written, fetched or checked out.

    Args:
        root: A folder in the git repository of the project.
        working_tree: Also read files that are not committed yet. Code that checks the working tree against the history
            must leave this off.

    Raises:
        UserError: `root` is not in a git repository, or git is not installed.
    """

    def __init__(self, root: Path, *, working_tree: bool = False) -> None:
        """Find the project's folder in the git repository."""
        self.root, self._working_tree = root, working_tree
        self.parsed_locks: dict[str, Lock | None] = {}
        top = git.toplevel(root)
        # Paths are relative to the project's folder. From a folder inside it, git would find none of its files.
        inside = [folder for folder in (root.resolve(), *root.resolve().parents) if folder.is_relative_to(top)]
        self.root = next((folder for folder in inside if (folder / ".dvc").is_dir() or (folder / LOCK).exists()), root)

    @cached_property
    def shallow(self) -> bool:
        """Whether this clone lacks older commits."""
        return self._git("rev-parse", "--is-shallow-repository").strip() == "true"

    @cached_property
    def commits(self) -> list[Commit]:
        """Commits of all references that changed a watched file, newest first.

        If the working tree has watched files that differ from HEAD, they come first, as a commit with the id
        NOT_COMMITTED.
        """
        # Without --full-history, git leaves out a merged branch whose results the merge did not keep.
        arguments = ["--full-history", "-m", "--raw", "--no-abbrev", "--no-renames", "--relative", "--diff-filter=d"]
        text = self._git("log", "--all", "--topo-order", *arguments, f"--format={_COMMIT}", "--", *_WATCHED)
        commits: dict[str, Commit] = {}
        if self._uncommitted:
            commits[NOT_COMMITTED] = Commit(NOT_COMMITTED, (), "", "", "", "not committed yet", self._uncommitted)
        for entry in re.split("\x01(?=[0-9a-f]{40,64}\0)", text)[1:]:
            head, _, raw = entry.partition("\n")
            name, parents, author, email, date, subject = head.split("\0", 5)
            commit = commits.setdefault(name, Commit(name, tuple(parents.split()), author, email, date, subject))
            for line in raw.split("\n"):
                if line.startswith(":"):
                    meta, _, path = line.partition("\t")
                    commit.changed[path] = meta.split()[3]
        return list(commits.values())

    @cached_property
    def _uncommitted(self) -> dict[str, str]:
        """The git blob of each watched file in the working tree that differs from HEAD, by path."""
        paths = [self.root / name for name in (LOCK, RECORD, EVALUATION, EXPORT)]
        paths += [path for folder in (FOLDER, "manifest") for path in sorted((self.root / folder).glob("*.json"))]
        names = [path.relative_to(self.root).as_posix() for path in paths if path.is_file()]
        if not (names and self._working_tree):
            return {}
        blobs = self._git("hash-object", "--no-filters", "--", *names).split()
        committed = self.blobs(f"HEAD:./{name}" for name in names)
        return {name: blob for name, blob, old in zip(names, blobs, committed, strict=True) if blob != old}

    @cached_property
    def lock_texts(self) -> dict[str, bytes]:
        """The content of every dvc.lock that was ever committed, by its git blob."""
        blobs = sorted({commit.changed[LOCK] for commit in self.commits if LOCK in commit.changed})
        return {blob: content or b"" for blob, content in self.read(blobs)}

    def lock(self, blob: str) -> Lock | None:
        """The dvc.lock in a git blob; None if it is damaged. Parsing takes milliseconds, so it happens on demand."""
        if blob not in self.parsed_locks:
            try:
                self.parsed_locks[blob] = Lock.parse(self.lock_texts[blob])
            except UserError:
                self.parsed_locks[blob] = None
        return self.parsed_locks[blob]

    def lines_with(self, texts: Sequence[str], path: str, commits: Sequence[str]) -> dict[str, list[bytes]]:
        """The lines of a file that contain one of the texts, by commit. Commits without such a line are absent.

        `git grep` does the search: reading each version through a pipe would take twice as long.

        Args:
            texts: Fixed strings, not patterns.
            path: The file, relative to the project's folder.
            commits: Ids of the commits to search, in the order of the history.
        """
        settings = [item for key, value in _GREP.items() for item in ("-c", f"{key}={value}")]
        options = ["--no-color", "--text", "--null", "--fixed-strings"]
        options += [word for text in texts for word in ("-e", text)]

        def search(part: Sequence[str]) -> bytes:
            command = [*git.COMMAND, *settings, "grep", *options, *part, "--", path]
            # With this setting git keeps freed memory between two versions. Otherwise the system would take it back.
            environment = git.environment() | {"GLIBC_TUNABLES": _KEEP_MEMORY}
            done = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, check=False)
            if done.returncode > 1 or done.stderr:
                raise UserError(f"git cannot search {path} of {self.root}: {done.stderr.decode(errors='replace')}")
            return done.stdout

        # Each process searches a stretch of the history: git stores neighbouring versions as changes to each other.
        size = min(-(-len(commits) // _SEARCHERS), _MOST_ARGUMENTS) or 1
        parts = [commits[start : start + size] for start in range(0, len(commits), size)]
        with ThreadPoolExecutor(_SEARCHERS) as pool:
            lines = [line for output in pool.map(search, parts) for line in output.splitlines()]
        by_commit: dict[str, list[bytes]] = {}
        for name, _, line in (entry.partition(b"\0") for entry in lines):
            by_commit.setdefault(name.split(b":", 1)[0].decode(), []).append(line)
        return by_commit

    def blobs(self, names: Iterable[str]) -> list[str]:
        """The git blobs of <commit>:./<path>; for a missing file, git's message instead."""
        query = "".join(f"{name}\n" for name in names)
        return self._git("cat-file", "--batch-check=%(objectname)", stdin=query).splitlines()

    def missing(self, blobs: Iterable[str]) -> list[str]:
        """The git blobs that this clone lacks."""
        answer = self._git("cat-file", "--batch-check", stdin="".join(f"{blob}\n" for blob in blobs))
        return [line.removesuffix(" missing") for line in answer.splitlines() if line.endswith(" missing")]

    def why_missing(self, blob: str) -> str:
        """Why this clone lacks a manifest that a record names by its git blob."""
        if self.shallow:
            return "it is not in this shallow clone. Run git fetch --unshallow"
        if any(blob in commit.changed.values() for commit in self.commits):
            return f"its git blob {blob} is lost. Run git fsck"
        return f"it was never committed, so no commit here has its git blob {blob}"

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        """The contents of git objects, one at a time; None for a missing object.

        Args:
            names: Git blobs, or <commit>:./<path>.
        """
        names = list(names)
        uncommitted = {blob: path for path, blob in self._uncommitted.items()}
        command = [*git.COMMAND, "-c", _BASES, "cat-file", "--batch", "--buffer"]
        # The names come from a file. With a pipe, git and this process could wait for each other.
        with TemporaryFile() as query:
            query.write("".join(f"{name}\n" for name in names).encode())
            query.seek(0)
            with subprocess.Popen(
                command, cwd=self.root, env=git.environment(), stdin=query, stdout=subprocess.PIPE
            ) as process:
                assert process.stdout is not None
                for name in names:
                    head = process.stdout.readline().split()
                    if len(head) != 3 or not head[2].isdigit():
                        yield name, files.read_bytes(self.root / uncommitted[name]) if name in uncommitted else None
                        continue
                    content = process.stdout.read(int(head[2]))
                    process.stdout.read(1)
                    _check_object(head[0].decode(), head[1], content)
                    yield name, content

    def _git(self, *arguments: str, stdin: str = "") -> str:
        return git.text(self.root, *arguments, stdin=stdin, errors="replace")


class NoHistory(History):
    """The history of a folder outside of any git repository. It is empty: answers come only from the files."""

    def __init__(self, root: Path) -> None:
        """Use the folder without looking for a git repository."""
        self.root, self.parsed_locks, self._working_tree = root, {}, False

    @cached_property
    def shallow(self) -> bool:
        """Always false: there is no clone."""
        return False

    @cached_property
    def commits(self) -> list[Commit]:
        """Always empty."""
        return []

    def why_missing(self, blob: str) -> str:
        """Where the manifest is, and how to name a clone that has it."""
        return f"this folder is not in a git repository. Name a clone that has its git blob {blob}: --repo DIR"

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        """None for every name."""
        yield from ((name, None) for name in names)


def _check_object(name: str, kind: bytes, content: bytes) -> None:
    """Raise a UserError if the content of a git object does not match its name. Git itself does not check this."""
    digest = hashlib.new("sha1" if len(name) == _SHA1 else "sha256", usedforsecurity=False)
    digest.update(b"%s %d\0" % (kind, len(content)))
    digest.update(content)
    if digest.hexdigest() != name:
        raise UserError(f"git's object {name} was changed. Run git fsck, and fetch the object again")


def cache_path(root: Path, md5: str) -> Path:
    """The path in DVC's cache for content with this MD5. The file may not exist."""
    return cache_folder(root) / "files" / "md5" / md5[:2] / md5[2:]


def rows_of(content: bytes, where: str) -> list[dict[str, Any]]:
    """The rows of a manifest.

    Args:
        content: The bytes of the manifest.
        where: The manifest's name for an error message.

    Raises:
        UserError: The content is not a manifest.
    """
    try:
        rows: list[dict[str, Any]] = files.parse_json(content)
    except ValueError as error:
        raise UserError(f"{where} is not readable JSON ({error}).") from None
    require(ManifestRows, {"rows": rows}, where)
    return rows


def rows_in(lines: Sequence[bytes], blob: str, history: History) -> list[dict[str, Any]]:
    """The rows in some lines of a manifest. If its layout is not a row per line, all of its rows.

    Args:
        lines: Lines of the manifest, as `History.lines_with` finds them.
        blob: The git blob of the manifest.
        history: Where to read the whole manifest if the lines are not rows.
    """
    try:
        rows = [json.loads(line.strip().rstrip(b",")) for line in lines]
        require(ManifestRows, {"rows": rows}, blob)
    except (ValueError, UserError):
        ((_, content),) = history.read([blob])
        rows = rows_of(content or b"[]", f"a manifest (git blob {blob})")
    return rows
