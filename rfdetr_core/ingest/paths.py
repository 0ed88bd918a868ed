"""Names of files in a dataset: what may be named, and what a folder holds."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from rfdetr_core.images import SUFFIXES
from rfdetr_core.ingest.records import is_text, shown

# File systems take 255 bytes; the name of a label file may be longer than that of its image.
_LONGEST = 250
# With cache.type symlink, DVC makes every file of a dataset a link to its content in the cache.
_DVC_CACHE = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$")


def name_fault(name: object) -> tuple[str, str] | None:
    """Why a name must not be used for a file of the dataset, as code and text, judged by the name alone."""
    if not isinstance(name, str) or not name.strip("/. "):
        return "path-malformed", f"the file name is {shown(name)}"
    if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or re.match(r"[A-Za-z]:", name):
        return "path-outside", f"the file name {shown(name)} leaves the folder"
    if "\\" in name or not is_text(name) or max(map(len, name.encode().split(b"/"))) > _LONGEST:
        return (
            "path-malformed",
            f"the file name {shown(name)} has a backslash, a character that is no text, or is too long",
        )
    return None


def joined(folder: str, name: str) -> str:
    """A path below the dataset folder, in its one spelling."""
    return posixpath.normpath(posixpath.join(folder, name))


def leaves(root: Path, path: str) -> bool:
    """Whether a path below `root` leads out of it through a link."""
    real = Path(os.path.realpath(root / path))
    return not real.is_relative_to(os.path.realpath(root)) and not _DVC_CACHE.search(real.as_posix())


def listing(root: Path, folder: str, suffixes: tuple[str, ...] = SUFFIXES) -> Iterator[str]:
    """Files below a folder with one of the suffixes, sorted, as paths below `root`; hidden ones are passed over."""
    for parent, folders, names in os.walk(root / folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(suffixes) and not name.startswith("."):
                yield joined(Path(parent).relative_to(root).as_posix(), name)
