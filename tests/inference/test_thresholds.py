from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rfdetr_core.api import model as api
from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.files import read_checkpoint, tensor_digest, write_checkpoint
from rfdetr_core.cli import main
from rfdetr_core.inference.predictor import Predictor
from rfdetr_core.inference.thresholds import (
    NAME,
    PROJECT_FILE,
    OperatingPoint,
    Thresholds,
    Weights,
    recommended_thresholds,
)
from tests.evaluation.scene import NAMES, Scene
from tests.inference.test_predictor import same

BY_CLASS = dict(zip(NAMES, (0.2, 0.35, 0.5), strict=True))


def thresholds(checkpoint: Path, by_class: Mapping[str, float | None] = BY_CLASS, **changes: Any) -> Thresholds:
    """The thresholds that a report recommends for a model file."""

    def point(value: float | None) -> OperatingPoint:
        return OperatingPoint(threshold=value, precision=0.75, recall=None, f1=0.5, reached=value != 0.5)

    content = {"model": Weights(tensors=tensor_digest(read_checkpoint(checkpoint).weights)), "split": "test"}
    content |= {"images": 5, "of": "masks", "target": {"precision": 0.9}, "all": point(0.3)}
    content |= {"classes": {name: point(value) for name, value in by_class.items()}}
    return Thresholds(**content | changes)


def write(path: Path, content: Thresholds) -> Path:
    files.write_json(path, content.to_dict())
    return path


def predicted(*arguments: object, output: Path) -> dict[str, Any]:
    """The JSON that the command predict writes for its single image."""
    main(["predict", *map(str, arguments), "--output", str(output), "--device", "cpu"])
    (file,) = output.glob("*.json")
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def test_the_file_reads_back_as_it_was_written(scene: Scene, tmp_path: Path) -> None:
    content = thresholds(scene.checkpoint)
    assert Thresholds.read(write(tmp_path / NAME, content)) == content
    written = json.loads((tmp_path / NAME).read_text())
    assert list(written) == ["schema", "model", "split", "images", "of", "target", "all", "classes"]
    assert written["schema"] == 1
    assert written["model"] == {"tensors": tensor_digest(read_checkpoint(scene.checkpoint).weights)}
    expected = {"threshold": 0.2, "precision": 0.75, "recall": None, "f1": 0.5, "reached": True}
    assert written["classes"]["class0"] == expected


