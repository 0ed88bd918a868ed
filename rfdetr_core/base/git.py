"""Runs git for all other modules, with settings that keep its answers independent of the user's configuration.

The project only reads git, with one exception: lineage/journal.py adds the journal of an experiment to the index. A
project may be a folder of a larger repository. So paths are below the project, and a file of a commit is
<commit>:./<path>. `run` returns the finished process, `answer` its output or None, `text` its output or an error, and
`names` a set of file names.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from rfdetr_core.base.errors import UserError

# These options override the configuration of the user and of the clone. With other values, git's answer could differ
# from the committed objects.
_SETTINGS = {
    "advice.graftFileDeprecated": "false",
    "core.attributesFile": os.devnull,
    "core.commitGraph": "false",  # a commit-graph file can name other parents than the commit
    "core.fsmonitor": "false",  # a command that decides which files have changed
    "core.hooksPath": os.devnull,
    "core.quotePath": "false",  # true would escape letters in file names
    "core.untrackedCache": "false",
    "color.ui": "false",
    "i18n.logOutputEncoding": "UTF-8",
    "log.mailmap": "false",  # true would replace the names of authors
    "log.showRoot": "true",  # false would hide the files of the first commit
    "log.showSignature": "false",  # true would add lines to a log
}
# --no-replace-objects: otherwise git would read the replacement that `git replace` set for a committed object.
COMMAND = (
    *("git", "--no-replace-objects", "--no-optional-locks"),
    *(word for pair in _SETTINGS.items() for word in ("-c", "=".join(pair))),
)
# Variables that point git to another repository or other objects than those of the folder. When git runs a hook, it
# sets some of them.
_ELSEWHERE = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_ATTR_SOURCE", "GIT_COMMON_DIR", "GIT_DIR", "GIT_EXTERNAL_DIFF",
    "GIT_INDEX_FILE", "GIT_NAMESPACE", "GIT_OBJECT_DIRECTORY", "GIT_SHALLOW_FILE", "GIT_WORK_TREE",
    "GIT_GLOB_PATHSPECS", "GIT_ICASE_PATHSPECS", "GIT_LITERAL_PATHSPECS", "GIT_NOGLOB_PATHSPECS",
)  # fmt: skip


def environment() -> dict[str, str]:
    """Environment variables under which git reads the objects of the folder's repository, without grafts."""
    variables = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
    return variables | {"GIT_GRAFT_FILE": os.devnull, "GIT_ATTR_NOSYSTEM": "1"}


def run(folder: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[bytes]:
    """Run a git command. If git or the folder is missing, the result has the return code 127.

    Raises:
        UserError: git refuses the repository, because another user owns it. Without this error a caller would take the
            refusal for the answer "no".
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
    """The output of a command that may fail; None if it fails. Raises what `run` does."""
    done = run(folder, *arguments)
    return None if done.returncode else os.fsdecode(done.stdout)


def text(folder: Path, *arguments: str, stdin: str = "", errors: str = "surrogateescape") -> str:
    """The output of a command that must succeed.

    Args:
        folder: The folder that git runs in.
        arguments: The command after `git`.
        stdin: Text for its standard input.
        errors: How bytes that are not UTF-8 are decoded. By default they are kept: os.fsencode() restores a name.

    Raises:
        UserError: git is not installed, the folder is in no repository, or the command fails.
    """
    done = run(folder, *arguments, stdin=stdin)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip()
        raise UserError(f"{folder} has no git history to read: {reason}. Name a clone with a working tree: --repo DIR")
    return done.stdout.decode(errors=errors)


def toplevel(folder: Path) -> Path:
    """The root of the repository that contains a folder, with links resolved. Raises what `text` does."""
    return Path(text(folder, "rev-parse", "--show-toplevel").rstrip("\n")).resolve()


def names(folder: Path, *arguments: str) -> set[str]:
    """The file names that a command prints with -z. Raises what `text` does."""
    return set(text(folder, *arguments).split("\0")) - {""}


def public_address(remote: str) -> str | None:
    """The address of a remote repository without user, password and query. None: it is a folder of this machine."""
    if short := re.fullmatch(r"(?:[^/@]+@)?([^/:@]+):(?!//)(.+)", remote):  # user@host:path
        return f"ssh://{short[1]}/{short[2].lstrip('/')}"
    parts = urlsplit(remote)
    if not parts.netloc or parts.scheme == "file":
        return None
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
