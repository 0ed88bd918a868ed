from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rfdetr_core.base.errors import UserError
from rfdetr_core.data.batching import collate
from rfdetr_core.data.dataset import DetectionDataset
from rfdetr_core.data.preprocess import preprocess
from rfdetr_core.data.samples import read_samples
from rfdetr_core.inference.conversion import to_rgb, to_supervision
from rfdetr_core.inference.predictor import Predictor, find_device
from rfdetr_core.ops.structures import Detections
from tests.evaluation.scene import NAMES, Scene


def same(first: Any, other: Any) -> bool:
    return bool(
        np.array_equal(first.xyxy, other.xyxy)
        and np.array_equal(first.confidence, other.confidence)
        and np.array_equal(first.class_id, other.class_id)
        and np.array_equal(first.mask, other.mask)
        and np.array_equal(first.data["class_name"], other.data["class_name"])
    )


def test_every_kind_of_the_same_image_gives_the_same_detections(predictor: Predictor, path: Path) -> None:
    picture = Image.open(path)
    array = np.asarray(picture.convert("RGB"))
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    kinds: list[Any] = [str(path), path, picture, array, array[:, ::-1][:, ::-1], tensor, tensor.float() / 255]
    expected = predictor.predict(path, threshold=0.3)
    assert len(expected)
    assert all(same(predictor.predict(kind, threshold=0.3), expected) for kind in kinds)
    assert all(same(detections, expected) for detections in predictor.predict(kinds, threshold=0.3))


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_a_list_gives_what_its_images_give_alone(scene: Scene, batch_size: int) -> None:
    paths = [scene.image(image) for image in scene.annotations()["images"]]
    together = scene.predictor(batch_size=batch_size).predict(paths, threshold=0.3)
    assert isinstance(together, list)
    for detections, path in zip(together, paths, strict=True):
        alone = scene.predictor().predict(path, threshold=0.3)
        if batch_size == 1:
            assert same(detections, alone)
        else:
            assert np.allclose(detections.xyxy, alone.xyxy, atol=1e-4)
            assert np.allclose(detections.confidence, alone.confidence, atol=1e-6)
    assert scene.predictor().predict([]) == []


def test_only_scores_above_the_threshold_are_kept(predictor: Predictor, path: Path) -> None:
    everything = predictor.predict(path, threshold=0.0)
    assert len(everything) == predictor.architecture.queries
    assert list(everything.confidence) == sorted(everything.confidence, reverse=True)
    middle = float(everything.confidence[4])
    assert len(predictor.predict(path, threshold=middle)) == sum(everything.confidence > middle)
    assert len(predictor.predict(path, threshold=1.0)) == 0
    assert predictor.predict(path, threshold=1.0).xyxy.shape == (0, 4)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan"), float("inf"), "0.5", True])
def test_a_threshold_beyond_0_to_1_is_refused(predictor: Predictor, path: Path, threshold: Any) -> None:
    with pytest.raises(UserError, match="threshold is"):
        predictor.predict(path, threshold)
    assert len(predictor.predict(path, np.float32(0.3))) == len(predictor.predict(path, float(np.float32(0.3))))


@pytest.mark.parametrize("device", ["gpu", "cuda", "cuda:0", "cuda:x", "mps", "meta", "", None, 0])
def test_a_missing_device_is_refused_before_weights_are_read(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"device '.*' is not available.*here: cpu\."):
        Predictor.from_checkpoint(Path("none.pth"), device=device)


def test_an_unknown_device_is_an_error_that_names_the_existing_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert [find_device(name) for name in ("auto", "cuda:1", "mps", "cpu")] == ["cuda", "cuda:1", "mps", "cpu"]
    with pytest.raises(UserError, match="cpu, cuda, cuda:0, cuda:1, mps"):
        find_device("cuda:2")


def test_boxes_and_masks_are_in_pixels_of_the_image(scene: Scene, predictor: Predictor) -> None:
    for image in scene.annotations()["images"]:
        results = predictor.predict(scene.image(image), threshold=0.0)
        assert (results.xyxy >= 0).all()
        assert (results.xyxy <= [image["width"], image["height"]] * 2).all()
        assert results.mask.shape == (len(results), image["height"], image["width"])
        assert results.mask.dtype == bool


def test_a_rotated_photograph_is_turned_upright(predictor: Predictor, path: Path, tmp_path: Path) -> None:
    upright = Image.open(path).convert("RGB")
    turned, exif = upright.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6  # stored turned by 90 degrees
    turned.save(tmp_path / "turned.png", exif=exif)
    expected = predictor.predict(upright, threshold=0.0)
    assert same(predictor.predict(tmp_path / "turned.png", threshold=0.0), expected)
    assert same(predictor.predict(Image.open(tmp_path / "turned.png"), threshold=0.0), expected)


def test_prediction_prepares_images_as_validation_does(scene: Scene) -> None:
    paths = scene.where
    samples = read_samples(paths.annotations / "test.json", paths.manifests / "test.json")
    dataset = DetectionDataset(samples, paths.dataset, 32)
    validation = collate([dataset[index] for index in range(len(samples))]).normalised().images
    for image, sample in zip(validation, samples, strict=True):
        assert torch.equal(image, preprocess(to_rgb(paths.dataset / sample.path), 32))


def test_class_names_are_those_of_the_ids(predictor: Predictor, path: Path) -> None:
    detections = predictor.predict(path, threshold=0.0)
    table = (*NAMES, "3")  # the row beyond the classes has no name
    assert list(detections.data["class_name"]) == [table[index] for index in detections.class_id]
    assert 3 in detections.class_id


def test_no_detections_convert() -> None:
    none = Detections(torch.zeros(0), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), torch.zeros(0, 5, 6) > 0)
    assert len(to_supervision(none, NAMES)) == 0


def test_prediction_leaves_the_detector_as_it_was(predictor: Predictor, path: Path) -> None:
    expected = predictor.predict(path, threshold=0.3)
    predictor.detector.train()
    assert same(predictor.predict(path, threshold=0.3), expected)
    assert predictor.detector.training
    predictor.detector.eval()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((3, 4, 4), np.uint8), r"\(3, 4, 4\)"),
        (np.zeros((4, 4), np.uint8), r"\(4, 4\)"),
        (torch.zeros(4, 4, 3), r"\(4, 4, 3\)"),
        (torch.full((3, 4, 4), 1.5), "0..1"),
        (torch.full((3, 4, 4), torch.nan), "0..1"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "uint8"),
        ("nowhere/no.jpg", r"nowhere/no\.jpg"),
        (".", "cannot be read"),
        (7, "int"),
        (None, "NoneType"),
    ],
)
def test_an_input_that_is_not_an_image_is_named(predictor: Predictor, image: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        predictor.predict(image)


def test_a_damaged_file_is_named(predictor: Predictor, path: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(path.read_bytes()[:200])
    (tmp_path / "text.png").write_text("no image")
    for name in ("cut.png", "text.png"):
        with pytest.raises(UserError, match=name):
            predictor.predict(tmp_path / name)
