"""The dataset folder itself: that it is there, and that another machine would have it too."""

from __future__ import annotations

import subprocess
from pathlib import Path

from rfdetr_core.errors import UserError


def check_folder(root: Path) -> None:
    """Check that `root` is a folder with something in it, that git or DVC knows. Outside git it may be unknown.

    Raises:
        UserError: it is not; names the folder and what to do.
    """
    folder = root.absolute()
    remedy = "Put a dataset there, or name another folder: data.dir in params.yaml."
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


def _git(folder: Path, *command: str) -> bool:
    """Whether a git command about a folder succeeds; without git or a repository it does not."""
    try:
        done = subprocess.run(["git", *command, folder.name], cwd=folder.parent, capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return done.returncode == 0
