from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rfdetr_core.api import model as api
from rfdetr_core.base.errors import UserError
from rfdetr_core.inference.conversion import to_rgb
from rfdetr_core.inference.optimised import OptimisedDetector
from rfdetr_core.inference.predictor import Predictor
from rfdetr_core.model.detector import Detector, build_detector
from tests.checkpoint.tiny import TINY
from tests.evaluation.scene import Scene
from tests.inference.test_predictor import same


def detector(resolution: int = 64, **changes: Any) -> Detector:
    """A detector with random weights, also for scales, norms, offsets and boxes, which start as zero or one."""
    torch.manual_seed(0)
    detector_model = build_detector(replace(TINY, resolution=resolution, queries=12, **changes)).eval()
    with torch.no_grad():
        for name, parameter in detector_model.named_parameters():
            if "scale" in name or parameter.ndim < 2:
                parameter += torch.randn_like(parameter) * 0.2
            elif "box_head" in name:
                parameter.normal_(0, 0.1)
    return detector_model


def optimised(detector: Detector, resolution: int, dtype: torch.dtype = torch.float32) -> OptimisedDetector:
    return OptimisedDetector(detector, resolution, dtype=dtype, batch_size=1, compiled=False)


@pytest.mark.parametrize("segmentation", [False, True])
@pytest.mark.parametrize("resolution", [64, 96])
def test_in_float32_an_optimised_detector_answers_as_the_detector(resolution: int, segmentation: bool) -> None:
    """For one of the sizes the position embeddings are resized. Precomputed products of weights round differently."""
    model = detector(resolution, segmentation=segmentation)
    images = torch.randn(3, 3, resolution, resolution)
    with torch.inference_mode():
        expected, actual = model(images), optimised(model, resolution)(images)
    assert torch.allclose(actual.logits, expected.logits, atol=1e-4)
    assert torch.allclose(actual.boxes, expected.boxes, atol=1e-4)
    assert (actual.masks is None) == (not segmentation)
    assert not segmentation or torch.allclose(actual.masks, expected.masks, atol=1e-3)
    assert expected.logits.std() > 0.1  # equal values would be close to any result
    assert expected.boxes.std() > 0.01


def test_in_bfloat16_the_encoders_maps_are_as_close_as_autocast_brings_them() -> None:
    """bfloat16 has 8 bits of mantissa: after a few blocks the error is about 1% of a map's spread.

    The error is compared with that of autocast. Twice that is allowed, because the copy also keeps the sums between the
    blocks in bfloat16.
    """
    model, images = detector(), torch.randn(4, 3, 64, 64)
    with torch.inference_mode():
        expected = model.projector(model.encoder(images))
        with torch.autocast("cpu", torch.bfloat16):
            usual = model.projector(model.encoder(images))
        fast = optimised(model, 64, torch.bfloat16).detector
        features = fast.projector(fast.encoder(images))
    for feature, other, exact in zip(features, usual, expected, strict=True):
        assert feature.dtype == torch.float32
        allowed = 2 * (other - exact).square().mean().sqrt()
        assert 0 < (feature - exact).square().mean().sqrt() < allowed < 0.1 * exact.std()


def test_an_optimised_predictor_finds_the_same_objects_as_the_predictor(scene: Scene, path: Path) -> None:
    exact = scene.predictor()
    expected = exact.predict(path, threshold=0.3)
    results = exact.optimised(compiled=True, batch_size=1, dtype="float32").predict(path, threshold=0.3)
    assert list(results.class_id) == list(expected.class_id)
    assert np.allclose(results.confidence, expected.confidence, atol=1e-4)
    assert np.allclose(results.xyxy, expected.xyxy, atol=1e-2)  # pixels
    assert same(exact.predict(path, threshold=0.3), expected)
    assert exact.optimised(compiled=False, batch_size=1, dtype="bfloat16").tensors == exact.tensors


