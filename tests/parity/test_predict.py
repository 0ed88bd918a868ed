"""`predict` gives upstream's boxes for a picture that already has the shape. Upstream resizes in another way."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rfdetr_core.data.preprocess import IMAGENET_MEAN, IMAGENET_STD
from rfdetr_core.inference.predictor import Predictor
from rfdetr_core.model.config import Architecture
from tests.parity.reference import SMALL, pair, recorded_order, replayed_order
from tests.parity.test_forward_batches import SEGMENTER

from rfdetr.detr import RFDETR  # isort: skip - after the import that skips this module without upstream
from rfdetr.models.postprocess import PostProcess  # isort: skip

NAMES = ["a", "b", "c", "d", "e"]


def upstream_of(architecture: Architecture, network: Any) -> Any:
    """An object of upstream's class with this network and the attributes that its `predict` reads."""
    made = object.__new__(RFDETR)
    made.model_config = SimpleNamespace(
        patch_size=architecture.patch_size, num_windows=architecture.windows, num_channels=3
    )
    made.means, made.stds = IMAGENET_MEAN, IMAGENET_STD
    made._is_optimized_for_inference = made._has_warned_about_not_being_optimized_for_inference = False
    made.model = SimpleNamespace(
        model=network,
        resolution=architecture.resolution,
        device=torch.device("cpu"),
        inference_model=None,
        postprocess=PostProcess(num_select=architecture.queries),
        class_names=NAMES,
        args=SimpleNamespace(num_classes=architecture.classes),
    )
    return made


@pytest.mark.parametrize("shape", [None, (96, 96), (48, 80), (80, 48)])
@pytest.mark.parametrize("architecture", [SMALL, SEGMENTER], ids=["detector", "segmenter"])
def test_a_shape_gives_upstreams_detections(architecture: Architecture, shape: tuple[int, int] | None) -> None:
    both = pair(architecture, dtype=torch.float32)
    height, width = shape or (architecture.resolution,) * 2
    array = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    theirs, ours = upstream_of(architecture, both.upstream), Predictor(both.ours, architecture, NAMES, device="cpu")
    with recorded_order() as order, torch.inference_mode():
        expected = theirs.predict(array, 0.05, shape)
    with replayed_order(order):
        detections = ours.predict(array, 0.05, shape)
    assert len(detections) == len(expected) > 0
    assert np.array_equal(detections.class_id, expected.class_id)
    assert np.allclose(detections.confidence, expected.confidence, rtol=0, atol=1e-5)
    assert np.allclose(detections.xyxy, expected.xyxy, rtol=0, atol=1e-3)  # pixels
    assert (detections.mask is None) == (expected.mask is None)
    assert detections.mask is None or np.mean(detections.mask != expected.mask) < 1e-3
    assert detections.data.keys() == expected.data.keys()
    named = detections.class_id < len(
        NAMES
    )  # the row of the class head without a class: upstream's __background__, ours its number
    assert np.array_equal(detections.data["class_name"][named], expected.data["class_name"][named])
    assert np.array_equal(detections.data["source_shape"], expected.data["source_shape"])
    assert detections.data["source_shape"].dtype == expected.data["source_shape"].dtype
    assert detections.metadata.keys() == expected.metadata.keys()
    assert np.array_equal(detections.metadata["source_image"], expected.metadata["source_image"])
