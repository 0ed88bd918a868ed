"""Compare a stored statement of a model file with one that is computed now from the file and the history."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rfdetr_core.base.provenance import flattened
from rfdetr_core.lineage.lock import LOCK, Lock
from rfdetr_core.verification.heads import check_heads
from rfdetr_core.verification.report import Report
from rfdetr_core.verification.statement import GIT, OWN_WORD, REPOSITORY, SIGNING_KEY, HistoryFacts


def compare(report: Report, stored: Any, recomputed: dict[str, Any], history_facts: HistoryFacts, path: Path) -> None:
    """Compare a stored statement with the one that would be written now.

    A renamed file is the same subject. The address of the repository is not compared: every clone has another.

    Args:
        report: Receives the mismatches.
        stored: The statement as read from `path`.
        recomputed: The statement as it would be written now.
        history_facts: What the history says about the model file.
        path: The file of the stored statement.

    Raises:
        UserError, KeyError, TypeError, AttributeError, ValueError, IndexError: The content is not a statement.
    """
    facts, materials = list[dict[str, Any]](), list[dict[str, Any]]()
    for statement in (stored, recomputed):
        build, run = (statement["predicate"][part] for part in ("buildDefinition", "runDetails"))
        dependencies = build["resolvedDependencies"]
        named = {dependency["name"]: dependency for dependency in dependencies}
        report.equal(
            f"different names of materials in {path}", len(dependencies), len(named), "each material has its own"
        )
        internal = build["internalParameters"]
        facts.append(
            {
                "source": internal.get("lineageFrom"),
                "journal": internal.get("journal", {}),
                "repository": named.get(REPOSITORY),
                "metadata": run.get("metadata", {}),
            }
        )
        materials.append({name: material for name, material in named.items() if name != REPOSITORY})
    for name in sorted(materials[0].keys() | materials[1].keys()):
        report.equal(f"material {name} of {path}", materials[1].get(name), materials[0].get(name), "the lineage")
    before, after = (_fields_from_file(statement, len(recomputed["subject"])) for statement in (recomputed, stored))
    for name in sorted(before.keys() | after.keys()):
        report.equal(f"{name} of {path}", before.get(name), after.get(name), "the file and its lineage")
    _compare_history(report, facts[0], facts[1], history_facts, path)


def key_of(statement: Any) -> str | None:
    """The id of the key that the statement names as its signing key."""
    try:
        named = statement["predicate"]["runDetails"]["builder"].get("builderDependencies", [])
        return next(
            (str(dependency["digest"]["sha256"]) for dependency in named if dependency["name"] == SIGNING_KEY), None
        )
    except (KeyError, TypeError, AttributeError):
        return None


def _fields_from_file(statement: Any, parts: int) -> dict[str, Any]:
    """The fields of a statement that follow from the model file alone, flattened.

    `resolvedDependencies` are left out. Of the subjects, only the first `parts` are kept: documents come after them.
    """
    predicate = statement["predicate"]
    build, run = dict(predicate["buildDefinition"]), dict(predicate["runDetails"])
    build.pop("resolvedDependencies")
    hidden = ("lineageFrom", "journal")
    build["internalParameters"] = {
        key: value for key, value in build["internalParameters"].items() if key not in hidden
    }
    run["builder"] = {key: value for key, value in run["builder"].items() if key != "builderDependencies"}
    run.pop("metadata", None)
    subject = [entry["digest"] for entry in statement["subject"][:parts]]
    return flattened(
        {**statement, "subject": subject, "predicate": {**predicate, "buildDefinition": build, "runDetails": run}}
    )


def _compare_history(
    report: Report, stored: dict[str, Any], recomputed: dict[str, Any], history_facts: HistoryFacts, path: Path
) -> None:
    """Compare the fields of a statement that follow from the history, not from the file."""
    if stored["source"] is None:
        report.skip(
            f"commit and run in {path}", "the statement is older than these fields. Write it again: attest FILE"
        )
        return
    check_heads(report, stored["journal"], history_facts.history, str(path))
    if stored["source"] == OWN_WORD:
        report.note(f"{path} only repeats the lineage in the model file. No commit confirmed that lineage")
        return
    report.equal(f"lineageFrom in {path}", GIT, stored["source"], f"the only values: {GIT}, {OWN_WORD}")
    if not history_facts.confirmed:
        report.skip(f"commit and run in {path}", "no commit in this clone confirms the model")
        return
    run, stored_run = (flattened(facts["metadata"]) for facts in (recomputed, stored))
    for name in sorted(run.keys() | stored_run.keys()):
        report.equal(f"{name} in {path}", run.get(name), stored_run.get(name), "records/")
    _check_commit(report, stored["repository"], history_facts, path)


def _check_commit(report: Report, stored: Any, history_facts: HistoryFacts, path: Path) -> None:
    """Check that dvc.lock at the statement's commit has the file, or the checkpoint with its weights.

    It need not be the first such commit.
    """
    link = history_facts.traced.links[0] if history_facts.traced.links else None
    if stored is None or link is None:
        report.equal(f"commit in {path}", link and link.commit.id, stored, LOCK)
        return
    commit = stored["digest"]["gitCommit"]
    plain = {"name": REPOSITORY, "uri": stored.get("uri"), "digest": {"gitCommit": commit}}
    report.equal(f"repository in {path}", plain, {"uri": None, **stored}, "its only fields: name, address, commit")
    if not re.fullmatch("[0-9a-f]{40}([0-9a-f]{24})?", commit):
        report.wrong(f"commit in {path}", "the id of a commit", commit, "git")
        return
    ((_, lock),) = history_facts.history.read([f"{commit}:./{LOCK}"])
    if lock is None:
        report.skip(
            f"commit {commit} in {path}",
            "this clone lacks the commit: the history was rewritten, or a branch was not fetched",
        )
        return
    expected = link.lock.out(link.path)
    report.equal(f"{link.path} at the commit in {path}", expected, Lock.parse(lock).out(link.path), LOCK)
