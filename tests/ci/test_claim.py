"""The words `Retrained-from` in a message are a claim: it holds for what a retraining made, and for nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ci.claim import claim_error, claimed_source
from ci.deliver import stage_results
from ci.steps import TRAILER
from tests.audit.repository import Repository

IMAGES = {"train": {"a.png": "a"}, "valid": {"b.png": "b"}, "test": {"c.png": "c"}}


class Retrained:
    """A repository with a first result on main, and a second one in the folder, not yet committed."""

    def __init__(self, root: Path, folder: str) -> None:
        self.repository = Repository(root)
        (root / "README.md").write_text("words\n")
        self.project = Repository.__new__(Repository)
        self.project.folder = root / folder
        self.project.folder.mkdir(exist_ok=True)
        self.project.train(1, IMAGES)
        (self.project.folder / "journal").mkdir()
        (self.project.folder / "journal" / "train-0.json").write_text("{}")
        self.commit("first")
        self.project.train(2, IMAGES)

    def commit(self, *messages: str) -> str:
        self.repository.git("add", "-A")
        self.repository.git("commit", "-q", *(word for message in messages for word in ("-m", message)))
        return self.head()

    def head(self) -> str:
        return self.repository.git("rev-parse", "HEAD")

    def deliver(self, branch: str = "retrain/main") -> str | None:
        """Commit what is in the folder as a retraining would; what is wrong with its claim."""
        source = self.head()
        self.repository.git("checkout", "-q", "-b", branch)
        self.commit("Retrain", f"{TRAILER}: {source}")
        assert claimed_source() == source
        return claim_error(source, {})


@pytest.fixture(params=["", "project"])
def retrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Retrained:
    retrained = Retrained(tmp_path / "repository", request.param)
    monkeypatch.chdir(retrained.project.folder)
    return retrained


def test_what_a_delivery_commits_holds_on_its_branch_and_when_main_is_moved_to_it(retrained: Retrained) -> None:
    assert claimed_source() == ""
    (retrained.project.folder / "journal" / "train-1.json").write_text("{}")
    staged = stage_results()
    assert {"dvc.lock", "journal/train-1.json"} <= set(staged)
    assert sum(path.startswith("records/") for path in staged) == 1
    assert retrained.deliver() is None
    commit = retrained.head()
    retrained.repository.git("checkout", "-q", "main")
    retrained.repository.git("merge", "-q", "--ff-only", commit)
    assert claim_error(claimed_source(), {}) is None
    retrained.repository.git("branch", "-q", "-D", "retrain/main")
    assert claim_error(claimed_source(), {}) == "no branch retrain/... has it"
    retrained.repository.git("update-ref", "refs/remotes/origin/retrain/main", commit)
    assert claim_error(claimed_source(), {}) is None


def test_another_parent_than_the_one_named_does_not_hold(retrained: Retrained) -> None:
    source = retrained.head()
    (retrained.project.folder / "params.yaml").write_text("train: {lr: 1.0}\n")
    retrained.commit("between")
    retrained.repository.git("checkout", "-q", "-b", "retrain/main")
    retrained.project.train(3, IMAGES)
    for words in (source, source[:10], "HEAD~", "", f"{source},{source}"):
        retrained.repository.git("commit", "-q", "--allow-empty", "-m", "Retrain", "-m", f"{TRAILER}: {words}")
        assert claim_error(words, {}) == "the commit that it names is not its only parent"
        retrained.repository.git("reset", "-q", "--soft", "HEAD~")
    retrained.repository.git("checkout", "-q", "-f", "-b", "other", source)
    retrained.commit("other")
    retrained.repository.git(
        "merge", "-q", "--no-ff", "-m", f"Retrain\n\n{TRAILER}: {retrained.head()}", "retrain/main"
    )
    assert claim_error(claimed_source(), {}) == "the commit that it names is not its only parent"


def test_a_branch_of_another_name_does_not_hold(retrained: Retrained) -> None:
    assert retrained.deliver("my-retrain/main") == "no branch retrain/... has it"


FORGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "code": (lambda folder: (folder / "code.py").write_text("x = 1\n"), "code.py, which no retraining changes"),
    "a workflow": (
        lambda folder: (folder / ".github").mkdir() or (folder / ".github" / "x.yml").write_text("on: push\n"),
        ".github/x.yml, which no retraining changes",
    ),
    "a record that was there": (
        lambda folder: next(iter((folder / "records").glob("*.json"))).write_text("{}\n"),
        "which no retraining changes",
    ),
    "a record that is taken away": (
        lambda folder: min((folder / "records").glob("*.json"), key=lambda path: path.stat().st_mtime).unlink(),
        "which no retraining changes",
    ),
    "an entry of the journal that was there": (
        lambda folder: next(iter((folder / "journal").glob("*.json"))).write_text("{}\n"),
        "which no retraining changes",
    ),
    "a record of no model": (
        lambda folder: (folder / "records" / "0123.json").write_text("{}\n"),
        "0123.json, which is not the record in output/record.json",
    ),
    "no record of the model": (
        lambda folder: (folder / "output" / "record.json").write_text("{}\n"),
        "output/record.json is not a record",
    ),
}


@pytest.mark.parametrize("forged", FORGED)
def test_a_change_that_no_retraining_makes_does_not_hold(retrained: Retrained, forged: str) -> None:
    edit, expected = FORGED[forged]
    if forged == "a record that was there":
        retrained.commit("records of the second result, so that both are there")
    edit(retrained.project.folder)
    error = retrained.deliver()
    assert error is not None
    assert expected in error


def test_a_change_outside_the_folder_of_the_project_does_not_hold(retrained: Retrained) -> None:
    if retrained.project.folder == retrained.repository.folder:
        (retrained.repository.folder / "README.md").write_text("other words\n")
    else:
        (retrained.repository.folder / "dvc.lock").write_text("of another project\n")
    assert "which no retraining changes" in str(retrained.deliver())


def test_what_differs_from_dvc_lock_was_not_run(retrained: Retrained) -> None:
    assert retrained.deliver() is None
    error = claim_error(claimed_source(), {"train": ["params.yaml: train.lr"]})
    assert error == "dvc.lock does not agree with params.yaml: train.lr"
