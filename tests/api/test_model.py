from __future__ import annotations

import csv
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rfdetr_core
from rfdetr_core.api import model as api
from rfdetr_core.api.training import Plan
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.files import sha256_file
from rfdetr_core.base.metadata import read_metadata
from rfdetr_core.checkpoint.files import make_checkpoint, read_checkpoint, read_plain, write_checkpoint
from rfdetr_core.config import TrainConfig
from rfdetr_core.model.config import VARIANTS, ModelConfig
from rfdetr_core.model.detector import build_detector
from rfdetr_core.ops.structures import DetectorOutput
from tests.pipeline.project import CHECKPOINTS, make_dataset

SMALL = {"resolution": 64, "num_queries": 10, "group_detr": 2, "device": "cpu"}
FIVE = sorted({*CHECKPOINTS, "checkpoint_1.pth"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    make_dataset(folder / "data", {"train": 4, "valid": 2, "test": 2})
    (folder / "data" / "metadata.csv").write_text("file_name,site\ntrain_0.png,a\n")
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> api.RFDETR:
    model = rfdetr_core.RFDETRPico(**SMALL)
    model.train(
        dataset_dir=folder / "data",
        output_dir=folder / "output",
        epochs=2,
        batch_size=2,
        lr=1e-3,
        checkpoint_interval=2,
        num_workers=0,
        threads=1,
    )
    return model


def test_there_is_a_class_for_every_variant_and_every_public_name() -> None:
    assert {variant.name for variant in VARIANTS.values()} < {*rfdetr_core.__all__}
    for variant, architecture in VARIANTS.items():
        model_class = getattr(rfdetr_core, architecture.name)
        assert issubclass(model_class, rfdetr_core.RFDETR)
        assert (model_class.variant, model_class.__name__, model_class.__module__) == (
            variant,
            architecture.name,
            "rfdetr_core.api.model",
        )


def test_the_metadata_of_images_is_beside_their_manifest(trained: api.RFDETR, folder: Path) -> None:
    where = trained.data
    assert where is not None
    assert where.metadata_of("train") == folder / "output" / "dataset" / "metadata" / "train.csv"
    assert read_metadata(where.metadata_of("train")) == {"train/train_0.png": {"site": "a"}}
    assert read_metadata(where.metadata_of("valid")) == {}


def process_state() -> dict[str, Any]:
    """The settings of torch, warnings, logging and the environment in this process."""
    names = ("pytorch_lightning", "lightning_fabric", "alembic")
    return {
        "deterministic": torch.get_deterministic_debug_mode(),
        "benchmark": torch.backends.cudnn.benchmark,
        "fill": torch.utils.deterministic.fill_uninitialized_memory,
        "threads": torch.get_num_threads(),
        "random": torch.get_rng_state().tolist(),
        "filters": list(warnings.filters),
        "levels": [logging.getLogger(name).level for name in names],
        "environment": dict(os.environ),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "limits": resource.getrlimit(resource.RLIMIT_NOFILE),
    }


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"lr": 1e30, "multi_scale": False}])
def test_train_restores_what_it_sets_in_the_process_also_after_an_error(
    folder: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    torch.set_deterministic_debug_mode("warn")
    before, failed = process_state(), False
    try:
        model = rfdetr_core.RFDETRPico(**SMALL)
        before["random"] = torch.get_rng_state().tolist()
        settings = {"epochs": 1, "batch_size": 2, "num_workers": 0, "threads": before["threads"] + 1} | settings
        model.train(dataset_dir=folder / "data", output_dir=tmp_path / "out", **settings)
    except UserError as error:
        failed = "not finite" in str(error)
    finally:
        after = process_state()
        torch.set_deterministic_debug_mode("default")
    assert failed == ("lr" in settings)
    assert after == before


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, rfdetr_core; assert not {'torch', 'numpy', 'pydantic', 'PIL'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_prediction_does_not_import_lightning() -> None:
    code = "import sys, rfdetr_core; rfdetr_core.RFDETRPico; assert 'pytorch_lightning' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_new_model_has_the_given_classes_and_size() -> None:
    model = rfdetr_core.RFDETRPico(**SMALL, num_classes=3)
    output = model.model(torch.zeros(2, 3, 64, 64))
    assert isinstance(output, DetectorOutput)
    assert output.logits.shape == (2, 10, 4)
    assert output.boxes.shape == (2, 10, 4)
    assert len(model.class_names) == 3
    assert rfdetr_core.RFDETRPico(device="cpu").architecture == replace(VARIANTS["pico"], classes=90)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolutoin": 64}, r"resolutoin is not a known key\. Did you mean resolution\?"),
        ({"variant": "nano"}, "RFDETRPicoConfig already sets the variant"),
        ({"variant": None}, "RFDETRPicoConfig already sets the variant"),
        ({"queries": None}, "queries is not a known key"),
        *(({"num_classes": wrong}, "num_classes is") for wrong in ("2", -1, 0, 2.5, True)),
        ({"device": "gpu"}, "device 'cuda'.*cpu"),
        ({"device": 7}, "device 'cuda:7'.*cpu"),
        ({"device": True}, "device is True. Give a name"),
        ({"pretrain_weights": ["a.pth"]}, "pretrain_weights is"),
        ({"resolution": 65}, "not divisible"),
        ({"resolution": "big"}, "resolution is 'big'"),
        ({"pretrain_weights": "no.pth"}, "nor a published name"),
        ({"pretrain_weights": "weigths/rf-detr-nano.pth"}, "no such file.*pretrain_weights='rf-detr-nano.pth'"),
        ({"pretrain_weights": "/"}, "'/', a folder"),
    ],
)
def test_a_wrong_keyword_is_named(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        rfdetr_core.RFDETRPico(**settings)


def test_the_base_class_cannot_be_built() -> None:
    with pytest.raises(UserError, match=r"RFDETR is the base class\. Use a variant: RFDETRNano"):
        rfdetr_core.RFDETR()


def test_a_wrong_keyword_of_train_or_evaluate_is_named_before_anything_is_written(folder: Path, tmp_path: Path) -> None:
    model = rfdetr_core.RFDETRPico(**SMALL)
    for wrong, hint in (({"epoch": 3}, "epochs"), ({"num_worker": 3}, "num_workers"), ({"epochs": 0}, "epochs")):
        with pytest.raises(UserError, match=hint):
            model.train(dataset_dir=folder / "data", output_dir=tmp_path / "out", **wrong)
    with pytest.raises(UserError, match="pictures"):
        model.evaluate(dataset_dir=folder / "data", output_dir=tmp_path / "out", picture=1)
    with pytest.raises(UserError, match="dataset_dir"):
        model.evaluate(output_dir=tmp_path / "out")
    assert model.callbacks["on_train_start"] == []  # reading an unknown event has no effect
    model.callbacks["on_train_batch"].append(print)
    with pytest.raises(UserError, match=r"callbacks has no event on_train_batch\. The events are on_fit_epoch_end"):
        model.train(dataset_dir=folder / "data", output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": ["test"]}, r"evaluate\(\)\.split is \['test'\]"),
        ({"device": "cuda"}, "device='cuda', but the model has 'cpu'"),
        ({"resolution": 96}, "resolution=96, but the model has 64.*constructor"),
        ({"device": "auto", "resolution": 64, "freeze_encoder": True}, "evaluate.. needs dataset_dir"),
        ({"device": torch.device("cpu")}, "evaluate.. needs dataset_dir"),
    ],
)
def test_evaluate_takes_model_keywords_of_train_only_with_the_models_values(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        rfdetr_core.RFDETRPico(**SMALL | {"device": torch.device("cpu")}).evaluate(**arguments)


@pytest.mark.parametrize(
    ("device", "message"), [(0, "accelerator cuda"), (1, "CUDA_VISIBLE_DEVICES=1"), (False, "device is False")]
)
def test_the_device_of_train_may_be_a_number(
    device: Any, message: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def stop(kind: str) -> None:
        raise UserError(f"accelerator {kind}")

    monkeypatch.setattr("rfdetr_core.training.compilation.code_generator", stop)
    monkeypatch.setattr("rfdetr_core.training.trainer.device_kind", lambda config: config.accelerator)
    with pytest.raises(UserError, match=message):
        Plan.from_keywords(ModelConfig(), None, "cpu", {"dataset_dir": str(folder), "device": device, "compile": True})


def test_get_train_config_leaves_out_model_keywords_and_resolves_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    model = rfdetr_core.RFDETRPico(**SMALL)
    of_model = {"resolution": 448, "device": 0, "freeze_encoder": True, "gradient_checkpointing": True}
    config = model.get_train_config(dataset_dir="~/data", accelerator="gpu", epochs=3, **of_model)
    assert config == TrainConfig(dataset_dir=Path("/home/me/data"), accelerator="cuda", epochs=3)
    with pytest.raises(UserError, match=r"num_classes\. .* Write RFDETRPico\(num_classes=2"):
        model.get_train_config(dataset_dir="data", num_classes=2)


def test_a_class_of_a_script_reads_a_file_as_itself_and_finds_it_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mine(rfdetr_core.RFDETRPico):
        pass

    model = rfdetr_core.RFDETRPico(**SMALL)
    content = make_checkpoint(model.architecture, model.model.state_dict(), class_names=["a"] * 90, args={})
    write_checkpoint(tmp_path / "a.pth", content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert type(Mine.from_checkpoint("~/a.pth", device="cpu")) is Mine
    loaded = rfdetr_core.RFDETRPico(pretrain_weights="a.pth", device="cpu")
    assert loaded.weights == tmp_path / "a.pth"
    with pytest.raises(UserError, match="Leave out pretrain_weights"):
        Mine.from_checkpoint("a.pth", pretrain_weights="b.pth")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(({"dataset_dir": wrong}, "dataset_dir is") for wrong in (["data"], None, 3, "", b"data")),
        ({"dataset_dir": "nowhere"}, "nowhere does not exist.*: dataset_dir"),
        ({"dataset_dir": "data", "output_dir": None}, "output_dir is None"),
        ({"dataset_dir": "data", "resume": 3}, "resume is 3"),
        ({"dataset_dir": "data", "resume": "none.pth"}, "resume is 'none.pth'"),
    ],
)
def test_an_error_about_a_path_names_its_argument(
    arguments: dict[str, Any], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=message) as raised:
        rfdetr_core.RFDETRPico(**SMALL).train(**{"output_dir": "none", "epochs": 1} | arguments)
    assert "params.yaml" not in str(raised.value)
    assert not (folder / "none").exists()


def test_results_of_a_pipeline_are_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stage = {"cmd": "true", "outs": ["output/a.pth", "reports/evaluate/metrics.json"]}
    (tmp_path / "dvc.yaml").write_text(json.dumps({"stages": {"train": stage}}))
    model = rfdetr_core.RFDETRPico(**SMALL)
    for folder in ("output", tmp_path / "output", "output/a.pth/inner", "."):
        with pytest.raises(UserError, match=r"The pipeline of .*dvc\.yaml keeps its results in"):
            model.train(dataset_dir="data", output_dir=folder)
    with pytest.raises(UserError, match=r"^The pipeline of .* keeps its results in output;"):
        model.train(dataset_dir="data")
    with pytest.raises(UserError, match="keeps its results in reports/evaluate; they would be overwritten"):
        model.evaluate(dataset_dir="data", output_dir="reports")
    assert [path.name for path in tmp_path.iterdir()] == ["dvc.yaml"]
    with pytest.raises(UserError, match="data does not exist"):
        model.train(dataset_dir="data", output_dir="runs/first")


def test_findings_do_not_mention_params_yaml_in_the_python_api(tmp_path: Path) -> None:
    make_dataset(tmp_path / "data", {"train": 2, "valid": 1})
    (tmp_path / "data" / "train" / "train_0.png").write_bytes(b"")
    with pytest.raises(UserError, match="Correct them") as raised:
        rfdetr_core.RFDETRPico(**SMALL).train(dataset_dir=tmp_path / "data", output_dir=tmp_path / "out", epochs=1)
    assert "params.yaml" not in str(raised.value)
    page = tmp_path / "out" / "dataset" / "index.html"
    assert f"shown in {page}" in str(raised.value)
    assert page.exists()


@pytest.mark.parametrize("wrong", [None, 3, ["a.pth"], ""])
def test_a_path_that_is_not_a_checkpoint_is_refused(wrong: Any) -> None:
    with pytest.raises(UserError, match="path is"):
        rfdetr_core.from_checkpoint(wrong)
    with pytest.raises(UserError, match="Is a directory"):
        rfdetr_core.from_checkpoint(Path())


def test_training_writes_the_five_documented_files(trained: api.RFDETR, folder: Path) -> None:
    names = {path.name for path in (folder / "output").iterdir()}
    assert names >= {*FIVE, "history.csv", "scores.json", "selection.json", "dataset"}
    assert "optimizer_states" in read_plain(folder / "output" / "checkpoint.pth")
    with (folder / "output" / "history.csv").open() as table:
        assert len(list(csv.DictReader(table))) == 2


def test_after_training_the_model_has_the_selected_weights(trained: api.RFDETR, folder: Path) -> None:
    assert trained.class_names == ["red", "green"]
    selection = json.loads((folder / "output" / "selection.json").read_text())
    for name in ("checkpoint_best_total.pth", f"checkpoint_best_{selection['winner']}.pth"):
        weights = read_checkpoint(folder / "output" / name).weights
        state = trained.model.state_dict()
        assert state.keys() == weights.keys()
        assert all(torch.equal(state[key], weights[key]) for key in weights)
    assert not trained.model.training


@pytest.mark.parametrize("name", FIVE)
def test_every_file_of_a_run_loads_by_path_and_by_variant(trained: api.RFDETR, folder: Path, name: str) -> None:
    path, image = folder / "output" / name, folder / "data" / "test" / "test_0.png"
    loaded = rfdetr_core.from_checkpoint(path, device="cpu")
    same = rfdetr_core.RFDETRPico(pretrain_weights=str(path), device="cpu")
    assert type(loaded) is rfdetr_core.RFDETRPico
    assert loaded.class_names == same.class_names == ["red", "green"]
    assert loaded.architecture == same.architecture == trained.architecture
    first, second = loaded.predict(image, threshold=0.0), same.predict(image, threshold=0.0)
    assert np.array_equal(first.xyxy, second.xyxy)
    if name == "checkpoint_best_total.pth":
        assert np.array_equal(first.xyxy, trained.predict(image, threshold=0.0).xyxy)


def test_evaluate_gives_the_metrics_that_it_writes(trained: api.RFDETR, folder: Path, tmp_path: Path) -> None:
    metrics = trained.evaluate(output_dir=tmp_path)
    assert metrics["split"] == "test"
    written = [json.loads((tmp_path / "evaluate" / name).read_text()) for name in ("about.json", "metrics.json")]
    assert written[0].items() | written[1].items() == {item for item in metrics.items() if "/" not in item[0]}
    assert metrics["test/mAP_50_95"] == metrics["map"]
    loaded = rfdetr_core.from_checkpoint(folder / "output" / "checkpoint_best_total.pth", device="cpu")
    assert loaded.evaluate(dataset_dir=folder / "data", output_dir=tmp_path / "again", pictures=0) == metrics
    assert trained.evaluate(split="valid", output_dir=tmp_path, pictures=0)["split"] == "valid"
    with (folder / "output" / "history.csv").open() as table:
        rows = list(csv.DictReader(table))
    selection = json.loads((folder / "output" / "selection.json").read_text())
    column = "val/ema_mAP_50_95" if selection["winner"] == "ema" else "val/mAP_50_95"
    row = rows[selection[selection["winner"]]["epoch"] - 1]
    valid = trained.evaluate(split="valid", output_dir=tmp_path, pictures=0)
    assert valid["map"] == pytest.approx(float(row[column]), abs=1e-6)


def test_training_again_starts_from_the_weights_that_were_given(
    trained: api.RFDETR, folder: Path, tmp_path: Path
) -> None:
    total = folder / "output" / "checkpoint_best_total.pth"
    model = rfdetr_core.RFDETRPico(pretrain_weights=total, device="cpu")
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 2, "lr": 1e-12, "lr_encoder": 0.0, "weight_decay": 0.0}
    model.train(dataset_dir=folder / "data", output_dir=tmp_path / "out", num_workers=0, **settings)
    before, after = read_checkpoint(total).weights, model.model.state_dict()
    assert all(torch.allclose(after[name], before[name], atol=1e-6) for name in before)


