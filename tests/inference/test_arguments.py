"""The arguments of upstream's `predict` and `inference`: their effect here, and values that are errors."""

from __future__ import annotations

import gc
import inspect
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rfdetr_core.api import model as api
from rfdetr_core.base.errors import UserError
from rfdetr_core.data.preprocess import normalise
from rfdetr_core.inference.arguments import PREDICT, input_size
from rfdetr_core.inference.conversion import to_rgb
from rfdetr_core.inference.predictor import BasePredictor, Predictor
from rfdetr_core.model.config import VARIANTS
from rfdetr_core.model.postprocess import postprocess
from tests.evaluation.scene import Scene
from tests.inference.test_predictor import same


@pytest.fixture
def model(scene: Scene) -> Any:
    """The Python class with a checkpoint that belongs to no variant."""
    model = api.RFDETR.__new__(api.RFDETR)
    model._predictor, model._optimised = Predictor.from_checkpoint(scene.checkpoint, device="cpu"), None
    return model


@pytest.mark.parametrize("shape", [(64, 64), (48, 96), [np.int64(32), np.int64(48)]])
def test_an_image_of_a_shape_goes_through_the_model_as_it_is(predictor: Predictor, shape: Any) -> None:
    height, width = map(int, shape)
    array = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    with torch.inference_mode():
        output = predictor.detector(normalise(torch.from_numpy(array).permute(2, 0, 1)[None]))
        (expected,) = postprocess(output, [(height, width)], predictor.architecture.queries, 0.3)
    detections = predictor.predict(array, 0.3, shape)
    assert len(detections)
    assert np.array_equal(detections.xyxy, expected.boxes)
    assert np.array_equal(detections.confidence, expected.scores)
    assert np.array_equal(detections.mask, expected.masks)
    assert not same(predictor.predict(array, 0.3), detections)


