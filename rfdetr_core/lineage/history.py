"""The past of a project, read from git alone: every dvc.lock, manifest and record of all branches, tags and DVC
experiments."""

from __future__ import annotations

import configparser
import re
import subprocess
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from rfdetr_core.errors import UserError

LOCK = "dvc.lock"
MODEL = "output/checkpoint_best_total.pth"
EVALUATION = "reports/evaluate/lineage.json"
NOT_COMMITTED = "0" * 40
_WATCHED = (LOCK, "records", "manifest", EVALUATION)
# Settings of the user's that would hide the first commit, or write more than is asked for.
_PLAIN = ("-c", "log.showRoot=true", "-c", "log.showSignature=false", "-c", "core.quotePath=false")
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


@dataclass(frozen=True)
class Lock:
    """One dvc.lock: by stage its cmd, deps and outs (path to MD5; of folders it ends in .dir) and params."""

    stages: dict[str, dict[str, Any]]

    @classmethod
    def parse(cls, content: bytes) -> Lock:
        """Read a dvc.lock. Raises UserError where it is none."""
        try:
            # DVC writes plain YAML; the C parser takes a hundredth of the time of the strict one.
            stages = yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["stages"]
            return cls({name: _stage(entry) for name, entry in stages.items()})
        except (yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"{LOCK} is not readable ({type(error).__name__}). Restore it: git restore {LOCK}"
            ) from None

    def outs(self) -> Iterator[tuple[str, str, str]]:
        """Stage, path and MD5 of every out."""
        for name, stage in self.stages.items():
            yield from ((name, path, md5) for path, md5 in stage["outs"].items())


class History:
    """The repository that the folder `root` is in. Nothing is written, fetched or checked out.

    working_tree: read what is not committed yet as well; who asks whether the working tree is true must not.

    Raises:
        UserError: `root` is in no git repository, or git is not installed.
    """

    def __init__(self, root: Path, *, working_tree: bool = False) -> None:
        """Look for the repository."""
        self.root, self._working_tree = root, working_tree
        top = Path(self._git("rev-parse", "--show-toplevel").rstrip("\n"))
        # From a folder inside the project git would find none of its files, and an audit would deny every use.
        inside = [
            folder for folder in (root.resolve(), *root.resolve().parents) if folder.is_relative_to(top.resolve())
        ]
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
            changed = {path: blob for blob, path in self._fresh.items()}
            found[NOT_COMMITTED] = Commit(NOT_COMMITTED, (), "", "", "", "not committed yet", changed)
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
        """Watched files of the working tree that are not in HEAD as they are: blob to path."""
        paths = [self.root / LOCK, self.root / EVALUATION]
        paths += [one for folder in ("records", "manifest") for one in sorted((self.root / folder).glob("*.json"))]
        names = [path.relative_to(self.root).as_posix() for path in paths if path.is_file()]
        if not (names and self._working_tree):
            return {}
        blobs = self._git("hash-object", "--", *names).split()
        heads = [f"HEAD:./{name}" for name in names]
        command = ["git", "cat-file", "--batch-check=%(objectname)"]
        asked = "".join(f"{head}\n" for head in heads).encode()
        done = subprocess.run(command, cwd=self.root, input=asked, capture_output=True, check=False)
        committed = done.stdout.decode(errors="replace").splitlines()
        return {blob: name for blob, name, old in zip(blobs, names, committed, strict=True) if blob != old}

    @cached_property
    def locks(self) -> dict[str, Lock]:
        """Every dvc.lock that ever was committed, by its blob; those that are damaged are left out."""
        blobs = sorted({blob for commit in self.commits for path, blob in commit.changed.items() if path == LOCK})
        parsed = {}
        for blob, content in self.read(blobs):
            try:
                parsed[blob] = Lock.parse(content or b"")
            except UserError:
                continue
        return parsed

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        """The contents of git objects (a blob, or <commit>:./<path>), one at a time; None for what is not there."""
        names = list(names)
        command = ["git", "-c", "core.deltaBaseCacheLimit=512m", "cat-file", "--batch", "--buffer"]
        with subprocess.Popen(command, cwd=self.root, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            # All at once: git reads names while it writes contents, and the two pipes must not wait for each other.
            feeder = _feed(process.stdin, names)
            for name in names:
                head = process.stdout.readline().split()
                if len(head) != 3 or not head[2].isdigit():
                    fresh = self._fresh.get(name)
                    yield name, (self.root / fresh).read_bytes() if fresh else None
                    continue
                content = process.stdout.read(int(head[2]))
                process.stdout.read(1)
                yield name, content
            feeder.join()

    def _git(self, *arguments: str) -> str:
        try:
            done = subprocess.run(["git", *_PLAIN, *arguments], cwd=self.root, capture_output=True, check=False)
        except FileNotFoundError as error:
            raise UserError(f"{error.filename} does not exist, or git is not installed.") from None
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip()
            raise UserError(f"{self.root} has no git history to search: {reason}. Name the clone: --repo DIR")
        return done.stdout.decode(errors="replace")


def cache_folder(root: Path) -> Path:
    """DVC's cache: as configured for this clone, else for the project, else the usual one."""
    place = "cache"
    for name in ("config", "config.local"):
        settings = configparser.ConfigParser(interpolation=None)
        settings.read(root / ".dvc" / name)
        place = settings.get("cache", "dir", fallback=place)
    return root / ".dvc" / place


def cached(root: Path, md5: str) -> Path:
    """Where DVC's cache has the content of this MD5."""
    return cache_folder(root) / "files" / "md5" / md5[:2] / md5[2:]


def _feed(pipe: Any, names: list[str]) -> Any:
    def write() -> None:
        with pipe:
            pipe.write("".join(f"{name}\n" for name in names).encode())

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    return thread


def _stage(entry: dict[str, Any]) -> dict[str, Any]:
    files = {key: {one["path"]: one.get("md5", "") for one in entry.get(key) or []} for key in ("deps", "outs")}
    return {"cmd": entry.get("cmd"), "params": entry.get("params") or {}, **files}
