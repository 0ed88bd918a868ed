"""The dataset folder: that it exists, that another machine would have it too, and which files in it may be named."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from unicodedata import normalize
from urllib.parse import unquote

from rfdetr_core.base import git
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.images import SUFFIXES
from rfdetr_core.ingest.records import is_text, shown

OPTION = "data.dir in params.yaml"


def check_folder(root: Path, labels: tuple[str, ...], option: str = OPTION) -> None:
    """Check that `root` is a folder with something in it, that git or DVC knows. Outside git it may be unknown.

    labels: the suffixes of label files. option: what names the folder.

    Raises:
        UserError: it is not; names the folder and what to do.
    """
    folder = root.absolute()
    remedy = f"Put a dataset there, or name another folder: {option}."
    if Path(f"{folder}.dvc").is_file():
        remedy = f"Fetch it: dvc pull {root}.dvc"
    if not folder.is_dir():
        raise UserError(f"the dataset folder {root} {'is no folder' if root.exists() else 'does not exist'}. {remedy}")
    if not any(folder.iterdir()):
        raise UserError(f"the dataset folder {root} is empty. {remedy}")
    in_dvc = any(Path(f"{path}.dvc").is_file() for path in (folder, *folder.parents))
    tracked = git.answer(folder.parent, "ls-files", "--error-unmatch", folder.name)
    ignored = git.answer(folder.parent, "check-ignore", folder.name)
    if not in_dvc and tracked is None and ignored is not None:
        raise UserError(
            f"the dataset folder {root} is ignored by git and not tracked by DVC: no other machine would have it. "
            f"Track it: dvc add {root}"
        )
    lost = [] if in_dvc else _ignored(folder, (*SUFFIXES, *labels))
    if lost:
        raise UserError(
            f"{len(lost)} files of the dataset folder {root} are ignored by git and not tracked by DVC: no other "
            f"machine would have them. The first: {lost[0]}. Track the folder: dvc add {root}, or change .gitignore "
            f"(git check-ignore -v names the line)"
        )


def _ignored(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Files of these suffixes that git does not know because a pattern ignores them; sorted, below `folder`."""
    found = git.answer(folder, "ls-files", "--others", "--ignored", "--exclude-standard", "-z", "--", ".")
    names = (found or "").split("\0")
    return sorted(name for name in names if name.lower().endswith(suffixes) and not re.search(r"(^|/)\.", name))


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


def plain_name(path: str) -> str:
    """What of a path is left when case, the spelling of characters and %20 for a blank do not count."""
    return normalize("NFC", unquote(path)).casefold()


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
