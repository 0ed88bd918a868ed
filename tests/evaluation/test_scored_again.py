"""What verify computes again from the detections of an evaluation is what evaluate wrote, and nothing else is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rfdetr_core.evaluation.config import EvaluateConfig
from rfdetr_core.evaluation.evaluate import evaluate
from rfdetr_core.evaluation.scoring import TABLES
from rfdetr_core.lineage.lock import Entry, Lock
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.lock import Pipeline
from rfdetr_core.verification.remade import FOLDER, check_metrics
from rfdetr_core.verification.report import Report
from tests.evaluation.scene import Scene


def mismatches(root: Path, threshold: float | None) -> list[str]:
    report = Report()
    entry = Entry.of({"cmd": "", "params": {"params.yaml": {"evaluate": {"threshold": threshold}}}})
    check_metrics(report, Contents(root), Pipeline({}, Lock({"evaluate": entry})), "data")
    assert report.checked > len(TABLES)
    return [what for what, *_ in report.mismatches]


@pytest.mark.parametrize("threshold", [None, 0.3])
@pytest.mark.parametrize("name", ["scene", "mask_scene"])
def test_every_table_is_scored_again(
    name: str, threshold: float | None, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene: Scene = request.getfixturevalue(name)
    evaluate(scene.predictor(), scene.where, EvaluateConfig(threshold=threshold), tmp_path / FOLDER)
    shutil.copytree(scene.where.annotations, tmp_path / "annotations")
    (tmp_path / "dvc.yaml").touch()
    assert mismatches(tmp_path, threshold) == []
    for table in TABLES:
        path = tmp_path / FOLDER / table
        lines = path.read_text().splitlines()
        changed = [*lines[:-1], lines[-1] + "1"]
        path.write_text("\n".join(changed) + "\n")
        assert mismatches(tmp_path, threshold) == [f"{FOLDER.as_posix()}/{table} line {len(lines)}"]
        path.write_text("\n".join(lines) + "\n")
