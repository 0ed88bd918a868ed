from __future__ import annotations

import os
from pathlib import Path

import pytest

from rfdetr_core.base.input_states import states_of


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stage `a` reads a file, a folder and the dataset."""
    for name in ("one.json", "weights/a.pth", "data/mine/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "params.yaml").write_text("data: {dir: data/mine}\na: {lr: 1, deep: {one: 2}}\nb: {lr: 1}\n")
    (tmp_path / "more.yaml").write_text("rate: 1\n")
    deps = 'deps: [one.json, weights, "${data.dir}", missing]'
    params = "params: [a.lr, a.deep, {more.yaml: [rate]}]"
    (tmp_path / "dvc.yaml").write_text(f"stages: {{a: {{cmd: a, {deps}, {params}}}}}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_file_that_a_stage_reads_has_a_state(project: Path) -> None:
    params = {"a.lr of params.yaml", "a.deep of params.yaml", "rate of more.yaml"}
    assert states_of("a").keys() == {"one.json", "weights/a.pth", "data/mine/b.png", *params}
    assert states_of("a") == states_of("a")
    assert states_of("other") == {}


@pytest.mark.parametrize("name", ["one.json", "weights/a.pth"])
def test_another_content_is_another_state_even_with_equal_size_and_time(project: Path, name: str) -> None:
    before, path = states_of("a"), project / name
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_text("x" * path.stat().st_size)
    os.utime(path, ns=times)
    after = states_of("a")
    assert {key for key in before if before[key] != after[key]} == {name}


def test_a_new_file_and_a_removed_one_change_the_states(project: Path) -> None:
    before = states_of("a")
    (project / "data/mine/c.png").write_text("c")
    (project / "one.json").unlink()
    assert before.keys() ^ states_of("a").keys() == {"data/mine/c.png", "one.json"}


def test_an_image_that_is_written_is_another_state(project: Path) -> None:
    before, path = states_of("a"), project / "data/mine/b.png"
    path.write_text("longer than before")
    after = states_of("a")
    assert {key for key in before if before[key] != after[key]} == {"data/mine/b.png"}


@pytest.mark.parametrize(
    ("edit", "changed"),
    [
        (("params.yaml", "a: {lr: 1", "a: {lr: 2"), {"a.lr of params.yaml"}),
        (("params.yaml", "one: 2", "one: 3"), {"a.deep of params.yaml"}),
        (("params.yaml", "b: {lr: 1", "b: {lr: 2"), set[str]()),
        (("more.yaml", "rate: 1", "rate: 2"), {"rate of more.yaml"}),
    ],
)
def test_a_param_of_the_stage_is_part_of_the_state_and_one_of_another_is_not(
    project: Path, edit: tuple[str, str, str], changed: set[str]
) -> None:
    before, (name, old, new) = states_of("a"), edit
    text = (project / name).read_text()
    assert old in text
    (project / name).write_text(text.replace(old, new))
    after = states_of("a")
    assert {key for key in before if before[key] != after[key]} == changed


def test_a_state_is_unchanged_if_no_content_changes(project: Path) -> None:
    before = states_of("a")
    os.link(project / "data/mine/b.png", project / "linked.png")
    (project / "weights/a.pth").touch()
    for name in (".DS_Store", "Thumbs.db", ".gitkeep"):
        (project / "data/mine" / name).write_text("")
        (project / "weights" / name).write_text("")
    assert states_of("a") == before
