"""Parameters of a run started by hand: all or none are written, and no environment variable gets into them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ci.overrides import apply_overrides
from rfdetr_core.base.code import ROOT
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.params import load_params

SECRET = "hunter2-is-the-password"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    return tmp_path


def test_values_are_read_as_dvc_reads_them_and_comments_stay(project: Path) -> None:
    words = ["train.epochs=20", "train.lr=1e-4", "model.resolution=null", "train.multi_scale=off", "train.seed=7"]
    apply_overrides([*words, "train.augmentation={crop_sides:[500,600]}", "+train.ema_decay=0.5", "train.notes='1e-4'"])
    content = load_params()
    train = content["train"]
    assert (train["epochs"], train["lr"], train["multi_scale"], train["seed"]) == (20, 1e-4, "off", 7)
    assert (train["ema_decay"], train["notes"], content["model"]["resolution"]) == (0.5, "1e-4", None)
    assert train["augmentation"]["crop_sides"] == [500, 600]
    assert train["augmentation"]["horizontal_flip"] == 0.5
    comments = [line.partition("#")[2] for line in (ROOT / "params.yaml").read_text().splitlines() if "#" in line]
    assert all(comment in (project / "params.yaml").read_text() for comment in comments)


@pytest.mark.parametrize(
    "word",
    [
        "train.notes=${oc.env:AWS_SECRET_ACCESS_KEY}",
        "train.notes='${oc.env:AWS_SECRET_ACCESS_KEY}'",
        # DVC's grammar removes the backslashes, and OmegaConf would resolve the rest.
        r"train.notes=$\{oc.env:AWS_SECRET_ACCESS_KEY\}",
        r"train.notes=[{a:$\{oc.env:AWS_SECRET_ACCESS_KEY\}}]",
        "train.epoch=3",
        "train.epochs=abc",
        "train.epochs=",
        "train.epochs",
        "=3",
        "trian.epochs=3",
        "train=3",
        "epochs=3",
        "~train.epochs",
        "train.epochs=1,2",
        "train.epochs=range(1,3)",
        "train.augmentation={crop_sides:",
        "train.notes=" + "[" * 5000,
        "train@model.epochs=3",
        "train/epochs=3",
        "-x",
        "--help",
        "train.lr=.inf",
    ],
)
def test_a_wrong_word_gives_one_message_and_no_other_word_is_written(project: Path, word: str) -> None:
    before = (project / "params.yaml").read_bytes()
    with pytest.raises(UserError) as raised:
        apply_overrides(["train.seed=7", word])
    assert word[:20] in str(raised.value)
    assert SECRET not in str(raised.value)
    assert ".params.yaml." not in str(raised.value)
    assert (project / "params.yaml").read_bytes() == before
    assert sorted(path.name for path in project.iterdir()) == ["params.yaml"]


def test_an_interpolation_of_the_file_is_never_resolved(project: Path) -> None:
    path = project / "params.yaml"
    path.write_text(path.read_text().replace("\n  seed: 0\n", "\n  notes: ${oc.env:AWS_SECRET_ACCESS_KEY}\n"))
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"params\.yaml: train\.notes has an interpolation"):
        apply_overrides(["train.seed=7"])
    assert path.read_bytes() == before


@pytest.mark.parametrize("words", ["train.epoch=3", "train.epochs=abc", "epochs 3", "--set", "-h"])
def test_the_plan_ends_with_one_message_which_is_also_the_comment_and_the_summary_of_the_run(
    project: Path, words: str
) -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT), "GITHUB_STEP_SUMMARY": str(project / "summary")}
    env = {name: value for name, value in env.items() if name != "GH_TOKEN"}
    command = [sys.executable, "-m", "ci.plan", f"--set={words}"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    comment = (project / ".retrain" / "comment.md").read_text()
    assert comment == f"## Not retrained\n\n```\n{done.stderr.removeprefix('error: ').rstrip()}\n```\n"
    # The first job has no token either.
    subprocess.run(["sh", str(ROOT / "ci" / "tell.sh")], env=env, check=True)
    assert (project / "summary").read_text() == comment
