"""After `make repro` git lists what is meant to be committed, and nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from tests.pipeline.project import Project

pytestmark = pytest.mark.slow


def outs_in_git(project: Project) -> set[str]:
    """The outs that DVC does not keep in its cache: manifests, metrics, plots and findings."""
    stages = yaml.safe_load((project.folder / "dvc.yaml").read_text())["stages"].values()
    outs = [out for stage in stages for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])]
    return {path for out in outs if isinstance(out, dict) for path, flags in out.items() if flags.get("cache") is False}


def test_git_lists_the_lock_the_small_results_and_the_records_alone(reproduced: Project, tmp_path: Path) -> None:
    project = reproduced.copy(tmp_path / "copy")
    project.set_params(train={"seed": 1}, runtime={"mlflow": True, "tensorboard": True, "checkpoint_interval": 1})
    project.run("git", "commit", "-q", "-m", "another seed, tracked", "params.yaml")
    (project.folder / ".venv").symlink_to(sys.prefix)  # as several checkouts share one
    project.run("make", "-o", ".venv/.runtime", "repro")
    for name in (".venv", "mlflow.db", "output/tensorboard", "output/checkpoint_0.pth", "output/.lock"):
        assert (project.folder / name).exists()
    records = {path.relative_to(project.folder).as_posix() for path in (project.folder / "records").iterdir()}
    assert len(records) == 2
    listed = project.run("git", "status", "--porcelain", "-uall").stdout.splitlines()
    assert set(listed) == {f"?? {name}" for name in {"dvc.lock"} | outs_in_git(project) | records}
