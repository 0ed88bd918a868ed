"""Run records of runs with equal weights, and of a model fine-tuned from a promoted model, in a real project."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from rfdetr_core.base import files
from rfdetr_core.checkpoint.files import read_checkpoint, tensor_digest
from tests.pipeline.project import Project
from tests.pipeline.test_pages import withdraw

pytestmark = pytest.mark.slow
MODEL = "output/checkpoint_best_total.pth"


@pytest.fixture(scope="module")
def project(reproduced: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Two runs with equal weights and different notes, one commit, then a run from the promoted model on other data.

    Copies of the models are in the folder of the project: first.pth, second.pth, child.pth.
    """
    folder = tmp_path_factory.mktemp("records")
    made = reproduced.copy(folder / "project")
    for name, notes in (("first", None), ("second", "another note")):
        made.set_params(train={"notes": notes})
        made.repro()
        shutil.copy(made.folder / MODEL, folder / f"{name}.pth")
    made.commit("two runs")
    shutil.copy(made.folder / MODEL, made.folder / "weights" / "promoted.pth")
    made.run("dvc", "add", "-q", "weights/promoted.pth")
    made.set_params(model={"pretrain_weights": "promoted.pth"}, train={"epochs": 1})
    withdraw(made, "train_3.png")
    made.repro()
    made.commit("fine-tuned")
    shutil.copy(made.folder / MODEL, folder / "child.pth")
    return made


def core(project: Project, *arguments: str, status: int = 0) -> str:
    done = project.run(sys.executable, "-m", "rfdetr_core", *arguments, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def json_of(project: Project, *arguments: str, status: int = 0) -> Any:
    return json.loads(core(project, *arguments, "--json", status=status))


def tensors_of(path: Path) -> str:
    return tensor_digest(read_checkpoint(path).weights)


def test_files_of_two_runs_with_equal_weights_are_distinguished(project: Project) -> None:
    first, second = (str(project.folder.parent / f"{name}.pth") for name in ("first", "second"))
    assert tensors_of(Path(first)) == tensors_of(Path(second))
    differences = json_of(project, "audit", "--diff", first, second)
    assert differences["making"] == {"params": {"train.notes": [None, "another note"]}}
    for path, notes in ((first, None), (second, "another note")):
        differences = json_of(project, "audit", path)
        assert differences["training"]["params"]["train"]["notes"] == notes
        assert {"host", "parent_commit"} <= differences["run"].keys()
        assert json_of(project, "verify", path)["mismatches"] == []
        assert len(json_of(project, "audit", path, "--images")["images"]) == 8
    assert json_of(project, "verify")["mismatches"] == []
    assert json_of(project, "verify", "--lock")["mismatches"] == []


def test_an_image_of_a_promoted_model_is_traced_to_the_fine_tuned_model(project: Project) -> None:
    folder = project.folder.parent
    rows = json_of(project, "audit", str(folder / "first.pth"), "--images")["images"]
    withdrawn = next(row["sha256"] for row in rows if row["path"] == "train/train_3.png")
    parent, child = tensors_of(folder / "second.pth"), tensors_of(folder / "child.pth")
    uses = json_of(project, "audit", "--image", withdrawn)["uses"]
    assert {(use["role"], use["tensors"], *use["through"]) for use in uses} == {
        ("trained", parent),
        ("trained", child, parent),
    }
    images = json_of(project, "audit", str(folder / "child.pth"), "--images")["images"]
    assert withdrawn in {row["sha256"] for row in images}


@pytest.mark.parametrize("name", ["checkpoint.pth", "checkpoint_best_ema.pth", "checkpoint_best_regular.pth"])
def test_every_file_of_the_run_folder_names_its_training_and_its_images(project: Project, name: str) -> None:
    path = f"output/{name}"
    answer = json_of(project, "audit", path)  # after one epoch the state has the weights of the winner
    assert answer["training"] == read_checkpoint(project.folder / path).training_record
    assert "train" in [link["stage"] for link in answer["chain"]]
    images = {row["path"] for row in json_of(project, "audit", path, "--images")["images"] if not row["through"]}
    assert images >= {"train/train_0.png", "valid/valid_0.png"}
    assert json_of(project, "verify", path)["mismatches"] == []


def test_a_repeated_run_keeps_its_record(project: Project, tmp_path: Path) -> None:
    again = project.copy(tmp_path / "copy")
    before = files.read_json(again.folder / "output" / "record.json")
    shutil.rmtree(again.folder / "output")
    again.repro()
    assert files.read_json(again.folder / "output" / "record.json") == before
    assert again.run("git", "status", "--porcelain").stdout == ""
    assert again.repro() == []
