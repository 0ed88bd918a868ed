"""The dataset folder: that it exists, that another machine would have it too, and which files in it may be named."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from unicodedata import normalize
from urllib.parse import unquote

from rfdetr_core.base import git
from rfdetr_core.base.dvc_config import cache_folder, project_above
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.images import SUFFIXES
from rfdetr_core.ingest.records import is_text, shown

OPTION = "data.dir in params.yaml"
METADATA = "metadata.csv"  # at the root of a dataset


def check_folder(root: Path, labels: tuple[str, ...], option: str = OPTION, project: Path = Path()) -> list[str]:
    """Check that `root` is a folder with something in it that git or DVC knows, or does not ignore.

    labels: the suffixes of label files. option: what names the folder; unless that is params.yaml, git and DVC are not
    asked. project: the folder of params.yaml. Gives warnings: of a folder that is not versioned. Outside git there are
    none.

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
    for pointer in sorted((*folder.glob("*.dvc"), *folder.glob("*/*.dvc"))):
        if not pointer.with_suffix("").exists():
            part = root / pointer.relative_to(folder)
            raise UserError(f"{part.with_suffix('')} is not here, but {part} is. Fetch it: dvc pull {part}")
    if option != OPTION:
        return []
    if (elsewhere := _place_elsewhere(folder, project)) is not None:
        what = f"the dataset folder {root} is outside the repository{elsewhere}, so neither git nor DVC keeps it"
        return [f"{what}: it is on this machine alone. To keep it, copy it into the repository and run: dvc add FOLDER"]
    in_dvc = any(Path(f"{path}.dvc").is_file() for path in (folder, *folder.parents))
    tracked = git.answer(folder.parent, "ls-files", "--error-unmatch", folder.name)
    ignored = git.answer(folder.parent, "check-ignore", folder.name)
    lost = [] if in_dvc else _ignored(folder, (*SUFFIXES, *labels), "--exclude-standard")
    hidden = _ignored(folder, (*SUFFIXES, *labels), "--exclude-per-directory=.dvcignore")
    unknown = not in_dvc and tracked is None
    outs = dvc_outs(folder) if lost or unknown or (hidden and not in_dvc) else {}
    hidden = [name for name in hidden if in_dvc or owner(outs, folder / name)]
    if hidden:
        raise UserError(
            f"{len(hidden)} files of the dataset folder {root} match a pattern of .dvcignore, so DVC does not keep "
            f"them: no other machine would have them. The first: {hidden[0]}. Change .dvcignore and run dvc add again, "
            "or remove the files"
        )
    if unknown and owner(outs, folder):
        return []
    if unknown and ignored is not None:
        raise UserError(
            f"the dataset folder {root} is ignored by git and not tracked by DVC: no other machine would have it. "
            f"Track it: dvc add {root}"
        )
    lost = [name for name in lost if not owner(outs, folder / name)]
    if lost:
        raise UserError(
            f"{len(lost)} files of the dataset folder {root} are ignored by git and not tracked by DVC: no other "
            f"machine would have them. The first: {lost[0]}. Track the folder: dvc add {root}, or change .gitignore "
            f"(git check-ignore -v names the line)"
        )
    if unknown and git.answer(folder, "rev-parse", "--git-dir") is not None:
        return [f"neither git nor DVC tracks the dataset folder {root} yet. Run: dvc add {root} (or git add {root})"]
    return []


def _place_elsewhere(folder: Path, project: Path) -> str | None:
    """Where a folder really is, for a message, if that is outside the repository of the project."""
    top, real = git.answer(project, "rev-parse", "--show-toplevel"), folder.resolve()
    if top is None or real.is_relative_to(Path(top.removesuffix("\n")).resolve()):
        return None
    return f" (a link to {real})" if real != Path(os.path.normpath(folder)) else ""


def dvc_outs(folder: Path) -> dict[Path, str]:
    """All files and folders that DVC tracks in the project around `folder`, each with the stage or file that names it.

    Empty where there is no project, or where DVC cannot read it. It takes a second: DVC is imported.
    """
    from dvc.exceptions import DvcException  # type: ignore[import-untyped]
    from dvc.repo import Repo  # type: ignore[import-untyped]

    try:
        with Repo(Repo.find_root(str(folder))) as repo:
            return {
                Path(out.fs_path): getattr(out.stage, "name", None) or out.stage.addressing for out in repo.index.outs
            }
    except DvcException:
        return {}


def owner(outs: dict[Path, str], path: Path) -> str | None:
    """Of `dvc_outs`: the stage or file that names a path or a folder around it."""
    return next((outs[one] for one in (path, *path.parents) if one in outs), None)


def _ignored(folder: Path, suffixes: tuple[str, ...], patterns: str) -> list[str]:
    """Files of these suffixes, and METADATA, that git does not track and a pattern ignores; sorted, below `folder`.

    patterns: the option of `git ls-files` that says where they are. Those of .dvcignore are read as git's are.
    """
    found = git.answer(folder, "ls-files", "--others", "--ignored", patterns, "-z", "--", ".")
    names = (found or "").split("\0")
    kept = (name for name in names if not any(map(is_hidden_or_system, name.split("/"))))
    return sorted(name for name in kept if name.lower().endswith(suffixes) or name == METADATA)


SYSTEM_FOLDERS = {"@eaDir": "thumbnails of a Synology server", "__MACOSX": "what macOS adds to archives"}


def is_hidden_or_system(name: str) -> bool:
    """Whether a file or folder of this name is no part of a dataset: hidden, or made by a file server or macOS."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


# File systems take 255 bytes; the name of a label file may be longer than that of its image.
_LONGEST = 250
# With cache.type symlink, DVC makes every file of a dataset a link to its content in the cache. DVC 2 had no files/md5/
# above these folders, and DVC 3 goes on using what it finds there.
_DVC_OBJECT = re.compile(r"(files/md5/)?[0-9a-f]{2}/[0-9a-f]{30}")
LINK_OUT = "a link out of the dataset folder, and not into the cache of its DVC project"


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
    """Whether a path below `root` leads out of it through a link, other than one into the cache of DVC.

    That is the cache which is configured for the project of `_cache_of`; without a project, every link out leaves.
    """
    real = Path(os.path.realpath(root / path))
    if real.is_relative_to(os.path.realpath(root)):
        return False
    cache = _cache_of(Path(os.path.normpath(root.absolute())), Path.cwd())
    return cache is None or not (real.is_relative_to(cache) and _DVC_OBJECT.fullmatch(os.path.relpath(real, cache)))


@lru_cache
def _cache_of(folder: Path, working: Path) -> str | None:
    """The cache of the DVC project that a dataset folder is in: the one around the working folder, else the nearest.

    So no `.dvc` that came with a dataset into the project says where links may lead.
    """
    own = project_above(working)
    project = own if own and folder.is_relative_to(own) else project_above(folder.parent)
    try:
        return os.path.realpath(cache_folder(project)) if project else None
    except UserError:  # with a broken configuration DVC itself does nothing
        return None


def listing(root: Path, folder: str, suffixes: tuple[str, ...] = SUFFIXES) -> Iterator[str]:
    """Files below a folder with one of the suffixes, sorted, as paths below `root`.

    Those of `is_hidden_or_system`, and what is in such folders, are passed over.
    """
    for parent, folders, names in os.walk(root / folder):
        folders[:] = sorted(name for name in folders if not is_hidden_or_system(name))
        for name in sorted(names):
            if name.lower().endswith(suffixes) and not is_hidden_or_system(name):
                yield joined(Path(parent).relative_to(root).as_posix(), name)
