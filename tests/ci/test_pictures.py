"""The pictures of a retraining: their sources, and the effect of an error in them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ci.compare import HISTORY, draw_pictures, training_curves
from ci.steps import ATTACHMENTS
from rfdetr_core.report.comparison import png
from tests.evaluation.pairs import random_subset
from tests.evaluation.scenes import random_scene
from tests.report.test_comparison_png import compare, history


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in a subfolder of a repository. Its first commit has no training, its second that of the base."""
    folder = tmp_path / "a folder"
    (folder / ".retrain").mkdir(parents=True)
    monkeypatch.chdir(folder)
    for command in ("init -q", "config user.name a", "config user.email a@localhost", "commit -q -m a --allow-empty"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    history(HISTORY, {"train/loss": [2.0, 1.0]})
    for command in (["add", str(HISTORY)], ["commit", "-q", "-m", "base"]):
        subprocess.run(["git", *command], check=True)
    return folder


def test_the_curves_come_from_the_commit_of_the_base_and_from_the_new_training(project: Path) -> None:
    before = HISTORY.read_text()
    assert list(training_curves("HEAD~")) == ["new"], "the first commit has no training curves"
    history(HISTORY, {"train/loss": [2.0, 0.5]})
    both = training_curves("HEAD")
    assert (both["base"].read_text(), both["new"].read_text()) == (before, HISTORY.read_text())
    HISTORY.unlink()
    assert list(training_curves("HEAD")) == ["base"]


def test_a_picture_that_cannot_be_drawn_loses_only_the_pictures(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, detections = random_scene(0, images=2)
    compared = compare(tmp_path / "scene", content, random_subset(detections, 0.5, 0), detections)
    assert draw_pictures(compared, "HEAD")["pictures"].keys() == {path.name for path in ATTACHMENTS.iterdir()}
    HISTORY.write_text("words\nalone\n")
    answer = draw_pictures(compared, "HEAD")
    assert answer["unpictured"].startswith("UserError: output/history.csv is not a history.csv of a training")
    assert "pictures" not in answer
    assert not list(ATTACHMENTS.iterdir()), "the pictures of the call before are removed"
    monkeypatch.setenv("STORE_PASSWORD", "a long secret")

    def fail(*_: object) -> None:
        raise RuntimeError("not with a long secret")

    monkeypatch.setattr(png, "write_pictures", fail)
    assert draw_pictures(compared, "HEAD") == {"unpictured": "RuntimeError: not with ***"}