@pytest.mark.slow
def test_a_second_training_in_a_folder_is_refused_before_it_writes_anything(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "output"
    make_dataset(tmp_path / "other", {"train": 3, "valid": 2, "test": 2}, seed=1)
    source = (
        "import rfdetr_core; from rfdetr_core.observers import publishing\n"
        "publishing.track_evaluation = lambda *_: input()\n"  # the first training waits for input before it ends
        f"model = rfdetr_core.RFDETRPico(**{SMALL!r})\n"
        f"model.train(dataset_dir={str(folder / 'data')!r}, output_dir={str(output)!r}, epochs=4, batch_size=2,\n"
        "            num_workers=0, threads=1, run_test=True)\n"
    )
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    first = subprocess.Popen([sys.executable, "-c", source], text=True, **pipes)
    monkeypatch.setattr("rfdetr_core.training.record.PATIENCE", 0.1)
    second, moments = rfdetr_core.RFDETRPico(**SMALL), set()
    while not (output / ".lock").is_file() or not (output / ".lock").read_text():
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.01)
    ended = False
    while not ended:  # calls are also refused after the last file is written
        ended = (output / "evaluate" / "metrics.json").is_file()
        moments.add(",".join(sorted(path.name for path in output.glob("[!.]*"))))
        for call in (second.train, second.evaluate):
            with pytest.raises(UserError, match=f"process {first.pid}"):
                call(dataset_dir=tmp_path / "other", output_dir=output)
        assert first.poll() is None
    first_output = first.communicate("\n")[0]
    assert first.returncode == 0, first_output
    assert len(moments) > 2  # before, during and after the training
    names = {
        image["file_name"] for image in json.loads((output / "dataset/annotations/train.json").read_text())["images"]
    }
    assert len(names) == 4
    record = (read_checkpoint(output / "checkpoint_best_total.pth").lineage or {})["training"]
    assert record["counts"]["train"]["images"] == 4
    annotations = output / "dataset" / "annotations" / "train.json"
    assert record["inputs"]["annotations/train.json"] == sha256_file(annotations)


