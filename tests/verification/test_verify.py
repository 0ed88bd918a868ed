"""The checks that need no training, on a small project of files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from rfdetr_core.base import files
from rfdetr_core.base.code import semantic_digest
from rfdetr_core.base.errors import UserError
from rfdetr_core.cli import main
from rfdetr_core.lineage.lock import Entry, Lock
from rfdetr_core.training.config import TrainConfig
from rfdetr_core.verification.claims import check_lineage
from rfdetr_core.verification.contents import Contents, listing_md5
from rfdetr_core.verification.lock import Pipeline, check_cache, check_contents, check_pipeline
from rfdetr_core.verification.report import Report
from rfdetr_core.verification.reproduce import compare_outs, first_epoch


class Small:
    """A project with a matching dvc.lock: stage `a` reads the folder code, `b` reads the out of `a`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "code").mkdir(parents=True)
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
        (folder / "code" / "one.py").write_text("one")
        (folder / "code" / "two.py").write_text("two")
        (folder / "out.txt").write_text("out")
        (folder / ".dvcignore").write_text("*.pyc\n")
        self.params({"data": {"dir": "code"}, "a": {"rate": 1, "deep": {"list": [1, 2]}}})
        stages = {
            "a": {"cmd": "run a", "deps": ["${data.dir}"], "params": ["a"], "outs": [{"out.txt": {"cache": False}}]},
            "b": {"cmd": "run b", "deps": ["out.txt"], "params": [{"params.yaml": ["a.rate"]}]},
        }
        (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
        self.lock: dict[str, Any] = {
            "a": {
                "cmd": "run a",
                "deps": [{"path": "code", "hash": "md5", "md5": self.contents().md5("code")}],
                "params": {"params.yaml": {"a": {"rate": 1.0, "deep": {"list": [1, 2]}}}},
                "outs": [{"path": "out.txt", "hash": "md5", "md5": files.md5_file(folder / "out.txt"), "size": 3}],
            },
            "b": {
                "cmd": "run b",
                "deps": [{"path": "out.txt", "hash": "md5", "md5": files.md5_file(folder / "out.txt"), "size": 3}],
                "params": {"params.yaml": {"a.rate": 1}},
            },
        }

    def contents(self) -> Contents:
        return Contents(self.folder)

    def params(self, content: dict[str, Any]) -> None:
        (self.folder / "params.yaml").write_text(yaml.safe_dump(content))

    def check(self) -> Report:
        (self.folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": self.lock}))
        report, contents, pipeline = Report(), self.contents(), Pipeline.read(self.folder)
        check_pipeline(report, contents, pipeline)
        check_contents(report, contents, pipeline, leave="", only_git=False, code=None)
        check_cache(report, contents, pipeline)
        return report

    def wrong(self) -> set[str]:
        return {subject for subject, _, _ in self.check().mismatches}


@pytest.fixture
def small(tmp_path: Path) -> Small:
    return Small(tmp_path / "small")


def test_code_is_compared_by_its_meaning_and_in_an_older_record_by_its_bytes(small: Small) -> None:
    module = small.folder / "rfdetr_core" / "a.py"
    module.parent.mkdir()
    module.write_text("x = 1\n")
    lineage = {
        "old": {"rfdetr_core/a.py": files.sha256_file(module)},
        "new": {"rfdetr_core/a.py": semantic_digest(module)},
    }

    def wrong(kind: str) -> set[str]:
        report = Report()
        check_lineage(report, small.contents(), Pipeline({}, Lock({})), {"code": lineage[kind]}, "a record")
        return {subject for subject, _, _ in report.mismatches}

    assert (wrong("old"), wrong("new")) == (set(), set())
    module.write_text("# a comment\nx = 1\n")
    assert (wrong("old"), wrong("new")) == ({"code rfdetr_core/a.py"}, set())
    module.write_text("x = 2\n")
    assert (wrong("old"), wrong("new")) == ({"code rfdetr_core/a.py"}, {"code rfdetr_core/a.py"})
    module.unlink()
    assert (wrong("old"), wrong("new")) == ({"code rfdetr_core/a.py"}, {"code rfdetr_core/a.py"})


def test_a_lock_that_is_true_holds_though_one_is_written_as_one_point_zero(small: Small) -> None:
    assert small.wrong() == set()


def test_a_folder_is_digested_as_dvc_does_it(small: Small) -> None:
    (small.folder / "code" / "left.pyc").write_text("compiled")
    (small.folder / "code" / "ä é").mkdir()
    (small.folder / "code" / "ä é" / "a.txt").write_text("")
    dvc = Path(sys.executable).parent / "dvc"
    subprocess.run([dvc, "init", "-q", "-f"], cwd=small.folder, check=True)
    (small.folder / ".dvcignore").write_text("*.pyc\n")
    subprocess.run([dvc, "add", "-q", "code", "--no-commit"], cwd=small.folder, check=True, capture_output=True)
    (listing,) = yaml.safe_load((small.folder / "code.dvc").read_text())["outs"]
    assert small.contents().md5("code") == listing["md5"]


def test_what_differs_is_named(small: Small) -> None:
    small.params({"data": {"dir": "code"}, "a": {"rate": 2, "deep": {"list": [1, 3]}, "new": 0}})
    (small.folder / "code" / "one.py").write_text("changed")
    (small.folder / "out.txt").write_text("changed")
    small.lock["b"]["cmd"] = "run c"
    assert small.wrong() == {
        "params.yaml: a.rate",
        "params.yaml: a.deep.list",
        "params.yaml: a.new",
        "code",
        "out.txt",
        "command of b",
    }


@pytest.mark.parametrize(("given", "equal"), [({"lr": 1e-4, "epochs": 1}, True), ({"lr": 2e-4, "epochs": 1}, False)])
def test_an_explicit_default_is_equal_and_dvc_will_run(small: Small, given: dict[str, Any], equal: bool) -> None:
    content = yaml.safe_load((small.folder / "dvc.yaml").read_text())
    content["stages"]["a"]["params"] = ["train"]
    (small.folder / "dvc.yaml").write_text(yaml.safe_dump(content))
    small.params({"data": {"dir": "code"}, "a": {"rate": 1}, "train": given})
    small.lock["a"]["params"] = {"params.yaml": {"train": {"epochs": 1}}}
    assert TrainConfig().lr == 1e-4
    assert small.wrong() == {"params.yaml: train.lr"}  # as `dvc repro` compares them
    report = Report()
    check_pipeline(report, small.contents(), Pipeline.read(small.folder), by_value=True)
    assert {subject for subject, _, _ in report.mismatches} == (set() if equal else {"params.yaml: train.lr"})
    assert any("dvc repro would run a again" in note for note in report.notes) == equal


def test_a_stage_or_a_file_that_the_lock_does_not_have_is_named(small: Small) -> None:
    del small.lock["b"]
    small.lock["a"]["deps"].append({"path": "more.txt", "md5": "0" * 32})
    assert small.wrong() == {"stage b", "deps of a: more.txt"}


def test_size_and_number_of_files_are_compared(small: Small) -> None:
    small.lock["a"]["deps"][0] |= {"size": 6, "nfiles": 2}
    assert small.wrong() == set()
    small.lock["a"]["deps"][0] |= {"size": 7, "nfiles": 3, "hash": "sha1"}
    small.lock["b"]["deps"][0]["size"] = 4
    assert small.wrong() == {"size of code", "nfiles of code", "kind of hash of code", "size of out.txt"}


def test_what_differs_from_head_is_found_in_a_folder_of_a_repository_and_behind_the_index(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=b"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    inner = tmp_path / "inner"
    (inner / "records").mkdir(parents=True)
    (inner / "dvc.yaml").write_text("stages: {}\n")
    for name in ("same", "changed", "hidden", "gone"):
        (inner / "records" / name).write_text(name)
    git("init", "-q")
    contents = Contents(inner)
    assert contents.differs_from_head("records") == [
        f"records/{name}" for name in ("changed", "gone", "hidden", "same")
    ]
    git("add", "-A")
    git("commit", "-q", "-m", "all")
    assert Contents(inner).differs_from_head("records") == []
    git("update-index", "--assume-unchanged", "inner/records/hidden")
    for name in ("changed", "hidden", "new"):
        (inner / "records" / name).write_text("other")
    (inner / "records" / "gone").unlink()
    expected = [f"records/{name}" for name in ("changed", "gone", "hidden", "new")]
    assert Contents(inner).differs_from_head("records") == expected
    assert Contents(inner).committed("records/hidden") == b"hidden"


def test_two_stages_must_speak_of_the_same_file(small: Small) -> None:
    small.lock["b"]["deps"][0]["md5"] = "0" * 32
    assert "out.txt in dvc.lock" in small.wrong()


def test_a_missing_file_is_unchecked_and_not_a_mismatch(small: Small) -> None:
    (small.folder / "out.txt").unlink()
    report = small.check()
    assert not report.mismatches
    assert report.unchecked == {"out.txt": "missing: not in this clone"}


def test_a_file_that_was_not_pulled_counts_with_the_md5_of_its_dvc_file(small: Small) -> None:
    weights = small.folder / "code" / "weights.pth"
    weights.write_text("weights")
    md5 = files.md5_file(weights)
    (small.folder / "code" / "weights.pth.dvc").write_text(
        yaml.safe_dump({"outs": [{"md5": md5, "path": "weights.pth"}]})
    )
    whole = small.contents().md5("code")
    weights.unlink()
    assert small.contents().md5("code") == whole


def test_a_cache_object_that_is_not_what_its_name_says_is_named(small: Small) -> None:
    (small.folder / "data").write_text("data")
    md5 = files.md5_file(small.folder / "data")
    (small.folder / "data.dvc").write_text(yaml.safe_dump({"outs": [{"md5": md5, "path": "data"}]}))
    held = small.contents().cached(md5)
    held.parent.mkdir(parents=True)
    held.write_text("data")
    assert small.wrong() == set()
    held.write_text("DATA")
    assert small.wrong() == {f"cache object files/md5/{md5[:2]}/{md5[2:]} of data"}


def test_the_digest_of_an_empty_listing_is_that_of_dvc() -> None:
    # dvc add of an empty folder, DVC 3.67.1
    assert listing_md5({}) == "d751713988987e9331980363e24189ce.dir"


@pytest.mark.parametrize("text", ["", "[]", "stages: 1", "stages: {a: {deps: 1}}", "stages: {a: {cmd: x, deps: [1]}}"])
def test_a_lock_that_cannot_be_read_is_an_error_with_a_remedy(small: Small, text: str) -> None:
    (small.folder / "dvc.lock").write_text(text)
    with pytest.raises(UserError, match=r"dvc\.lock"):
        Pipeline.read(small.folder)


def test_no_project_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"no dvc\.yaml"):
        main(["verify", "--lock", "--repo", str(tmp_path)])


def test_the_check_of_the_lock_does_not_import_torch() -> None:
    code = "import sys, rfdetr_core.verification.verify, rfdetr_core.cli; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_stages_are_compared_in_the_order_in_which_they_ran(small: Small) -> None:
    small.lock = {"b": small.lock["b"], "a": small.lock["a"]}
    small.check()
    assert list(Pipeline.read(small.folder).stages) == ["a", "b"]


@pytest.mark.parametrize(("score", "holds"), [(0.51, True), (0.6, False), (None, False)])
def test_on_another_machine_scores_are_compared_and_bytes_are_not(
    tmp_path: Path, score: float | None, holds: bool
) -> None:
    before = {"output/scores.json": b'{"val/mAP": {"regular": {"score": 0.5}, "ema": {"score": null}}}'}
    now = {"val/mAP": {"regular": {"score": score}, "ema": {"score": None}}}
    files.write_json(tmp_path / "output" / "scores.json", now)
    (tmp_path / "output" / "history.csv").write_text("epoch\n")
    (tmp_path / "dvc.yaml").write_text("")
    lock = Lock({"train": Entry.of({"cmd": "", "outs": [{"path": "output/scores.json", "md5": "0" * 32}]})})
    here, other = Report(), Report()
    compare_outs(here, Contents(tmp_path), Pipeline({}, lock), before, "")
    compare_outs(other, Contents(tmp_path), Pipeline({}, lock), before, "cpu AVX2, here AVX512")
    assert {subject for subject, _, _ in here.mismatches} == {"output/scores.json"}
    assert bool(other.mismatches) is not holds
    assert "another kind of machine (cpu AVX2, here AVX512)" in other.notes[0]


def test_the_first_epoch_that_differs_is_named() -> None:
    before, after = b"epoch,loss\n0,1.5\n1,1.25\n2,1.0\n", b"epoch,loss\n0,1.5\n1,1.26\n2,1.1\n"
    assert first_epoch(before, after) == ", from epoch 1 on (loss 1.25, here 1.26)"
    assert first_epoch(before, before) == ", but history.csv is equal"
    assert first_epoch(before, before[:-6]) == ", by the number of epochs"
    assert first_epoch(b"", before) == first_epoch(before, b"\xff") == ", but one history.csv is not a table"


def test_text_and_json_have_the_same_mismatches() -> None:
    report = Report()
    report.equal("a", 1, 1.0, "x")
    report.equal("b", 1, 2, "x")
    report.equal("b", 1, 2, "y")
    report.skip("c", "missing")
    assert report.lines() == [
        "b: expected 1, found 2  (x, y)",
        "not checked: c (missing)",
        "3 comparisons, 1 mismatch, 1 not checked",
    ]
    answer = json.loads(json.dumps(report.to_dict()))
    assert answer["mismatches"] == [{"what": "b", "expected": "1", "found": "2", "by": ["x", "y"]}]
    assert answer["holds"] is False


@pytest.mark.parametrize(("installed", "noted"), [("2.4.5", False), ("2.4.6", True), ("2.4.5+own", False), ("x", True)])
def test_packages_that_differ_from_the_lock_are_noted(tmp_path: Path, installed: str, noted: bool) -> None:
    small = Small(tmp_path / "project")
    lock = small.folder / "requirements" / "numeric.lock"
    lock.parent.mkdir()
    lock.write_text("numpy==2.4.5 \\\n    --hash=sha256:00\n")
    report = Report()
    lineage = {"training": {"lock": files.sha256_file(lock), "packages": {"python": "3.11.0", "numpy": installed}}}
    check_lineage(report, small.contents(), Pipeline({}, Lock({})), lineage, "a record")
    expected = f"a record: that run used other package versions than requirements/numeric.lock: numpy {installed}"
    assert any(note.startswith(expected) for note in report.notes) == noted
