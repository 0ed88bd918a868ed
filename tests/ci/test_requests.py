"""The calls of `gh` in the scripts. A stub of `gh` logs its arguments, and answers a query with $ANSWER."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from rfdetr_core.base.code import ROOT

GH = """#!/bin/sh
[ "$1 $2" != "$REFUSED" ] || { echo "HTTP 403" >&2; exit 1; }
case "$*" in
  "pr list"*|*--paginate*) printf '%s' "$ANSWER" ;;
  *) echo "$@" >> log ;;
esac
for word; do case "$word" in body=@*) cat "${word#body=@}" >> bodies ;; esac; done
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A clone at the end of a retraining."""
    (tmp_path / "gh").write_text(GH)
    (tmp_path / "gh").chmod(0o755)
    (tmp_path / ".retrain").mkdir()
    (tmp_path / ".retrain" / "comment.md").write_text("## Retrained\n")
    return tmp_path


def pushed(folder: Path) -> None:
    (folder / ".retrain" / "branch.txt").write_text("retrain/main\nmain\n")
    (folder / ".retrain" / "title.txt").write_text("Retrained: test mAP +1.00 points\n")


def run(script: str, folder: Path, **variables: str) -> tuple[int, str]:
    """Run a script in `folder`. Returns its exit status and the logged arguments of each call of `gh`."""
    env = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "GITHUB_REPOSITORY": "owner/name"}
    env |= {"GITHUB_SHA": "0123", "GITHUB_STEP_SUMMARY": str(folder / "page"), "GH_TOKEN": "none", "ANSWER": ""}
    env |= {"REFUSED": "", "PULL_REQUEST": "7", "STAGES": "train"}
    done = subprocess.run(["sh", str(ROOT / "ci" / script)], cwd=folder, env=env | variables, check=False)
    log = folder / "log"
    calls = log.read_text() if log.exists() else ""
    log.unlink(missing_ok=True)
    return done.returncode, calls


def test_a_result_opens_a_request_and_the_next_one_edits_it(folder: Path) -> None:
    assert run("pull_request.sh", folder) == (0, "")
    assert run("tell.sh", folder) == (
        0,
        "api repos/owner/name/commits/0123/comments --silent -F body=@.retrain/comment.md\n",
    )
    pushed(folder)
    words = "--title Retrained: test mAP +1.00 points"
    created = f"pr create --head retrain/main --base main {words} --body-file .retrain/comment.md\n"
    assert run("pull_request.sh", folder) == (0, created)
    edited = f"pr edit 12 {words} --body-file .retrain/comment.md\npr comment 12 --body-file .retrain/comment.md\n"
    assert run("pull_request.sh", folder, ANSWER="12\n") == (0, edited)
    assert run("tell.sh", folder) == (0, ""), "the request has the comment"
    assert (folder / "page").read_text() == "## Retrained\n" * 2


@pytest.mark.parametrize(
    ("refused", "answer"), [("pr list", ""), ("pr create", ""), ("pr edit", "12"), ("pr comment", "12")]
)
def test_a_refused_request_fails_and_the_comment_of_the_commit_says_what_to_do(
    folder: Path, refused: str, answer: str
) -> None:
    pushed(folder)
    assert run("pull_request.sh", folder, REFUSED=refused, ANSWER=answer)[0] == 1
    assert run("tell.sh", folder)[1].startswith("api repos/owner/name/commits/0123/comments ")
    posted = (folder / "bodies").read_text()
    assert posted.startswith("## Retrained, but without a pull request\n")
    assert "Allow Actions to create pull requests" in posted
    assert posted.endswith("\n\n## Retrained\n")


def test_a_plan_is_one_comment_that_the_next_plan_edits(folder: Path) -> None:
    assert run("tell_plan.sh", folder) == (0, "")
    (folder / ".retrain" / "plan.md").write_text("train\n")
    new = "api repos/owner/name/issues/7/comments --silent -F body=@.retrain/body.md\n"
    assert run("tell_plan.sh", folder) == (0, new)
    assert (folder / "bodies").read_text() == "<!-- retrain: plan -->\ntrain\n"
    edit = "api --method PATCH repos/owner/name/issues/comments/34 --silent -F body=@.retrain/body.md\n"
    assert run("tell_plan.sh", folder, ANSWER="34\n35\n") == (0, edit)
    assert run("tell_plan.sh", folder, ANSWER="34\n", STAGES="") == (0, edit), "the old comment is no longer right"
    assert run("tell_plan.sh", folder, STAGES="") == (0, ""), "nothing will run: no comment"
    assert run("tell_plan.sh", folder, REFUSED="api --paginate") == (1, "")