def test_the_shape_of_the_resolution_changes_nothing_and_boxes_are_in_pixels_of_the_image(
    predictor: Predictor, path: Path
) -> None:
    side, picture = predictor.architecture.resolution, to_rgb(path)
    assert same(predictor.predict(path, 0.3, (side, side)), predictor.predict(path, 0.3))
    detections = predictor.predict([path, path], 0.0, shape=(2 * side, side), batch_size=2)[1]
    assert detections.xyxy[:, 2].max() > side
    assert (detections.xyxy <= [picture.width, picture.height] * 2).all()
    assert detections.mask.shape[1:] == (picture.height, picture.width)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (512, "shape is 512: it must be two whole numbers"),
        ((512,), r"it must be two whole numbers, \(height, width\)"),
        ((256, 256, 3), "it must be two whole numbers"),
        ((True, 256), "it must be two whole numbers"),
        ((256.0, 256), "it must be two whole numbers"),
        (("256", 256), "it must be two whole numbers"),
        ("ab", "it must be two whole numbers"),
        ((0, 384), "its height must be from 1 to 4096 .* Nearest: 32"),
        ((-32, 384), "its height must be .* Nearest: 32"),
        ((384, 500), "its width must be .* patch_size 16 x windows 2 = 32 of RFDETRNano. Nearest: 480 or 512"),
        ((384, 1_000_000), "its width must be .* Nearest: 4096"),
    ],
)
def test_a_shape_that_the_model_cannot_take_names_the_nearest(shape: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        input_size(shape, VARIANTS["nano"])


def test_the_nearest_sides_are_taken() -> None:
    for architecture in VARIANTS.values():
        stride = architecture.stride
        with pytest.raises(UserError) as error:
            input_size((stride, stride + 1), architecture)
        near = [int(side) for side in str(error.value).rpartition("Nearest: ")[2].rstrip(".").split(" or ")]
        assert near == [stride, 2 * stride]
        assert [input_size((stride, side), architecture) for side in near] == [(stride, side) for side in near]


def test_only_the_patch_size_of_the_model_is_accepted(predictor: Predictor, path: Path) -> None:
    assert same(predictor.predict(path, 0.3, None, 8), predictor.predict(path, 0.3))
    for bad_size in (16, 0, "8", True):
        with pytest.raises(UserError, match=f"patch_size is {bad_size!r}, but TinyDetector has 8"):
            predictor.predict(path, 0.3, patch_size=bad_size)


def test_an_optimised_copy_takes_no_other_shape_until_it_is_removed(model: Any, path: Path) -> None:
    expected = model.predict(path, 0.3, (64, 32))
    model.inference()
    with pytest.raises(
        UserError,
        match=r"32 x 32 pixels are needed: the optimised copy only takes the resolution.*remove_optimized_model",
    ):
        model.predict(path, 0.3, (64, 32))
    assert len(model.predict(path, 0.3, (32, 32)))
    model.remove_optimized_model()
    assert same(model.predict(path, 0.3, (64, 32)), expected)


def test_the_source_image_is_the_upright_image_in_rgb(predictor: Predictor, path: Path, tmp_path: Path) -> None:
    upright = to_rgb(path)
    turned, exif = upright.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6  # stored turned by 90 degrees
    turned.save(tmp_path / "turned.png", exif=exif)
    array = np.array(upright)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    kinds: list[Any] = [path, tmp_path / "turned.png", upright, array, array[:, ::-1][:, ::-1], tensor, tensor / 255]
    grey = upright.convert("L")
    for detections, expected in zip(
        predictor.predict([*kinds, grey], 0.3), [array] * 7 + [np.array(grey.convert("RGB"))], strict=True
    ):
        source = detections.metadata["source_image"]
        assert source.dtype == np.uint8
        assert np.array_equal(source, expected)
        assert np.array_equal(detections.data["source_shape"], [expected.shape[:2]] * len(detections))
        assert np.array_equal(detections[:1].metadata["source_image"], expected)


def test_the_source_image_is_the_callers_to_draw_on(predictor: Predictor, path: Path) -> None:
    array = np.array(to_rgb(path))
    before = array.copy()
    detections = predictor.predict(array, 0.3)
    array[:] = 0  # a camera's buffer is written again
    assert np.array_equal(detections.metadata["source_image"], before)
    for image in (path, before, to_rgb(path)):
        predictor.predict(image, 0.3).metadata["source_image"][:] = 7


def test_no_objects_have_a_source_shape_and_image(predictor: Predictor, path: Path) -> None:
    detections = predictor.predict(path, 1.0)
    assert detections.data["source_shape"].shape == (0, 2)
    assert np.array_equal(detections.metadata["source_image"], to_rgb(path))


def test_without_the_source_image_no_image_is_kept(
    predictor: Predictor, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    references: list[weakref.ref[Image.Image]] = []

    def watched(image: Any) -> Image.Image:
        picture = to_rgb(image)
        references.append(weakref.ref(picture))
        return picture

    monkeypatch.setattr("rfdetr_core.inference.predictor.to_rgb", watched)
    results = predictor.predict([path] * 3, 0.3, include_source_image=False)
    gc.collect()
    assert [reference() for reference in references] == [None] * 3
    assert [detections.metadata for detections in results] == [{}] * 3
    assert same(results[0], predictor.predict(path, 0.3))
    assert results[0].data.keys() == predictor.predict(path, 0.3).data.keys() == {"class_name", "source_shape"}


def test_a_predicted_file_of_an_api_model_takes_upstreams_positions(model: Any, path: Path) -> None:
    results = model.predict(path, 0.3, (64, 32), 8, False)
    assert same(results, model.predict(path, threshold=0.3, shape=(64, 32)))
    assert not results.metadata


def test_the_keywords_that_are_named_are_those_of_predict() -> None:
    for function in (api.RFDETR.predict, BasePredictor.predict):
        parameters = inspect.signature(function).parameters
        assert tuple(name for name in parameters if name not in ("self", "unknown")) == PREDICT


@pytest.mark.parametrize(
    ("keyword", "message"),
    [
        ("confidence", r"predict\(\) has no keyword confidence\. Did you mean threshold\? It has: images, threshold,"),
        ("treshold", "Did you mean threshold"),
        ("resolution", "Did you mean shape"),
        ("iou", r"no keyword iou\. It has: images, threshold, shape, patch_size, include_source_image, batch_size\."),
    ],
)
def test_an_unknown_keyword_is_an_error_that_names_a_similar_one(
    model: Any, path: Path, keyword: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        model.predict(path, **{keyword: 1})


def test_upstreams_keywords_of_inference_are_answered(
    model: Any, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = model.predict(path, 0.3)
    with pytest.raises(
        UserError, match=r"inplace is True: the model must stay in addition to its optimised copy.*Leave inplace out"
    ):
        model.inference(compile=False, inplace=True)
    with pytest.raises(UserError, match="compile_backend is 'tensorrt': it must be inductor or torchscript"):
        model.inference(compile_backend="tensorrt")
    assert same(model.predict(path, 0.3), expected)
    capsys.readouterr()
    model.optimize_for_inference(inplace=False, compile_backend="torchscript")
    assert capsys.readouterr().err == "compile_backend torchscript: on cpu nothing is compiled\n"
    assert model.is_optimized_inplace is False
    assert model._optimised is not None
