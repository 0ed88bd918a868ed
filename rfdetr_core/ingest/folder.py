"""The dataset folder: it must exist, git or DVC must track it, and no file name may lead outside it."""

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
from rfdetr_core.ingest.records import is_text, short_repr

OPTION = "data.dir in params.yaml"
METADATA = "metadata.csv"  # at the root of a dataset


def check_folder(root: Path, labels: tuple[str, ...], option: str = OPTION, project: Path = Path()) -> list[str]:
    """Check that `root` is a folder with content, and that git or DVC tracks it.

    Args:
        root: the dataset folder.
        labels: the suffixes of label files.
        option: the option that names the folder, for messages. Tracking is checked only for the default, the key
            `data.dir` of params.yaml.
        project: the folder of params.yaml.

    Returns:
        Warnings about a folder that is not tracked yet. Outside a git repository there are none.

    Raises:
        UserError: the folder is missing or empty, or git or DVC ignores files of it. Names the folder and the remedy.
    """
    folder = root.absolute()
    remedy = f"Put a dataset there, or name another folder: {option}."
    if Path(f"{folder}.dvc").is_file():
        remedy = f"Fetch it: dvc pull {root}.dvc"
    if not folder.is_dir():
        raise UserError(
            f"the dataset folder {root} {'is not a folder' if root.exists() else 'does not exist'}. {remedy}"
        )
    if not any(folder.iterdir()):
        raise UserError(f"the dataset folder {root} is empty. {remedy}")
    for pointer in sorted((*folder.glob("*.dvc"), *folder.glob("*/*.dvc"))):
        if not pointer.with_suffix("").exists():
            part = root / pointer.relative_to(folder)
            raise UserError(f"{part.with_suffix('')} does not exist, but {part} does. Fetch the data: dvc pull {part}")
    if option != OPTION:
        return []
    if (elsewhere := _place_elsewhere(folder, project)) is not None:
        problem = f"the dataset folder {root} is outside the repository{elsewhere}, so neither git nor DVC tracks it"
        return [f"{problem}. Only this machine has it. Copy it into the repository, then run: dvc add FOLDER"]
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
            f"{len(hidden)} files of the dataset folder {root} match a pattern of .dvcignore, so DVC does not "
            f"track them. No other machine would have them. The first: {hidden[0]}. Change .dvcignore and run "
            "dvc add again, or remove the files"
        )
    if unknown and owner(outs, folder):
        return []
    if unknown and ignored is not None:
        raise UserError(
            f"the dataset folder {root} is ignored by git and not tracked by DVC. No other machine would have it. "
            f"Track it: dvc add {root}"
        )
    lost = [name for name in lost if not owner(outs, folder / name)]
    if lost:
        raise UserError(
            f"{len(lost)} files of the dataset folder {root} are ignored by git and not tracked by DVC. No other "
            f"machine would have them. The first: {lost[0]}. Track the folder: dvc add {root}, or change .gitignore "
            f"(git check-ignore -v names the line)"
        )
    if unknown and git.answer(folder, "rev-parse", "--git-dir") is not None:
        return [f"neither git nor DVC tracks the dataset folder {root} yet. Run: dvc add {root} (or git add {root})"]
    return []


def _place_elsewhere(folder: Path, project: Path) -> str | None:
    """For a message: where a folder really is. None if it is inside the repository of the project."""
    top, real_folder = git.answer(project, "rev-parse", "--show-toplevel"), folder.resolve()
    if top is None or real_folder.is_relative_to(Path(top.removesuffix("\n")).resolve()):
        return None
    return f" (a link to {real_folder})" if real_folder != Path(os.path.normpath(folder)) else ""


