"""The whole pipeline with a segmenter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rfdetr_core.base.code import ROOT
from tests.pipeline.project import Project

pytestmark = pytest.mark.slow


def test_a_segmenter_is_trained_selected_and_scored_by_its_masks(tmp_path: Path) -> None:
    model = {"variant": "seg-pico", "resolution": 48}
    project = Project.create(tmp_path, {"data": {"dir": "data/nuclei"}, "model": model})
    shutil.copytree(ROOT / "data" / "nuclei", tmp_path / "data" / "nuclei")
    assert project.repro()[-1] == "export"
    metrics = json.loads((tmp_path / "reports/evaluate/metrics.json").read_text())
    assert metrics["masks"].keys() >= {"map", "map_50"}
    assert "val/segm_mAP_50" in json.loads((tmp_path / "output/scores.json").read_text())
    masks = json.loads((tmp_path / "reports/evaluate/masks.json").read_text())
    assert masks
    assert all(mask["segmentation"]["size"] == [128, 128] for mask in masks)
    assert list((tmp_path / "reports/evaluate/pictures").glob("*.png"))
