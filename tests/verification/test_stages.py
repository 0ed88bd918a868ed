"""dvc.yaml is compared with the stages of this project; dvc.lock would agree with each of these forgeries."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from rfdetr_core.base.code import ROOT
from rfdetr_core.lineage.lock import Lock
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.lock import Pipeline, read_stages
from rfdetr_core.verification.report import Report
from rfdetr_core.verification.stages import check_stages

OPTIONS = "-B -X pycache_prefix=/dev/null"
EVALUATE = f"exec python {OPTIONS} -m stages.evaluate"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This project's pipeline and stages."""
    folder = tmp_path_factory.mktemp("stages") / "project"
    shutil.copytree(ROOT / "stages", folder / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, folder / name)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return folder


def check(project: Path, text: str | None = None) -> Report:
    """Check the project with another text of dvc.yaml."""
    path, before = project / "dvc.yaml", (project / "dvc.yaml").read_text()
    path.write_text(before if text is None else text)
    try:
        report = Report()
        check_stages(report, Contents(project), Pipeline(read_stages(project), Lock({})))
        return report
    finally:
        path.write_text(before)


FORGED = {
    "another command after it": (EVALUATE, f"{EVALUATE[5:]} && exec python polish.py", "command of evaluate"),
    "a variable before it": (EVALUATE, f"ONEDNN_DEFAULT_FPMATH_MODE=BF16 {EVALUATE}", "command of evaluate"),
    "compiled modules are read": (EVALUATE, "exec python -m stages.evaluate", "command of evaluate"),
    "another module": (EVALUATE, f"exec python {OPTIONS} -m stages.report", "command of evaluate"),
    "another folder": (f"cmd: {EVALUATE}", f"cmd: {EVALUATE}\n    wdir: elsewhere", "folder in which evaluate runs"),
    "no dependency on its code": ("      - digests/train.json\n    params", "    params", "code that train depends on"),
    "digests of some code": ("      - rfdetr_core\n", "", "code that code depends on"),
    "a stage under another name": (
        "  evaluate:\n",
        "  judge:\n",
        "stage that writes reports/evaluate/metrics.json",
    ),
    "a result that is not tracked": (
        "outs:\n      - reports/evaluate/detections.json\n",
        "outs:\n",
        "outs of evaluate: reports/evaluate/detections.json",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FORGED)
def test_a_replaced_command_dependency_or_result_in_dvc_yaml_is_named(project: Path, case: str) -> None:
    old, new, named = FORGED[case]
    text = (project / "dvc.yaml").read_text()
    assert old in text
    assert named in {subject for subject, _, _ in check(project, text.replace(old, new, 1)).mismatches}


def test_the_pipeline_of_this_project_holds(project: Path) -> None:
    report = check(project)
    assert (report.mismatches, report.unchecked) == ({}, {})


def test_a_stage_of_the_user_is_not_checked_and_shown_with_its_command(project: Path) -> None:
    content = yaml.safe_load((project / "dvc.yaml").read_text())
    content["stages"]["publish"] = {"cmd": "python publish.py", "deps": ["output/selection.json"], "outs": ["mine.txt"]}
    del content["stages"]["export"]  # a project may do without it
    report = check(project, yaml.safe_dump(content))  # in another order and without comments
    assert report.mismatches == {}
    assert report.unchecked == {"stage publish": "not a stage of this project. It runs: python publish.py"}
