"""A program for upstream's ONNX files reads ours, with the detections of `predict`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rfdetr_core.export.config import ExportConfig
from rfdetr_core.export.run import Source, export_draft
from rfdetr_core.inference.predictor import Predictor
from tests.checkpoint.tiny import TINY
from tests.evaluation.scene import write_random_checkpoint

pytest.importorskip("rfdetr", reason="parity needs upstream: pip install rfdetr==1.11.2")
from rfdetr.export._onnx.inference import _create_onnx_session, _run_inference


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [None, 1])
def test_upstreams_reader_finds_the_detections_of_predict(batch_size: int | None, tmp_path: Path) -> None:
    """On an image of the model's size, because upstream resizes in another way."""
    architecture = replace(TINY, queries=12)
    write_random_checkpoint(tmp_path / "model.pth", architecture)
    random = np.random.default_rng(1)
    picture = Image.fromarray(random.integers(0, 256, (architecture.resolution,) * 2 + (3,), dtype=np.uint8))
    picture.save(tmp_path / "image.png")
    draft = export_draft(Source.read(tmp_path / "model.pth"), ExportConfig(batch_size=batch_size), "onnx")
    session = _create_onnx_session(draft.write_with_tokens(tmp_path), ["CPUExecutionProvider"])
    # By default upstream skips the last row of the class head. With None it reads all rows, as `predict` does.
    detections, _ = _run_inference(session, tmp_path / "image.png", threshold=0.2, background_class_id=None)
    expected = Predictor.from_checkpoint(tmp_path / "model.pth", device="cpu").predict(picture, threshold=0.2)
    assert len(expected) > 3
    assert len({*expected.class_id}) > 1
    assert np.abs(detections.xyxy - expected.xyxy).max() < 1e-3
    assert np.abs(detections.confidence - expected.confidence).max() < 1e-4
    assert detections.class_id.tolist() == expected.class_id.tolist()
