"""dvc.yaml and dvc.lock are read as DVC reads them, and without a trace."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo
from dvc.utils.serialize import dump_yaml

from ci import reproduce
from ci.steps import PLAN, RAN, STATE
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.params import load_yaml
from rfdetr_core.lineage.lock import LOCK, Lock
from rfdetr_core.verification.changed import changed_stages, later_stages
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.lock import Pipeline, check_contents, check_pipeline, read_stages
from rfdetr_core.verification.report import Report

DVC = Path(sys.executable).parent / "dvc"
STAGES: dict[str, Any] = {
    "last": {"cmd": "cat each_q.txt > last.txt", "deps": ["each_q.txt"], "outs": ["last.txt"]},
    "each": {
        "foreach": ["q", "r"],
        "do": {"cmd": "cat read.txt > each_${item}.txt", "deps": ["read.txt"], "outs": ["each_${item}.txt"]},
    },
    "named": {
        "foreach": {"one": {"size": 1}, "two": {"size": "${deep.size}"}},
        "do": {"cmd": "echo ${key} ${item.size}", "params": [{"more.json": ["list"]}]},
    },
    "grid": {
        "matrix": {"size": [1, 2], "name": "${names}"},
        "cmd": "echo ${item.size} ${item.name} > grid_${item.size}_${item.name}.txt",
        "params": ["rate"],
        "outs": [{"grid_${item.size}_${item.name}.txt": {"cache": False}}],
    },
    "plain": {
        "cmd": "echo ${flag} ${own} ${other} > ${name}.txt",
        "vars": [{"own": 3}, "own.yaml"],
        "params": [{"whole.toml": None}],
        "outs": ["${name}.txt"],
    },
    "inside": {"wdir": "inner", "cmd": "cat ../one.txt in.txt > out.txt", "deps": ["../one.txt", "in.txt"],
               "params": ["depth"], "outs": ["out.txt"]},
    "reader": {"cmd": "cat inner/out.txt", "deps": ["inner/out.txt"]},
}  # fmt: skip


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=b"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with every kind of template, run by DVC and committed."""
    folder = tmp_path_factory.mktemp("ran") / "project"
    (folder / "inner").mkdir(parents=True)
    texts = {
        "params.yaml": "name: one\nflag: true\nrate: 1e-05\nnames: [a, b]\n",
        "more.json": '{"list": [1, 2]}',
        "whole.toml": "a = 1\n[b]\nc = 2\n",
        "own.yaml": "other: two\n",
        "vars.yaml": "deep: {size: 5}\n",
        "read.txt": "read\n",
        "inner/in.txt": "in\n",
        "inner/params.yaml": "depth: 1\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"vars": ["vars.yaml"], "stages": STAGES}, sort_keys=False))
    git(folder, "init", "-q")
    for command in (["init", "-q"], ["repro", "-q"]):
        subprocess.run([DVC, *command], cwd=folder, check=True, capture_output=True)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "all")
    return folder


@pytest.fixture
def project(ran: Path, tmp_path: Path) -> Path:
    """A fresh clone: nothing of DVC's cache, no .dvc/tmp."""
    git(tmp_path, "clone", "-q", str(ran), "project")
    return tmp_path / "project"


def wrong(folder: Path) -> set[str]:
    report, contents, pipeline = Report(), Contents(folder), Pipeline.read(folder)
    check_pipeline(report, contents, pipeline)
    check_contents(report, contents, pipeline, leave="", only_git=True, code=None)
    assert not report.notes
    return {subject for subject, _, _ in report.mismatches}


def test_every_stage_that_dvc_makes_is_read_and_holds(project: Path) -> None:
    pipeline = Pipeline.read(project)
    assert pipeline.stages.keys() == pipeline.lock.stages.keys() == load_yaml(project / LOCK)["stages"].keys()
    assert wrong(project) == set()
    assert changed_stages(project) == {}


def test_each_stage_comes_after_those_that_it_reads_from(project: Path) -> None:
    stages = read_stages(project)
    names = list(stages)
    assert stages["last"].after == {"each@q"}
    assert stages["inside"].after == {"plain"}
    assert stages["reader"].after == {"inside"}
    assert all(names.index(before) < names.index(name) for name, stage in stages.items() for before in stage.after)


@pytest.mark.parametrize(
    ("file", "old", "new", "named"),
    [
        ("dvc.yaml", "cat read.txt", "cat -u read.txt", {"command of each@q", "command of each@r"}),
        ("vars.yaml", "5", "6", {"command of named@two"}),
        ("own.yaml", "two", "three", {"command of plain"}),
        ("params.yaml", "b]", "b, c]", {"stage grid@1-c", "stage grid@2-c"}),
        ("params.yaml", "1e-05", "2e-05", {"params.yaml: rate"}),
        ("params.yaml", "one", "two", {"command of plain", "outs of plain: one.txt", "outs of plain: two.txt"}),
        ("more.json", "2", "3", {"more.json: list"}),
        ("whole.toml", "c = 2", "c = 3", {"whole.toml: b.c"}),
        ("whole.toml", "a = 1", "a = 1\nnew = 1", {"whole.toml: new"}),
        ("read.txt", "read", "other", {"read.txt"}),
        ("inner/in.txt", "in", "other", {"inner/in.txt"}),
        ("inner/params.yaml", "1", "2", {"inner/params.yaml: depth"}),
        ("grid_1_a.txt", "1", "2", {"grid_1_a.txt"}),
    ],
)
def test_what_differs_in_a_stage_made_of_a_template_is_named(
    project: Path, file: str, old: str, new: str, named: set[str]
) -> None:
    if file == "params.yaml" and old == "one":  # the stage that reads the old name
        change(project / "dvc.yaml", "one.txt", "two.txt")
        named = named | {"command of inside", "deps of inside: one.txt", "deps of inside: two.txt"}
    change(project / file, old, new)
    assert wrong(project) == named
    assert {reason for reasons in changed_stages(project).values() for reason in reasons} == named


