"""Questions by the path of an image: its bytes may have been replaced, and it may have been withdrawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rfdetr_core.base import files
from rfdetr_core.cli import main
from tests.audit.repository import Images, Repository, audit, sha256_of

FIRST: Images = {
    "train": {"train/a.jpg": "a", "train/b.jpg": "b"},
    "valid": {"valid/c.jpg": "c"},
    "test": {"test/d.jpg": "d"},
}
SECOND: Images = FIRST | {"train": {"train/a.jpg": "replaced"}}
IMAGE = "data/mine/train/a.jpg"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Between two results an image was replaced and another withdrawn. The dataset's folder has the new image."""
    repository = Repository(tmp_path / "clone")
    (repository.folder / "params.yaml").write_text("data: {dir: data/mine}\n")
    files.write_text(repository.folder / IMAGE, "replaced")
    for number, images in enumerate((FIRST, SECOND), start=1):
        repository.train(number, images)
        repository.commit(f"Retrain {number}")
    return repository


@pytest.mark.parametrize("image", [IMAGE, "train/a.jpg"])
def test_a_path_whose_image_was_replaced_is_answered_with_the_bytes_that_it_had(
    repository: Repository, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, image: str
) -> None:
    monkeypatch.chdir(repository.folder)
    first, second = repository.git("rev-list", "HEAD").split()[::-1]
    answer = json.loads(audit(capsys, repository, "--image", image, "--json", status=1))
    assert answer["sha256"] == sha256_of("replaced")
    assert [use["commit"] for use in answer["uses"]] == [second]
    assert answer["other_bytes"] == [{"path": "train/a.jpg", "sha256": sha256_of("a"), "commit": first}]
    lines = audit(capsys, repository, "--image", image, status=1).splitlines()
    search = f"Search for them, too: audit --image {sha256_of('a')}"
    assert f"  note: train/a.jpg had other bytes in commit {first}. {search}" in lines
    assert "had other bytes" not in audit(capsys, repository, "--image", sha256_of("a"))


def test_an_edited_image_that_is_not_validated_yet_is_known_with_the_bytes_of_its_path(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    files.write_text(repository.folder / IMAGE, "edited")
    answer = json.loads(audit(capsys, repository, "--image", repository.folder / IMAGE, "--json", status=1))
    assert answer["uses"] == []
    assert {version["sha256"] for version in answer["other_bytes"]} == {sha256_of("a"), sha256_of("replaced")}


@pytest.mark.parametrize("image", ["train/b.jpg", "data/mine/train/b.jpg", "data/older/train/b.jpg"])
def test_a_path_that_was_withdrawn_is_an_error_that_says_since_when(repository: Repository, image: str) -> None:
    repository.train(3, SECOND)
    repository.commit("later")
    commit, date = repository.git("log", "--format=%H %aI", "-1", "HEAD~1").split()
    expected = (
        rf"{image} is not in a manifest at HEAD: commit {commit} \(dated {date.replace('+', '.')}\) withdrew it. "
        f"Ask for its last bytes: audit --image {sha256_of('b')}"
    )
    with pytest.raises(SystemExit, match=expected):
        main(["audit", "--image", image, "--repo", str(repository.folder)])


def test_a_path_of_another_branch_is_an_error_that_names_a_commit_with_it(repository: Repository) -> None:
    repository.git("checkout", "-q", "-b", "other")
    repository.train(3, FIRST | {"train": {"train/elsewhere.jpg": "e"}})
    commit = repository.commit("on another branch")
    repository.git("checkout", "-q", "-f", "main")
    with pytest.raises(
        SystemExit, match=f"commit {commit} has it, but that commit is not an ancestor of HEAD.*{sha256_of('e')}"
    ):
        main(["audit", "--image", "train/elsewhere.jpg", "--repo", str(repository.folder)])


@pytest.mark.parametrize("kind", ["unknown path", "file outside the dataset"])
def test_an_image_in_no_manifest_is_an_error_or_is_searched_by_its_bytes(
    repository: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    if kind == "unknown path":
        with pytest.raises(SystemExit, match="Give its SHA-256"):
            main(["audit", "--image", "train/never.jpg", "--repo", str(repository.folder)])
    else:
        files.write_text(tmp_path / "train" / "a.jpg", "a")
        answer = json.loads(audit(capsys, repository, "--image", tmp_path / "train" / "a.jpg", "--json"))
        assert (len(answer["uses"]), answer["other_bytes"]) == (1, [])
