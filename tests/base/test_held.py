from __future__ import annotations

import os
from pathlib import Path

import pytest

from rfdetr_core.base.held import states_of


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stage `a` reads a file, a folder and the dataset."""
    for name in ("one.json", "weights/a.pth", "data/mine/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "params.yaml").write_text("data: {dir: data/mine}\n")
    (tmp_path / "dvc.yaml").write_text('stages: {a: {cmd: a, deps: [one.json, weights, "${data.dir}", missing]}}\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_file_that_a_stage_reads_has_a_state(project: Path) -> None:
    assert states_of("a").keys() == {"one.json", "weights/a.pth", "data/mine/b.png"}
    assert states_of("a") == states_of("a")
    assert states_of("other") == {}


@pytest.mark.parametrize("name", ["one.json", "weights/a.pth", "data/mine/b.png"])
def test_another_content_is_another_state_though_size_and_time_are_the_same(project: Path, name: str) -> None:
    before, path = states_of("a"), project / name
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_text("x" * path.stat().st_size)
    os.utime(path, ns=times)
    after = states_of("a")
    assert {key for key in before if before[key] != after[key]} == {name}


def test_a_new_file_and_one_that_is_gone_change_the_states(project: Path) -> None:
    before = states_of("a")
    (project / "data/mine/c.png").write_text("c")
    (project / "one.json").unlink()
    assert before.keys() ^ states_of("a").keys() == {"data/mine/c.png", "one.json"}
