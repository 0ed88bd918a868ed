"""The working tree with the digests that DVC and the lineage use. A file is read once; no earlier digest is trusted."""

from __future__ import annotations

import hashlib
import json
import os
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from rfdetr_core.audit.history import cache_path
from rfdetr_core.base import git
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.files import open_regular, read_bytes
from rfdetr_core.base.params import load_yaml
from rfdetr_core.lineage.lock import listing_md5

Digests = tuple[str, str, int]  # MD5, SHA-256, bytes


class Contents:
    """The working tree of a project at `root`.

    Raises:
        UserError: There is no dvc.yaml.
    """

    def __init__(self, root: Path) -> None:
        """Find the project. Files are read only when they are needed."""
        if not (root / "dvc.yaml").is_file():
            raise UserError(
                f"{root.resolve()} has no dvc.yaml. Run this at the root of the project, or name the root: --repo DIR"
            )
        self.root = root.resolve()
        self.of_other_commits: set[str] = set()  # files and folders from other commits: they count as missing
        self._known: dict[tuple[int, int], Digests] = {}
        self._listings: dict[str, dict[str, str] | None] = {}
        self._events: dict[tuple[str, str], list[tuple[str, str | None]]] = {}

    def digests(self, path: Path) -> Digests:
        """Digests of a project file. A file with two names (one inode) is read once.

        Not for temporary files: a later file may get the same inode number.
        """
        status = path.stat()
        inode = status.st_dev, status.st_ino
        if inode not in self._known:
            md5, sha256, size = hashlib.md5(usedforsecurity=False), hashlib.sha256(), 0
            with open_regular(path) as file:
                while piece := file.read(1 << 20):
                    md5.update(piece)
                    sha256.update(piece)
                    size += len(piece)
            self._known[inode] = md5.hexdigest(), sha256.hexdigest(), size
        return self._known[inode]

    def sha256(self, name: str) -> str | None:
        """The SHA-256 of a file below the root; None if there is no such file."""
        path = self.root / name
        return self.digests(path)[1] if path.is_file() and name not in self.of_other_commits else None

    def md5(self, name: str) -> str | None:
        """The MD5 of a file, or of a folder's listing with `.dir` appended, as DVC computes it. None: not local."""
        path = self.root / name
        if path.is_file():
            return self.digests(path)[0]
        listing = self.listing(name) if path.is_dir() else None
        return None if listing is None else listing_md5(listing)

    def listing(self, name: str) -> dict[str, str] | None:
        """The MD5 of each file in a folder, by path below the folder. Files that .dvcignore names are left out.

        A file that was not pulled counts with the MD5 of its .dvc file. None if that .dvc file names a folder.
        """
        if name not in self._listings:
            self._listings[name] = self._list(name)
        return self._listings[name]

    def _list(self, name: str) -> dict[str, str] | None:
        folder, digests = self.root / name, {}
        for parent, _, files in self._ignore.walk(self._ignore.fs, str(folder)):
            for file in files:
                path = Path(parent) / file
                if path.exists():
                    digests[path.relative_to(folder).as_posix()] = self.digests(path)[0]
        for path_of, md5 in self.pointers.items():
            inside = path_of.removeprefix(f"{name}/")
            if inside != path_of and not (self.root / path_of).exists():
                if md5.endswith(".dir"):
                    return None
                digests[inside] = md5
        return digests

    def measure(self, name: str) -> dict[str, int] | None:
        """The size of a file or folder as in dvc.lock: `size` in bytes, and `nfiles` of a folder.

        None if a file is not local.
        """
        path = self.root / name
        if path.is_file():
            return {"size": self.digests(path)[2]}
        inside = [path / relative for relative in self.listing(name) or ()]
        if not all(file.is_file() for file in inside):
            return None
        return {"size": sum(self.digests(file)[2] for file in inside), "nfiles": len(inside)}

    @cached_property
    def pointers(self) -> dict[str, str]:
        """The MD5 in each .dvc file, by the tracked path below the root."""
        pointers = {}
        for name in sorted(self.tracked | git.names(self.root, "ls-files", "-oz", "--exclude-standard")):
            if name.endswith(".dvc") and (self.root / name).is_file():
                content = load_yaml(self.root / name)
                for out in content.get("outs") or [] if isinstance(content, dict) else []:
                    tracked_path = (self.root / name).parent / str(content.get("wdir", ".")) / str(out.get("path"))
                    path = os.path.relpath(os.path.normpath(tracked_path), self.root)
                    pointers[Path(path).as_posix()] = str(out.get("md5") or "")
        return pointers

    @cached_property
    def tracked(self) -> set[str]:
        """The files that git tracks, below the root."""
        return git.names(self.root, "ls-files", "-z")

    def in_git(self, name: str) -> bool:
        """Whether git tracks this file, or a file in this folder."""
        return name in self.tracked or name in self._tracked_folders

    @cached_property
    def _tracked_folders(self) -> set[str]:
        return {parent.as_posix() for name in self.tracked for parent in PurePosixPath(name).parents}

    def differs_from_head(self, *names: str) -> list[str]:
        """Tracked or new files below these paths whose content differs from HEAD.

        The index is not used: git can be made to ignore changes of a file there.
        """
        listed = git.names(self.root, "ls-tree", "-r", "-z", "HEAD", "--", *names) if self._has_commits else ()
        heads = {path: meta.split()[2] for meta, _, path in (line.partition("\t") for line in listed)}
        present = heads.keys() | git.names(self.root, "ls-files", "-coz", "--exclude-standard", "--", *names)
        files = sorted(name for name in present if (self.root / name).is_file())
        # Without filters: a clean filter in the clone could give any file the blob id of the committed one.
        arguments = ("hash-object", "--no-filters", "--", *files)
        blobs = dict(zip(files, git.text(self.root, *arguments).split(), strict=True)) if files else {}
        return sorted(name for name in present if heads.get(name) != blobs.get(name))

    def committed(self, name: str) -> bytes | None:
        """A file's content at HEAD."""
        return self.blob(f"HEAD:./{name}")

    def blob(self, name: str) -> bytes | None:
        """The content of a git blob; None if there is no such blob."""
        done = git.run(self.root, "cat-file", "blob", name)
        return None if done.returncode else done.stdout

    def events(self, name: str, branches: str = "HEAD") -> list[tuple[str, str | None]]:
        """The commits that changed a file, oldest first, with its blob id; None if the commit deleted the file.

        A merge counts only if the file differs from all its parents.

        Args:
            name: The file.
            branches: `HEAD`, or `--all` for all branches.
        """
        if (name, branches) not in self._events:
            options = ("--topo-order", "--reverse", "-c", "--raw", "--no-abbrev", "--no-renames", "--relative")
            arguments = ("log", *options, "--format=%x01%H", branches, "--", name)
            text = git.text(self.root, *arguments) if self._has_commits else ""
            entries = (entry.partition("\n") for entry in text.split("\x01") if entry)
            changes = [(commit, line.partition("\t")[0].split()) for commit, _, lines in entries
                       for line in lines.split("\n") if line.startswith(":")]  # fmt: skip
            # `git log --raw`: a colon per parent, the modes, the blobs of the parents, the new blob, and letters.
            self._events[name, branches] = [
                (commit, None if "D" in words[-1] else words[-2]) for commit, words in changes
            ]
        return self._events[name, branches]

    @cached_property
    def _has_commits(self) -> bool:
        return git.answer(self.root, "rev-parse", "-q", "--verify", "HEAD") is not None

    def cached(self, md5: str) -> Path:
        """The path of the content with this MD5 in DVC's cache."""
        return cache_path(self.root, md5)

    def cached_listing(self, md5: str) -> dict[str, str] | None:
        """The listing of a folder in DVC's cache; None if it is missing or its content does not match its name."""
        path = self.cached(md5)
        if not md5.endswith(".dir") or not path.is_file() or f"{self.digests(path)[0]}.dir" != md5:
            return None
        return {entry["relpath"]: entry["md5"] for entry in json.loads(read_bytes(path))}

    @cached_property
    def _ignore(self) -> Any:
        from dvc.fs import localfs  # type: ignore[import-untyped]
        from dvc.ignore import DvcIgnoreFilter  # type: ignore[import-untyped]

        return DvcIgnoreFilter(localfs, str(self.root))
