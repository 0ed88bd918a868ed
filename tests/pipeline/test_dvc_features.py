"""Other commands of DVC than `repro` work as docs/retraining.md shows."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from rfdetr_core.base import files
from rfdetr_core.base.provenance import flattened
from rfdetr_core.selection.select import TRACKS
from tests.pipeline.project import Project

pytestmark = pytest.mark.slow
MODEL = "output/checkpoint_best_total.pth"


@pytest.fixture(scope="module")
def trained(reproduced: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Trained, committed and pushed to a remote in a folder; the dataset is in DVC."""
    folder = tmp_path_factory.mktemp("features")
    project = reproduced.copy(folder / "project")
    project.move_data_to_dvc(str(folder / "store"))
    project.commit("first result")
    project.run("dvc", "push", "-q", "--run-cache")
    return project


def experiments(project: Project) -> dict[str, Any]:
    """The finished experiments on main by name."""
    (_, baseline) = json.loads(project.run("dvc", "exp", "show", "--json").stdout)
    return {
        experiment["revs"][0]["name"]: experiment["revs"][0]["data"] for experiment in baseline["experiments"] or []
    }


def test_an_experiment_is_shown_and_its_metrics_and_plots_are_compared(project: Project) -> None:
    project.run("dvc", "exp", "run", "-q", "-n", "shorter", "-S", "train.epochs=1")
    shown = experiments(project)["shorter"]
    assert shown["params"]["params.yaml"]["data"]["train"]["epochs"] == 1
    assert shown["metrics"]["output/scores.json"]["data"]["epochs"] == 1
    changes = json.loads(project.run("dvc", "metrics", "diff", "--json", "main", "shorter").stdout)
    assert changes["output/scores.json"]["epochs"] == {"old": 2, "new": 1, "diff": -1}
    project.run("dvc", "plots", "diff", "main", "shorter", "--out", "plots")
    page = (project.folder / "plots" / "index.html").read_text()
    assert "history.csv" in page
    assert "shorter" in page
    assert project.repro() == []
    project.run("dvc", "exp", "branch", "-q", "shorter", "shorter-branch")
    assert "shorter-branch" in project.run("git", "branch", "--list").stdout


def test_metrics_are_numbers_and_each_is_shown_once(project: Project) -> None:
    (working,) = json.loads(project.run("dvc", "metrics", "show", "--json").stdout).values()
    assert working["data"].keys() == {"output/scores.json", "reports/evaluate/metrics.json"}
    scores, metrics = (flattened(entry["data"]) for entry in working["data"].values())
    assert {type(value) for value in (scores | metrics).values()} <= {int, float, type(None)}
    assert [key for key in scores if key.endswith(".score")] == [f"val/mAP_50.{track}.score" for track in TRACKS]


def test_queued_and_temporary_experiments_do_not_change_the_working_tree(project: Project) -> None:
    before = files.sha256_file(project.folder / "dvc.lock")
    for pictures in (0, 2):
        change = ("-n", f"queued-{pictures}", "-S", f"evaluate.pictures={pictures}")
        project.run("dvc", "exp", "run", "-q", "--queue", *change)
    project.run("dvc", "exp", "run", "-q", "--run-all")
    project.run("dvc", "exp", "run", "-q", "--temp", "-n", "aside", "-S", "evaluate.split=valid", "-S", "train.seed=12")
    assert {"queued-0", "queued-2", "aside"} <= experiments(project).keys()
    assert files.sha256_file(project.folder / "dvc.lock") == before
    assert project.run("git", "status", "--porcelain").stdout == ""
    # The results are in the branch, and get into the working tree.
    project.run("dvc", "exp", "branch", "-q", "aside", "aside-branch")
    project.run("dvc", "exp", "branch", "-q", "queued-0", "queued-branch")
    ran = {"queued-branch": {"evaluate", "report"}, "aside-branch": {"train", "strip", "evaluate", "report"}}
    for branch, split in (("queued-branch", "test"), ("aside-branch", "valid")):
        about = project.run("git", "show", f"{branch}:reports/evaluate/about.json").stdout
        assert json.loads(about)["split"] == split
        added = project.run("git", "diff", "--name-only", "--diff-filter=A", "main", branch, "--", "journal").stdout
        assert ran[branch] <= {Path(name).name.rpartition("-")[0] for name in added.split()}
    project.run("dvc", "exp", "apply", "-q", "aside")
    record = files.read_json(project.folder / "output" / "record.json")
    assert record["file"]["md5"] == files.md5_file(project.folder / MODEL)
    assert json.loads(project.run("git", "show", "aside-branch:output/record.json").stdout) == record
    report = json.loads(core(project, "verify"))
    assert report["holds"]
    assert not [entry for entry in report["unchecked"] if "record" in entry["what"] or "entries" in entry["what"]]
    assert json.loads(core(project, "audit", MODEL))["run"] == record["run"]


def core(project: Project, *arguments: str) -> str:
    return project.run(sys.executable, "-m", "rfdetr_core", *arguments, "--json").stdout


def test_pushed_results_are_pulled_into_an_empty_clone(project: Project, tmp_path: Path) -> None:
    project.run("git", "clone", "-q", str(project.folder), str(tmp_path / "clone"))
    clone = Project(tmp_path / "clone")
    clone.run("dvc", "pull", "-q")
    assert clone.changed_stages() == set()
    assert files.sha256_file(clone.folder / MODEL) == files.sha256_file(project.folder / MODEL)


def test_another_repository_gets_the_model_by_path_and_by_version(project: Project, tmp_path: Path) -> None:
    source, target = str(project.folder), tmp_path / "elsewhere"
    target.mkdir()
    other_project = Project(target)
    expected = files.sha256_file(project.folder / MODEL)
    shutil.rmtree(project.folder / ".dvc" / "cache")  # so that the file comes from the remote
    other_project.run("dvc", "get", "-q", source, MODEL, "--rev", "main", "-o", "by_path.pth")
    project.run("gto", "register", "detector", "--version", "v1.0.0", "--repo", source)
    other_project.run("dvc", "artifacts", "get", source, "detector", "--rev", "v1.0.0", "-o", "by_version.pth")
    assert {path.name: files.sha256_file(path) for path in target.iterdir()} == {
        "by_path.pth": expected,
        "by_version.pth": expected,
    }
