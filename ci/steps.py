"""What the steps share: the folder where one leaves facts for the next, and how commands are run."""

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
MAX_LENGTH = 60_000  # characters of a comment: GitHub takes 65,536, and later steps put lines before and after
FULL_COMMENT = STATE / "whole_comment.md"
PLAN, RAN, COMPARISON = STATE / "plan.json", STATE / "ran.json", STATE / "comparison.json"
PLAN_COMMENT = STATE / "plan.md"
# For the job that pushes: the commit made here, what its comment shows, and the statement of `attest`.
BUNDLE, ATTACHMENTS = STATE / "delivery.bundle", STATE / "attachments"
STATEMENT, ATTESTATION = STATE / "statement.json", STATE / "attestation.sigstore.json"
ATTACHMENTS_BRANCH = "retrain-attachments"  # never merged; has a folder for each result
MODEL, REPORTS = Path(history.MODEL), Path("reports")
COMPARED = REPORTS / "compare" / "index.html"  # the page of both models; it goes with the artifacts alone
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
# In the message of the commits made here: the commit that was retrained, and the number of the run if it has one.
TRAILER, RUN_TRAILER = "Retrained-from", "Retrained-in-run"


def step(run: Callable[[], None]) -> None:
    """Run a step; what the user can mend ends in one message, which is the comment too, and exit status 1."""
    STATE.mkdir(exist_ok=True)
    try:
        run()
    except UserError as error:
        message = redacted(str(error))
        if isinstance(error, SecretFoundError):
            COMMENT.unlink(missing_ok=True)
            if os.environ.get("CI") == "true":  # whatever the workflow keeps of a failed run
                shutil.rmtree(REPORTS, ignore_errors=True)
        if not COMMENT.exists():
            write_comment(f"## Not retrained\n\n{block(message)}\n")
        sys.exit(message_of(UserError(message)))


def write_comment(text: str) -> None:
    """Write the comment, cut where it is too long for a platform; then the whole of it is a file of its own."""
    FULL_COMMENT.unlink(missing_ok=True)
    cut = shorten(text, f"`{FULL_COMMENT}`, in the artifacts of this run")
    if cut != text:
        FULL_COMMENT.write_text(text)
    COMMENT.write_text(cut)


def shorten(text: str, whole: str) -> str:
    """A comment in Markdown with at most MOST characters. It ends with a whole line, and an open fence is closed.

    whole: where all of it is, which the last words of one that was cut say.
    """
    if len(text) <= MAX_LENGTH:
        return text
    fence, kept, left_over = "", [], MAX_LENGTH - 500
    for line in text.split("\n"):
        left_over -= len(line) + 1
        if left_over < 0:
            break
        kept.append(line)
        if match := re.match("```+", line):
            fence = match[0] if not fence else "" if line == fence else fence
            left_over -= len(line) if line == fence else 0  # for its end
    end = f"The rest was cut: a comment has at most {MAX_LENGTH:,} characters. All of it is {whole}."
    return "\n".join([*kept, *([fence] if fence else []), "", end, ""])


def set_output(name: str, value: str) -> None:
    """Give a value to the later steps of the workflow, on GitHub."""
    if os.environ.get("GITHUB_OUTPUT"):
        with Path(os.environ["GITHUB_OUTPUT"]).open("a") as file:
            file.write(f"{name}={' '.join(value.split())}\n")


def call(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command and take its output."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise UserError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}".rstrip())
    return done


def show(*command: str) -> tuple[int, str]:
    """Run a command, its output passed on as it comes; the exit status and the output."""
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
    """The branch that is retrained (RETRAIN_BRANCH, else the one checked out), and the one that carries the result."""
    name = os.environ.get("RETRAIN_BRANCH") or call("git", "branch", "--show-current").stdout.strip()
    if not name:
        raise UserError("no branch is checked out. Name the one that is retrained: RETRAIN_BRANCH=main")
    folder = call("git", "rev-parse", "--show-prefix").stdout.strip()  # two projects of a repository have a branch each
    return name, f"retrain/{folder}{name}"


def attachments_folder(result: str) -> str:
    """The folder of a result on ATTACHMENTS_BRANCH: below that of the project, by the commit of the result."""
    return call("git", "rev-parse", "--show-prefix").stdout.strip() + result[:10]


def attachment(name: str, result: str) -> str | None:
    """The address of an attachment of a result, for a link or a picture; None where RETRAIN_RAW is not set.

    name: below ATTACHMENTS. result: its commit.
    """
    raw = os.environ.get("RETRAIN_RAW")
    return f"{raw}/{ATTACHMENTS_BRANCH}/{quote(f'{attachments_folder(result)}/{name}')}" if raw else None


def read_state(path: Path) -> Any:
    """What an earlier step left; None if it left nothing."""
    return json.loads(path.read_text()) if path.exists() else None


def base() -> str:
    """The commit whose model the new one is compared with: RETRAIN_BASE, else what is checked out.

    Raises:
        UserError: this clone does not have it.
    """
    name = os.environ.get("RETRAIN_BASE") or "HEAD"
    done = call("git", "rev-parse", "--verify", f"{name}^{{commit}}", check=False)
    if done.returncode:
        raise UserError(
            f"the base {name} is not in this clone ({done.stderr.strip()}). Correct RETRAIN_BASE, or clone with the "
            "whole history: fetch-depth: 0 on GitHub, GIT_DEPTH: 0 on GitLab, git fetch --unshallow by hand"
        )
    return done.stdout.strip()


def nothing_to_do() -> bool:
    """Whether the plan has no stage; said once, here."""
    plan = read_state(PLAN)
    if plan is None:
        raise UserError("there is no plan. Run: python -m ci.plan")
    if not plan["certain"]:
        print("no stage to run: nothing to do")
    return not plan["certain"]
