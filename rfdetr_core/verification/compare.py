"""A statement of a model file, part by part, against what the file and the history say now."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rfdetr_core.base.provenance import flattened
from rfdetr_core.lineage.lock import LOCK, Lock
from rfdetr_core.verification.heads import check_heads
from rfdetr_core.verification.report import Report
from rfdetr_core.verification.statement import GIT, OWN_WORD, REPOSITORY, SIGNING_KEY, HistoryFacts


def compare(report: Report, told: Any, again: dict[str, Any], history_facts: HistoryFacts, path: Path) -> None:
    """Compare a statement that was read from `path` with the one that would be written now.

    A renamed file is the same subject. The address of the repository is not compared: every clone has its own.

    Raises:
        UserError, KeyError, TypeError, AttributeError, ValueError, IndexError: it is not a statement.
    """
    facts, materials = list[dict[str, Any]](), list[dict[str, Any]]()
    for statement in (told, again):
        build, run = (statement["predicate"][part] for part in ("buildDefinition", "runDetails"))
        given = build["resolvedDependencies"]
        named = {one["name"]: one for one in given}
        report.equal(f"materials of {path}", len(given), len(named), "each has one name")
        internal = build["internalParameters"]
        facts.append(
            {
                "source": internal.get("lineageFrom"),
                "journal": internal.get("journal", {}),
                "repository": named.get(REPOSITORY),
                "metadata": run.get("metadata", {}),
            }
        )
        materials.append({name: one for name, one in named.items() if name != REPOSITORY})
    for name in sorted(materials[0].keys() | materials[1].keys()):
        report.equal(f"material {name} of {path}", materials[1].get(name), materials[0].get(name), "lineage")
    before, after = (_of_the_file(one, len(again["subject"])) for one in (again, told))
    for name in sorted(before.keys() | after.keys()):
        report.equal(f"{name} of {path}", before.get(name), after.get(name), "the file and its lineage")
    _compare_history(report, facts[0], facts[1], history_facts, path)


def key_of(statement: Any) -> str | None:
    """The id of the key that a statement says to be signed with."""
    try:
        named = statement["predicate"]["runDetails"]["builder"].get("builderDependencies", [])
        return next((str(one["digest"]["sha256"]) for one in named if one["name"] == SIGNING_KEY), None)
    except (KeyError, TypeError, AttributeError):
        return None


def _of_the_file(statement: Any, parts: int) -> dict[str, Any]:
    """The part of a statement that its file says as well, as one level; without materials, and of the subjects the
    model's parts alone: documents come after them."""
    predicate = statement["predicate"]
    build, run = dict(predicate["buildDefinition"]), dict(predicate["runDetails"])
    build.pop("resolvedDependencies")
    hidden = ("lineageFrom", "journal")
    build["internalParameters"] = {key: one for key, one in build["internalParameters"].items() if key not in hidden}
    run["builder"] = {key: one for key, one in run["builder"].items() if key != "builderDependencies"}
    run.pop("metadata", None)
    subject = [one["digest"] for one in statement["subject"][:parts]]
    return flattened(
        {**statement, "subject": subject, "predicate": {**predicate, "buildDefinition": build, "runDetails": run}}
    )


def _compare_history(
    report: Report, told: dict[str, Any], again: dict[str, Any], history_facts: HistoryFacts, path: Path
) -> None:
    """The part of a statement that the history knows and the file does not."""
    if told["source"] is None:
        report.skip(f"commit and run in {path}", "it is of an older form, without them. Write it again: attest")
        return
    check_heads(report, told["journal"], history_facts.history, str(path))
    if told["source"] == OWN_WORD:
        report.note(f"{path} is the file's own word: no commit vouched for it")
        return
    report.equal(f"lineageFrom in {path}", GIT, told["source"], "the two that there are")
    if not history_facts.confirmed:
        report.skip(f"commit and run in {path}", "no commit here vouches for the model")
        return
    run, found = (flattened(one["metadata"]) for one in (again, told))
    for name in sorted(run.keys() | found.keys()):
        report.equal(f"{name} in {path}", run.get(name), found.get(name), "records/")
    _check_commit(report, told["repository"], history_facts, path)


def _check_commit(report: Report, told: Any, history_facts: HistoryFacts, path: Path) -> None:
    """The commit of a statement: its dvc.lock has the file, or that of its weights. It need not be the first."""
    link = history_facts.traced.links[0] if history_facts.traced.links else None
    if told is None or link is None:
        report.equal(f"commit in {path}", link and link.commit.id, told, LOCK)
        return
    commit = told["digest"]["gitCommit"]
    plain = {"name": REPOSITORY, "uri": told.get("uri"), "digest": {"gitCommit": commit}}
    report.equal(f"repository in {path}", plain, {"uri": None, **told}, "a commit and an address")
    if not re.fullmatch("[0-9a-f]{40}([0-9a-f]{24})?", commit):
        report.wrong(f"commit in {path}", "the id of a commit", commit, "git")
        return
    ((_, lock),) = history_facts.history.read([f"{commit}:./{LOCK}"])
    if lock is None:
        report.skip(
            f"commit {commit} in {path}", "not here: the history was rewritten, or its branch is not in this clone"
        )
        return
    wanted = link.lock.out(link.path)
    report.equal(f"{link.path} at the commit in {path}", wanted, Lock.parse(lock).out(link.path), LOCK)
