"""The past of a project, read from git alone: every dvc.lock, manifest and record of all branches, tags and DVC
experiments."""

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
    """A commit; date: of its author, ISO 8601. changed: the watched files that it brought, with their blobs."""

    id: str
    parents: tuple[str, ...]
    author: str
    email: str
    date: str
    subject: str
    changed: dict[str, str] = field(default_factory=dict, compare=False, hash=False)


class History:
    """The repository that the folder `root` is in. Nothing is written, fetched or checked out.

    working_tree: read what is not committed yet as well; who asks whether the working tree is true must not.

    Raises:
        UserError: `root` is in no git repository, or git is not installed.
    """

    def __init__(self, root: Path, *, working_tree: bool = False) -> None:
        """Look for the repository."""
        self.root, self._working_tree = root, working_tree
        self.parsed: dict[str, Lock | None] = {}
        top = git.toplevel(root)
        # From a folder inside the project git would find none of its files, and an audit would deny every use.
        inside = [folder for folder in (root.resolve(), *root.resolve().parents) if folder.is_relative_to(top)]
        self.root = next((one for one in inside if (one / ".dvc").is_dir() or (one / LOCK).exists()), root)

    @cached_property
    def shallow(self) -> bool:
        """Whether older commits are not in this clone."""
        return self._git("rev-parse", "--is-shallow-repository").strip() == "true"

    @cached_property
    def commits(self) -> list[Commit]:
        """Commits of all references that changed a watched file, newest first; before them, what the working tree has
        and HEAD has not, as a commit whose id is NOT_COMMITTED."""
        # --full-history: else git leaves out a merged branch whose results the merge did not take.
        arguments = ["--full-history", "-m", "--raw", "--no-abbrev", "--no-renames", "--relative", "--diff-filter=d"]
        text = self._git("log", "--all", "--topo-order", *arguments, f"--format={_COMMIT}", "--", *_WATCHED)
        found: dict[str, Commit] = {}
        if self._fresh:
            found[NOT_COMMITTED] = Commit(NOT_COMMITTED, (), "", "", "", "not committed yet", self._fresh)
        for entry in re.split("\x01(?=[0-9a-f]{40,64}\0)", text)[1:]:
            head, _, raw = entry.partition("\n")
            name, parents, author, email, date, subject = head.split("\0", 5)
            commit = found.setdefault(name, Commit(name, tuple(parents.split()), author, email, date, subject))
            for line in raw.split("\n"):
                if line.startswith(":"):
                    meta, _, path = line.partition("\t")
                    commit.changed[path] = meta.split()[3]
        return list(found.values())

    @cached_property
    def _fresh(self) -> dict[str, str]:
        """Watched files of the working tree that are not in HEAD as they are, with their blobs."""
        paths = [self.root / name for name in (LOCK, RECORD, EVALUATION, EXPORT)]
        paths += [one for folder in (FOLDER, "manifest") for one in sorted((self.root / folder).glob("*.json"))]
        names = [path.relative_to(self.root).as_posix() for path in paths if path.is_file()]
        if not (names and self._working_tree):
            return {}
        blobs = self._git("hash-object", "--no-filters", "--", *names).split()
        committed = self.blobs(f"HEAD:./{name}" for name in names)
        return {name: blob for name, blob, old in zip(names, blobs, committed, strict=True) if blob != old}

    @cached_property
    def lock_texts(self) -> dict[str, bytes]:
        """The content of every dvc.lock that ever was committed, by its blob."""
        blobs = sorted({commit.changed[LOCK] for commit in self.commits if LOCK in commit.changed})
        return {blob: content or b"" for blob, content in self.read(blobs)}

    def lock(self, blob: str) -> Lock | None:
        """The dvc.lock in a blob; None where it is damaged. Parsed when it is asked for: it takes milliseconds."""
        if blob not in self.parsed:
            try:
                self.parsed[blob] = Lock.parse(self.lock_texts[blob])
            except UserError:
                self.parsed[blob] = None
        return self.parsed[blob]

    def lines_with(self, texts: Sequence[str], path: str, commits: Sequence[str]) -> dict[str, list[bytes]]:
        """By commit, the lines of the file `path` that have one of these texts; commits whose file has none are absent.

        git searches by itself: to read each version through a pipe would take twice the time.
        """
        settings = [item for key, value in _GREP.items() for item in ("-c", f"{key}={value}")]
        options = ["--no-color", "--text", "--null", "--fixed-strings"]
        options += [word for text in texts for word in ("-e", text)]

        def search(part: Sequence[str]) -> bytes:
            command = [*git.COMMAND, *settings, "grep", *options, *part, "--", path]
            # What git frees between two versions would else be given back to the system, and faulted in again.
            environment = git.environment() | {"GLIBC_TUNABLES": _KEEP_MEMORY}
            done = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, check=False)
            if done.returncode > 1 or done.stderr:
                raise UserError(f"git cannot search {path} of {self.root}: {done.stderr.decode(errors='replace')}")
            return done.stdout

        # In the order of the history, each process a stretch of it: git keeps neighbours as changes to each other.
        size = min(-(-len(commits) // _SEARCHERS), _MOST_ARGUMENTS) or 1
        parts = [commits[start : start + size] for start in range(0, len(commits), size)]
        with ThreadPoolExecutor(_SEARCHERS) as pool:
            lines = [line for found in pool.map(search, parts) for line in found.splitlines()]
        by_commit: dict[str, list[bytes]] = {}
        for name, _, line in (one.partition(b"\0") for one in lines):
            by_commit.setdefault(name.split(b":", 1)[0].decode(), []).append(line)
        return by_commit

    def blobs(self, names: Iterable[str]) -> list[str]:
        """Git's names of the contents of <commit>:./<path>; of what is not there another text."""
        asked = "".join(f"{name}\n" for name in names)
        return self._git("cat-file", "--batch-check=%(objectname)", stdin=asked).splitlines()

    def missing(self, blobs: Iterable[str]) -> list[str]:
        """The blobs among these that this clone does not have."""
        told = self._git("cat-file", "--batch-check", stdin="".join(f"{blob}\n" for blob in blobs))
        return [line.removesuffix(" missing") for line in told.splitlines() if line.endswith(" missing")]

    def why_missing(self, blob: str) -> str:
        """Why a manifest that a record names by its git blob is not in this clone."""
        if self.shallow:
            return "not in this clone, which is shallow: git fetch --unshallow"
        if any(blob in commit.changed.values() for commit in self.commits):
            return f"git's object {blob} is lost: git fsck"
        return f"never committed: no commit here has git blob {blob}"

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        """The contents of git objects (a blob, or <commit>:./<path>), one at a time; None for what is not there."""
        names = list(names)
        fresh = {blob: path for path, blob in self._fresh.items()}
        command = [*git.COMMAND, "-c", _BASES, "cat-file", "--batch", "--buffer"]
        with TemporaryFile() as asked:  # not a pipe: git reads names while it writes, and two could wait for each other
            asked.write("".join(f"{name}\n" for name in names).encode())
            asked.seek(0)
            with subprocess.Popen(
                command, cwd=self.root, env=git.environment(), stdin=asked, stdout=subprocess.PIPE
            ) as process:
                assert process.stdout is not None
                for name in names:
                    head = process.stdout.readline().split()
                    if len(head) != 3 or not head[2].isdigit():
                        yield name, files.read_bytes(self.root / fresh[name]) if name in fresh else None
                        continue
                    content = process.stdout.read(int(head[2]))
                    process.stdout.read(1)
                    _check_object(head[0].decode(), head[1], content)
                    yield name, content

    def _git(self, *arguments: str, stdin: str = "") -> str:
        return git.text(self.root, *arguments, stdin=stdin, errors="replace")


class NoHistory(History):
    """Of a folder that is in no git repository: nothing is known but what a file says of itself."""

    def __init__(self, root: Path) -> None:
        """Take the folder as it is."""
        self.root, self.parsed, self._working_tree = root, {}, False

    @cached_property
    def shallow(self) -> bool:
        """There is no clone."""
        return False

    @cached_property
    def commits(self) -> list[Commit]:
        """There are none."""
        return []

    def why_missing(self, blob: str) -> str:
        """What is needed to read a manifest."""
        return (
            f"it is in the project's repository, as git blob {blob}, and this folder is in none. Name a clone: "
            "--repo DIR"
        )

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        """Nothing is there."""
        yield from ((name, None) for name in names)


def _check_object(name: str, kind: bytes, content: bytes) -> None:
    """Raise a UserError where an object of git is not the one that its name says: git itself does not look."""
    digest = hashlib.new("sha1" if len(name) == _SHA1 else "sha256", usedforsecurity=False)
    digest.update(b"%s %d\0" % (kind, len(content)))
    digest.update(content)
    if digest.hexdigest() != name:
        raise UserError(f"git's object {name} was changed. Fetch it again: git fsck")


def cache_path(root: Path, md5: str) -> Path:
    """Where DVC's cache has the content of this MD5."""
    return cache_folder(root) / "files" / "md5" / md5[:2] / md5[2:]


def rows_of(content: bytes, where: str) -> list[dict[str, Any]]:
    """The rows of a manifest. UserError: it is none."""
    try:
        rows: list[dict[str, Any]] = files.parse_json(content)
    except ValueError as error:
        raise UserError(f"{where} is not readable JSON ({error}).") from None
    require(ManifestRows, {"rows": rows}, where)
    return rows


def rows_in(lines: Sequence[bytes], blob: str, history: History) -> list[dict[str, Any]]:
    """The rows in these lines of a manifest; all of its rows, where it is laid out by other hands."""
    try:
        rows = [json.loads(line.strip().rstrip(b",")) for line in lines]
        require(ManifestRows, {"rows": rows}, blob)
    except (ValueError, UserError):
        ((_, content),) = history.read([blob])
        rows = rows_of(content or b"[]", f"a manifest (git blob {blob})")
    return rows
