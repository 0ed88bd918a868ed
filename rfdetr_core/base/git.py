"""git: the one way to run it. The only command that writes adds the journal of an experiment.

A project may be a folder of a larger repository: paths are below the project, commits name files as <commit>:./<path>.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from rfdetr_core.base.errors import UserError

# Settings of a user or of a clone under which git would answer otherwise than the committed objects say. A commit-graph
# can name other parents than a commit, a file system monitor is a command that says which files changed, and the others
# hide the first commit, add signatures or colours to a log, or write names in another way.
_SETTINGS = {
    "advice.graftFileDeprecated": "false",
    "core.attributesFile": os.devnull,
    "core.commitGraph": "false",
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    "core.quotePath": "false",
    "core.untrackedCache": "false",
    "color.ui": "false",
    "i18n.logOutputEncoding": "UTF-8",
    "log.mailmap": "false",
    "log.showRoot": "true",
    "log.showSignature": "false",
}
# An object that `git replace` names would be read in place of the committed one.
COMMAND = (
    *("git", "--no-replace-objects", "--no-optional-locks"),
    *(word for pair in _SETTINGS.items() for word in ("-c", "=".join(pair))),
)
# What names another repository, or other objects, than those in the folder. A hook of git sets some of them.
_ELSEWHERE = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_ATTR_SOURCE", "GIT_COMMON_DIR", "GIT_DIR", "GIT_EXTERNAL_DIFF",
    "GIT_INDEX_FILE", "GIT_NAMESPACE", "GIT_OBJECT_DIRECTORY", "GIT_SHALLOW_FILE", "GIT_WORK_TREE",
    "GIT_GLOB_PATHSPECS", "GIT_ICASE_PATHSPECS", "GIT_LITERAL_PATHSPECS", "GIT_NOGLOB_PATHSPECS",
)  # fmt: skip


def environment() -> dict[str, str]:
    """The environment in which git reads the repository of the folder, without grafts, as its objects are."""
    variables = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
    return variables | {"GIT_GRAFT_FILE": os.devnull, "GIT_ATTR_NOSYSTEM": "1"}


def run(folder: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[bytes]:
    """Run a command. Without git, or without the folder, it fails.

    Raises:
        UserError: git refuses the repository, since another user owns it: whatever was asked, that is not a no.
    """
    command = [*COMMAND, *arguments]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment(), input=stdin.encode(), capture_output=True, check=False
        )
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


def public_address(remote: str) -> str | None:
    """The address of a remote repository without user, password and query; None for a folder of this machine."""
    if short := re.fullmatch(r"(?:[^/@]+@)?([^/:@]+):(?!//)(.+)", remote):  # user@host:path
        return f"ssh://{short[1]}/{short[2].lstrip('/')}"
    parts = urlsplit(remote)
    if not parts.netloc or parts.scheme == "file":
        return None
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
