"""Which images of a split a model has seen, from the manifests that a repository has."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rfdetr_core.audit.seen import Seen, seen_by
from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.files import read_checkpoint, tensor_digest, write_checkpoint
from tests.audit.repository import Repository, sha256_of
from tests.checkpoint.tiny import tiny_checkpoint

# The split that is asked about: the same pixels may have another name.
ASKED = {f"test/{word}.png": sha256_of(word) for word in ("one", "two", "three", "four")}


def test_images_of_the_training_and_of_the_choice_are_found_by_their_bytes(tmp_path: Path) -> None:
    project = Repository(tmp_path)
    images = {"train": {"train/a.png": "one", "train/b.png": "other"}, "valid": {"valid/c.png": "two"}}
    model = project.train(0, images | {"test": {"test/three.png": "three"}})
    # Committed or not.
    assert seen_by([model], ASKED, tmp_path) == [Seen(["test/one.png"], ["test/two.png"], [])]
    project.commit("first")
    project.train(1, {"train": {"train/a.png": "other"}})
    project.commit("second")
    second = tmp_path / "output" / "checkpoint_best_total.pth"
    copied = shutil.copy(second, tmp_path / "second.pth")
    project.git("checkout", "-q", "HEAD~")
    found = seen_by([Path(copied)], ASKED, tmp_path)
    assert found == [Seen([], [], [])]


def test_what_an_ancestor_saw_counts(tmp_path: Path) -> None:
    project = Repository(tmp_path)
    parent = project.train(0, {"train": {"train/a.png": "four"}})
    tensors = tensor_digest(read_checkpoint(parent).weights)
    project.commit("parent")
    child = project.train(1, {"train": {"train/b.png": "other"}}, parent=tensors)
    project.commit("child")
    assert seen_by([child], ASKED, tmp_path) == [Seen(["test/four.png"], [], [])]


def test_what_cannot_be_known_is_said(tmp_path: Path) -> None:
    project = Repository(tmp_path / "project")
    model = project.train(0, {"train": {"train/a.png": "one"}})
    bare = tmp_path / "bare.pth"
    write_checkpoint(bare, tiny_checkpoint(7))
    other = Repository(tmp_path / "other")
    other.train(1, {"train": {"train/a.png": "other"}})
    other.commit("another project")
    stranger, unknown = seen_by([model, bare], ASKED, other.folder)
    assert not stranger.trained
    assert any("manifest/train.json of this run: never committed" in one for one in stranger.unknown)
    assert unknown.unknown == [
        "the file carries no lineage, and no record of it was found: its images cannot be named."
    ]
    (tmp_path / "no git").mkdir()
    found = seen_by([model], ASKED, tmp_path / "no git")
    assert found == [Seen([], [], ["there is no git repository, which would have the manifests of its training"])]


def test_a_repository_that_git_refuses_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Repository(tmp_path)
    model = project.train(0, {"train": {"train/a.png": "one"}})
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(UserError, match="another user owns it"):
        seen_by([model], ASKED, tmp_path)
