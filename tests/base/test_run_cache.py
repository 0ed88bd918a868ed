"""A stage that DVC runs gets one run-cache entry, with its inputs and outputs, in its own project."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rfdetr_core.base import files
from rfdetr_core.base.run_cache import save_run

PIPELINE = "stages: {a: {cmd: run a, deps: [in.txt], outs: [out.txt: {cache: false}]}}\n"


@pytest.fixture(scope="module")
def dvc_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DVC project whose stage `a` has just written its out."""
    folder = tmp_path_factory.mktemp("ran")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    subprocess.run([Path(sys.executable).parent / "dvc", "init", "-q"], cwd=folder, check=True)
    for name, text in (("dvc.yaml", PIPELINE), ("in.txt", "in"), ("out.txt", "out")):
        (folder / name).write_text(text)
    return folder


def saved_runs(folder: Path, monkeypatch: pytest.MonkeyPatch, **variables: str) -> list[dict[str, str]]:
    """The MD5s by path of the stages that `save_run` saved in this folder, with these environment variables."""
    saved: list[Any] = []
    monkeypatch.chdir(folder)
    for name in ("DVC_STAGE", "DVC_ROOT", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    save_run(saved.append)
    return [{item.def_path: item.hash_info.value for item in (*stage.deps, *stage.outs)} for stage in saved]


def test_only_the_first_process_of_a_stage_makes_a_run_cache_entry(
    dvc_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [{name: files.md5_file(dvc_project / name) for name in ("in.txt", "out.txt")}]
    assert saved_runs(dvc_project, monkeypatch, DVC_STAGE="a") == expected
    assert saved_runs(dvc_project, monkeypatch, DVC_STAGE="a", LOCAL_RANK="0") == expected
    assert saved_runs(dvc_project, monkeypatch, DVC_STAGE="a", LOCAL_RANK="1") == []
    assert saved_runs(dvc_project, monkeypatch) == []  # started by hand


def test_an_entry_is_made_for_the_stage_in_the_folder_of_an_experiment(
    dvc_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = dvc_project / ".dvc" / "tmp" / "exps" / "one"
    inside.mkdir(parents=True)
    subprocess.run(["git", "init", "-q"], cwd=inside, check=True)
    subprocess.run([Path(sys.executable).parent / "dvc", "init", "-q"], cwd=inside, check=True)
    for name, text in (("dvc.yaml", PIPELINE), ("in.txt", "other"), ("out.txt", "results")):
        (inside / name).write_text(text)
    expected = {name: files.md5_file(inside / name) for name in ("in.txt", "out.txt")}
    assert saved_runs(inside, monkeypatch, DVC_STAGE="a", DVC_ROOT=str(dvc_project)) == [expected]
