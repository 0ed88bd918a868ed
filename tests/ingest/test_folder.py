from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from rfdetr_core.base.errors import UserError
from rfdetr_core.ingest import folder
from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.ingest.formats import LABEL_SUFFIXES
from rfdetr_core.ingest.validate import validate_dataset
from tests.ingest.samples import make_coco, validate

check_folder = partial(folder.check_folder, labels=LABEL_SUFFIXES)


def git(folder: Path, *command: str) -> None:
    subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a dataset in data/mine, which git ignores."""
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


def test_a_folder_that_is_not_ignored_is_fine(project: Path) -> None:
    (project / "data" / ".gitignore").unlink()
    check_folder(Path("data/mine"))


def test_an_ignored_metadata_csv_is_an_error_and_other_ignored_tables_are_not(project: Path) -> None:
    (project / "data" / ".gitignore").write_text("*.csv\n")
    git(project, "add", "data/mine")
    (project / "data" / "mine" / "train" / "metadata.csv").write_text("x")
    check_folder(Path("data/mine"))
    (project / "data" / "mine" / "metadata.csv").write_text("x")
    with pytest.raises(UserError, match=r"1 files .* are ignored by git .* The first: metadata\.csv"):
        check_folder(Path("data/mine"))


def test_images_that_a_pattern_ignores_are_an_error_that_names_the_first(project: Path) -> None:
    (project / "data" / ".gitignore").write_text("*.png\n.DS_Store\n")
    (project / "data" / "mine" / "train" / ".DS_Store").write_text("x")
    (project / "data" / "mine" / "train" / "@eaDir").mkdir()
    (project / "data" / "mine" / "train" / "@eaDir" / "a.png").write_text("x")
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


@pytest.fixture
def dvc_project(project: Path) -> Path:
    """The same repository with DVC."""
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=project, check=True)
    return project


@pytest.mark.parametrize("out", ["data/mine", "data", "${made}"])
def test_a_folder_that_a_stage_makes_is_tracked(dvc_project: Path, out: str) -> None:
    (dvc_project / "params.yaml").write_text("made: data/mine\n")
    (dvc_project / "dvc.yaml").write_text(f"stages: {{make: {{cmd: 'true', outs: ['{out}']}}}}")
    assert check_folder(Path("data/mine")) == []
    (dvc_project / "dvc.yaml").write_text("stages: {make: {cmd: 'true', outs: [data/other]}}")
    with pytest.raises(UserError, match="dvc add data/mine"):
        check_folder(Path("data/mine"))


def test_images_may_be_in_dvc_and_labels_in_git(dvc_project: Path) -> None:
    (dvc_project / "data" / ".gitignore").unlink()
    for split in ("train", "valid", "test"):
        images = dvc_project / "data/mine" / split / "images"
        images.mkdir()
        for path in images.parent.glob("*.png"):
            path.rename(images / path.name)
        subprocess.run([sys.executable, "-m", "dvc", "add", "-q", images], cwd=dvc_project, check=True)
    assert check_folder(Path("data/mine")) == ["neither git nor DVC tracks the dataset folder data/mine yet. " + ADVICE]
    git(dvc_project, "add", "data")
    assert check_folder(Path("data/mine")) == []
    shutil.rmtree(dvc_project / "data/mine/test/images")
    with pytest.raises(
        UserError, match=r"data/mine/test/images does not exist, but .* dvc pull data/mine/test/images\.dvc"
    ):
        check_folder(Path("data/mine"))


@pytest.mark.parametrize("added", [["data/mine"], ["data/mine/train", "data/mine/valid", "data/mine/test"]])
def test_files_that_dvcignore_matches_are_an_error_that_names_the_first(dvc_project: Path, added: list[str]) -> None:
    """The patterns are in a .dvcignore in the folder of the project or below."""
    (dvc_project / "data" / ".gitignore").unlink()
    (dvc_project / "data/.dvcignore").write_text("/mine/valid/valid_2.png\n")
    with (dvc_project / ".dvcignore").open("a") as file:
        file.write("**/train/train_[12].*\n!train_2.png\n*.md\n")
    (dvc_project / "data/mine/train/notes.md").write_text("x")
    subprocess.run([sys.executable, "-m", "dvc", "add", "-q", *added], cwd=dvc_project, check=True)
    git(dvc_project, "add", "data")
    stored = {Path(path).name for path in dvc_files(dvc_project)}
    assert {"train_1.png", "valid_2.png"} & stored == set()
    assert "train_2.png" in stored
    with pytest.raises(UserError, match=r"2 files .*\.dvcignore.* The first: train/train_1\.png"):
        check_folder(Path("data/mine"))
    (dvc_project / "data/.dvcignore").unlink()
    (dvc_project / ".dvcignore").write_text("*.md\n")
    assert check_folder(Path("data/mine")) == []


def dvc_files(project: Path) -> list[str]:
    """The files that are in DVC's cache."""
    listings = (project / ".dvc/cache/files/md5").rglob("*.dir")
    return [row["relpath"] for path in listings for row in json.loads(path.read_text())]


def test_a_folder_that_params_do_not_name_may_be_ignored(project: Path) -> None:
    """Such a folder comes from the Python API, whose users need neither git nor DVC."""
    with pytest.raises(UserError, match="dvc add data/mine"):
        check_folder(Path("data/mine"))
    assert check_folder(Path("data/mine"), option="dataset_dir") == []
    with pytest.raises(UserError, match=r"does not exist.*dataset_dir"):
        check_folder(Path("data/none"), option="dataset_dir")


