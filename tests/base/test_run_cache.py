"""A stage that DVC runs is noted once, with what it read and wrote, and in its own project."""

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
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of DVC whose stage `a` has just written its out."""
    folder = tmp_path_factory.mktemp("ran")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    subprocess.run([Path(sys.executable).parent / "dvc", "init", "-q"], cwd=folder, check=True)
    for name, text in (("dvc.yaml", PIPELINE), ("in.txt", "in"), ("out.txt", "out")):
        (folder / name).write_text(text)
    return folder


def noted(folder: Path, monkeypatch: pytest.MonkeyPatch, **variables: str) -> list[dict[str, str]]:
    """The MD5s by path that `save_run` gave on in this folder and with these variables."""
    given: list[Any] = []
    monkeypatch.chdir(folder)
    for name in ("DVC_STAGE", "DVC_ROOT", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    save_run(given.append)
    return [{item.def_path: item.hash_info.value for item in (*stage.deps, *stage.outs)} for stage in given]


def test_only_the_first_process_of_a_stage_makes_a_run_cache_entry(ran: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [{name: files.md5_file(ran / name) for name in ("in.txt", "out.txt")}]
    assert noted(ran, monkeypatch, DVC_STAGE="a") == expected
    assert noted(ran, monkeypatch, DVC_STAGE="a", LOCAL_RANK="0") == expected
    assert noted(ran, monkeypatch, DVC_STAGE="a", LOCAL_RANK="1") == []
    assert noted(ran, monkeypatch) == []  # started by hand


def test_an_entry_is_made_for_the_stage_in_the_folder_of_an_experiment(
    ran: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = ran / ".dvc" / "tmp" / "exps" / "one"
    inside.mkdir(parents=True)
    subprocess.run(["git", "init", "-q"], cwd=inside, check=True)
    subprocess.run([Path(sys.executable).parent / "dvc", "init", "-q"], cwd=inside, check=True)
    for name, text in (("dvc.yaml", PIPELINE), ("in.txt", "other"), ("out.txt", "results")):
        (inside / name).write_text(text)
    expected = {name: files.md5_file(inside / name) for name in ("in.txt", "out.txt")}
    assert noted(inside, monkeypatch, DVC_STAGE="a", DVC_ROOT=str(ran)) == [expected]
