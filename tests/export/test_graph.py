"""The exported graphs as torch modules: the resize equals Pillow's, the detections equal those of `predict`."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rfdetr_core.export.graph import CompleteGraph, RawGraph, resize_as_pillow
from rfdetr_core.inference.predictor import Predictor
from tests.export.small import PHOTOGRAPHS, as_batch, check_detections, make_predictor, noise, photograph


def as_planes(picture: Image.Image) -> torch.Tensor:
    """(1, 3, H, W) float32, of whole numbers."""
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float()


def by_pillow(picture: Image.Image, side: int) -> torch.Tensor:
    return as_planes(picture.resize((side, side), Image.Resampling.BILINEAR))


SIZES = (
    (64, 64), (65, 64), (64, 63), (1, 1), (1, 200), (200, 1), (640, 480), (480, 640), (33, 900), (900, 33), (1024, 64),
    (64, 1024), (1024, 1024), (127, 129), (129, 127), (128, 100), (100, 128), (63, 31), (500, 63), (63, 500),
)  # fmt: skip


@pytest.mark.parametrize("branches", [True, False])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_resize_has_pillows_bits(width: int, height: int, *, branches: bool) -> None:
    """Pillow 13 chooses the order of its passes by the size. Older versions do not, so they differ for tall images."""
    picture = noise(width, height)
    assert torch.equal(resize_as_pillow(as_planes(picture), 64, branches=branches), by_pillow(picture, 64))


@settings(max_examples=40)
@given(width=st.integers(1, 400), height=st.integers(1, 400), side=st.integers(25, 90), seed=st.integers(0, 9))
def test_the_resize_has_pillows_bits_for_any_sizes(width: int, height: int, side: int, seed: int) -> None:
    picture = noise(width, height, seed)
    assert torch.equal(resize_as_pillow(as_planes(picture), side, branches=False), by_pillow(picture, side))


@pytest.mark.parametrize(("width", "height", "first"), [(640, 480, "rows"), (480, 640, "rows"), (100, 640, "columns")])
def test_pillow_uses_either_order_of_the_passes_and_they_differ(width: int, height: int, first: str) -> None:
    """Otherwise the tests above would pass without the rule that chooses the order."""
    picture, equal = noise(width, height), []
    for middle in ((64, height), (width, 64)):
        halfway = picture.resize(middle, Image.Resampling.BILINEAR)
        equal.append(torch.equal(by_pillow(halfway, 64), by_pillow(picture, 64)))
    assert equal == [first == "rows", first == "columns"]


@pytest.mark.parametrize("side", [2000, 3000])
def test_a_larger_reduction_than_a_sixteenth_is_at_most_one_level_off(side: int) -> None:
    picture = noise(side, side)
    difference = resize_as_pillow(as_planes(picture), 64, branches=False) - by_pillow(picture, 64)
    assert float(difference.abs().max()) <= 1


@pytest.fixture(scope="module", params=["pico", "seg-pico"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return make_predictor(tmp_path_factory.mktemp("models"), request.param)


@pytest.mark.parametrize("kind", ["uint8", "float"])
@pytest.mark.parametrize(("width", "height"), PHOTOGRAPHS)
def test_the_complete_graph_has_the_detections_of_predict(
    model: Predictor, width: int, height: int, kind: Literal["uint8", "float"]
) -> None:
    graph = CompleteGraph(model.detector, model.architecture, kind)
    pictures = [photograph(width, height, seed) for seed in (1, 2)]
    with torch.no_grad():
        outputs = dict(zip(graph.outputs, graph(as_batch(pictures, kind)), strict=True))
    assert outputs["classes"].dtype == torch.int64
    check_detections(outputs, model, pictures)


def test_the_raw_graph_has_the_detectors_tensors(model: Predictor) -> None:
    graph, side = RawGraph(model.detector, model.architecture), model.architecture.resolution
    images = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        outputs, expected = dict(zip(graph.outputs, graph(images), strict=True)), model.detector(images)
    assert [*outputs] == ["dets", "labels", "masks"][: 2 + model.architecture.segmentation]
    assert torch.allclose(outputs["dets"], expected.boxes, atol=1e-5)
    assert torch.allclose(outputs["labels"], expected.logits, atol=1e-4)
    if model.architecture.segmentation:
        assert torch.allclose(outputs["masks"], expected.masks, atol=1e-3)


def test_making_a_graph_does_not_change_the_detector(model: Predictor) -> None:
    before = {name: value.clone() for name, value in model.detector.state_dict().items()}
    CompleteGraph(model.detector, model.architecture, "uint8")
    after = model.detector.state_dict()
    assert [*before] == [*after]
    assert all(torch.equal(value, after[name]) for name, value in before.items())
