"""Outputs equal those recorded from upstream, so no upstream is needed. Recorded by `python -m tests.parity.record`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rfdetr_core.ops.structures import MaskFactors
from tests.small import SMALL, random_images, small_detector

RECORD = Path(__file__).with_name("recorded.json")
ARCHITECTURES = {
    "detector": SMALL,
    "two-levels": replace(SMALL, projector_scales=("P3", "P5"), points=4),
    "segmenter": replace(SMALL, segmentation=True),
}
IMAGES = random_images(2, 3, 64, 64, dtype=torch.float64)


def digest(values: Tensor) -> list[float]:
    """Mean, standard deviation and four values."""
    values = values.flatten()
    picked = values[:: max(len(values) // 3, 1)][:4]
    return [round(value, 9) for value in [values.mean().item(), values.std().item(), *picked.tolist()]]


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.inference_mode()
def test_outputs_equal_those_recorded_from_upstream(name: str, mode: str) -> None:
    output = small_detector(ARCHITECTURES[name]).train(mode == "train")(IMAGES)
    digests = {"logits": digest(output.logits), "boxes": digest(output.boxes)}
    if output.masks is not None:
        masks = output.masks.dense() if isinstance(output.masks, MaskFactors) else output.masks
        digests["masks"] = digest(masks)
    recorded = json.loads(RECORD.read_text())[name][mode]
    assert digests.keys() == recorded.keys()
    for key, values in digests.items():
        assert values == pytest.approx(recorded[key], abs=1e-6)
