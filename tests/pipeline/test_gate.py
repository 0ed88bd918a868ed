"""The gate with models that find objects: a worse model fails, so does one that lost a class, and chance passes."""

from __future__ import annotations

import contextlib
import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ci import compare, gate
from ci.steps import COMPARISON, MODEL
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.files import read_json
from rfdetr_core.config.settings import GateConfig
from tests.architecture import STAGES
from tests.pipeline.project import LEARNS, LEARNT, Project, make_dataset

pytestmark = pytest.mark.slow
BEFORE = STAGES[: 1 + STAGES.index("strip")]  # these stages run before the comparison
TRACKS = ("output/checkpoint_best_regular.pth", "output/checkpoint_best_ema.pth")


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A trained project with the checkpoint of each epoch. Dataset and model are in a DVC remote on disk.

    The stages run in this process, which has imported torch already. DVC would start five processes.
    """
    folder = tmp_path_factory.mktemp("learnt")
    project = Project.create(folder / "developer", LEARNS)
    shutil.rmtree(project.folder / "data" / "tiny")
    make_dataset(project.folder / "data" / "tiny", **LEARNT)
    project.move_data_to_dvc(str(folder / "store"))
    with contextlib.chdir(project.folder):
        for stage in BEFORE:
            importlib.import_module(f"stages.{stage}").main()
    project.run("dvc", "commit", "-q", "-f", *BEFORE)
    project.commit("first result")
    project.run("dvc", "push", "-q")
    return project


@pytest.fixture(scope="module")
def clone(learnt: Project) -> Project:
    """A clean clone, retrained after the labels of green were removed from train. It is not evaluated."""
    annotations = learnt.folder / "data" / "tiny" / "train" / "_annotations.coco.json"
    content = read_json(annotations)
    content["annotations"] = [row for row in content["annotations"] if row["category_id"] != 1]
    annotations.unlink()  # it may be a link into the cache
    annotations.write_text(json.dumps(content))
    learnt.run("dvc", "add", "-q", "data/tiny")
    learnt.run("dvc", "push", "-q", "data/tiny.dvc")
    learnt.commit("green is no longer labelled")
    clone = Project(learnt.folder.parent / "clone")
    subprocess.run(["git", "clone", "-q", str(learnt.folder), str(clone.folder)], check=True)
    for step in ("plan", "pull_data"):
        clone.run(sys.executable, "-m", f"ci.{step}")
    assert "train" in clone.repro("--pull", "--allow-missing", "strip")
    evaluation = clone.folder / "reports" / "evaluate"
    evaluation.mkdir(parents=True)
    (evaluation / "about.json").write_text('{"split": "test"}')  # ci.compare reads only this of an evaluation
    return clone


def judged(clone: Project, model: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[bool, str]:
    """Whether a model file passes the gate as the new model, and why.

    Args:
        clone: the clone. The base is the model of its commit.
        model: the new model.
        monkeypatch: to change the current folder.
    """
    monkeypatch.chdir(clone.folder)
    if model != clone.folder / MODEL:
        shutil.copy(model, MODEL)
    compare.main()
    why = str(read_json(COMPARISON)["why"])
    try:
        gate.main()
    except UserError:
        return False, why
    return True, why


def test_a_class_whose_labels_were_removed_fails_the_gate_and_is_named(
    clone: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, lost = (
        clone.folder / MODEL,
        "the base finds objects of these classes at its best threshold, the new model finds none: `green` (AP -",
    )
    passed, why = judged(clone, new, monkeypatch)
    assert (passed, why.startswith("mAP changed by -"), lost in why) == (False, True, True)
    done = clone.run(sys.executable, "-m", "ci.gate", check=False)
    assert (done.returncode, f"error: the gate failed: {why}." in done.stderr) == (1, True)
    result, why = compare.verdict(read_json(COMPARISON), GateConfig(max_drop=100))
    assert (result, lost in why) == ("failed", True)


def test_a_model_of_fewer_epochs_fails_and_one_as_good_as_the_base_passes(
    clone: Project, learnt: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed, why = judged(clone, learnt.folder / "output" / "checkpoint_0.pth", monkeypatch)
    assert (passed, why.startswith("mAP changed by -")) == (False, True)
    assert read_json(COMPARISON)["old"]["map"] > 0.1
    # The regular weights, and the EMA weights that average them. One of both is the base.
    assert all(judged(clone, learnt.folder / track, monkeypatch)[0] for track in TRACKS)