@pytest.mark.parametrize(("count", "runs"), [(3, 1), (4, 1), (9, 3)])
def test_a_compiled_model_runs_batches_of_one_size(monkeypatch: pytest.MonkeyPatch, count: int, runs: int) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(torch, "compile", lambda run, **_: lambda images: (sizes.append(len(images)), run(images))[1])
    model, images = detector(segmentation=True), torch.randn(count, 3, 64, 64)
    filled = OptimisedDetector(model, 64, dtype=torch.float32, batch_size=4, compiled=True)
    with torch.inference_mode():
        actual, expected = filled(images), model(images)
    assert sizes == [4] * runs
    assert actual.logits.shape == expected.logits.shape
    assert actual.masks is not None
    assert actual.masks.shape == expected.masks.shape
    assert torch.allclose(actual.boxes, expected.boxes, atol=1e-4)


@pytest.fixture
def model(scene: Scene) -> Any:
    """The Python class with a checkpoint that belongs to no variant."""
    api_model = api.RFDETR.__new__(api.RFDETR)
    api_model._predictor, api_model._optimised = Predictor.from_checkpoint(scene.checkpoint, device="cpu"), None
    return api_model


def test_removing_the_optimised_model_gives_the_same_bits_again(model: Any, path: Path) -> None:
    expected = model.predict(path, threshold=0.3)
    weights = {name: value.clone() for name, value in model.model.state_dict().items()}
    model.optimize_for_inference(dtype=torch.bfloat16, batch_size=2)
    results = model.predict([path] * 3, threshold=0.3)
    assert len(results) == 3
    assert not same(results[0], expected)
    model.remove_optimized_model()
    assert same(model.predict(path, threshold=0.3), expected)
    model.remove_optimized_model()
    assert all(torch.equal(value, weights[name]) for name, value in model.model.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": torch.float16}, "dtype is 'float16': on cpu it must be one of float32, bfloat16"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"dtype": None}, "dtype is 'None'"),
        ({"batch_size": 0}, "batch_size is 0: it must be a whole number, 1 or more"),
        ({"batch_size": 2.0}, r"batch_size is 2\.0"),
        ({"batch_size": True}, "batch_size is True"),
    ],
)
def test_an_impossible_setting_is_refused_and_leaves_the_model_unchanged(
    model: Any, path: Path, settings: dict[str, Any], message: str
) -> None:
    expected = model.predict(path, threshold=0.3)
    with pytest.raises(UserError, match=message):
        model.inference(**settings)
    assert same(model.predict(path, threshold=0.3), expected)
    if "batch_size" in settings:
        with pytest.raises(UserError, match=message):
            model.predict(path, **settings)


def test_batches_by_keyword_are_those_of_the_predictor(scene: Scene, model: Any) -> None:
    paths = [scene.image(image) for image in scene.annotations()["images"]]
    alone = model.predict(paths, threshold=0.3)
    assert all(same(first, other) for first, other in zip(model.predict(paths, 0.3, batch_size=1), alone, strict=True))
    expected = scene.predictor(batch_size=4).predict(paths, threshold=0.3)
    results = model.predict(paths, threshold=0.3, batch_size=4)
    assert all(same(first, other) for first, other in zip(results, expected, strict=True))


def test_an_image_that_cannot_be_read_is_named_after_the_results_of_earlier_images(model: Any, path: Path) -> None:
    images: list[Any] = [path, path, "nowhere/no.jpg", path]
    results = model._predictor.detect(images, 0.3, load=to_rgb)
    assert len([next(results), next(results)]) == 2
    with pytest.raises(UserError, match=r"nowhere/no\.jpg"):
        next(results)


def test_images_of_the_callers_own_iterator_are_used_before_the_next_is_asked_for(model: Any) -> None:
    """Such an iterator may close each picture before the next one, or read from a camera."""
    taken: list[int] = []

    def pictures() -> Iterator[Image.Image]:
        for number in range(4):
            with Image.new("RGB", (20, 10)) as picture:
                taken.append(number)
                yield picture

    results = model._predictor.detect(pictures(), 0.3)
    for number in range(4):
        next(results)
        assert taken == list(range(number + 1))
