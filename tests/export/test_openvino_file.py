"""OpenVINO files in OpenVINO give the tensors of the detector and the detections of `predict`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rfdetr_core.inference.predictor import Predictor
from rfdetr_core.inference.sessions import open_session
from tests.export.small import PHOTOGRAPHS, as_batch, check_detections, noise, photograph
from tests.export.test_onnx_file import check_raw, images_of

pytestmark = pytest.mark.slow
Drafts = Callable[..., Any]
Predictors = Callable[[str], Predictor]


@pytest.mark.parametrize("variant", ["pico", "seg-pico"])
def test_a_raw_file_has_the_detectors_tensors_for_any_number_of_images(
    variant: str, drafts: Drafts, predictors: Predictors, tmp_path: Path
) -> None:
    draft, predictor = drafts(variant, "openvino"), predictors(variant)
    session = open_session(draft.write_with_tokens(tmp_path))
    assert session.inputs == ("input",)
    for count in (1, 3):
        images = images_of(predictor, count)
        outputs = session.run({"input": images.numpy()})
        outputs.pop("chosen")
        check_raw(outputs, predictor, images)


def test_a_complete_file_has_the_detections_of_predict_from_the_first_call_on(
    drafts: Drafts, predictors: Predictors, tmp_path: Path
) -> None:
    """With a conditional branch in the graph, the first result of a session was wrong."""
    draft, predictor = drafts("seg-pico", "openvino", postprocess=True), predictors("seg-pico")
    assert "If" not in {node.get_type_name() for node in draft.model.get_ops()}
    path = draft.write_with_tokens(tmp_path)
    for width, height in (*PHOTOGRAPHS, (100, 700)):
        pictures = [photograph(width, height, seed) if width > 400 else noise(width, height, seed) for seed in (1, 2)]
        session = open_session(path)
        for _ in range(2):
            outputs = session.run({"images": as_batch(pictures, "uint8").numpy()})
            check_detections(outputs, predictor, pictures, every_class=width > 400)