def test_a_detection_is_kept_where_its_score_is_above_the_threshold_of_its_class(
    predictor: Predictor, path: Path
) -> None:
    everything = predictor.predict(path, threshold=0.0)
    middle = {name: everything.confidence[everything.class_id == index] for index, name in enumerate(NAMES)}
    # Each threshold equals a score of its class. This score is not above the threshold.
    by_class = {name: float(np.sort(scores)[len(scores) // 2]) for name, scores in middle.items()}
    limits = np.array([*by_class.values(), max(by_class.values())], np.float32)  # the last: a row without a class
    expected = everything[everything.confidence > limits[everything.class_id]]
    assert 0 < len(expected) < len(everything)
    assert same(predictor.predict(path, threshold=by_class), expected)


@pytest.mark.parametrize("number", [0, 0.3, 1 / 3, 1, np.float32(0.3)])
def test_one_threshold_for_every_class_gives_what_the_number_gives(
    predictor: Predictor, path: Path, number: Any
) -> None:
    by_class = predictor.predict(path, threshold=dict.fromkeys(NAMES, number))
    assert same(by_class, predictor.predict(path, threshold=number))
    for score in predictor.predict(path, threshold=0.0).confidence[:4]:
        by_class = predictor.predict(path, threshold=dict.fromkeys(NAMES, float(score)))
        assert same(by_class, predictor.predict(path, threshold=float(score)))


@pytest.mark.parametrize(
    ("by_class", "message"),
    [
        ({}, "only one has class0, class1, class2"),
        ({"class0": 0.5, "class1": 0.5}, "only one has class2"),
        (BY_CLASS | {"car": 0.5}, "only one has car"),
        (BY_CLASS | {7: 0.5}, "only one has 7"),
        (BY_CLASS | {"class1": 1.5}, "threshold of 'class1' is 1.5: it must be a number from 0 to 1"),
        (BY_CLASS | {"class1": "0.5"}, "threshold of 'class1' is '0.5'"),
        (BY_CLASS | {"class1": True}, "threshold of 'class1' is True"),
        (BY_CLASS | {"class1": None}, "threshold of 'class1' is None"),
    ],
)
def test_a_mapping_that_is_not_for_the_classes_of_the_model_is_refused(
    predictor: Predictor, path: Path, by_class: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        predictor.predict(path, threshold=by_class)


def test_the_command_keeps_the_same_detections_as_python_and_writes_its_thresholds(
    scene: Scene, predictor: Predictor, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "some.json", thresholds(scene.checkpoint))
    content = predicted(scene.checkpoint, path, "--thresholds", file, output=tmp_path / "found")
    assert f"thresholds 0.2 to 0.5 by class for precision 0.9 (not reached: class2): {file}" in capsys.readouterr().out
    assert content["threshold"] == BY_CLASS
    expected = predictor.predict(path, threshold=BY_CLASS)
    assert len(expected)
    assert [detection["xyxy"] for detection in content["detections"]] == expected.xyxy.tolist()
    loaded = predict_of(scene.checkpoint)
    for threshold in (file, str(file), BY_CLASS):
        assert same(loaded(path, threshold=threshold), expected)
    assert predicted(scene.checkpoint, path, output=tmp_path / "found")["threshold"] == 0.5  # replaces earlier results


def predict_of(checkpoint: Path) -> Any:
    """`predict` of the Python class with a checkpoint that belongs to no variant."""
    model = api.RFDETR.__new__(api.RFDETR)
    model._predictor = Predictor.from_checkpoint(checkpoint, device="cpu")
    return model.predict


def test_the_thresholds_of_one_class_give_what_the_number_gives(scene: Scene, path: Path, tmp_path: Path) -> None:
    three, model = read_checkpoint(scene.checkpoint), tmp_path / "one.pth"
    weights = {name: value[[0, 3]] if "class_head" in name else value for name, value in three.weights.items()}
    args, config = three.args | {"class_names": ["tree"], "num_classes": 1}, three.model_config | {"num_classes": 1}
    write_checkpoint(model, replace(three, weights=weights, args=args, model_config=config))
    file = write(tmp_path / NAME, thresholds(model, {"tree": 0.25}))
    content = predicted(model, path, "--thresholds", file, output=tmp_path / "file")
    number = predicted(model, path, "--threshold", "0.25", output=tmp_path / "number")
    assert content["detections"] == number["detections"] != []
    assert (content["threshold"], number["threshold"]) == ({"tree": 0.25}, 0.25)
    (drawn, expected) = (next((tmp_path / name).glob("*.png")).read_bytes() for name in ("file", "number"))
    assert drawn == expected


def test_recommended_thresholds_are_next_to_the_checkpoint_or_in_its_project(
    scene: Scene, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    model, copy, unrelated = project / "output/best.pth", project / "kept/first/copy.pth", elsewhere / "copy.pth"
    for place in (model, copy, unrelated):
        place.parent.mkdir(parents=True)
        shutil.copy(scene.checkpoint, place)
    (project / "dvc.yaml").touch()
    for place in (model, copy, unrelated):
        with pytest.raises(UserError, match=r"has no recommended thresholds: .*thresholds\.json do not exist") as error:
            recommended_thresholds("recommended", Predictor.from_checkpoint(place, device="cpu"))
        assert str(place.with_name(NAME)) in str(error.value)
        assert (str(project / PROJECT_FILE) in str(error.value)) == (place is not unrelated)
        assert "dvc repro" in str(error.value)
    write(project / PROJECT_FILE, thresholds(scene.checkpoint))
    write(unrelated.with_name(NAME), thresholds(scene.checkpoint, BY_CLASS | {"class0": 0.1}))
    for place, first in ((model, 0.2), (copy, 0.2), (unrelated, 0.1)):
        recommendation = recommended_thresholds("recommended", Predictor.from_checkpoint(place, device="cpu"))
        assert recommendation.by_class == BY_CLASS | {"class0": first}
        expected = predict_of(place)(path, threshold=recommendation.by_class)
        assert same(predict_of(place)(path, threshold="recommended"), expected)
    write(model.with_name(NAME), thresholds(scene.checkpoint, dict.fromkeys(NAMES, 0.4), target=None))
    content = predicted(model, path, "--thresholds", "recommended", output=tmp_path / "found")
    assert content["threshold"] == dict.fromkeys(NAMES, 0.4)
    assert f"threshold 0.4 for the best F1: {model.with_name(NAME)}" in capsys.readouterr().out


def test_thresholds_of_another_model_or_of_other_classes_are_refused(scene: Scene, tmp_path: Path) -> None:
    checkpoint, other = read_checkpoint(scene.checkpoint), tmp_path / "other.pth"
    changed = checkpoint.weights | {"class_head.bias": checkpoint.weights["class_head.bias"] + 1}
    write_checkpoint(other, replace(checkpoint, weights=changed))
    file = write(tmp_path / NAME, thresholds(scene.checkpoint))
    digests = [tensor_digest(weights)[:12] for weights in (checkpoint.weights, changed)]
    predictor = Predictor.from_checkpoint(other, device="cpu")
    with pytest.raises(UserError, match=rf"another model: .* digest {digests[0]}\S+ but those of .* have {digests[1]}"):
        recommended_thresholds(file, predictor)
    write(file, thresholds(other, {"class0": 0.5, "class1": 0.5, "car": 0.5}))
    with pytest.raises(UserError, match="only one has car, class2"):
        recommended_thresholds(file, predictor)
    write(file, thresholds(other, BY_CLASS | {"class1": None}))
    with pytest.raises(UserError, match=r"has no threshold for class1: nothing could be measured"):
        recommended_thresholds(file, predictor)


def test_a_checkpoint_saved_again_keeps_its_thresholds_and_a_new_model_has_none(scene: Scene, tmp_path: Path) -> None:
    again = tmp_path / "again.pth"
    write_checkpoint(again, replace(read_checkpoint(scene.checkpoint), threshold=0.4, epoch=7))
    file = write(tmp_path / NAME, thresholds(scene.checkpoint))
    assert recommended_thresholds(file, Predictor.from_checkpoint(again, device="cpu")).by_class == BY_CLASS
    model = api.RFDETRPico(num_classes=2, resolution=64, device="cpu")
    with pytest.raises(UserError, match="needs a model that was read from a file"):
        model.predict(np.zeros((8, 8, 3), np.uint8), threshold="recommended")
    with pytest.raises(UserError, match=r"threshold is '0\.5': it must be .*--threshold 0\.5 on the command line"):
        model.predict(np.zeros((8, 8, 3), np.uint8), threshold="0.5")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("schema", 2, "schema: Input should be 1, found 2"),
        ("model", None, "model: it must be a mapping, found None"),
        ("model.tensors", "0" * 63, "model.tensors: "),
        ("of", "keypoints", "of: "),
        ("images", -1, "images: -1 is less than 0"),
        ("target", {"f2": 0.5}, "target.f2"),
        ("target", {}, "target: "),
        ("target", {"recall": 0.5, "precision": 0.5}, "target: "),
        ("all.reached", 1, "all.reached: it must be true or false, found 1"),
        ("classes", [], "classes: it must be a mapping, found a list"),
        ("classes.class1", 0.5, "classes.class1: it must be a mapping, found 0.5"),
        ("classes.class1.threshold", "0.5", "classes.class1.threshold: it must be a number, found '0.5'"),
        ("classes.class1.threshold", 1.5, "classes.class1.threshold: 1.5 is more than 1"),
        ("classes.class1.threshold", float("nan"), "is not readable JSON (NaN is not a finite number)"),
        ("", [], "its content: it must be a mapping"),
    ],
)
def test_a_malformed_file_is_one_message_with_its_field_and_nothing_is_written(
    scene: Scene, path: Path, tmp_path: Path, place: str, value: Any, message: str
) -> None:
    content = thresholds(scene.checkpoint).to_dict()
    *parents, last = place.split(".")
    inner = content
    for key in parents:
        inner = inner[key]
    inner[last] = value
    (tmp_path / NAME).write_text(json.dumps(content if place else value))
    with pytest.raises(SystemExit) as ended:
        predicted(scene.checkpoint, path, "--thresholds", tmp_path / NAME, output=tmp_path / "found")
    printed = str(ended.value.code)
    assert printed.startswith(f"error: {tmp_path / NAME}")
    assert message in printed
    assert "\n" not in printed
    assert not (tmp_path / "found").exists()


def test_a_number_and_a_file_at_once_are_refused(scene: Scene, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["predict", str(scene.checkpoint), str(path), "--threshold", "0.5", "--thresholds", "a.json"])
    assert "not allowed with argument" in capsys.readouterr().err
