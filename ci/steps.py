"""What all steps use: the files in `.retrain/` that pass results on, the comment, and functions that run commands."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ci.secrets import SecretFoundError, redacted
from rfdetr_core.audit import history
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.markdown import block
from rfdetr_core.base.printing import message_of, say

STATE = Path(".retrain")  # ignored by git
COMMENT, TITLE, BRANCH = STATE / "comment.md", STATE / "title.txt", STATE / "branch.txt"
MAX_LENGTH = 60_000  # characters of a comment. GitHub accepts 65,536, and later steps add lines.
FULL_COMMENT = STATE / "whole_comment.md"
PLAN, RAN, COMPARISON = STATE / "plan.json", STATE / "ran.json", STATE / "comparison.json"
PLAN_COMMENT = STATE / "plan.md"
# For the job that pushes: the commit, the files that its comment shows, and the statement.
BUNDLE, ATTACHMENTS = STATE / "delivery.bundle", STATE / "attachments"
STATEMENT, ATTESTATION = STATE / "statement.json", STATE / "attestation.sigstore.json"
ATTACHMENTS_BRANCH = "retrain-attachments"  # never merged; it has a folder for each result
MODEL, REPORTS = Path(history.MODEL), Path("reports")
COMPARED = REPORTS / "compare" / "index.html"  # the page of both models: an artifact, in neither git nor DVC
COMMITTED = (
    "dvc.lock",
    "params.yaml",
    "digests",
    "manifest",
    "metadata",
    "annotations",
    "reports",
    "output",
    "journal",
)
# Keys in the commit message of a result: the commit that was retrained, and the number of the run.
TRAILER, RUN_TRAILER = "Retrained-from", "Retrained-in-run"


def step(run: Callable[[], None]) -> None:
    """Run a step. A UserError ends it with one message and exit status 1; the message becomes the comment too."""
    STATE.mkdir(exist_ok=True)
    try:
        run()
    except UserError as error:
        message = redacted(str(error))
        if isinstance(error, SecretFoundError):
            COMMENT.unlink(missing_ok=True)
            if os.environ.get("CI") == "true":  # so that no workflow uploads them after a failure
                shutil.rmtree(REPORTS, ignore_errors=True)
        if not COMMENT.exists():
            write_comment(f"## Not retrained\n\n{block(message)}\n")
        sys.exit(message_of(UserError(message)))


def write_comment(text: str) -> None:
    """Write the comment. If it is too long for a platform, it is cut, and FULL_COMMENT gets the complete text."""
    FULL_COMMENT.unlink(missing_ok=True)
    cut = shorten(text, f"`{FULL_COMMENT}` in the artifacts of this run")
    if cut != text:
        FULL_COMMENT.write_text(text)
    COMMENT.write_text(cut)


def shorten(text: str, full_text_place: str) -> str:
    """Cut Markdown after a complete line to at most MAX_LENGTH characters. A code fence that is still open is closed.

    Args:
        text: the comment.
        full_text_place: where the complete text is. The last line of a cut text says so.
    """
    if len(text) <= MAX_LENGTH:
        return text
    fence, lines, remaining = "", [], MAX_LENGTH - 500
    for line in text.split("\n"):
        remaining -= len(line) + 1
        if remaining < 0:
            break
        lines.append(line)
        if match := re.match("```+", line):
            fence = match[0] if not fence else "" if line == fence else fence
            remaining -= len(line) if line == fence else 0  # room for the line that closes the fence
    end = f"This comment was cut to {MAX_LENGTH:,} characters. The complete text is in {full_text_place}."
    return "\n".join([*lines, *([fence] if fence else []), "", end, ""])


def set_output(name: str, value: str) -> None:
    """On GitHub, pass a value to later steps and jobs of the workflow."""
    if os.environ.get("GITHUB_OUTPUT"):
        with Path(os.environ["GITHUB_OUTPUT"]).open("a") as file:
            file.write(f"{name}={' '.join(value.split())}\n")


def call(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command and capture its output. If `check`, a non-zero exit status raises UserError."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise UserError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}".rstrip())
    return done


def show(*command: str) -> tuple[int, str]:
    """Run a command and print its output as it comes. Returns the exit status and the output."""
    print("$", *command, flush=True)
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            say(line.rstrip("\n"))
            lines.append(line)
    return process.returncode, "".join(lines)


def core(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command of the core: `python -m rfdetr_core ...`."""
    return call(sys.executable, "-m", "rfdetr_core", *arguments, check=check)


def branch() -> tuple[str, str]:
    """The branch to retrain (RETRAIN_BRANCH, else the branch that is checked out), and the branch for its result."""
    name = os.environ.get("RETRAIN_BRANCH") or call("git", "branch", "--show-current").stdout.strip()
    if not name:
        raise UserError("no branch is checked out. Name the branch to retrain: RETRAIN_BRANCH=main")
    folder = call("git", "rev-parse", "--show-prefix").stdout.strip()  # empty unless the project is in a subfolder
    return name, f"retrain/{folder}{name}"


def attachments_folder(result: str) -> str:
    """The folder of a result on ATTACHMENTS_BRANCH. It is named by the commit, inside the folder of the project."""
    return call("git", "rev-parse", "--show-prefix").stdout.strip() + result[:10]


def attachment(name: str, result: str) -> str | None:
    """The address of an attachment, for a link or a picture. None if RETRAIN_RAW is not set.

    Args:
        name: the path of the file in ATTACHMENTS.
        result: the commit of the result.
    """
    raw = os.environ.get("RETRAIN_RAW")
    return f"{raw}/{ATTACHMENTS_BRANCH}/{quote(f'{attachments_folder(result)}/{name}')}" if raw else None


def read_state(path: Path) -> Any:
    """The content of a JSON file that an earlier step wrote. None if there is no such file."""
    return json.loads(path.read_text()) if path.exists() else None


def base() -> str:
    """The commit whose model is compared with the new one: RETRAIN_BASE, else the commit that is checked out.

    Raises:
        UserError: this clone does not have the commit.
    """
    name = os.environ.get("RETRAIN_BASE") or "HEAD"
    done = call("git", "rev-parse", "--verify", f"{name}^{{commit}}", check=False)
    if done.returncode:
        raise UserError(
            f"the base {name} is not in this clone ({done.stderr.strip()}). Correct RETRAIN_BASE, or clone the "
            "complete history: fetch-depth: 0 on GitHub, GIT_DEPTH: 0 on GitLab, git fetch --unshallow by hand"
        )
    return done.stdout.strip()


def nothing_to_do() -> bool:
    """Whether the plan has no stage. If so, it prints a line about it."""
    plan = read_state(PLAN)
    if plan is None:
        raise UserError("there is no plan. Run: python -m ci.plan")
    if not plan["certain"]:
        print("no stage runs: nothing to do")
    return not plan["certain"]
