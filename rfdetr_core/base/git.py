"""git: the one way to run it. The only command that writes adds the journal of an experiment.

A project may be a folder of a larger repository: paths are below the project, commits name files as <commit>:./<path>.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from rfdetr_core.base.errors import UserError

# Another object that `git replace` names would be read in place of the committed one; settings of the user could hide
# the first commit, write signatures into a log, or quote the names of files.
_PLAIN = ("-c", "log.showRoot=true", "-c", "log.showSignature=false", "-c", "core.quotePath=false")
COMMAND = ("git", "--no-replace-objects", *_PLAIN)


def run(folder: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[bytes]:
    """Run a command. Without git, or without the folder, it fails.

    Raises:
        UserError: git refuses the repository, since another user owns it: whatever was asked, that is not a no.
    """
    command = [*COMMAND, *arguments]
    try:
        done = subprocess.run(command, cwd=folder, input=stdin.encode(), capture_output=True, check=False)
    except OSError:
        return subprocess.CompletedProcess(command, 127, b"", b"the folder does not exist, or git is not installed")
    lines = done.stderr.decode(errors="replace").splitlines() if done.returncode else []
    if remedy := next((line.strip() for line in lines if " safe.directory " in line), None):
        raise UserError(f"git does not read {folder.absolute()}: another user owns it. If you trust it: {remedy}")
    return done


def answer(folder: Path, *arguments: str) -> str | None:
    """What a command prints; None where it fails. Raises what `run` does."""
    done = run(folder, *arguments)
    return None if done.returncode else os.fsdecode(done.stdout)


def text(folder: Path, *arguments: str, stdin: str = "", errors: str = "surrogateescape") -> str:
    """What a command prints; by default decoded so that the names of files are found again.

    Raises:
        UserError: git is not installed, the folder is in no repository, or the command fails.
    """
    done = run(folder, *arguments, stdin=stdin)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip()
        raise UserError(f"{folder} has no git history to read: {reason}. Name a clone with a working tree: --repo DIR")
    return done.stdout.decode(errors=errors)


def toplevel(folder: Path) -> Path:
    """The root of the repository that a folder is in, without links. Raises what `text` does."""
    return Path(text(folder, "rev-parse", "--show-toplevel").rstrip("\n")).resolve()


def names(folder: Path, *arguments: str) -> set[str]:
    """The names of files that a command prints with -z. Raises what `text` does."""
    return set(text(folder, *arguments).split("\0")) - {""}
