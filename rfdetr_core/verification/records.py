"""The records against their names, dvc.lock, and what git has had of them since they were first committed."""

from __future__ import annotations

import json
from typing import Any

from rfdetr_core import files
from rfdetr_core.lineage.history import EVALUATION, LOCK, MODEL, History
from rfdetr_core.lineage.trace import Archive
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.origins import read_json
from rfdetr_core.verification.pipeline import Pipeline
from rfdetr_core.verification.report import Report

_RESULT = ("lineage", "file")


def record_of(report: Report, contents: Contents, pipeline: Pipeline) -> dict[str, Any] | None:
    """The record of the model that dvc.lock names; all records are compared with their names and with git.

    A record that is not in the working tree, and is in the history, is given as well: to delete it hides nothing.
    """
    md5 = pipeline.out(MODEL)
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((contents.root / "records").glob("*.json")):
        name = f"records/{path.name}"
        record = read_json(report, contents, name)
        with report.reading(name):
            if record is not None:
                report.equal(f"tensors of {name}", path.stem, record["lineage"]["tensors"], "its name")
                found |= {name: record} if md5 is not None and record["file"]["md5"] == md5 else {}
    if len(found) > 1:
        report.wrong(f"records with the MD5 of {MODEL}", "one", ", ".join(found), LOCK)
    _check_committed(report, contents)
    if md5 is None or found:
        return next(iter(found.values()), None)
    return _missing(report, contents, pipeline, md5)


def _missing(report: Report, contents: Contents, pipeline: Pipeline, md5: str) -> dict[str, Any] | None:
    """The record that no file in records/ is: of the same weights in another file, or of the history."""
    scored = pipeline.lock.get("evaluate", {}).get("deps", {}).get(MODEL, {}).get("md5")
    if scored == md5 and (contents.root / EVALUATION).is_file():
        name = f"records/{files.read_json(contents.root / EVALUATION)['model']['tensors']}.json"
        if (contents.root / name).is_file():
            record: dict[str, Any] = files.read_json(contents.root / name)
            report.equal(f"md5 of the file in {name}", md5, record["file"]["md5"], LOCK)
            return record
    past = [one for one in Archive(History(contents.root)).all_records if one["file"]["md5"] == md5]
    for record in past[:1]:
        name = f"records/{record['lineage']['tensors']}.json"
        # Where it is on another branch alone, DVC may have restored the model from its cache, which writes no record.
        if contents.events(name):
            report.wrong(name, "a record, as it was committed", "it was deleted", f"git log -- {name}")
        return record
    report.skip(f"the record of {MODEL}", "gone: no file in records/ has its MD5")
    return None


def _check_committed(report: Report, contents: Contents) -> None:
    """Records as they were first committed: strip writes that of a result once, and never again."""
    changed = contents.differs_from_head("records")
    for name in changed:
        committed = contents.committed(name)
        if committed is None:
            report.note(f"{name} is not committed")
            continue
        before, after = json.loads(committed), read_json(report, contents, name)
        # A result made otherwise has other bytes: the record of a file that is the same stays as it is.
        if after is not None and before != after and before["file"] == after.get("file"):
            report.wrong(f"content of {name}", "as committed", "changed", "git")
        elif before != after:
            report.note(f"{name} differs from the committed one")
    for path in sorted((contents.root / "records").glob("*.json")):
        name = f"records/{path.name}"
        with report.reading(name):
            if name not in changed and (commit := _rewritten(contents, name)):
                report.wrong(f"run of {name}", "as it was first committed", f"changed in commit {commit}", "git log")


def _rewritten(contents: Contents, name: str) -> str | None:
    """The commit that changed what a record says of the run, and nothing else; None if what is there is as written."""
    blob, sound, last = None, set(), None
    for commit, new in contents.events(name):
        rewrites = blob is not None and new is not None and _same_result(contents, blob, new)
        if new is not None and not rewrites:
            sound.add(new)
        elif new not in sound:
            last = commit
        blob = new or blob
    return last if blob not in sound else None


def _same_result(contents: Contents, old: str, new: str) -> bool:
    try:
        before, after = (json.loads(contents.blob(one) or b"") for one in (old, new))
        return bool(before != after and all(before[key] == after[key] for key in _RESULT))
    except (ValueError, KeyError, TypeError):
        return False  # one of them was damaged: the other is no copy of it
