from __future__ import annotations

import json
from pathlib import Path

import pytest

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.files import sha256_file
from rfdetr_core.checkpoint.files import read_checkpoint, tensor_digest
from rfdetr_core.evaluation.comparison import compare_models
from rfdetr_core.evaluation.files import evaluate_file
from rfdetr_core.evaluation.predictions import predict_files
from tests.evaluation.scene import Scene, make_scene
from tests.inference.exporting import write_onnx


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("project")
    scene = make_scene(folder)
    (folder / "params.yaml").write_text("data: {dir: dataset}\nevaluate: {pictures: 1}\n")
    write_onnx(scene.checkpoint, folder / "model.onnx")
    return scene


def test_an_exported_file_has_the_scores_of_its_checkpoint(
    project: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.checkpoint.parent)
    metrics = {}
    for name, runtime in (("model.pth", "torch"), ("model.onnx", "onnxruntime")):
        lines = list(evaluate_file(Path(name), "test", tmp_path / name, device="cpu"))
        assert lines[0].startswith(f"{name}: TinyDetector in {runtime} ")
        assert lines[1].startswith("test: 5 images, ")
        numbers, model = (json.loads((tmp_path / name / f"{part}.json").read_text()) for part in ("metrics", "model"))
        assert f"{numbers['map']:.4f}" in lines[3]
        assert model["sha256"] == sha256_file(Path(name))
        assert model["tensors"] == tensor_digest(read_checkpoint(project.checkpoint).weights)
        assert (model["precision"], model["device"]) == ("f32", "cpu")
        metrics[name] = numbers
    assert 0 < metrics["model.pth"]["map"] < 1
    assert metrics["model.onnx"] == pytest.approx(metrics["model.pth"], abs=1e-5, nan_ok=True)


def test_a_file_that_is_not_a_model_is_named(project: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.checkpoint.parent)
    for name in ("none.pth", "none.onnx"):
        with pytest.raises(UserError, match=name):
            list(evaluate_file(Path(name), "test", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_predict_and_compare_take_exported_files_like_checkpoints(project: Scene, tmp_path: Path) -> None:
    exported = project.checkpoint.with_name("model.onnx")
    picture = project.image(project.annotations()["images"][0])
    detections = []
    for model in (project.checkpoint, exported):
        list(predict_files(model, [picture], tmp_path / model.name, 0.3, device="cpu"))
        content = json.loads((tmp_path / model.name / f"{picture.stem}.json").read_text())
        detections.append([(row["class_name"], pytest.approx(row["xyxy"], abs=0.01)) for row in content["detections"]])
    assert detections[0]
    assert detections[1] == [(name, [*box.expected]) for name, box in detections[0]]
    both = compare_models(project.checkpoint, exported, project.where, "test", 10)
    assert both.conclusion == "same weights"
    assert both.differences["map"] == pytest.approx(0, abs=1e-3)
