"""Verify, push to the DVC remote, commit, publish, and only then push the commit: git never names what is not there.

Killed at any point, the remote has at most more than git says, and the next retraining takes it from there.
"""

from __future__ import annotations

import os
from pathlib import Path

from ci.comment import comment, title
from ci.steps import BRANCH, COMMENT, MODEL, TITLE, TRAILER, call, core, nothing_to_do, show, step
from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.printing import say
from rfdetr_core.lineage.lock import Lock
from rfdetr_core.lineage.records import FOLDER, RECORD, record_names

COMMITTED = ("dvc.lock", "params.yaml", "digests", "manifest", "annotations", "reports", "output")


def branch() -> tuple[str, str]:
    """The branch that is retrained (RETRAIN_BRANCH, else the one checked out), and the one that carries the result."""
    name = os.environ.get("RETRAIN_BRANCH") or call("git", "branch", "--show-current").stdout.strip()
    if not name:
        raise UserError("no branch is checked out. Name the one that is retrained: RETRAIN_BRANCH=main")
    folder = call("git", "rev-parse", "--show-prefix").stdout.strip()  # two projects of a repository have a branch each
    return name, f"retrain/{folder}{name}"


def commit(source: str) -> bool:
    """Commit dvc.lock and the results that git keeps, records of this result alone; False if nothing changed."""
    paths = [name for name in COMMITTED if Path(name).exists()]
    names = record_names(files.read_json(RECORD)) if RECORD.exists() else ()
    paths += [str(FOLDER / name) for name in names if (FOLDER / name).is_file()]
    call("git", "add", "-A", "--", *paths)
    if call("git", "diff", "--cached", "--quiet", "--", ".", check=False).returncode == 0:
        return False
    call("git", "commit", "-q", "-m", f"Retrain {source[:10]}", "-m", f"{TRAILER}: {source}")
    return True


def push_small_results() -> None:
    """Push metrics and the like, which git keeps, to the remote too: without them the run cache restores no stage.

    `dvc push --run-cache` pushes the entries of the run cache, and the files of `dvc.lock` that are in no git.
    """
    from dvc.repo import Repo
    from dvc_data.hashfile.hash_info import HashInfo

    digests = {md5 for _, _, md5 in Lock.read(Path()).outs() if not md5.endswith(".dir")}
    with Repo() as repo:
        here = {HashInfo("md5", digest) for digest in digests if repo.cache.local.exists(digest)}
        if repo.cloud.push(here).failed:
            raise UserError("metrics cannot be pushed to the DVC remote; git is as it was.")


def publish() -> str:
    """What became of the publishing; a server that is away loses nothing, since it can be done later."""
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        return "not published: MLFLOW_TRACKING_URI is not set"
    if not MODEL.exists():
        call("dvc", "pull", str(MODEL))
    done = core("publish", check=False)
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines()
    return "; ".join(line for line in lines if done.returncode or line.startswith("published"))


def main() -> None:
    """Deliver; leave the name of the branch, the title and the comment.

    Raises:
        UserError: something is not what dvc.lock and the lineages say, or cannot be pushed.
    """
    if nothing_to_do():
        return
    target, own = branch()
    source = call("git", "rev-parse", "HEAD").stdout.strip()
    verified = core("verify", check=False)
    say(*verified.stdout.splitlines())
    if verified.returncode:
        raise UserError(f"the result does not hold, so nothing was pushed:\n{verified.stdout}{verified.stderr}")
    if show("dvc", "push", "--run-cache")[0]:
        raise UserError("the results cannot be pushed to the DVC remote, with the message above; git is as it was.")
    push_small_results()
    if not commit(source):
        COMMENT.write_text("## Retrained, with the same results: there is nothing to merge\n")
        say(*COMMENT.read_text().split("\n"))
        return
    published = publish()
    COMMENT.write_text(comment(published))
    TITLE.write_text(f"{title()} ({source[:10]})\n")
    options = [f"-o{one}" for one in os.environ.get("RETRAIN_PUSH_OPTIONS", "").split()]
    if show("git", "push", "--force", "--quiet", *options, "origin", f"HEAD:refs/heads/{own}")[0]:
        raise UserError(f"{own} cannot be pushed, with the message above. What was trained is in the DVC remote.")
    BRANCH.write_text(f"{own}\n{target}\n")
    say(f"{own} carries the result for {target}; {COMMENT} tells of it; {published}")


if __name__ == "__main__":
    step(main)
