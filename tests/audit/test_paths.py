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
    made = Repository(tmp_path / "clone")
    (made.folder / "params.yaml").write_text("data: {dir: data/mine}\n")
    files.write_text(made.folder / IMAGE, "replaced")
    for number, images in enumerate((FIRST, SECOND), start=1):
        made.train(number, images)
        made.commit(f"Retrain {number}")
    return made


@pytest.mark.parametrize("asked", [IMAGE, "train/a.jpg"])
def test_a_path_whose_image_was_replaced_is_answered_with_the_bytes_that_it_had(
    repository: Repository, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.chdir(repository.folder)
    first, second = repository.git("rev-list", "HEAD").split()[::-1]
    said = json.loads(audit(capsys, repository, "--image", asked, "--json", status=1))
    assert said["sha256"] == sha256_of("replaced")
    assert [one["commit"] for one in said["uses"]] == [second]
    assert said["other_bytes"] == [{"path": "train/a.jpg", "sha256": sha256_of("a"), "commit": first}]
    lines = audit(capsys, repository, "--image", asked, status=1).splitlines()
    assert f"  note: train/a.jpg had other bytes in commit {first}: audit --image {sha256_of('a')}" in lines
    assert "had other bytes" not in audit(capsys, repository, "--image", sha256_of("a"))


def test_an_edited_image_that_is_not_validated_yet_is_known_with_the_bytes_of_its_path(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    files.write_text(repository.folder / IMAGE, "edited")
    said = json.loads(audit(capsys, repository, "--image", repository.folder / IMAGE, "--json", status=1))
    assert said["uses"] == []
    assert {one["sha256"] for one in said["other_bytes"]} == {sha256_of("a"), sha256_of("replaced")}


@pytest.mark.parametrize("asked", ["train/b.jpg", "data/mine/train/b.jpg", "data/older/train/b.jpg"])
def test_a_path_that_was_withdrawn_is_an_error_that_says_since_when(repository: Repository, asked: str) -> None:
    repository.train(3, SECOND)
    repository.commit("later")
    commit, date = repository.git("log", "--format=%H %aI", "-1", "HEAD~1").split()
    expected = (
        rf"{asked} is in no manifest at HEAD: it was withdrawn in commit {commit} \(dated {date.replace('+', '.')}\). "
        f"Ask for its last bytes: audit --image {sha256_of('b')}"
    )
    with pytest.raises(SystemExit, match=expected):
        main(["audit", "--image", asked, "--repo", str(repository.folder)])


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
def test_what_no_manifest_names_is_answered_as_before(
    repository: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    if kind == "unknown path":
        with pytest.raises(SystemExit, match="Give its SHA-256"):
            main(["audit", "--image", "train/never.jpg", "--repo", str(repository.folder)])
    else:
        files.write_text(tmp_path / "train" / "a.jpg", "a")
        said = json.loads(audit(capsys, repository, "--image", tmp_path / "train" / "a.jpg", "--json"))
        assert (len(said["uses"]), said["other_bytes"]) == (1, [])
