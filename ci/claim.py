"""Whether HEAD is the commit that a retraining made of its parent. Its message says so, and anybody can write one."""

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
    """The commit of which a commit is said to be the retraining; empty where its message does not say so.

    Of a message that names several, all of them with commas between.
    """
    return trailer(commit, TRAILER)


def claimed_run(commit: str) -> int | None:
    """The number of the run that is said to have made a commit; None where its message has no number."""
    number = trailer(commit, RUN_TRAILER)
    return int(number) if re.fullmatch("[0-9]{1,18}", number) else None


def trailer(commit: str, key: str) -> str:
    """The values of a trailer in the message of a commit, with commas between; empty where it has none."""
    words = f"--format=%(trailers:key={key},valueonly,separator=%x2C)"
    return call("git", "log", "-1", words, commit).stdout.strip()


def claim_error(source: str, changed: dict[str, list[str]]) -> str | None:
    """Why HEAD cannot be the retraining of `source`; None if it can. changed: what differs from dvc.lock, by stage."""
    if reason := commit_error("HEAD", source):
        return reason
    refs = call("git", "for-each-ref", "--contains", "HEAD", "--format=%(refname)", "refs/heads", "refs/remotes")
    if not any(map(_BRANCH.fullmatch, refs.stdout.splitlines())):
        return "no branch retrain/... has it"
    if differing := [reason for reasons in changed.values() for reason in reasons]:
        return f"dvc.lock does not agree with {listed(differing)}"
    return _records_error(_changes("HEAD", source)[1])


def commit_error(commit: str, source: str) -> str | None:
    """Why a commit cannot be the retraining of `source`, by its parent and by the files that it changes."""
    if call("git", "log", "-1", "--format=%P", commit).stdout.strip() != source:
        return "the commit that it names is not its only parent"
    strange = foreign_files(commit, source)
    return f"it changes {listed(strange)}, which no retraining changes" if strange else None


def foreign_files(commit: str, before: str) -> list[str]:
    """The files that a commit changes since another one and that no retraining changes."""
    return _changes(commit, before)[0]


def _changes(commit: str, source: str) -> tuple[list[str], list[str]]:
    """The files of a commit that no retraining changes, and the records that it adds."""
    names = call("git", "diff", "--name-status", "--no-renames", "-z", source, commit).stdout.split("\0")[:-1]
    prefix = call("git", "rev-parse", "--show-prefix").stdout.strip()
    strange, records = [], []
    for status, name in zip(names[::2], names[1::2], strict=True):
        top, _, rest = name.removeprefix(prefix).partition("/")
        if name.startswith(prefix) and top == FOLDER.name and status == "A":
            records.append(rest)
        elif not name.startswith(prefix) or top not in COMMITTED or (top == journal.FOLDER.name and status != "A"):
            strange.append(name)
    return strange, records


def _records_error(added: list[str]) -> str | None:
    """Why the records that a commit adds are not that of the model of dvc.lock, with which RECORD was compared."""
    if not added:
        return None
    try:
        expected = record_names(read_json(RECORD))
        same = all((FOLDER / name).read_bytes() == RECORD.read_bytes() for name in added)
    except (UserError, OSError, json.JSONDecodeError, KeyError, TypeError, ValueError):
        return f"it adds {listed(added)} to {FOLDER}, and {RECORD} is not a record"
    others = [name for name in added if name not in expected]
    return None if same and not others else f"it adds {listed(others or added)}, which is not the record in {RECORD}"
