"""`Retrained-from` in a message is a claim. It is accepted for the commit of a retraining, and for no other."""

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
    """A repository with a first result on main, and a second result in the folder that is not yet committed."""

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
        """Commit the files of the folder as a retraining would. Returns why its claim is rejected."""
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


def test_a_delivered_commit_is_accepted_on_its_branch_and_after_main_is_moved_to_it(retrained: Retrained) -> None:
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
    assert claim_error(claimed_source(), {}) == "no branch retrain/... contains it"
    retrained.repository.git("update-ref", "refs/remotes/origin/retrain/main", commit)
    assert claim_error(claimed_source(), {}) is None


def test_a_commit_whose_parent_is_not_the_named_commit_is_rejected(retrained: Retrained) -> None:
    source = retrained.head()
    (retrained.project.folder / "params.yaml").write_text("train: {lr: 1.0}\n")
    retrained.commit("between")
    retrained.repository.git("checkout", "-q", "-b", "retrain/main")
    retrained.project.train(3, IMAGES)
    for words in (source, source[:10], "HEAD~", "", f"{source},{source}"):
        retrained.repository.git("commit", "-q", "--allow-empty", "-m", "Retrain", "-m", f"{TRAILER}: {words}")
        assert claim_error(words, {}) == "its only parent is not the commit that Retrained-from names"
        retrained.repository.git("reset", "-q", "--soft", "HEAD~")
    retrained.repository.git("checkout", "-q", "-f", "-b", "other", source)
    retrained.commit("other")
    retrained.repository.git(
        "merge", "-q", "--no-ff", "-m", f"Retrain\n\n{TRAILER}: {retrained.head()}", "retrain/main"
    )
    assert claim_error(claimed_source(), {}) == "its only parent is not the commit that Retrained-from names"


def test_a_commit_on_a_branch_of_another_name_is_rejected(retrained: Retrained) -> None:
    assert retrained.deliver("my-retrain/main") == "no branch retrain/... contains it"


FORGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "code": (
        lambda folder: (folder / "code.py").write_text("x = 1\n"),
        "code.py, which a retraining never changes",
    ),
    "a workflow": (
        lambda folder: (folder / ".github").mkdir() or (folder / ".github" / "x.yml").write_text("on: push\n"),
        ".github/x.yml, which a retraining never changes",
    ),
    "an older record that is changed": (
        lambda folder: next(iter((folder / "records").glob("*.json"))).write_text("{}\n"),
        "which a retraining never changes",
    ),
    "an older record that is removed": (
        lambda folder: min((folder / "records").glob("*.json"), key=lambda path: path.stat().st_mtime).unlink(),
        "which a retraining never changes",
    ),
    "an older journal entry that is changed": (
        lambda folder: next(iter((folder / "journal").glob("*.json"))).write_text("{}\n"),
        "which a retraining never changes",
    ),
    "a record without a model": (
        lambda folder: (folder / "records" / "0123.json").write_text("{}\n"),
        "0123.json to records, which does not match the run record in output/record.json",
    ),
    "an empty record of the model": (
        lambda folder: (folder / "output" / "record.json").write_text("{}\n"),
        "output/record.json is not a run record",
    ),
}


@pytest.mark.parametrize("forged", FORGED)
def test_a_change_that_a_retraining_never_makes_is_rejected(retrained: Retrained, forged: str) -> None:
    edit, expected = FORGED[forged]
    if forged == "an older record that is changed":
        retrained.commit("records of the second result")
    edit(retrained.project.folder)
    error = retrained.deliver()
    assert error is not None
    assert expected in error


def test_a_change_outside_the_folder_of_the_project_is_rejected(retrained: Retrained) -> None:
    if retrained.project.folder == retrained.repository.folder:
        (retrained.repository.folder / "README.md").write_text("other words\n")
    else:
        (retrained.repository.folder / "dvc.lock").write_text("of another project\n")
    assert "which a retraining never changes" in str(retrained.deliver())


def test_a_commit_that_differs_from_dvc_lock_is_rejected(retrained: Retrained) -> None:
    assert retrained.deliver() is None
    error = claim_error(claimed_source(), {"train": ["params.yaml: train.lr"]})
    assert error == "dvc.lock does not agree with params.yaml: train.lr"