def test_another_number_of_classes_or_pixels_is_possible(trained: api.RFDETR, folder: Path) -> None:
    path = folder / "output" / "checkpoint_best_total.pth"
    model = rfdetr_core.RFDETRPico(pretrain_weights=path, num_classes=5, resolution=96, device="cpu")
    assert model.architecture.resolution == 96
    assert len(model.class_names) == 5
    assert model.model(torch.zeros(1, 3, 96, 96)).logits.shape == (1, 10, 6)


def test_weights_of_another_variant_are_refused_by_name(trained: api.RFDETR, folder: Path) -> None:
    path = folder / "output" / "checkpoint_best_total.pth"
    for wrong in (rfdetr_core.RFDETRNano, rfdetr_core.RFDETRSegPico):
        with pytest.raises(UserError, match=f"RFDETRPico.*{wrong.__name__}"):
            wrong(pretrain_weights=path)
        with pytest.raises(UserError, match=f"RFDETRPico.*{wrong.__name__}"):
            wrong.from_checkpoint(path)
    assert type(rfdetr_core.RFDETRPico.from_checkpoint(path, device="cpu")) is rfdetr_core.RFDETRPico


def test_a_model_of_no_variant_is_refused_by_name(tmp_path: Path) -> None:
    architecture = replace(ModelConfig(resolution=64).architecture(2), name="SomethingElse", groups=1)
    weights = build_detector(architecture).state_dict()
    write_checkpoint(tmp_path / "x.pth", make_checkpoint(architecture, weights, class_names=["a", "b"], args={}))
    with pytest.raises(UserError, match="SomethingElse"):
        rfdetr_core.from_checkpoint(tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"none\.pth"):
        rfdetr_core.from_checkpoint(tmp_path / "none.pth")