def dvc_outs(folder: Path) -> dict[Path, str]:
    """All files and folders that DVC tracks in the project around `folder`, each with its stage or .dvc file.

    Empty without a project, or if DVC cannot read it. The import of DVC takes about a second.
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
    """The stage or .dvc file that tracks a path, or a folder above it. outs: from `dvc_outs`."""
    return next((outs[parent] for parent in (path, *path.parents) if parent in outs), None)


def _ignored(folder: Path, suffixes: tuple[str, ...], patterns: str) -> list[str]:
    """The files below `folder` that a pattern ignores and git does not track: those with these suffixes, and METADATA.

    The result is sorted.

    patterns: the option of `git ls-files` that names the pattern file. .dvcignore has the syntax of .gitignore.
    """
    output = git.answer(folder, "ls-files", "--others", "--ignored", patterns, "-z", "--", ".")
    names = (output or "").split("\0")
    visible = (name for name in names if not any(map(is_hidden_or_system, name.split("/"))))
    return sorted(name for name in visible if name.lower().endswith(suffixes) or name == METADATA)


SYSTEM_FOLDERS = {"@eaDir": "a folder of a Synology server", "__MACOSX": "a folder that macOS adds to archives"}


def is_hidden_or_system(name: str) -> bool:
    """Whether a name does not belong to the dataset: hidden, or made by a file server or macOS."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


# File systems allow 255 bytes. A label file may have a longer name than its image.
_LONGEST = 250
# With cache.type symlink, DVC makes every file of a dataset a link into its cache. DVC 2 had no files/md5/ above these
# folders, and DVC 3 still uses such caches.
_DVC_OBJECT = re.compile(r"(files/md5/)?[0-9a-f]{2}/[0-9a-f]{30}")
LINK_OUT = "a link that leaves the dataset folder and does not lead into the cache of its DVC project"


def name_problem(name: object) -> tuple[str, str] | None:
    """Why a file name must not be used, as (code, message); None if it may be used. Does not look for the file."""
    if not isinstance(name, str) or not name.strip("/. "):
        return "path-malformed", f"the file name is {short_repr(name)}, not the path of a file"
    if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or re.match(r"[A-Za-z]:", name):
        return "path-outside", f"the file name {short_repr(name)} leaves the dataset folder"
    if "\\" in name or not is_text(name) or max(map(len, name.encode().split(b"/"))) > _LONGEST:
        return (
            "path-malformed",
            f"the file name {short_repr(name)} has a backslash or a control character, or is too long",
        )
    return None


def plain_name(path: str) -> str:
    """A path without differences of case, Unicode form and %20 for a space, for comparisons."""
    return normalize("NFC", unquote(path)).casefold()


def joined(folder: str, name: str) -> str:
    """Join and normalise a path below the dataset folder, so that each file has one spelling."""
    return posixpath.normpath(posixpath.join(folder, name))


def leads_outside(root: Path, path: str) -> bool:
    """Whether a path below `root` leads outside of it through a link. Links into the cache of DVC are allowed.

    The cache is that of the project that `_cache_of` finds. Without a project, no link may lead outside.
    """
    real_path = Path(os.path.realpath(root / path))
    if real_path.is_relative_to(os.path.realpath(root)):
        return False
    cache = _cache_of(Path(os.path.normpath(root.absolute())), Path.cwd())
    return cache is None or not (
        real_path.is_relative_to(cache) and _DVC_OBJECT.fullmatch(os.path.relpath(real_path, cache))
    )


@lru_cache
def _cache_of(folder: Path, working: Path) -> str | None:
    """The cache of the DVC project of a dataset folder: the project around the working folder, else the nearest one.

    So a `.dvc` folder inside a downloaded dataset cannot decide where links may lead.
    """
    working_project = project_above(working)
    project = (
        working_project if working_project and folder.is_relative_to(working_project) else project_above(folder.parent)
    )
    try:
        return os.path.realpath(cache_folder(project)) if project else None
    except UserError:  # with a broken configuration, DVC itself does nothing
        return None


def listing(root: Path, folder: str, suffixes: tuple[str, ...] = SUFFIXES) -> Iterator[str]:
    """The files below a folder with one of the suffixes, sorted, as paths below `root`.

    Files and folders for which `is_hidden_or_system` is true are skipped.

    Args:
        root: the dataset folder.
        folder: the folder to search, below `root`.
        suffixes: in lower case, with the dot. By default those of images.
    """
    for parent, folders, names in os.walk(root / folder):
        folders[:] = sorted(name for name in folders if not is_hidden_or_system(name))
        for name in sorted(names):
            if name.lower().endswith(suffixes) and not is_hidden_or_system(name):
                yield joined(Path(parent).relative_to(root).as_posix(), name)
