from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from rfdetr_core.base.errors import UserError
from rfdetr_core.ingest import folder
from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.ingest.formats import LABEL_SUFFIXES
from rfdetr_core.ingest.validate import validate_dataset
from tests.ingest.samples import make_coco

check_folder = partial(folder.check_folder, labels=LABEL_SUFFIXES)


def git(folder: Path, *command: str) -> None:
    subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a dataset in data/mine, ignored."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    git(tmp_path, "init", "-q")
    make_coco(tmp_path / "data" / "mine")
    (tmp_path / "data" / ".gitignore").write_text("/mine\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", ["data/mine", "data/mine/", "./data/mine"])
def test_an_ignored_folder_that_dvc_does_not_track_is_an_error(project: Path, path: str) -> None:
    with pytest.raises(UserError, match="dvc add data/mine"):
        check_folder(Path(path))
    with pytest.raises(UserError, match="dvc add"):
        check_folder(project / "data" / "mine")


@pytest.mark.parametrize("pointer", ["data/mine.dvc", "data.dvc"])
def test_a_folder_that_dvc_tracks_is_fine(project: Path, pointer: str) -> None:
    (project / pointer).write_text("outs: []\n")
    check_folder(Path("data/mine"))


def test_a_folder_that_git_tracks_is_fine(project: Path) -> None:
    git(project, "add", "--force", "data/mine")
    check_folder(Path("data/mine"))


def test_a_folder_that_nobody_ignores_is_fine(project: Path) -> None:
    (project / "data" / ".gitignore").unlink()
    check_folder(Path("data/mine"))


def test_images_that_a_pattern_ignores_are_an_error_that_names_the_first(project: Path) -> None:
    (project / "data" / ".gitignore").write_text("*.png\n.DS_Store\n")
    (project / "data" / "mine" / "train" / ".DS_Store").write_text("x")
    with pytest.raises(
        UserError, match=r"6 files .* data/mine are ignored by git .* test/test_1\.png.*dvc add data/mine"
    ):
        check_folder(Path("data/mine"))
    git(project, "add", "--force", "data/mine")
    check_folder(Path("data/mine"))
    git(project, "rm", "-r", "-q", "--cached", "data/mine/valid")
    with pytest.raises(UserError, match=r"2 files"):
        check_folder(Path("data/mine"))
    (project / "data.dvc").write_text("outs: []\n")
    check_folder(Path("data/mine"))


def test_outside_git_nothing_is_asked(tmp_path: Path) -> None:
    check_folder(make_coco(tmp_path / "mine"))


def test_a_missing_or_empty_folder_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"data/mine does not exist.*data\.dir in params\.yaml"):
        check_folder(Path("data/mine"))
    Path("data/mine").mkdir(parents=True)
    with pytest.raises(UserError, match="data/mine is empty"):
        check_folder(Path("data/mine"))
    Path("data/mine.dvc").write_text("outs: []\n")
    with pytest.raises(UserError, match=r"dvc pull data/mine\.dvc"):
        check_folder(Path("data/mine"))
    Path("data/file").write_text("")
    with pytest.raises(UserError, match="data/file is no folder"):
        check_folder(Path("data/file"))


def test_an_unknown_layout_says_what_was_looked_for_and_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "data" / "pictures").mkdir(parents=True)
    (tmp_path / "data" / "labels.csv").write_text("")
    with pytest.raises(UserError) as raised:
        validate_dataset(tmp_path / "data", ValidateConfig(), tmp_path / "reports", tmp_path / "manifest")
    for word in ("_annotations.coco.json", "instances_train2017.json", "data.yaml", "labels.csv, pictures/"):
        assert word in str(raised.value)
    assert "Unpack" not in str(raised.value)


@pytest.mark.parametrize(
    ("fill", "told"),
    [
        (lambda root: make_coco(root / "mine"), "mine/ has such a layout"),
        (lambda root: (root / "mine.zip").write_text(""), r"Unpack mine\.zip first"),
    ],
)
def test_an_unknown_layout_that_is_nearly_one_says_so(
    tmp_path: Path, fill: Callable[[Path], object], told: str
) -> None:
    (tmp_path / "data").mkdir()
    fill(tmp_path / "data")
    with pytest.raises(UserError, match=told):
        validate_dataset(tmp_path / "data", ValidateConfig(), tmp_path / "reports", tmp_path / "manifest")
