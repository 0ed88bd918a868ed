from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from rfdetr_core.base import files
from rfdetr_core.checkpoint.files import read_checkpoint, write_checkpoint
from rfdetr_core.cli import main
from rfdetr_core.inference.predictor import Predictor
from tests.evaluation.scene import write_tiny_checkpoint
from tests.secure import secure_server


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("cli") / "model.pth", segmentation=True)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    random = np.random.default_rng(0)
    paths = [tmp_path / "one.png", tmp_path / "two.jpg"]
    for path in paths:
        Image.fromarray(random.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(path)
    return paths


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The message of a command that must fail."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, str)  # Python prints it to stderr and exits with status 1
    return ended.value.code


def test_predict_writes_a_drawn_picture_and_what_predict_finds(
    checkpoint: Path, images: list[Path], tmp_path: Path
) -> None:
    output = tmp_path / "found"
    main(
        [
            "predict",
            str(checkpoint),
            *map(str, images),
            "--threshold",
            "0.4",
            "--output",
            str(output),
            "--device",
            "cpu",
        ]
    )
    assert {path.name for path in output.iterdir()} == {"one.json", "one.png", "two.json", "two.png"}
    predictor = Predictor.from_checkpoint(checkpoint, device="cpu")
    for path in images:
        content = json.loads((output / f"{path.stem}.json").read_text())
        detections = predictor.predict(path, threshold=0.4)
        assert (content["image"], content["width"], content["height"]) == (path.name, 60, 40)
        assert len(detections) == len(content["detections"]) > 0
        assert np.array_equal(
            detections.xyxy, np.array([detection["xyxy"] for detection in content["detections"]], dtype=np.float32)
        )
        assert list(detections.data["class_name"]) == [detection["class_name"] for detection in content["detections"]]
        masks = [rle.decode(detection["segmentation"]).astype(bool) for detection in content["detections"]]
        assert np.array_equal(detections.mask, masks)
        with Image.open(output / f"{path.stem}.png") as drawn, Image.open(path) as plain:
            assert drawn.width * plain.height == pytest.approx(drawn.height * plain.width, rel=0.01)
            assert drawn.tobytes() != plain.resize(drawn.size, Image.Resampling.BICUBIC).tobytes()


def test_predict_uses_and_prints_the_threshold_of_the_checkpoint(
    checkpoint: Path, images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_threshold, wrong = tmp_path / "threshold.pth", tmp_path / "wrong.pth"
    for path, threshold in ((with_threshold, 0.4), (wrong, 1.5)):
        write_checkpoint(path, replace(read_checkpoint(checkpoint), threshold=threshold))
    for path, options, threshold, why in (
        (with_threshold, (), 0.4, "the best F1"),
        (with_threshold, ("--threshold", "0.3"), 0.3, "as given"),
        (checkpoint, (), 0.5, "the model recommends none"),
    ):
        main(["predict", str(path), str(images[0]), "--output", str(tmp_path / "found"), *options])
        assert f"threshold {threshold}: {why}" in capsys.readouterr().out
        content = json.loads((tmp_path / "found" / "one.json").read_text())
        predictor = Predictor.from_checkpoint(path, device="cpu")
        expected = predictor.predict(images[0], threshold=threshold)
        assert (content["threshold"], len(content["detections"])) == (threshold, len(expected))
        if not options:
            assert np.array_equal(predictor.predict(images[0]).xyxy, expected.xyxy)
            assert f"threshold {threshold}: {why}" in capsys.readouterr().err
    assert "wrong.pth: threshold is 1.5" in fails(capsys, "predict", wrong, images[0])


def test_predict_twice_writes_equal_bytes(checkpoint: Path, images: list[Path], tmp_path: Path) -> None:
    for name in ("a", "b"):
        main(["predict", str(checkpoint), str(images[0]), "--output", str(tmp_path / name), "--threshold", "0.4"])
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_predict_skips_and_reports_unreadable_images(
    checkpoint: Path, tmp_path: Path, images: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = tmp_path / "pictures", tmp_path / "found"
    (folder / "below").mkdir(parents=True)
    for path, name in zip(images, ("b.png", "below/c.png"), strict=True):
        shutil.copy(path, folder / name)
    (folder / "a.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image either")
    message = fails(capsys, "predict", checkpoint, folder, "--output", output)
    assert message == f"error: 1 of 3 images could not be read: {folder / 'a.jpg'}."
    assert f"error: {folder / 'a.jpg'} cannot be decoded" in capsys.readouterr().err
    assert {path.name for path in output.iterdir()} == {"b.json", "b.png", "c.json", "c.png"}


def test_predict_overwrites_only_its_own_results_and_does_not_read_them(
    checkpoint: Path, images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = tmp_path / "two.json"
    labels.write_text('{"shapes": []}')  # as labelme writes beside an image
    before = {path: path.read_bytes() for path in (*images, labels)}
    folder = tmp_path / "other"
    folder.mkdir()
    shutil.copy(images[0], folder / "two.png")
    for source, result in ((images[0], "one.png"), (images[1], "two.json"), (folder, "two.json")):
        message = fails(capsys, "predict", checkpoint, source, "--output", tmp_path)
        assert message.startswith(f"error: {tmp_path / result} would be overwritten")
    assert {path: path.read_bytes() for path in before} == before
    for _ in range(2):
        source = [
            str(path) for path in (images[0], folder, folder / "found", folder / ".." / "one.png") if path.exists()
        ]
        main(["predict", str(checkpoint), *source, "--output", str(folder / "found")])
        assert sorted(path.name for path in (folder / "found").iterdir()) == [
            *("one.json", "one.png", "two.json", "two.png")
        ]
    assert "/found are pictures that predict has drawn" in fails(capsys, "predict", checkpoint, folder / "found")


def test_predict_takes_equal_images_that_are_links_to_one_file(
    checkpoint: Path, images: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "linked"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).symlink_to(images[0])
    main(["predict", str(checkpoint), str(folder), "--output", str(tmp_path / "found")])
    assert len(list((tmp_path / "found").glob("*.png"))) == 2


def test_predict_takes_a_file_name_that_is_not_utf8(checkpoint: Path, images: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "below" / os.fsdecode(b"bad\xff.png")
    path.parent.mkdir()
    shutil.copy(images[0], path)
    main(["predict", str(checkpoint), str(path.parent), "--output", str(tmp_path / "found")])
    (content,) = (json.loads(path.read_text()) for path in (tmp_path / "found").glob("*.json"))
    assert content["image"] == "bad?.png"


def test_predict_takes_addresses_and_gives_their_results_safe_names(
    checkpoint: Path,
    images: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "found"
    with secure_server(tmp_path, monkeypatch) as server:
        address = server.at("/a/..%2f..%2fthree.png?key=secret", content=images[0].read_bytes())
        main(
            [
                "predict",
                str(checkpoint),
                address,
                str(images[0]),
                address,
                "--output",
                str(output),
                "--threshold",
                "0.4",
            ]
        )
        names = ["_.._three.json", "_.._three.png", "one.json", "one.png"]
        assert sorted(path.name for path in output.iterdir()) == names
        of_address, of_file = (json.loads((output / name).read_text()) for name in (names[0], names[2]))
        assert of_address.pop("image") == f"{server.address}/a/..%2f..%2fthree.png?..."
        assert of_file.pop("image") == "one.png"
        assert of_address == of_file
        assert len(server.asked) == 1
        same_name = [server.at(f"/{folder}/one.png", content=b"") for folder in "ab"]
        for sources in (same_name, [same_name[0], images[0]]):
            assert "would all be drawn in" in fails(capsys, "predict", checkpoint, *sources, "--output", output)
        assert len(server.asked) == 1
        message = fails(capsys, "predict", checkpoint, f"{server.address}/none.png", "--output", output)
        assert "/none.png cannot be downloaded: the server answers 404" in message
    assert "which is not https" in fails(capsys, "predict", checkpoint, "http://images.example/x.png")
    assert "secret" not in capsys.readouterr().out


def test_an_error_is_one_message(
    checkpoint: Path, images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, folder, empty = tmp_path / "text.jpg", tmp_path / "found", tmp_path / "empty"
    text.write_text("no image")
    empty.mkdir()
    cases = {
        (checkpoint, text): "text.jpg",
        (checkpoint, tmp_path / "none.jpg"): "none.jpg",
        (checkpoint, empty): str(empty),
        (tmp_path / "none.pth", images[0]): "none.pth does not exist",
        (text, images[0]): "text.jpg is not a checkpoint",
        (checkpoint, images[0], tmp_path / "more" / "one.jpg"): "would all be drawn in",
    }
    for arguments, named in cases.items():
        message = fails(capsys, "predict", *arguments, "--output", folder)
        assert message.startswith("error: ")
        assert named in message
        assert "\n" not in message.strip()
    assert not folder.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        *(("predict", "none.pth", "x.jpg", "--threshold", wrong) for wrong in ("-0.1", "2", "nan", "inf", "half")),
        ("preview", "--epoch", "-1"),
        ("preview", "--count", "0"),
        ("preview", "--count", "1.5"),
    ],
)
def test_an_error_about_a_number_names_its_option(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert f"argument {arguments[-2]}: {arguments[-1]} is not a " in capsys.readouterr().err


def test_a_device_that_is_not_here_is_named(
    checkpoint: Path, images: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "device 'gpu'" in fails(capsys, "predict", checkpoint, images[0], "--device", "gpu")


def test_a_failing_command_ends_with_status_1_and_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fails(capsys, "predict", tmp_path / "none.pth", "x.jpg").startswith("error: ")
    command = [sys.executable, "-m", "rfdetr_core", "audit", str(tmp_path / "none.pth")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ")
    assert "Traceback" not in ended.stderr
    assert not ended.stdout


def test_help_imports_nothing_heavy_and_names_every_command() -> None:
    code = (
        "import sys, contextlib\nfrom rfdetr_core.cli import main\n"
        "with contextlib.suppress(SystemExit): main(['--help'])\n"
        "assert not {'torch', 'numpy', 'pandas', 'pydantic', 'PIL', 'supervision', 'mlflow'} & sys.modules.keys()"
    )
    help_text = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert all(command in help_text for command in ("predict", "check", "plan", "compare", "evaluate", "results", "ui"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train: {epochs: many}", "train.epochs"),
        ("train: {epochz: 3}", "Did you mean epochs?"),
        ("trian: {epochs: 3}", "trian"),
        ("model: {variant: huge}", "pico"),
        ("model: {resolution: 100}", "not divisible"),
        ("evaluate: {pictures: -1}", "evaluate.pictures"),
    ],
)
def test_check_names_what_is_wrong_in_params(
    content: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(content)
    assert message in fails(capsys, "check")
    (tmp_path / "params.yaml").write_text("train: {epochs: 3, lr: 1e-4}")
    assert "data.dir" in fails(capsys, "check")
    (tmp_path / "data" / "sample").mkdir(parents=True)
    assert "is empty" in fails(capsys, "check")
    (tmp_path / "data" / "sample" / "data.yaml").touch()
    main(["check"])


def test_results_prints_the_scores_of_the_winning_epoch_and_of_the_test_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "output/selection.json" in fails(capsys, "results")
    selection = {"winner": "ema", "key": "val/mAP_50_95", "ema": {"score": 0.25, "epoch": 1}}
    files.write_json(Path("output/selection.json"), selection)
    head = "epoch,val/mAP_50_95,val/mAP_50,val/F1,val/ema_mAP_50_95,val/ema_mAP_50,val/ema_F1\n"
    files.write_text(Path("output/history.csv"), f"{head}0,.9,.9,.9,.9,.9,.9\n1,.9,.9,.9,.25,.45,.55\n")
    scores = {"val/mAP_50_95": {"ema": {"score": 0.25, "epoch": 1}}, "epochs": 2}
    files.write_json(Path("output/scores.json"), scores)
    files.write_json(Path("reports/evaluate/about.json"), {"split": "test"})
    metrics = {"images": 3, "objects": 7, "map": None, "map_50": 0.35, "f1": 0.65}
    files.write_json(Path("reports/evaluate/metrics.json"), metrics)
    main(["results"])
    printed = capsys.readouterr().out
    assert "0.250  0.450  0.550" in printed
    assert "-  0.350  0.650" in printed
    assert "0.900" not in printed
    assert "index.html: open it first" not in printed
    files.write_text(Path("reports/evaluate/index.html"), "<!doctype html>")
    main(["results"])
    assert capsys.readouterr().out == f"{printed}report    reports/evaluate/index.html: open it first\n"


def test_export_of_a_model_file_names_the_right_command(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = fails(capsys, "export", checkpoint, tmp_path / "new", "--format", "coco")
    assert "dvc repro export" in message
    assert "export.formats" in message
    assert not (tmp_path / "new").exists()


def test_ui_says_where_runs_are_if_none_are_local(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert "mlflow.db does not exist" in fails(capsys, "ui")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert "http://127.0.0.1:1" in fails(capsys, "ui")
