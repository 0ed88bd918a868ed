"""Which images a model has seen, from its lineage and the lineages of its ancestors."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from rfdetr_core.audit.seen import CHOSEN, TRAINED, seen_by
from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.files import read_checkpoint, write_checkpoint
from rfdetr_core.training.record import parent_of
from tests.audit.repository import Images, Repository, sha256_of
from tests.checkpoint.tiny import tiny_checkpoint

OLD: Images = {"train": {"a.jpg": "a", "b.jpg": "b"}, "valid": {"v.jpg": "v", "w.jpg": "w"}, "test": {"t.jpg": "t"}}
NEW: Images = {"train": {"c.jpg": "c"}, "valid": {"a.jpg": "a", "x.jpg": "x"}, "test": {"t.jpg": "t"}}


@pytest.mark.parametrize("committed", [True, False])
def test_images_of_train_and_valid_are_seen_and_those_of_test_are_not(tmp_path: Path, committed: bool) -> None:
    repository = Repository(tmp_path / "clone")
    model = repository.train(0, OLD)
    if committed:
        repository.commit("A model")
    (seen,) = seen_by([model], repository.folder)
    expected = {"a": TRAINED, "b": TRAINED, "v": CHOSEN, "w": CHOSEN}
    assert seen.by_sha256 == {sha256_of(word): use for word, use in expected.items()}
    assert seen.unknown == []


def test_images_of_the_parent_are_seen_too(tmp_path: Path) -> None:
    repository, before = Repository(tmp_path / "clone"), tmp_path / "before.pth"
    shutil.copy(repository.train(0, OLD), before)
    repository.commit("The first")
    model = repository.train(1, NEW, parents={"pretrain_weights": parent_of(before)})
    repository.commit("The second")
    # `a` has moved from train to valid.
    expected = {"a": TRAINED, "b": TRAINED, "c": TRAINED, "v": CHOSEN, "w": CHOSEN, "x": CHOSEN}
    (seen,) = seen_by([model], repository.folder)
    assert seen.by_sha256 == {sha256_of(word): use for word, use in expected.items()}


def test_unknown_images_have_a_reason(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "clone")
    model = repository.train(0, OLD)
    repository.commit("A model", without=("manifest",))
    other, changed = tmp_path / "other.pth", tmp_path / "changed.pth"
    write_checkpoint(other, tiny_checkpoint(5))
    lying = replace(read_checkpoint(model), weights=tiny_checkpoint(6).weights)
    write_checkpoint(changed, lying)
    for path, root, reason in (
        (other, repository.folder, "carries no lineage"),
        (changed, repository.folder, "the weights in the file differ from those that its lineage names"),
        (model, tmp_path, "git repository"),
    ):
        (seen,) = seen_by([path], root)
        assert seen.by_sha256 == {}
        assert len(seen.unknown) == 1
        assert reason in seen.unknown[0]
    repository.manifest("train").unlink()
    (seen,) = seen_by([model], repository.folder)
    assert set(seen.by_sha256.values()) == {CHOSEN}
    assert "manifest/train.json of this model is missing" in seen.unknown[0]


def test_an_image_is_found_by_its_bytes_under_any_name(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "clone")
    (seen,) = seen_by([repository.train(0, OLD)], repository.folder)
    images = {"x/one.png": sha256_of("b"), "x/two.png": sha256_of("v"), "x/three.png": sha256_of("t")}
    assert (seen.among(images, TRAINED), seen.among(images, CHOSEN)) == (["x/one.png"], ["x/two.png"])


def test_a_repository_that_git_refuses_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = Repository(tmp_path)
    model = repository.train(0, OLD)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(UserError, match="another user owns it"):
        seen_by([model], tmp_path)
