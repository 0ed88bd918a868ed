"""After `make repro`, `git status` lists only files that should be committed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from unittest.mock import ANY

import pytest
import yaml

from rfdetr_core.base.code import ROOT
from tests.architecture import STAGES
from tests.pipeline.project import Project

pytestmark = pytest.mark.slow


def outs_in_git(project: Project) -> set[str]:
    """The outs that DVC does not keep in its cache: manifests, metrics, plots and findings."""
    stages = yaml.safe_load((project.folder / "dvc.yaml").read_text())["stages"].values()
    outs = [out for stage in stages for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])]
    return {path for out in outs if isinstance(out, dict) for path, flags in out.items() if flags.get("cache") is False}


def test_git_lists_only_lock_small_results_records_and_journal(reproduced: Project, tmp_path: Path) -> None:
    project = reproduced.copy(tmp_path / "copy")
    project.set_params(train={"seed": 1}, runtime={"mlflow": True, "tensorboard": True, "checkpoint_interval": 1})
    project.run("git", "commit", "-q", "-m", "another seed, tracked", "params.yaml")
    (project.folder / ".venv").symlink_to(sys.prefix)  # several checkouts share one cache
    closing = project.run("make", "--no-print-directory", "-o", ".venv/.runtime", "repro").stdout
    for name in (".venv", "mlflow.db", "output/tensorboard", "output/checkpoint_0.pth", "output/.lock"):
        assert (project.folder / name).exists()
    records, journal = (
        {path.relative_to(project.folder).as_posix() for path in (project.folder / name).iterdir()}
        for name in ("records", "journal")
    )
    assert len(records) == 2
    stages = Counter(name.removeprefix("journal/").rpartition("-")[0] for name in journal)
    assert stages == {name: 1 if name in ("validate", "convert") else 2 for name in STAGES[1:]} | {"select_best": ANY}
    listed = project.run("git", "status", "--porcelain", "-uall").stdout.splitlines()
    assert set(listed) == {f"?? {name}" for name in {"dvc.lock"} | outs_in_git(project) | records | journal}
    follow(project, closing, tmp_path)


def follow(project: Project, closing: str, folder: Path) -> None:
    """Run each command that `make repro` prints at its end, in a shell with an empty environment."""
    closing_lines = [line.split(maxsplit=1) for line in closing.splitlines()[-9:]]
    *commands, publish = [command for word, command in closing_lines if word == "next"]
    assert [word for word, _ in closing_lines] == [
        "pictures",
        "dataset",
        "curves",
        "runs",
        *["next"] * 3,
        "use",
        "report",
    ]
    commands += [command for word, command in closing_lines if word in ("curves", "use")]
    for command in [*commands, publish]:
        line = command.replace("URL", str(folder / "store")).replace("IMAGE", "data/tiny/test/test_0.png")
        plain = ["env", "-i", f"HOME={folder}", "PATH=/usr/bin:/bin", "sh", "-ec", line]
        project.run(*plain)
    for _, name in (closing_lines[0], closing_lines[1], closing_lines[-1]):
        assert (project.folder / name.partition(":")[0]).exists()
    left = project.run("git", "status", "--porcelain").stdout.split()
    assert left == ["M", ".dvc/config"]
    assert any((folder / "store").rglob("*"))
    environment = {name: value for name, value in project.environment().items() if name != "VIRTUAL_ENV"}
    done = subprocess.run(
        [sys.executable, "-m", "rfdetr_core", "results"],
        cwd=project.folder,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "git add" not in done.stdout
    assert "next      .venv/bin/dvc push\n" in done.stdout


def test_git_ignores_private_keys_and_plots_of_dvc_but_not_public_keys() -> None:
    made = re.findall(r"-out (\S+\.pem)", (ROOT / "docs" / "audit.md").read_text())
    assert made == ["key.pem", "public.pem"]
    asked = ["git", "check-ignore", "--no-index", *made, "docs/key.pem", "dvc_plots/index.html"]
    ignored = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert ignored == ["key.pem", "docs/key.pem", "dvc_plots/index.html"]
