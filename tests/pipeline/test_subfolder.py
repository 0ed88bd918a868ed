"""A project in a folder of a larger repository: verify, audit and a retraining work there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.project import Project

pytestmark = pytest.mark.slow
MODEL = "output/checkpoint_best_total.pth"


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def trained(reproduced: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A trained project in the folder ml/ of a repository that also has another folder; committed and pushed."""
    root = tmp_path_factory.mktemp("mono") / "repository"
    shutil.copytree(reproduced.folder, root / "ml", ignore=shutil.ignore_patterns(".git"), symlinks=True)
    (root / "other").mkdir()
    (root / "other" / "readme").write_text("other work\n")
    git(root, "init", "-q", "-b", "main")
    git(root, "config", "user.email", "test@localhost")
    git(root, "config", "user.name", "test")
    git(root.parent, "init", "-q", "--bare", "origin")
    git(root, "remote", "add", "origin", str(root.parent / "origin"))
    project = Project(root / "ml")
    project.run("dvc", "remote", "add", "-q", "-d", "store", str(root.parent / "store"))
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "first result")
    project.run("dvc", "push", "-q")
    git(root, "push", "-q", "origin", "main")
    return project


def core(project: Project, *arguments: str) -> str:
    return project.run(sys.executable, "-m", "rfdetr_core", *arguments).stdout


def test_audit_and_verify_find_history_and_files_and_reproduce_head(trained: Project) -> None:
    assert git(trained.folder.parent, "rev-parse", "HEAD").strip()[:10] in core(trained, "audit", MODEL)
    assert "trained" in core(trained, "audit", "--image", "data/tiny/train/train_0.png")
    report = json.loads(core(trained, "verify", "--json"))
    assert report["holds"]
    assert report["unchecked"] == []
    assert json.loads(core(trained, "verify", "--reproduce", "--json"))["holds"]


def test_a_retraining_is_compared_with_the_model_of_the_base(trained: Project) -> None:
    repository = trained.folder.parent
    base = git(repository, "rev-parse", "HEAD").strip()
    before = json.loads((trained.folder / "reports/evaluate/metrics.json").read_text())
    trained.set_params(evaluate={"threshold": 0.3})
    (repository / "other" / "new").write_text("unfinished work of somebody else\n")
    git(repository, "commit", "-q", "-am", "another threshold")
    git(repository, "push", "-q", "origin", "HEAD:main")
    shutil.rmtree(trained.folder / ".dvc" / "cache")  # the base's model comes from the remote
    (trained.folder / MODEL).unlink()
    for step in ("check_lock", "plan", "pull_data", "reproduce", "compare", "deliver", "attest", "push"):
        trained.run(sys.executable, "-m", f"ci.{step}", env={"RETRAIN_BASE": base})
    state = trained.folder / ".retrain"
    plan, comparison = (json.loads((state / f"{name}.json").read_text()) for name in ("plan", "comparison"))
    assert plan["certain"] == {"evaluate": ["params.yaml: evaluate.threshold"]}
    assert comparison["missing"] is None
    assert comparison["same"]
    assert f"the base was evaluated on {before['images']} images" in (state / "comment.md").read_text()
    assert git(repository, "ls-remote", "--heads", "origin", "retrain/ml/main")
    git(repository, "fetch", "-q")
    listed = git(repository, "ls-tree", "-r", "--name-only", "origin/retrain-attachments").split()
    result = git(repository, "rev-parse", "HEAD").strip()
    assert f"ml/{result[:10]}/statement.json" in listed
    assert git(repository, "status", "--porcelain").split() == ["??", "other/new"]
