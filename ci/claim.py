"""Checks whether the commit HEAD was made by a retraining, as its message claims.

The message of such a commit names its parent (`Retrained-from`). Anybody can write such a message. So the parent, the
branch and the files of the commit are checked, too.
"""

from __future__ import annotations

import json
import re

from ci.steps import COMMITTED, RUN_TRAILER, TRAILER, call
from rfdetr_core.base.errors import UserError, listed
from rfdetr_core.base.files import read_json
from rfdetr_core.lineage import journal
from rfdetr_core.lineage.records import FOLDER, RECORD, record_names

_BRANCH = re.compile(r"refs/(heads|remotes/[^/]+)/retrain/.+")


def claimed_source(commit: str = "HEAD") -> str:
    """The commit that was retrained, as the message of `commit` claims. Empty if the message names none.

    If the message names several commits, all are returned, separated by commas.
    """
    return trailer(commit, TRAILER)


def claimed_run(commit: str) -> int | None:
    """The number of the run that made a commit, as its message claims. None if the message has no number."""
    number = trailer(commit, RUN_TRAILER)
    return int(number) if re.fullmatch("[0-9]{1,18}", number) else None


def trailer(commit: str, key: str) -> str:
    """The values of a trailer in the message of a commit, separated by commas. Empty if it has none."""
    words = f"--format=%(trailers:key={key},valueonly,separator=%x2C)"
    return call("git", "log", "-1", words, commit).stdout.strip()


def claim_error(source: str, changed: dict[str, list[str]]) -> str | None:
    """Why HEAD cannot be the commit of a retraining of `source`. None if it can be.

    Args:
        source: the commit that the message of HEAD names.
        changed: for each stage, what differs from dvc.lock.
    """
    if reason := commit_error("HEAD", source):
        return reason
    refs = call("git", "for-each-ref", "--contains", "HEAD", "--format=%(refname)", "refs/heads", "refs/remotes")
    if not any(map(_BRANCH.fullmatch, refs.stdout.splitlines())):
        return "no branch retrain/... contains it"
    if differing := [reason for reasons in changed.values() for reason in reasons]:
        return f"dvc.lock does not agree with {listed(differing)}"
    return _records_error(_foreign_files_and_added_records("HEAD", source)[1])


def commit_error(commit: str, source: str) -> str | None:
    """Why a commit cannot be made by a retraining of `source`, according to its parent and its changed files."""
    if call("git", "log", "-1", "--format=%P", commit).stdout.strip() != source:
        return f"its only parent is not the commit that {TRAILER} names"
    files = foreign_files(commit, source)
    return f"it changes {listed(files)}, which a retraining never changes" if files else None


def foreign_files(commit: str, before: str) -> list[str]:
    """The files that differ between two commits, but that a retraining may not change."""
    return _foreign_files_and_added_records(commit, before)[0]


def _foreign_files_and_added_records(commit: str, source: str) -> tuple[list[str], list[str]]:
    """The changed files that a retraining may not change, and the run records that the commit adds."""
    names = call("git", "diff", "--name-status", "--no-renames", "-z", source, commit).stdout.split("\0")[:-1]
    prefix = call("git", "rev-parse", "--show-prefix").stdout.strip()
    foreign, records = [], []
    for status, name in zip(names[::2], names[1::2], strict=True):
        top, _, below_top = name.removeprefix(prefix).partition("/")
        if name.startswith(prefix) and top == FOLDER.name and status == "A":
            records.append(below_top)
        elif not name.startswith(prefix) or top not in COMMITTED or (top == journal.FOLDER.name and status != "A"):
            foreign.append(name)
    return foreign, records


def _records_error(added: list[str]) -> str | None:
    """Why the added run records do not belong to the model in dvc.lock; None if they do.

    Each added record must equal RECORD. An earlier check has compared RECORD with dvc.lock.
    """
    if not added:
        return None
    try:
        expected = record_names(read_json(RECORD))
        same = all((FOLDER / name).read_bytes() == RECORD.read_bytes() for name in added)
    except (UserError, OSError, json.JSONDecodeError, KeyError, TypeError, ValueError):
        return f"it adds {listed(added)} to {FOLDER}, and {RECORD} is not a run record"
    unexpected = [name for name in added if name not in expected]
    if same and not unexpected:
        return None
    return f"it adds {listed(unexpected or added)} to {FOLDER}, which does not match the run record in {RECORD}"