@pytest.mark.parametrize(
    ("file", "old", "new", "runs", "later"),
    [
        ("read.txt", "read", "other", ["each@q", "each@r"], ["last"]),
        ("own.yaml", "two", "three", ["plain"], ["inside", "reader"]),
        ("params.yaml", "1e-05", "2e-05", [f"grid@{size}-{name}" for size in (1, 2) for name in "ab"], []),
        ("more.json", "2", "3", ["named@one", "named@two"], []),
    ],
)
def test_stages_of_a_template_are_planned_with_those_after_them(
    project: Path, file: str, old: str, new: str, runs: list[str], later: list[str]
) -> None:
    change(project / file, old, new)
    assert list(changed_stages(project)) == runs
    assert later_stages(read_stages(project), set(runs)) == later


@pytest.mark.slow
def test_stages_of_a_template_are_named_where_they_run_and_fail(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setenv("PATH", str(DVC.parent), prepend=":")
    STATE.mkdir()
    PLAN.write_text(json.dumps({"certain": {"each@q": [], "grid@1-a": []}, "possible": [], "force": False}))
    change(project / "dvc.yaml", "cat read.txt", "cat -u read.txt")
    change(project / "params.yaml", "1e-05", "2e-05")
    reproduce.main()
    ran = json.loads(RAN.read_text())["ran"]
    assert {name for name in ran if name.startswith(("each", "grid"))} == {
        "each@q", "each@r", *(f"grid@{size}-{name}" for size in (1, 2) for name in "ab")
    }  # fmt: skip
    change(project / "dvc.yaml", "cat -u read.txt", "cat nothing.txt")
    with pytest.raises(UserError, match=r"^each@q failed"):
        reproduce.main()


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.slow
def test_nothing_is_written_and_no_lock_is_waited_for(project: Path) -> None:
    def state() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in sorted(project.rglob("*"))}

    before = state()
    assert wrong(project) == set()
    assert changed_stages(project) == {}
    assert state() == before
    assert not (project / ".dvc" / "tmp").exists()
    with Repo(str(project)).lock:  # as `dvc repro` holds it
        assert changed_stages(project) == {}
        assert subprocess.run([DVC, "status"], cwd=project, capture_output=True, check=False).returncode != 0


def test_a_project_is_read_from_any_folder(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert changed_stages(Path("project")) == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no stage"),
        ("stages: [", "not readable as YAML"),
        ("stages: 1\n", "expected a dictionary"),
        ("stages: {a: {cmd: x, dep: [b]}}", "extra keys not allowed"),
        ("stages: {a: {cmd: 'echo ${missing}'}}", "Could not find 'missing'"),
        ("stages: {a: {cmd: 'echo ${names}'}}", "Cannot interpolate"),
        ("vars: [missing.yaml]\nstages: {a: {cmd: x}}", "missing.yaml"),
        ("stages: {a: {foreach: 3, do: {cmd: x}}}", "foreach"),
        ("stages: {a: {matrix: {x: 3}, cmd: x}}", "matrix"),
        ("stages: {a: {foreach: [1]}}", "do"),
        ("stages: {a: {cmd: x, outs: [c]}, b: {cmd: y, outs: [c]}}", "output 'c' is specified in"),
        ("stages: {a: {cmd: x, deps: [d], outs: [c]}, b: {cmd: y, deps: [c], outs: [d]}}", "Same item(s)"),
    ],
)
def test_a_broken_dvc_yaml_is_one_message_that_names_it(
    project: Path, capfd: pytest.CaptureFixture[str], text: str, reason: str
) -> None:
    (project / "dvc.yaml").write_text(text)
    for read in (Pipeline.read, changed_stages):
        with pytest.raises(UserError, match=r"^[^\n]*dvc\.yaml[^\n]*$") as caught:
            read(project)
        assert reason in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_params_file_that_is_not_readable_is_named(project: Path) -> None:
    (project / "more.json").write_text("{")
    with pytest.raises(UserError, match=r"more\.json"):
        wrong(project)


def test_values_in_a_lock_are_what_dvc_wrote(tmp_path: Path) -> None:
    odd = [1e-5, -1e-05, 1e22, 0.0001, 10, True, None, "1e-05", "no", "off", "y", "010", "0x1F", "0o7", "12:30:00"]
    values = {f"key{number}": value for number, value in enumerate([*odd, "2020-01-01", "1_000", "~", "", ".inf"])}
    dump_yaml(str(tmp_path / LOCK), {"stages": {"a": {"cmd": ["x", "y"], "params": {"params.yaml": values}}}})
    entry = Lock.read(tmp_path).stages["a"]
    assert json.dumps(entry.params["params.yaml"]) == json.dumps(values)
    assert entry.cmd == "x\ny"
    by_hand = (
        "stages: {a: {cmd: x, params: {p: {a: 010, h: -008, i: 0, b: 0x1F, c: 0o17, d: +1_0, e: 1., f: No, g: 1E5}}}}"
    )
    (tmp_path / LOCK).write_text(by_hand)
    assert Lock.read(tmp_path).stages["a"].raw == load_yaml(tmp_path / LOCK)["stages"]["a"]


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{a: " * 100_000, b"- " * 100_000 + b"a", b"? " * 100_000 + b"a"])
def test_a_lock_that_is_nested_without_end_is_one_message(content: bytes) -> None:
    with pytest.raises(UserError, match=r"dvc\.lock is nested too deeply. Restore it: git restore dvc\.lock"):
        Lock.parse(content)