def test_a_training_can_be_resumed(trained: api.RFDETR, folder: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"batch_size": 2, "lr": 1e-3, "checkpoint_interval": 2, "num_workers": 0, "threads": 1}
    model = rfdetr_core.RFDETRPico(**SMALL)
    state = folder / "output" / "checkpoint.pth"
    model.train(dataset_dir=folder / "data", output_dir=tmp_path / "out", epochs=3, resume=state, **settings)
    with (tmp_path / "out" / "history.csv").open() as table:
        assert [row["epoch"] for row in csv.DictReader(table)] == ["1", "2", "3"]


def test_a_training_on_another_device_than_the_first_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = rfdetr_core.RFDETRPico(**SMALL)
    monkeypatch.setattr(model._predictor, "device", "cuda:1")
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES=1"):
        model.train(dataset_dir=folder / "data", output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_channels_other_than_rgb_build_but_do_not_predict() -> None:
    model = rfdetr_core.RFDETRPico(**SMALL, num_channels=4)
    assert model.model(torch.zeros(1, 4, 64, 64)).logits.shape[1] == 10
    with pytest.raises(UserError, match="4 channels"):
        model.predict(np.zeros((8, 8, 3), np.uint8))


@pytest.fixture(scope="module")
def exported(trained: api.RFDETR, folder: Path) -> Path:
    return trained.export(folder / "exported", dynamic_batch=True)


def test_an_exported_file_is_a_model_of_its_variant(trained: api.RFDETR, exported: Path, folder: Path) -> None:
    loaded = rfdetr_core.load(exported, device="cpu")
    assert type(loaded) is type(rfdetr_core.from_checkpoint(exported, device="cpu")) is rfdetr_core.RFDETRPico
    assert loaded.class_names == trained.class_names == ["red", "green"]
    assert loaded.architecture == trained.architecture
    images: list[Any] = [folder / "data" / "test" / f"test_{number}.png" for number in range(2)]
    for detections, expected in zip(loaded.predict(images, 0.0), trained.predict(images, 0.0), strict=True):
        assert detections.class_id.tolist() == expected.class_id.tolist()
        assert detections.data["class_name"].tolist() == expected.data["class_name"].tolist()
        assert np.allclose(detections.xyxy, expected.xyxy, atol=0.01)
        assert np.allclose(detections.confidence, expected.confidence, atol=1e-5)


def test_an_exported_file_is_evaluated_as_its_checkpoint_is(
    trained: api.RFDETR, exported: Path, folder: Path, tmp_path: Path
) -> None:
    loaded = rfdetr_core.load(exported, device="cpu")
    with pytest.raises(UserError, match="needs dataset_dir"):
        loaded.evaluate(output_dir=tmp_path)
    scores = loaded.evaluate(dataset_dir=folder / "data", output_dir=tmp_path / "exported", pictures=0)
    expected = trained.evaluate(output_dir=tmp_path / "own", pictures=0)
    assert scores.keys() == expected.keys()
    numbers = [key for key, value in expected.items() if isinstance(value, float)]
    assert [scores[key] for key in numbers] == pytest.approx([expected[key] for key in numbers], abs=1e-4)


def test_methods_that_need_a_checkpoint_refuse_an_exported_file(exported: Path, folder: Path, tmp_path: Path) -> None:
    loaded = rfdetr_core.load(exported, device="cpu")
    calls = {
        "model": lambda: loaded.model,
        "train": lambda: loaded.train(dataset_dir=folder / "data", output_dir=tmp_path / "out"),
        "optimize_for_inference": loaded.optimize_for_inference,
        "export": lambda: loaded.export(tmp_path / "out"),
    }
    for name, call in calls.items():
        with pytest.raises(UserError, match=rf"^{name}.* needs a checkpoint.*model\.onnx.*\.pth"):
            call()
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="resolution cannot be changed"):
        rfdetr_core.load(exported, resolution=32)
    with pytest.raises(UserError, match="RFDETRPico, not a RFDETRNano"):
        rfdetr_core.RFDETRNano.from_checkpoint(exported)
    with pytest.raises(UserError, match="exported file, not a checkpoint"):
        rfdetr_core.RFDETRPico(pretrain_weights=exported)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"opset_version": 17}, "no opset_version: it is always 18"),
        ({"fp16": True}, "no fp16: .*trtexec"),
        ({"format": "tflite"}, "format is 'tflite'"),
        ({"quantization": "fp16"}, "quantization is 'fp16'"),
        ({"quantization": "int8", "format": "openvino"}, "quantization is 'int8'"),
        ({"shape": (32, 32)}, r"shape is \(32, 32\).*\(64, 64\)"),
        ({"calibration_data": "none"}, "calibration_data is 'none'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"image": "uint8"}, r"image is not a known key\. Did you mean images"),
    ],
)
def test_a_wrong_argument_of_export_is_named(
    trained: api.RFDETR, arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        trained.export(tmp_path / "out", **arguments)
    assert not list(tmp_path.glob("out/*"))


def test_only_an_unchanged_model_is_exported(trained: api.RFDETR, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="This model is new"):
        rfdetr_core.RFDETRPico(**SMALL).export(tmp_path)
    path = folder / "output" / "checkpoint_best_total.pth"
    larger = rfdetr_core.RFDETRPico(pretrain_weights=path, resolution=96, device="cpu")
    with pytest.raises(UserError, match="resolution 96 instead of 64"):
        larger.export(tmp_path)
    changed = rfdetr_core.from_checkpoint(path, device="cpu")
    with pytest.raises(UserError, match=r"needs images.*calibration_data"):
        changed.export(tmp_path, format="onnx-int8")
    with torch.no_grad():
        changed.model.class_head.bias += 1
    with pytest.raises(UserError, match="its weights have changed"):
        changed.export(tmp_path)
