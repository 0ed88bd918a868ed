"""The plan matches what `dvc repro` then does, with correct values, counts and durations."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ci.plan import markdown
from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.cli import main
from rfdetr_core.lineage import journal
from rfdetr_core.lineage.lock import Lock
from rfdetr_core.verification.durations import duration_text, durations
from rfdetr_core.verification.plan import Plan, plan
from tests.audit.repository import Repository, conforms
from tests.verification.conftest import IMAGES

DVC = Path(sys.executable).parent / "dvc"
STAGES: dict[str, Any] = {
    "validate": {"cmd": "cat data/*.txt > manifest.txt", "deps": ["data"], "outs": ["manifest.txt"]},
    "train": {
        "cmd": "head -n 1 manifest.txt > model.txt; grep lr: params.yaml >> model.txt",
        "deps": ["manifest.txt"],
        "params": ["train"],
        "outs": ["model.txt"],
    },
    "evaluate": {
        "cmd": "head -n 1 model.txt > score.txt",
        "deps": ["model.txt"],
        "params": ["evaluate"],
        "outs": [{"score.txt": {"cache": True}}],
    },
    "report": {"cmd": "cat score.txt > report.txt", "deps": ["score.txt"], "outs": ["report.txt"]},
}
PARAMS: dict[str, Any] = {
    "train": {"lr": 0.0005, "epochs": 10, "optimizer_kwargs": {"betas": [0.9, 0.999]}},
    "evaluate": {"pictures": 9},
}
SECONDS = {"validate": 3.0, "train": 2400.0, "evaluate": 60.0}  # report has no journal entry, as in an older version


class Small:
    """A project of four quick stages, run by DVC and committed; the data is tracked by DVC."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *command: str) -> str:
        done = subprocess.run(command, cwd=self.folder, check=True, capture_output=True, text=True)
        return done.stdout + done.stderr

    def git(self, *arguments: str) -> str:
        return self.run("git", "-c", "user.name=a", "-c", "user.email=b", *arguments)

    def dvc(self, *arguments: str) -> str:
        return self.run(str(DVC), *arguments)

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "all")

    def params(self, section: str, **values: object) -> None:
        content = yaml.safe_load((self.folder / "params.yaml").read_text())
        content[section].update(values)
        (self.folder / "params.yaml").write_text(yaml.safe_dump(content))

    def data(self, name: str, text: str) -> None:
        files.write_text(self.folder / "data" / f"{name}.txt", text)

    def plan(self, **options: Any) -> Plan:
        return plan(self.folder, **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Small:
    small = Small(tmp_path_factory.mktemp("small") / "project")
    for name in ("a", "b"):
        small.data(name, f"{name}\n")
    (small.folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}, sort_keys=False))
    (small.folder / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    small.git("init", "-q", "-b", "main")
    small.dvc("init", "-q")
    small.dvc("add", "-q", "data")
    small.dvc("repro", "-q")
    for stage, seconds in SECONDS.items():
        note(small.folder, stage, 100.0, seconds)
    small.commit()
    return small


@pytest.fixture
def small(made: Small, tmp_path: Path) -> Small:
    return Small(shutil.copytree(made.folder, tmp_path / "project", symlinks=True))


def note(root: Path, stage: str, began: float, seconds: float, **changes: Any) -> None:
    """Write a journal entry as if the stage had run at this time for this long."""
    ran = replace(Lock.read(root).stages[stage], **changes)
    path = journal.write(root, stage, ran, began)
    content = files.read_json(path)
    content["run"]["seconds"] = seconds
    files.write_json(path, content)


def verdicts(planned: Plan) -> dict[str, str]:
    return {stage.name: stage.verdict for stage in planned.stages}


def after(small: Small, name: str, text: str) -> None:
    small.data(name, text)
    small.dvc("add", "-q", "data")


def gone_and_back(small: Small) -> None:
    """Run with another learning rate, then set the first one again: DVC's cache has its model."""
    small.params("train", lr=0.0004)
    small.dvc("repro", "-q")
    small.params("train", lr=0.0005)


CHANGES: dict[str, tuple[Callable[[Small], object], dict[str, str]]] = {
    "nothing": (lambda small: None, {}),
    "a parameter of the middle": (
        lambda small: small.params("train", lr=0.0004),
        {"train": "runs", "evaluate": "may run", "report": "may run"},
    ),
    "a parameter of the end": (
        lambda small: small.params("evaluate", pictures=1),
        {"evaluate": "runs", "report": "may run"},
    ),
    "data, added to DVC": (
        lambda small: after(small, "c", "c\n"),
        {"validate": "runs", "train": "may run", "evaluate": "may run", "report": "may run"},
    ),
    "data, as it is in the folder": (
        lambda small: small.data("b", "other\n"),
        {"validate": "runs", "train": "may run", "evaluate": "may run", "report": "may run"},
    ),
    "a result": (
        lambda small: (small.folder / "model.txt").write_text("by hand"),
        {"train": "cached"},
    ),
    "a parameter, and back": (gone_and_back, {"train": "cached", "evaluate": "cached"}),
    "back, where the model is lost": (
        lambda small: (gone_and_back(small), shutil.rmtree(small.folder / ".dvc" / "cache" / "runs")),
        {"train": "runs", "evaluate": "may run", "report": "may run"},
    ),
    "a command": (
        lambda small: (small.folder / "dvc.yaml").write_text(
            (small.folder / "dvc.yaml").read_text().replace("cat score.txt", "cat -u score.txt")
        ),
        {"report": "runs"},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_what_the_plan_says_is_what_dvc_repro_then_does(small: Small, change: str) -> None:
    make, expected = CHANGES[change]
    make(small)
    before = sorted((path, path.stat().st_mtime_ns) for path in small.folder.rglob("*") if path.name != "tmp")
    planned = verdicts(small.plan())
    assert planned == expected
    assert before == sorted((path, path.stat().st_mtime_ns) for path in small.folder.rglob("*") if path.name != "tmp")
    output = small.dvc("repro")
    ran = set(re.findall(r"^Running stage '(\w+)'", output, re.MULTILINE))
    cached = set(re.findall(r"^Stage '(\w+)' is cached", output, re.MULTILINE))
    certain = {name for name, verdict in planned.items() if verdict == "runs"}
    assert certain <= ran <= certain | {name for name, verdict in planned.items() if verdict == "may run"}
    assert {name for name, verdict in planned.items() if verdict == "cached"} <= cached
    assert cached <= planned.keys()
    assert verdicts(small.plan()) == {}


def reasons(planned: Plan, stage: str) -> list[str]:
    return [
        reason.text
        for planned_stage in planned.stages
        if planned_stage.name == stage
        for reason in planned_stage.reasons
    ]


def test_a_parameter_is_named_with_its_values_and_long_ones_are_cut(small: Small) -> None:
    small.params("train", lr=0.0004, optimizer_kwargs={"betas": [0.9] * 50}, seed=1)
    texts = reasons(small.plan(), "train")
    assert texts[0] == "train.lr 0.0005 -> 0.0004"
    assert texts[2] == "train.seed not set -> 1"
    (line,) = (line for line in small.plan().lines() if line.startswith("train "))
    assert "since train.lr 0.0005 -> 0.0004, train.optimizer_kwargs.betas [0.9, 0.999] -> [0.9, 0.9" in line
    assert len(line) < 300


def test_an_edit_of_dvc_yaml_is_named(small: Small) -> None:
    stages = json.loads(json.dumps(STAGES))
    stages["evaluate"] |= {"cmd": "head -n 1 manifest.txt > score.txt", "deps": ["manifest.txt"]}
    stages["sign"] = {"cmd": "cat report.txt > signed.txt", "deps": ["report.txt"], "outs": ["signed.txt"]}
    (small.folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    assert reasons(small.plan(), "evaluate") == [
        "its command changed",
        "manifest.txt is now one of its deps",
        "model.txt is no longer one of its deps",
    ]
    assert reasons(small.plan(), "sign") == ["it has not run yet"]
    assert "will run (duration not known)" in small.plan().stages[-1].sentence


def test_data_is_counted_where_dvc_tracks_it_with_or_without_its_files(small: Small) -> None:
    small.data("c", "c\n")
    small.data("a", "changed\n")
    (small.folder / "data" / "b.txt").unlink()
    counted = "(2 -> 2 files: 1 added, 1 changed, 1 removed)"
    planned = small.plan()
    assert reasons(planned, "validate") == [f"data changed {counted}"]
    assert planned.notes == (
        "data differs from data.dvc. To keep the new files: dvc add data. To restore the old files: dvc checkout data",
    )
    assert small.plan(compare_local=False).stages == ()
    small.dvc("add", "-q", "data")
    assert reasons(small.plan(compare_local=False), "validate") == [f"data.dvc changed {counted}"]
    assert f"data.dvc changed {counted}" in reasons(small.plan(), "validate")
    assert small.plan().notes == ()
    shutil.rmtree(small.folder / ".dvc" / "cache")  # as in a clone
    shutil.rmtree(small.folder / "data")
    small.data("d", "d\n")
    small.data("e", "e\n")
    small.data("f", "f\n")
    small.dvc("add", "-q", "data")
    shutil.rmtree(small.folder / ".dvc" / "cache")
    assert reasons(small.plan(compare_local=False), "validate") == ["data.dvc changed (2 -> 3 files)"]


def test_data_in_git_is_counted_since_the_commit_of_the_lock(small: Small) -> None:
    small.git("rm", "-q", "--cached", "data.dvc")
    (small.folder / "data.dvc").unlink()
    (small.folder / ".gitignore").unlink()
    small.commit()
    shutil.rmtree(small.folder / ".dvc" / "cache")
    (small.folder / "dvc.lock").write_text((small.folder / "dvc.lock").read_text() + "\n")
    small.commit()
    assert reasons(small.plan(), "validate") == []
    small.data("a", "changed\n")
    small.commit()
    small.data("c", "c\n")
    assert reasons(small.plan(), "validate") == ["data changed (2 -> 3 files: 1 added, 1 changed)"]


def test_what_is_neither_here_nor_in_the_cache_is_named(small: Small) -> None:
    shutil.rmtree(small.folder / "data")
    (small.folder / "model.txt").unlink()
    assert small.plan().notes == ()  # DVC takes them from its cache
    shutil.rmtree(small.folder / ".dvc" / "cache")
    (note,) = small.plan().notes
    assert note.startswith("missing: data, model.txt. Run dvc pull")


def test_durations_are_those_of_the_last_runs_and_what_is_not_known_is_named(small: Small) -> None:
    small.params("train", lr=0.0004)
    planned = small.plan()
    sentences = {stage.name: stage.sentence for stage in planned.stages}
    assert sentences["train"] == "will rerun (about 40 min on the machine of the last run)"
    assert sentences["evaluate"] == "may rerun (about 60 s)"
    assert sentences["report"] == "may rerun (duration not known)"
    assert planned.total_in_words() == (
        "about 40 min; with all stages that may rerun, about 41 min, without report, whose duration is not known"
    )
    shutil.rmtree(small.folder / "journal")
    assert small.plan().total_in_words() == ""
    assert "train    will rerun (duration not known) since train.lr 0.0005 -> 0.0004" in small.plan().lines()


def test_the_newest_run_counts_and_a_damaged_entry_does_not(small: Small) -> None:
    def seconds() -> float:
        return durations(small.folder)["train"].seconds

    note(small.folder, "train", 50.0, 7.0, cmd="an older run")
    assert seconds() == SECONDS["train"]
    note(small.folder, "train", 200.0, 9.0, cmd="a newer run")
    assert seconds() == 9.0
    for path in (small.folder / "journal").glob("train-*.json"):
        path.write_text(path.read_text().replace('"began": "1970-01-01T00:03', '"began": "yesterday 00:03'))
    assert seconds() == SECONDS["train"]
    for path in (small.folder / "journal").glob("train-*.json"):
        path.write_text("{")
    assert "train" not in durations(small.folder)


def test_a_training_takes_as_long_as_its_epochs_by_its_record(tmp_path: Path) -> None:
    project = Repository(tmp_path / "clone")
    model = project.train(1, IMAGES)
    content = yaml.safe_load((project.folder / "dvc.lock").read_text())
    content["stages"]["train"]["params"] = {"params.yaml": {"train": {"epochs": 3}}}
    (project.folder / "dvc.lock").write_text(yaml.safe_dump(content))
    note(project.folder, "train", 100.0, 70.0)
    note(project.folder, "strip", 200.0, 2.0)
    (record,) = (project.folder / "records").iterdir()
    known = files.read_json(record)
    assert known["lineage"]["selection"]["epochs"] == 3
    assert known["file"]["md5"] == files.md5_file(model)

    def seconds(epochs: int, **run: Any) -> float:
        files.write_json(record, known | {"run": {"host": "one", "cpus": 2, "seconds": 60.0, **run}})
        return durations(project.folder, epochs)["train"].seconds

    assert seconds(3, epochs_here=3) == 70
    assert seconds(6, epochs_here=3) == 130
    assert seconds(3, epochs_here=1) == 190  # the last process trained only one of the three epochs
    assert seconds(6) == 70  # a record of an older version has no epochs_here
    content["stages"]["train"]["params"]["params.yaml"]["train"]["epochs"] = 100  # and it stopped early, after 3
    (project.folder / "dvc.lock").write_text(yaml.safe_dump(content))
    note(project.folder, "train", 300.0, 70.0)
    assert seconds(100, epochs_here=3) == 70
    assert seconds(1, epochs_here=3) == 30
    content["stages"]["train"]["params"]["params.yaml"]["train"] = ["no", "section"]
    (project.folder / "dvc.lock").write_text(yaml.safe_dump(content))
    note(project.folder, "train", 400.0, 70.0)
    assert seconds(3, epochs_here="many") == 70
    assert durations(project.folder)["train"].machine.endswith(", 2 CPUs, host one")
    files.write_json(record, known | {"run": {"gpu": "H100", "host": "two"}})
    assert durations(project.folder)["train"].machine == "H100, host two"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (89.4, "89 s"), (2400, "40 min"), (5399, "90 min"), (5400, "1 h 30 min"), (90_000, "25 h 0 min")],
)
def test_a_duration_in_words(seconds: float, words: str) -> None:
    assert duration_text(seconds) == words


def test_the_json_answer_matches_its_schema(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    small.params("train", lr=0.0004)
    small.data("c", "c\n")
    main(["plan", "--repo", str(small.folder), "--json"])
    answer = json.loads(capsys.readouterr().out)
    conforms("plan", answer)
    validate, train, *later = answer["stages"]
    assert [stage["stage"] for stage in later] == ["evaluate", "report"]
    assert validate["reasons"][0]["files"] == {"added": 1, "changed": 0, "removed": 0}
    assert (train["reasons"][0]["before"], train["reasons"][0]["after"]) == ("0.0005", "0.0004")
    assert answer["seconds"] == {"runs": 2403.0, "all": 2463.0}
    assert answer["unknown"] == ["report"]
    assert (small.folder / train["last"]["entry"]).is_file()


def test_everything_runs_before_the_first_run_and_if_it_is_asked_for(small: Small) -> None:
    forced = small.plan(force=True)
    assert verdicts(forced) == dict.fromkeys(STAGES, "runs")
    assert reasons(forced, "train") == ["it was requested"]
    (small.folder / "dvc.lock").unlink()
    shutil.rmtree(small.folder / ".dvc" / "cache" / "runs")
    first = small.plan()
    assert verdicts(first) == dict.fromkeys(STAGES, "runs")
    assert first.lines()[0].startswith("validate will run (")
    assert reasons(first, "train") == ["there is no dvc.lock"]


def test_the_comment_on_a_pull_request_has_stages_reasons_and_durations(small: Small) -> None:
    assert markdown(small.plan()) == "## After a merge, no stage will run\n"
    small.params("train", notes="<!-- @everyone | `x`", lr=0.0004)
    comment = markdown(small.plan())
    assert comment.startswith(
        "## After a merge, 1 stage will run: about 40 min; with all stages that may rerun, about 41 min"
    )
    assert "<!--" not in comment
    assert "| `report` | may rerun | not known | - |" in comment
    (line,) = (line for line in comment.splitlines() if line.startswith("| `train`"))
    assert re.sub(r"<code>.*?</code>|`[^`]*`", "", line).count("|") == 5


def test_a_project_that_cannot_be_read_is_one_message(tmp_path: Path, small: Small) -> None:
    with pytest.raises(UserError, match=r"has no dvc\.yaml"):
        plan(tmp_path)
    (small.folder / "dvc.lock").write_text("stages: [")
    with pytest.raises(UserError, match=r"^dvc\.lock is not readable"):
        small.plan()
    (small.folder / "dvc.lock").unlink()
    (small.folder / "params.yaml").write_text("train: {epochs: many}\n")
    with pytest.raises(UserError, match=r"train\.epochs"):
        small.plan()
