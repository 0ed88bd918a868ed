"""The dataset folder itself: that it is there, and that another machine would have it too."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from rfdetr_core.errors import UserError
from rfdetr_core.images import SUFFIXES

OPTION = "data.dir in params.yaml"
_READ = (*SUFFIXES, ".json", ".txt", ".yaml", ".yml")


def check_folder(root: Path, option: str = OPTION) -> None:
    """Check that `root` is a folder with something in it, that git or DVC knows. Outside git it may be unknown.

    option: what names the folder.

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
    in_git = _git(folder, "ls-files", "--error-unmatch") or not _git(folder, "check-ignore", "--quiet")
    if not in_dvc and not in_git:
        raise UserError(
            f"the dataset folder {root} is ignored by git and not tracked by DVC: no other machine would have it. "
            f"Track it: dvc add {root}"
        )
    lost = [] if in_dvc else _ignored(folder)
    if lost:
        raise UserError(
            f"{len(lost)} files of the dataset folder {root} are ignored by git and not tracked by DVC: no other "
            f"machine would have them. The first: {lost[0]}. Track the folder: dvc add {root}, or change .gitignore "
            f"(git check-ignore -v names the line)"
        )


def _ignored(folder: Path) -> list[str]:
    """Images and labels in a folder that git does not know because a pattern ignores them; sorted, below `folder`."""
    command = ["git", "ls-files", "--others", "--ignored", "--exclude-standard", "-z", "--", "."]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    except FileNotFoundError:
        return []
    names = os.fsdecode(done.stdout).split("\0") if done.returncode == 0 else []
    return sorted(name for name in names if name.lower().endswith(_READ) and not re.search(r"(^|/)\.", name))


def _git(folder: Path, *command: str) -> bool:
    """Whether a git command about a folder succeeds; without git or a repository it does not."""
    try:
        done = subprocess.run(["git", *command, folder.name], cwd=folder.parent, capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return done.returncode == 0
