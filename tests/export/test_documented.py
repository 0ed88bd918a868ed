"""The programs in docs/export.md give the detections of `predict`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rfdetr_core.base.code import ROOT
from rfdetr_core.checkpoint.exported import PREFIX
from rfdetr_core.export.config import ExportConfig
from rfdetr_core.export.run import Source, export_files
from rfdetr_core.inference.predictor import Predictor
from tests.export.small import photograph


@pytest.mark.slow
@pytest.mark.parametrize("flavour", ["raw", "complete"])
def test_the_examples_give_the_detections_of_predict(
    flavour: str, sources: Callable[[str], Source], predictors: Callable[[str], Predictor], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    page = (ROOT / "docs" / "export.md").read_text()
    heading = {"raw": "### Raw, in ONNX Runtime", "complete": "### Complete, in ONNX Runtime"}[flavour]
    program = re.search(r"```python\n(.*?)```", page.partition(heading)[2], flags=re.DOTALL)
    assert program is not None
    assert f"{PREFIX}resolution" in page
    monkeypatch.chdir(tmp_path)
    export_files(sources("pico"), ExportConfig(postprocess=flavour == "complete"), tmp_path, pictures=[])
    (tmp_path / "model.onnx").rename(f"{flavour}.onnx")
    picture = photograph(640, 480, 1)
    picture.save("photograph.png")
    variables: dict[str, Any] = {}
    exec(program[1], variables)
    expected = predictors("pico").predict(picture, threshold=0.5)
    assert len(expected) == len(variables["scores"]) > 3
    order = np.argsort(-variables["scores"])
    assert np.abs(variables["scores"][order] - expected.confidence).max() < 1e-4
    assert variables["classes"][order].tolist() == expected.class_id.tolist()
    assert np.abs(variables["boxes"][order].clip(0, [640, 480] * 2) - expected.xyxy).max() < 0.1
