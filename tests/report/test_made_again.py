"""verify recomputes page, thresholds, intervals and suspects of an evaluation, and names those that were changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rfdetr_core.base import files
from rfdetr_core.base.code import Code
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.lineage.lock import Entry, Lock
from rfdetr_core.report.config import ReportConfig
from rfdetr_core.report.evaluation import write_report
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.lock import Pipeline
from rfdetr_core.verification.recomputed import check_report
from rfdetr_core.verification.report import Report
from tests.evaluation.scenes import random_scene
from tests.report.made import make_evaluation

REPORTS, PARAMS = Path("reports/evaluate"), {"resamples": 100, "images": 4}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "project"
    folders = make_evaluation(root, *random_scene(0, images=6))
    folders.reports.rename(root / "evaluate")
    (root / "reports").mkdir()
    (root / "evaluate").rename(root / REPORTS)
    folders.run.rename(root / "output")
    (root / "dvc.yaml").touch()
    monkeypatch.chdir(root)
    write_report(ProjectPaths(Path("dataset")), ReportConfig.model_validate(PARAMS), REPORTS, Path("output"))
    monkeypatch.chdir(tmp_path)  # verify works in any current folder
    return root


def check(root: Path, **changes: Any) -> Report:
    digests = files.md5_bytes(files.json_text(changes.get("code", Code().digests_of("report"))).encode())
    page = REPORTS / "index.html"
    raw = {
        "cmd": "",
        "deps": [{"path": "digests/report.json", "md5": digests}],
        "outs": [{"path": page.as_posix(), "md5": files.md5_file(root / page)}],
        "params": {"params.yaml": {"report": PARAMS}},
    }
    report = Report()
    check_report(report, Contents(root), Pipeline({}, Lock({"report": Entry.of(raw)})), "dataset")
    return report


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


NAMED = {
    "the page": "reports/evaluate/index.html, recomputed",
    "a suspect": "reports/evaluate/suspects.csv line 1",
    "a threshold": "all.threshold of reports/evaluate/thresholds.json",
    "a key more of the thresholds": "approved of reports/evaluate/thresholds.json",
    "a key more of the intervals": "clinical of reports/evaluate/intervals.json",
}


def test_what_is_changed_is_named_and_nothing_else(project: Path) -> None:
    assert check(project).lines()[:-1] == []
    folder = project / REPORTS
    edit(folder / "index.html", "Evaluation on test", "Evaluation on trial")
    edit(folder / "suspects.csv", "certainty", "doubt")
    thresholds = json.loads((folder / "thresholds.json").read_text())
    thresholds |= {"approved": True, "all": thresholds["all"] | {"threshold": 0.123}}
    (folder / "thresholds.json").write_text(json.dumps(thresholds))
    edit(folder / "intervals.json", "{", '{"clinical": 0.999,')
    assert sorted(place for place, *_ in check(project).mismatches) == sorted(NAMED.values())


def test_with_other_code_or_packages_it_is_not_checked(project: Path) -> None:
    edit(project / REPORTS / "index.html", "Evaluation on test", "Evaluation on trial")
    (project / "requirements").mkdir()
    (project / "requirements" / "report.lock").write_text("altair==1.0.0\n")
    for report in (check(project), check(project, code={})):
        assert not report.mismatches
        assert [*report.unchecked] == ["reports/evaluate/index.html"]


def test_without_an_image_it_is_not_checked(project: Path) -> None:
    next(path for path in (project / "dataset").rglob("*") if path.is_file()).unlink()
    report = check(project)
    assert not report.mismatches
    assert [*report.unchecked] == ["reports/evaluate/index.html"]
