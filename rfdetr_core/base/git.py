"""git: the one way to run it. Nothing here writes to a repository."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from rfdetr_core.base.errors import UserError

# Another object that `git replace` names would be read in place of the committed one. Settings of the user could hide
# the first commit, add signatures to a log, or quote the names of files.
_PLAIN = ("-c", "log.showRoot=true", "-c", "log.showSignature=false", "-c", "core.quotePath=false")
COMMAND = ("git", "--no-replace-objects", *_PLAIN)


def raw(folder: Path, *arguments: str, stdin: str = "") -> bytes:
    """What a command prints.

    Raises:
        UserError: git is not installed, the folder does not exist or is in no repository, or the command fails.
    """
    done = _run(folder, arguments, stdin)
    if done is None:
        raise UserError(f"{folder} cannot be asked of git: git is not installed, or the folder does not exist.")
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip()
        raise UserError(f"{folder} has no git history to read: {reason}. Name a clone with a working tree: --repo DIR")
    return done.stdout


def text(folder: Path, *arguments: str, stdin: str = "") -> str:
    """What a command prints, decoded so that the names of files are found again. Raises what `raw` does."""
    return os.fsdecode(raw(folder, *arguments, stdin=stdin))


def names(folder: Path, *arguments: str) -> set[str]:
    """The file names that a command prints with -z. Raises what `raw` does."""
    return set(text(folder, *arguments).split("\0")) - {""}


def answer(folder: Path, *arguments: str) -> str | None:
    """What a command prints; None where it fails, or there is no git."""
    done = _run(folder, arguments)
    return None if done is None or done.returncode else os.fsdecode(done.stdout)


def blob(folder: Path, name: str) -> bytes | None:
    """The content of an object, such as a blob or HEAD:./<path>; None where there is none."""
    done = _run(folder, ("show", name))
    return None if done is None or done.returncode else done.stdout


def _run(folder: Path, arguments: tuple[str, ...], stdin: str = "") -> subprocess.CompletedProcess[bytes] | None:
    try:
        command = [*COMMAND, *arguments]
        return subprocess.run(command, cwd=folder, input=stdin.encode(), capture_output=True, check=False)
    except OSError:
        return None
