"""Files as DVC and the lineage know them, each read once, and always: no note of an earlier reading is trusted."""

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
        UserError: there is no dvc.yaml.
    """

    def __init__(self, root: Path) -> None:
        """Nothing is read before it is needed."""
        if not (root / "dvc.yaml").is_file():
            raise UserError(
                f"{root.resolve()} has no dvc.yaml. Run this at the root of the project, or name it: --repo DIR"
            )
        self.root = root.resolve()
        self.of_other_commits: set[str] = set()  # files and folders that count as not at hand
        self._known: dict[tuple[int, int], Digests] = {}
        self._listings: dict[str, dict[str, str] | None] = {}
        self._events: dict[tuple[str, str], list[tuple[str, str | None]]] = {}

    def digests(self, path: Path) -> Digests:
        """Of a file of the project; two names of one inode are read once. Not for temporary files: inodes return."""
        status = path.stat()
        place = status.st_dev, status.st_ino
        if place not in self._known:
            md5, sha256, size = hashlib.md5(usedforsecurity=False), hashlib.sha256(), 0
            with open_regular(path) as file:
                while piece := file.read(1 << 20):
                    md5.update(piece)
                    sha256.update(piece)
                    size += len(piece)
            self._known[place] = md5.hexdigest(), sha256.hexdigest(), size
        return self._known[place]

    def sha256(self, name: str) -> str | None:
        """Of a file below the root; None where it is not."""
        path = self.root / name
        return self.digests(path)[1] if path.is_file() and name not in self.of_other_commits else None

    def md5(self, name: str) -> str | None:
        """As DVC computes it: of a file, or of a folder's listing, then with .dir at its end. None: not at hand."""
        path = self.root / name
        if path.is_file():
            return self.digests(path)[0]
        listing = self.listing(name) if path.is_dir() else None
        return None if listing is None else listing_md5(listing)

    def listing(self, name: str) -> dict[str, str] | None:
        """The MD5 of each file in a folder, by path below it, without what .dvcignore names.

        A file that a .dvc file in the folder names counts with its MD5 there though it was not pulled; None where that
        is a folder.
        """
        if name not in self._listings:
            self._listings[name] = self._list(name)
        return self._listings[name]

    def _list(self, name: str) -> dict[str, str] | None:
        folder, found = self.root / name, {}
        for where, _, files in self._ignore.walk(self._ignore.fs, str(folder)):
            for file in files:
                path = Path(where) / file
                if path.exists():
                    found[path.relative_to(folder).as_posix()] = self.digests(path)[0]
        for path_of, md5 in self.pointers.items():
            inside = path_of.removeprefix(f"{name}/")
            if inside != path_of and not (self.root / path_of).exists():
                if md5.endswith(".dir"):
                    return None
                found[inside] = md5
        return found

    def measure(self, name: str) -> dict[str, int] | None:
        """size in bytes, of a folder also nfiles; None where not all of it is at hand."""
        path = self.root / name
        if path.is_file():
            return {"size": self.digests(path)[2]}
        inside = [path / one for one in self.listing(name) or ()]
        if not all(one.is_file() for one in inside):
            return None
        return {"size": sum(self.digests(one)[2] for one in inside), "nfiles": len(inside)}

    @cached_property
    def pointers(self) -> dict[str, str]:
        """The MD5 that each .dvc file has for what it tracks, by path below the root."""
        found = {}
        for name in sorted(self.tracked | git.names(self.root, "ls-files", "-oz", "--exclude-standard")):
            if name.endswith(".dvc") and (self.root / name).is_file():
                content = load_yaml(self.root / name)
                for out in content.get("outs") or [] if isinstance(content, dict) else []:
                    place = (self.root / name).parent / str(content.get("wdir", ".")) / str(out.get("path"))
                    path = os.path.relpath(os.path.normpath(place), self.root)
                    found[Path(path).as_posix()] = str(out.get("md5") or "")
        return found

    @cached_property
    def tracked(self) -> set[str]:
        """The files that git tracks, below the root."""
        return git.names(self.root, "ls-files", "-z")

    def in_git(self, name: str) -> bool:
        """Whether a file or something in a folder is tracked by git."""
        return name in self.tracked or name in self._tracked_folders

    @cached_property
    def _tracked_folders(self) -> set[str]:
        return {parent.as_posix() for name in self.tracked for parent in PurePosixPath(name).parents}

    def differs_from_head(self, *names: str) -> list[str]:
        """Tracked or new files under these names that are not as committed. The index, which can be told to leave a
        file alone, is not asked."""
        listed = git.names(self.root, "ls-tree", "-r", "-z", "HEAD", "--", *names) if self._has_commits else ()
        heads = {path: meta.split()[2] for meta, _, path in (one.partition("\t") for one in listed)}
        there = heads.keys() | git.names(self.root, "ls-files", "-coz", "--exclude-standard", "--", *names)
        files = sorted(name for name in there if (self.root / name).is_file())
        # Without filters: a clean filter of the clone could give any file the name of the committed one.
        asked = ("hash-object", "--no-filters", "--", *files)
        blobs = dict(zip(files, git.text(self.root, *asked).split(), strict=True)) if files else {}
        return sorted(name for name in there if heads.get(name) != blobs.get(name))

    def committed(self, name: str) -> bytes | None:
        """A file's content at HEAD."""
        return self.blob(f"HEAD:./{name}")

    def blob(self, name: str) -> bytes | None:
        """The content of an object of git; None where there is none."""
        done = git.run(self.root, "cat-file", "blob", name)
        return None if done.returncode else done.stdout

    def events(self, name: str, branches: str = "HEAD") -> list[tuple[str, str | None]]:
        """The commits before HEAD, or of --all branches, that changed a file, oldest first, with its blob; None:
        deleted. Of merges only those whose file is that of no parent."""
        if (name, branches) not in self._events:
            told = ("--topo-order", "--reverse", "-c", "--raw", "--no-abbrev", "--no-renames", "--relative")
            asked = ("log", *told, "--format=%x01%H", branches, "--", name)
            text = git.text(self.root, *asked) if self._has_commits else ""
            entries = (entry.partition("\n") for entry in text.split("\x01") if entry)
            changes = [(commit, line.partition("\t")[0].split()) for commit, _, lines in entries
                       for line in lines.split("\n") if line.startswith(":")]  # fmt: skip
            # A colon for each parent; after the modes the blobs of the parents, the new one, and a letter for each.
            self._events[name, branches] = [
                (commit, None if "D" in words[-1] else words[-2]) for commit, words in changes
            ]
        return self._events[name, branches]

    @cached_property
    def _has_commits(self) -> bool:
        return git.answer(self.root, "rev-parse", "-q", "--verify", "HEAD") is not None

    def cached(self, md5: str) -> Path:
        """Where DVC's cache has the content of this MD5."""
        return cache_path(self.root, md5)

    def cached_listing(self, md5: str) -> dict[str, str] | None:
        """The listing of a folder in DVC's cache; None where it is not there, or not what its name says."""
        path = self.cached(md5)
        if not md5.endswith(".dir") or not path.is_file() or f"{self.digests(path)[0]}.dir" != md5:
            return None
        return {one["relpath"]: one["md5"] for one in json.loads(read_bytes(path))}

    @cached_property
    def _ignore(self) -> Any:
        from dvc.fs import localfs  # type: ignore[import-untyped]
        from dvc.ignore import DvcIgnoreFilter  # type: ignore[import-untyped]

        return DvcIgnoreFilter(localfs, str(self.root))
