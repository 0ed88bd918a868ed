"""Signed journal heads: every entry that they refer to must be in the history, unchanged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rfdetr_core.audit.history import History
from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.lineage.journal import heads
from rfdetr_core.verification.heads import check_heads, uncommitted
from rfdetr_core.verification.report import Report
from tests.audit.repository import Repository

A, B, C = (f"journal/train-{letter * 16}.json" for letter in "abc")


class Journal:
    """Three entries in a chain, A before B before C, all committed; C is the head that is signed."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.write(A, {})
        self.write(B, {A: self.sha256(A)})
        self.commit("Two runs")
        self.write(C, {B: self.sha256(B)})
        self.commit("A third run")
        self.signed = heads_of(self.repository)

    def write(self, name: str, previous: dict[str, str], outs: str = "honest") -> None:
        files.write_json(self.repository.folder / name, {"previous": previous, "outs": outs})

    def sha256(self, name: str) -> str:
        return files.sha256_file(self.repository.folder / name)

    def commit(self, subject: str) -> None:
        self.repository.git("add", "-A", "journal")
        self.repository.git("commit", "-q", "-m", subject)

    def check(self, folder: Path | None = None, signed: Any = None) -> Report:
        report = Report()
        check_heads(report, signed or self.signed, History(folder or self.repository.folder), "the attestation")
        return report


def heads_of(repository: Repository) -> dict[str, str]:
    """The heads without the record of the model: no entry names it here."""
    return {name: sha256 for name, sha256 in heads(repository.folder).items() if name.startswith("journal/")}


@pytest.fixture
def journal(repository: Repository) -> Journal:
    return Journal(repository)


def edit(journal: Journal) -> None:
    journal.write(A, {}, "forged")


def edit_in_a_commit(journal: Journal) -> None:
    edit(journal)
    journal.commit("Nothing to see")


def rewrite_all(journal: Journal) -> None:
    """Another history: the first entry is forged, and each later entry has the digest of the entry before it."""
    journal.repository.git("checkout", "-q", "--orphan", "forged")
    journal.repository.git("branch", "-D", "main")
    edit(journal)
    for name, before in ((B, A), (C, B)):
        journal.write(name, {before: journal.sha256(before)})
    journal.commit("Train")


def drop(journal: Journal) -> None:
    """Another history, without the last run."""
    journal.repository.git("reset", "-q", "--hard", "HEAD~")


def drop_the_first(journal: Journal) -> None:
    journal.repository.git("checkout", "-q", "--orphan", "forged")
    journal.repository.git("branch", "-D", "main")
    (journal.repository.folder / A).unlink()
    journal.commit("Train")


FORGERIES: dict[str, tuple[Callable[[Journal], None], list[str]]] = {
    "an entry is edited in the working tree": (edit, [A]),
    "an entry is edited in a later commit": (edit_in_a_commit, [A]),
    "the history is rewritten, and every entry after the forged one": (rewrite_all, [C]),
    "the history is rewritten without the last run": (drop, [C]),
    "the history is rewritten without the first run": (drop_the_first, [A]),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_journal_is_named(journal: Journal, forgery: str) -> None:
    forge, named = FORGERIES[forgery]
    forge(journal)
    assert [subject for subject, _, _ in journal.check().mismatches] == named


def run_again(journal: Journal) -> None:
    journal.write("journal/train-dddddddddddddddd.json", {C: journal.sha256(C)})
    journal.commit("A fourth run")


def other_branch(journal: Journal) -> None:
    journal.repository.git("checkout", "-q", "-b", "other", "HEAD~")
    run_again_from_b(journal)


def run_again_from_b(journal: Journal) -> None:
    journal.write("journal/train-eeeeeeeeeeeeeeee.json", {B: journal.sha256(B)})
    journal.commit("Another third run")


def merge(journal: Journal) -> None:
    other_branch(journal)
    journal.repository.git("merge", "-q", "main", "-m", "Merge")


def rebase(journal: Journal) -> None:
    journal.repository.git("commit", "-q", "--amend", "-m", "The third run, better said")


def tidy(journal: Journal) -> None:
    journal.repository.git("rm", "-q", A)
    journal.repository.git("commit", "-q", "-m", "An old run")


HONEST = {
    "nothing happened": lambda journal: None,
    "a stage ran since": run_again,
    "another branch is checked out": other_branch,
    "branches were merged": merge,
    "the last commit was amended": rebase,
    "an entry was removed by a commit": tidy,
}


@pytest.mark.parametrize("situation", HONEST)
def test_an_honest_journal_raises_no_alarm(journal: Journal, situation: str) -> None:
    HONEST[situation](journal)
    report = journal.check()
    assert not report.mismatches
    assert not report.unchecked
    assert report.checked == 3


def test_in_a_shallow_clone_entries_that_are_not_there_are_unchecked(journal: Journal, tmp_path: Path) -> None:
    tidy(journal)
    journal.repository.git("clone", "-q", "--depth=1", f"file://{journal.repository.folder}", str(tmp_path / "shallow"))
    report = journal.check(tmp_path / "shallow")
    assert not report.mismatches
    assert [*report.unchecked] == [A]


def test_heads_must_be_committed_to_be_signed(journal: Journal) -> None:
    history = History(journal.repository.folder)
    assert [*uncommitted(journal.signed, history)] == []
    journal.write(C, {}, "edited")
    journal.write("journal/train-ffffffffffffffff.json", {})
    signed = {name: journal.sha256(name) for name in (B, C, "journal/train-ffffffffffffffff.json")}
    assert [*uncommitted(signed, history)] == [C, "journal/train-ffffffffffffffff.json"]


@pytest.mark.parametrize("name", ["../key.pem", "/etc/passwd", "journal/../key.json", "journal/a\n.json", "dvc.lock"])
def test_a_statement_cannot_make_another_file_be_read(journal: Journal, name: str) -> None:
    with pytest.raises(UserError):
        journal.check(signed={name: "0" * 64})


def test_an_entry_that_is_damaged_and_signed_is_an_error(journal: Journal) -> None:
    (journal.repository.folder / A).write_text(json.dumps({"previous": 1}))
    with pytest.raises(UserError, match="previous"):
        journal.check(signed={A: journal.sha256(A)})