ADVICE = "Run: dvc add data/mine (or git add data/mine)"


def test_a_folder_that_is_not_tracked_yet_gives_a_warning(project: Path) -> None:
    (project / "data" / ".gitignore").unlink()
    (warning,) = check_folder(Path("data/mine"))
    assert warning.endswith(ADVICE)
    git(project, "add", "data")
    assert check_folder(Path("data/mine")) == []


def test_a_folder_outside_the_repository_gives_a_warning(
    project: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = make_coco(tmp_path_factory.mktemp("outside") / "set")
    (project / "data/link").symlink_to(outside)
    git(project, "add", "data/link")
    for path in (outside, Path(os.path.relpath(outside)), Path("data/link")):
        (warning,) = check_folder(path)
        assert str(path) in warning
        assert "Only this machine has it" in warning
        assert (f"a link to {outside}" in warning) == (path == Path("data/link"))
        validate_dataset(path, ValidateConfig(), project / "reports", project / "manifest")
        assert f"warning: {warning}" in capsys.readouterr().err


def test_outside_git_tracking_is_not_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert check_folder(make_coco(tmp_path / "mine")) == []


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
    with pytest.raises(UserError, match="data/file is not a folder"):
        check_folder(Path("data/file"))


OBJECT = Path("files/md5/0a") / ("b" * 30)


def linked(root: Path, cache: Path) -> Path:
    """Replace an image of a dataset by a link into a cache, as DVC does with cache.type symlink."""
    image = root / "train/train_1.png"
    (cache / OBJECT).parent.mkdir(parents=True)
    image.rename(cache / OBJECT)
    image.symlink_to(cache / OBJECT)
    return image


@pytest.mark.parametrize("level", ["default", "project", "local", "global"])
def test_links_into_the_cache_that_dvc_is_configured_to_use_are_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    """This holds, too, if the cache is shared and another link leads to it."""
    project, shared = tmp_path / "project", tmp_path / "shared"
    root = make_coco(project / "data/mine")
    (project / ".dvc").mkdir()
    (tmp_path / "home").mkdir()
    (tmp_path / "by another name").symlink_to(shared)
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path / "home"))
    if level != "default":
        files = {"project": project / ".dvc/config", "local": project / ".dvc/config.local"}
        file = files.get(level, tmp_path / "home/config")
        way = os.path.relpath(tmp_path / "by another name", file.parent)
        file.write_text(f'[cache]\n    dir = "{way}"\n    type = symlink\n')
    linked(root, project / ".dvc/cache" if level == "default" else shared)
    for place in (project, tmp_path):
        monkeypatch.chdir(place)
        assert validate(root, tmp_path) == ([], None)


@pytest.mark.parametrize("where", ["another project", "a cache of its own", "no project", "below the cache"])
def test_links_that_only_look_like_dvcs_are_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    project, root = tmp_path / "project", tmp_path / "project/data/came/set"
    make_coco(root)
    cache = tmp_path / "other/.dvc/cache"
    if where != "no project":
        (project / ".dvc").mkdir()
    if where == "a cache of its own":  # it came with the dataset
        (root.parent / ".dvc").mkdir()
        (root.parent / ".dvc/config").write_text(f"[cache]\n    dir = {cache}\n")
    linked(root, project / ".dvc/cache/tmp" if where == "below the cache" else cache)
    monkeypatch.chdir(project)
    findings, error = validate(root, tmp_path)
    (finding,) = (finding for finding in findings if finding["severity"] == "error")
    assert (finding["code"], finding["file"]) == ("path-outside", "train/train_1.png")
    assert "does not lead into the cache of its DVC project" in finding["what"]
    assert error


@pytest.mark.slow
def test_what_dvc_itself_links_is_followed(dvc_project: Path) -> None:
    """Images and label files."""
    subprocess.run([sys.executable, "-m", "dvc", "config", "-q", "cache.type", "symlink"], cwd=dvc_project, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "add", "-q", "data/mine"], cwd=dvc_project, check=True)
    root = dvc_project / "data/mine"
    assert all(path.is_symlink() for path in root.rglob("*.*"))
    assert validate(root, dvc_project) == ([], None)


def test_an_unknown_layout_lists_the_known_layouts_and_the_content_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "data" / "pictures").mkdir(parents=True)
    (tmp_path / "data" / "labels.csv").write_text("")
    with pytest.raises(UserError) as raised:
        validate_dataset(tmp_path / "data", ValidateConfig(), tmp_path / "reports", tmp_path / "manifest")
    for word in ("_annotations.coco.json", "instances_train2017.json", "data.yaml", "labels.csv, pictures/"):
        assert word in str(raised.value)
    assert "Unpack" not in str(raised.value)


@pytest.mark.parametrize(
    ("fill", "expected"),
    [
        (lambda root: make_coco(root / "mine"), "mine/ has such a layout"),
        (lambda root: (root / "mine.zip").write_text(""), r"Unpack mine\.zip first"),
    ],
)
def test_an_unknown_layout_that_is_nearly_one_says_so(
    tmp_path: Path, fill: Callable[[Path], object], expected: str
) -> None:
    (tmp_path / "data").mkdir()
    fill(tmp_path / "data")
    with pytest.raises(UserError, match=expected):
        validate_dataset(tmp_path / "data", ValidateConfig(), tmp_path / "reports", tmp_path / "manifest")
