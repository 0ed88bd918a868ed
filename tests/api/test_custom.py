"""The custom training API: the same bytes as `RFDETR.train`, upstream's arguments, and a complete training record."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import pytorch_lightning
import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule
from pytorch_lightning.callbacks import ModelCheckpoint

import rfdetr_core
from rfdetr_core.api import configs
from rfdetr_core.api.configs import ScriptTrainConfig as TrainConfig
from rfdetr_core.api.custom_record import custom_part
from rfdetr_core.audit.difference import compare_lineages
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.files import read_json, sha256_file
from rfdetr_core.checkpoint.files import read_checkpoint, read_plain
from rfdetr_core.training import RFDETRDataModule, RFDETRModelModule, build_trainer
from rfdetr_core.training import record as records
from rfdetr_core.training.callbacks import (
    BestModelCallback,
    COCOEvalCallback,
    DropPathCallback,
    RFDETREarlyStopping,
    RFDETREMACallback,
)
from rfdetr_core.verification.claims import check_custom
from rfdetr_core.verification.report import Report
from tests.api.test_model import FIVE, SMALL
from tests.pipeline.project import make_dataset
from tests.training.tiny import write_state

SETTINGS: dict[str, Any] = {"epochs": 2, "batch_size": 2, "lr": 1e-3, "num_workers": 0, "threads": 1}


def model_config(**changes: Any) -> Any:
    return vars(configs)["RFDETRPicoConfig"](**SMALL | changes)


def train_config(data: Path, output: Path, **changes: Any) -> TrainConfig:
    return TrainConfig(dataset_dir=data, output_dir=output, **SETTINGS | {"checkpoint_interval": 2} | changes)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("custom")
    make_dataset(folder / "data", {"train": 4, "valid": 2, "test": 2})
    return folder / "data"


@pytest.fixture(scope="module")
def trained(data: Path) -> Path:
    """The run folder of `RFDETR.train`."""
    output = data.parent / "train"
    rfdetr_core.RFDETRPico(**SMALL).train(dataset_dir=data, output_dir=output, checkpoint_interval=2, **SETTINGS)
    return output


@pytest.fixture(scope="module")
def fitted(data: Path) -> tuple[Any, Any, Any, Path]:
    """Trainer, module and data module after a fit with upstream's arguments, and the run folder."""
    output = data.parent / "fit"
    config_pair = model_config(), train_config(data, output)
    module, datamodule = RFDETRModelModule(*config_pair), RFDETRDataModule(*config_pair)
    trainer = build_trainer(config_pair[1], config_pair[0], log_every_n_steps=10)
    trainer.fit(module, datamodule, ckpt_path=config_pair[1].resume or None)
    return trainer, module, datamodule, output


def record(output: Path) -> dict[str, Any]:
    lineage = read_checkpoint(output / "checkpoint_best_total.pth").lineage
    assert lineage is not None
    training: dict[str, Any] = lineage["training"]
    return training


def test_the_custom_api_writes_the_same_bytes_as_train(fitted: tuple[Any, Any, Any, Path], trained: Path) -> None:
    output = fitted[3]
    for name in (*FIVE, "history.csv", "scores.json", "selection.json"):
        assert (output / name).read_bytes() == (trained / name).read_bytes(), name
    assert {path.name for path in output.iterdir()} == {path.name for path in trained.iterdir()}
    assert "custom" not in record(output)


def test_the_custom_api_validates_tests_and_predicts(fitted: tuple[Any, Any, Any, Path], data: Path) -> None:
    trainer, module, datamodule, output = fitted
    last = (output / "history.csv").read_text().splitlines()
    row = dict(zip(last[0].split(","), last[-1].split(","), strict=True))
    (scores,) = trainer.validate(module, datamodule)
    for key in ("val/F1", "val/ema_threshold", "val/mAR"):
        assert scores[key] == pytest.approx(float(row[key]), abs=1e-6), key
    (scores,) = trainer.test(module, datamodule)
    assert {"test/mAP_50_95", "test/ema_mAP_50"} <= scores.keys()
    assert not [key for key in scores if key.startswith("val/")]
    datamodule.setup("fit")
    assert datamodule.class_names == ["red", "green"]
    sets = [[sample.path for batch in loader for sample in batch.samples] for loader in _loaders(datamodule)]
    assert sets == [["valid/valid_0.png", "valid/valid_1.png"], ["test/test_0.png", "test/test_1.png"]]
    ((detections, _),) = trainer.predict(module, dataloaders=datamodule.val_dataloader())
    (batch,) = datamodule.val_dataloader()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=trainer.precision == "bf16-mixed"):
        output = module.model.eval()(batch.normalised().images, None)
    assert detections["scores"][0] == output.logits[0].sigmoid().max()
    assert detections["boxes"].max() > 1


def _loaders(datamodule: Any) -> list[Any]:
    return [datamodule.val_dataloader(), datamodule.test_dataloader()]


def test_a_pair_of_configs_is_prepared_once_and_forgotten(data: Path, tmp_path: Path) -> None:
    from rfdetr_core.api import preparation

    config_pair = model_config(), train_config(data, tmp_path)
    gc.collect()
    before = len(preparation._preparations)
    module, second = RFDETRModelModule(*config_pair), RFDETRModelModule(*config_pair)
    assert module.preparation is second.preparation
    assert module.model is not second.model
    digests = [model.first_weights for model in (module, second)]
    assert digests[0] == digests[1]
    assert len(preparation._preparations) == before + 1
    del module, second
    gc.collect()
    assert len(preparation._preparations) == before


@pytest.mark.slow
def test_a_training_resumed_by_path_equals_an_uninterrupted_one(
    fitted: tuple[Any, Any, Any, Path], data: Path, tmp_path: Path
) -> None:
    class Interrupted(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                raise RuntimeError("here")

    config_pair = model_config(), train_config(data, tmp_path)
    trainer = build_trainer(config_pair[1], config_pair[0])
    trainer.callbacks.extend([Interrupted()])
    with pytest.raises(RuntimeError, match="here"):
        trainer.fit(RFDETRModelModule(*config_pair), RFDETRDataModule(*config_pair))
    trainer = build_trainer(config_pair[1], config_pair[0])
    state = tmp_path / "checkpoint.pth"
    trainer.fit(RFDETRModelModule(*config_pair), RFDETRDataModule(*config_pair), ckpt_path=state)
    end, uninterrupted = (
        read_checkpoint(folder / "checkpoint_best_ema.pth").weights for folder in (tmp_path, fitted[3])
    )
    assert all(torch.equal(end[name], uninterrupted[name]) for name in uninterrupted)
    # The state names the callback that was added to the first trainer. So it counts as a parent, not as the same
    # training.
    assert record(tmp_path)["parents"]["resume"]["name"] == "checkpoint.pth"
    # From a finished training to more epochs.
    longer = model_config(), train_config(data, tmp_path, epochs=3)
    build_trainer(*longer[::-1]).fit(RFDETRModelModule(*longer), RFDETRDataModule(*longer), ckpt_path=str(state))
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 1 + 3
    assert record(tmp_path)["params"]["train"]["resume"] == "checkpoint.pth"
    other_configs = model_config(), train_config(data, tmp_path, epochs=4, lr=1e-4)
    module, datamodule = RFDETRModelModule(*other_configs), RFDETRDataModule(*other_configs)
    with pytest.raises(UserError, match=r"params\.train\.lr was 0\.001"):
        build_trainer(*other_configs[::-1]).fit(module, datamodule, ckpt_path=state)
    with pytest.raises(UserError, match="There is no such file"):
        build_trainer(*other_configs[::-1]).fit(module, datamodule, ckpt_path=tmp_path / "none.pth")


def test_custom_code_is_in_the_record_and_is_not_verified(
    fitted: tuple[Any, Any, Any, Path], data: Path, tmp_path: Path
) -> None:
    class Module(RFDETRModelModule):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx)  # type: ignore[operator]

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=1e-3)

    class Data(RFDETRDataModule):
        def train_dataloader(self) -> Any:
            return super().train_dataloader()

    class Counting(Callback):
        batches = 0

        def on_train_batch_end(self, *arguments: Any) -> None:
            self.batches += 1

    config_pair = model_config(), train_config(data, tmp_path, epochs=1)
    trainer, counting = build_trainer(*config_pair[::-1], max_epochs=2, callbacks=[DropPathCallback(0.1)]), Counting()
    trainer.callbacks.extend([counting])
    trainer.fit(Module(*config_pair), Data(*config_pair))
    assert counting.batches == 4
    training, source = record(tmp_path), sha256_file(Path(__file__))
    assert {name.rpartition(".")[2]: digest for name, digest in training["custom"]["classes"].items()} == {
        "Module": source,
        "Data": source,
    }
    callbacks = {name.rpartition(".")[2]: arguments for name, arguments in training["custom"]["callbacks"].items()}
    assert callbacks == {"Counting": source, "DropPathCallback": {"drop_path": 0.1}}
    assert training["custom"]["trainer"] == {"max_epochs": 2}
    report = Report()
    check_custom(report, training, "the lineage")
    assert any("Module" in reason for reason in report.unchecked.values())
    lineages = [read_checkpoint(folder / "checkpoint_best_total.pth").lineage for folder in (fitted[3], tmp_path)]
    assert lineages[0] is not None
    assert lineages[1] is not None
    assert "trainer.max_epochs" in compare_lineages(*lineages)["custom"]


def test_weights_that_a_script_loads_are_in_the_record(data: Path, tmp_path: Path) -> None:
    config_pair = model_config(), train_config(data, tmp_path, epochs=1)
    module = RFDETRModelModule(*config_pair)
    with torch.no_grad():
        next(module.model.parameters()).add_(1)
    build_trainer(*config_pair[::-1]).fit(module, RFDETRDataModule(*config_pair))
    assert record(tmp_path)["custom"].keys() == {"weights", "code"}


def test_upstreams_callbacks_work_in_a_trainer_of_lightning(data: Path, tmp_path: Path) -> None:
    config_pair = model_config(), train_config(data, tmp_path)
    module, datamodule = RFDETRModelModule(*config_pair), RFDETRDataModule(*config_pair)
    callbacks = [
        RFDETREMACallback(decay=0.5, tau=0, update_interval_steps=1),
        COCOEvalCallback(log_per_class_metrics=False),
        BestModelCallback(str(tmp_path / "out"), monitor_ema="val/ema_mAP_50_95"),
        RFDETREarlyStopping(patience=1, min_delta=2.0),
        DropPathCallback(0.1),
    ]
    trainer = pytorch_lightning.Trainer(
        callbacks=callbacks, max_epochs=3, accelerator="cpu", logger=False, enable_progress_bar=False
    )
    trainer.fit(module, datamodule)
    rows = (tmp_path / "out" / "history.csv").read_text().splitlines()
    assert len(rows) == 1 + 2  # no score grows by 2 in an epoch
    blocks: Any = module.model.get_submodule("encoder.blocks")
    assert [blocks[0].drop_path.rate, blocks[-1].drop_path.rate] == pytest.approx([0.0, 0.1])
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {*FIVE, "scores.json", "selection.json", "records", "evaluate"}
    assert read_json(tmp_path / "out" / "evaluate" / "about.json")["split"] == "test"
    chosen = record(tmp_path / "out")["custom"]
    assert chosen.keys() == {"callbacks", "trainer", "code"}
    assert chosen["trainer"].keys() <= {"max_epochs", "gradient_clip_val", "precision", "accumulate_grad_batches"}
    used = chosen["callbacks"]
    assert used["rfdetr_core.api.callbacks.RFDETREMACallback"]["decay"] == 0.5
    loaded = rfdetr_core.from_checkpoint(tmp_path / "out" / "checkpoint_best_total.pth", device="cpu")
    assert loaded.class_names == ["red", "green"]


@pytest.mark.slow
def test_the_custom_api_resumes_a_state_of_train_to_the_same_bytes(trained: Path, data: Path, tmp_path: Path) -> None:
    config_pair = model_config(), train_config(data, tmp_path, epochs=3, resume=trained / "checkpoint.pth")
    build_trainer(*config_pair[::-1]).fit(RFDETRModelModule(*config_pair), RFDETRDataModule(*config_pair))
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 1 + 3
    output = tmp_path / "train"
    model = rfdetr_core.RFDETRPico(**SMALL)
    settings = SETTINGS | {"epochs": 3, "resume": trained / "checkpoint.pth", "checkpoint_interval": 2}
    model.train(dataset_dir=data, output_dir=output, **settings)
    name = "checkpoint_best_total.pth"
    assert (tmp_path / name).read_bytes() == (output / name).read_bytes()


@pytest.mark.parametrize("options", [{"fast_dev_run": 2}, {"include_training_callbacks": False, "max_epochs": 1}])
def test_nothing_is_written_without_training_callbacks(data: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    config_pair = model_config(), train_config(data, tmp_path, early_stopping=True)
    trainer = build_trainer(*config_pair[::-1], enable_progress_bar=False, accelerator="cpu", **options)
    trainer.fit(RFDETRModelModule(*config_pair), RFDETRDataModule(*config_pair))
    assert "val/mAP_50_95" in trainer.callback_metrics
    assert {path.name for path in tmp_path.iterdir()} == {"dataset", ".lock"}


def test_a_callback_of_train_that_is_removed_is_in_the_record(data: Path, tmp_path: Path) -> None:
    config_pair = model_config(), train_config(data, tmp_path, epochs=1)
    trainer = build_trainer(*config_pair[::-1])
    trainer.callbacks = [callback for callback in trainer.callbacks if not isinstance(callback, RFDETREMACallback)]
    trainer.fit(RFDETRModelModule(*config_pair), RFDETRDataModule(*config_pair))
    custom = record(tmp_path)["custom"]
    assert custom.pop("code").keys() > {"rfdetr_core/api/custom.py"}
    assert custom == {"missing": ["rfdetr_core.api.callbacks.RFDETREMACallback"]}


def test_wrong_arguments_are_named(data: Path, tmp_path: Path) -> None:
    config = train_config(data, tmp_path)
    with pytest.raises(UserError, match=r"num_classes is 3, but .* has 2 classes: red, green\. Write num_classes=2"):
        RFDETRModelModule(model_config(num_classes=3), config)
    with pytest.raises(UserError, match="model_config is a TrainConfig"):
        RFDETRModelModule(config, model_config())  # type: ignore[call-overload]
    with pytest.raises(UserError, match="RFDETRDataModule takes"):
        RFDETRDataModule(model_config())  # type: ignore[call-overload]
    with pytest.raises(UserError, match="build_trainer: model_config is a TrainConfig"):
        build_trainer(model_config(), config)  # type: ignore[call-overload]
    with pytest.raises(UserError, match=r"accelerator is 'tpu'"):
        build_trainer(config, model_config(), accelerator="tpu")
    with pytest.raises(UserError, match="build_trainer takes train_config and model_config, in this order"):
        build_trainer()  # type: ignore[call-overload]
    with pytest.raises(UserError, match="callbacks is 'x'"):
        build_trainer(config, model_config(), callbacks="x")  # type: ignore[call-overload]
    with pytest.raises(UserError, match="more than one RFDETREMACallback"):
        build_trainer(config, model_config(), callbacks=[RFDETREMACallback(), RFDETREMACallback()])
    with pytest.raises(UserError, match="gradients are clipped by norm"):
        build_trainer(config, model_config(), gradient_clip_algorithm="value")
    config_pair, other_config_pair = (
        (model_config(num_classes=2), config),
        (model_config(), train_config(data, tmp_path, lr=1e-5)),
    )
    with pytest.raises(UserError, match="The data module was built from other configs"):
        build_trainer(*config_pair[::-1]).fit(RFDETRModelModule(*config_pair), RFDETRDataModule(*other_config_pair))


@pytest.mark.parametrize(
    ("callback", "arguments", "message"),
    [
        (RFDETREMACallback, {"use_buffers": False}, "use_buffers=False is not possible here"),
        (RFDETREMACallback, {"decay": 1.0}, "decay"),
        (RFDETREMACallback, {"decay": "0.9"}, r"decay is '0\.9'\. Give a number"),
        (RFDETREMACallback, {"update_interval_steps": 1.5}, r"update_interval_steps is 1\.5\. Give a whole number"),
        (COCOEvalCallback, {"segmentation": "no"}, "Give True or False"),
        (COCOEvalCallback, {"keypoint_oks_sigmas": [0.1]}, "no keypoint models"),
        (COCOEvalCallback, {"eval_base_model": False}, "always evaluated"),
        (COCOEvalCallback, {"eval_backend": "mine"}, r"is unknown\. Use vernier"),
        (BestModelCallback, {"output_dir": "a", "monitor_regular": "loss"}, "val/NAME"),
        (BestModelCallback, {"output_dir": "a", "monitor_ema": "val/ema_F1"}, "val/NAME"),
        (BestModelCallback, {"output_dir": "a", "evaluates_base_model": False}, "always evaluated"),
        (RFDETREarlyStopping, {"patience": 0}, "patience"),
        (DropPathCallback, {"mode": "early", "drop_path": 0.1}, "mode='early' is not possible here"),
        (DropPathCallback, {"drop_path": 1.0}, "drop_path"),
        (DropPathCallback, {"drop_path": "0.1"}, "drop_path is '0.1'"),
    ],
)
def test_an_unsupported_argument_of_a_callback_is_an_error(
    callback: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        callback(**arguments)


ModuleDataTrainer = tuple[Any, Any, Any]


@pytest.fixture(scope="module")
def config_pair(data: Path) -> tuple[Any, Any]:
    return model_config(), train_config(data, data.parent / "parts")


def module_data_trainer(config_pair: tuple[Any, Any], **options: Any) -> ModuleDataTrainer:
    """Module, data module and trainer."""
    return RFDETRModelModule(*config_pair), RFDETRDataModule(*config_pair), build_trainer(*config_pair[::-1], **options)


def custom(training_parts: ModuleDataTrainer, data: Any = ...) -> dict[str, Any]:
    """The part `custom` of the record of a training that would start now, without the digests of code."""
    module, own_data, trainer = training_parts
    part = custom_part(trainer, module, own_data if data is ... else data, trainer.configured_callbacks, resumed=False)
    assert ("code" in part) == bool(part.keys() - {"code"})
    return {key: value for key, value in part.items() if key != "code"}


class Watching(ModelCheckpoint):
    pass


class OwnAverage(RFDETREMACallback):
    pass


class Described(Callback):
    def __init__(self, rate: float) -> None:
        self.rate, self.arguments = rate, "mine"


EMA = "rfdetr_core.api.callbacks.RFDETREMACallback"


@pytest.mark.parametrize(
    ("change", "key", "value"),
    [
        (lambda module, data, trainer: setattr(module, "criterion", torch.nn.Identity()), "module.criterion", None),
        (lambda module, data, trainer: setattr(module, "training_step", MethodType(len, [])),
         "module.training_step", None),
        (lambda module, data, trainer: setattr(module, "sizes", [32]), "module.sizes", "[32]"),
        (lambda module, data, trainer: delattr(data, "seed"), "data.seed", "removed"),
        (lambda module, data, trainer: setattr(data, "batch_size", 1), "data.batch_size", "1"),
        (lambda module, data, trainer: setattr(data.train_set, "samples", data.train_set.samples[:2]),
         "data.train_set.samples", None),
        (lambda module, data, trainer: setattr(trainer.callbacks[0], "decay", 0.1), f"{EMA}.decay", "0.1"),
        (lambda module, data, trainer: module.model.get_parameter("query_boxes").requires_grad_(False),
         "module.frozen", "['detector.query_boxes', 'detector.encoder.mask_token']"),
    ],
)  # fmt: skip
def test_an_attribute_that_is_set_later_is_in_the_record(
    config_pair: tuple[Any, Any], change: Callable[..., None], key: str, value: str | None
) -> None:
    training_parts = module_data_trainer(config_pair)
    assert custom(training_parts) == {}
    change(*training_parts)
    attributes = custom(training_parts)["attributes"]
    assert list(attributes) == [key]
    assert attributes[key] == value


def test_attributes_that_a_training_changes_are_not_in_the_record(fitted: tuple[Any, Any, Any, Path]) -> None:
    trainer, module, data, _ = fitted
    assert custom((module, data, trainer)).keys() == {"weights"}


def test_data_that_no_config_names_is_in_the_record(config_pair: tuple[Any, Any]) -> None:
    training_parts = module_data_trainer(config_pair)
    options = training_parts[0].preparation.inputs.data
    first, same = RFDETRDataModule(**options), RFDETRDataModule(**options)
    fewer = RFDETRDataModule(**options | {"train_samples": options["train_samples"][:2]})
    digests = [custom(training_parts, data)["data"] for data in (first, same, fewer)]
    assert digests[0] == digests[1] != digests[2]
    assert None not in digests
    assert custom(training_parts, None) == custom(training_parts, LightningDataModule()) == {"data": None}


def test_every_callback_and_option_that_decides_is_in_the_record(config_pair: tuple[Any, Any], tmp_path: Path) -> None:
    watching = [ModelCheckpoint(tmp_path)]
    assert (
        custom(
            module_data_trainer(config_pair, callbacks=watching, log_every_n_steps=3, profiler="simple", max_epochs=2)
        )
        == {}
    )
    callbacks = [OwnAverage(0.9), Watching(tmp_path), Described(0.5), Described(0.25)]
    options = {"min_epochs": 3, "max_time": "00:01:00:00", "benchmark": True, "reload_dataloaders_every_n_epochs": 1}
    part = custom(module_data_trainer(config_pair, callbacks=callbacks, **options))
    assert part["trainer"] == {
        "benchmark": "True",
        "max_time": "'00:01:00:00'",
        "min_epochs": 3,
        "reload_dataloaders_every_n_epochs": 1,
    }
    described = {name.rpartition(".")[2]: description for name, description in part["callbacks"].items()}
    assert described.keys() == {"OwnAverage", "Watching", "Described", "Described (2)", "Timer"}
    source = sha256_file(Path(__file__))
    assert described["Described"] == {"file": source, "rate": "0.5", "arguments": "'mine'"}
    assert described["Described (2)"]["rate"] == "0.25"
    assert described["OwnAverage"]["file"] == described["Watching"]["file"] == source
    assert described["OwnAverage"]["decay"] == "0.9"


def test_an_added_callback_replaces_the_configured_one_of_its_class(
    config_pair: tuple[Any, Any], tmp_path: Path
) -> None:
    added = [RFDETREarlyStopping(3), COCOEvalCallback(), BestModelCallback(tmp_path), RFDETREMACallback(0.9)]
    module, data, trainer = module_data_trainer(config_pair, callbacks=added)
    for callback in added:
        assert [present for present in trainer.callbacks if isinstance(present, type(callback))] == [callback]
    assert trainer.callbacks[0] is added[3]  # the average is updated before it is scored
    assert trainer.run_files is added[2]
    names = {f"rfdetr_core.api.callbacks.{type(callback).__name__}" for callback in added}
    part = custom((module, data, trainer))
    assert part["callbacks"].keys() == names
    assert "missing" not in part


def test_a_state_is_one_of_the_same_training_or_a_parent(
    fitted: tuple[Any, Any, Any, Path], config_pair: tuple[Any, Any], tmp_path: Path
) -> None:
    preparation, state = RFDETRModelModule(*config_pair).preparation, fitted[3] / "checkpoint.pth"
    assert preparation is not None
    assert preparation.start(state, {}, 2)[1] == preparation.record
    stopped = tmp_path / "checkpoint.pth"
    write_state(tmp_path, read_plain(state) | {"epoch": 0})  # finished, with an epoch left: it had stopped early
    assert "resume" in preparation.start(stopped, {}, 2)[1]["parents"]
    content = read_plain(state)
    content["run"]["fingerprint"]["custom.data"] = None
    write_state(tmp_path, content)
    assert "resume" in preparation.start(stopped, {"data": None}, 2)[1]["parents"]
    assert records.differences({"custom.data": None}, {"custom.data": None}) == ["custom.data is unknown"]


def test_a_state_that_is_not_resumed_is_reported(
    fitted: tuple[Any, Any, Any, Path], config_pair: tuple[Any, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    module, data, trainer = module_data_trainer(config_pair)
    content = read_plain(fitted[3] / "checkpoint.pth")
    for finished in (True, False):
        content["run"]["finished"] = finished
        write_state(trainer.run_files.folder, content)
        trainer.run_files.begin(trainer, module, data, None, [*trainer.configured_callbacks])
        assert ("give ckpt_path=" in capsys.readouterr().out) == (not finished)
    (trainer.run_files.folder / "checkpoint.pth").unlink()


def test_a_dataset_that_changed_is_prepared_again(data: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "data"
    shutil.copytree(data, dataset)
    config_pair = model_config(), train_config(dataset, tmp_path / "run")
    before = module_data_trainer(config_pair)
    (dataset / "test" / "test_0.png").rename(dataset / "test" / "other.png")
    with pytest.raises(UserError, match="dataset has changed since the module was made"):
        before[2].fit(*before[:2])
    (dataset / "test" / "other.png").rename(dataset / "test" / "test_0.png")
    assert RFDETRModelModule(*config_pair).preparation is before[0].preparation
    labels = next(dataset.glob("train/*.json"))
    labels.write_text(labels.read_text() + "\n")
    new_module = RFDETRModelModule(*config_pair)
    assert new_module.preparation is not before[0].preparation
    with pytest.raises(UserError, match="Make module, data module and trainer again"):
        before[2].fit(new_module, before[1])


@pytest.mark.parametrize("callback", [RFDETREMACallback(), RFDETREarlyStopping(), DropPathCallback()])
def test_a_callback_says_which_module_it_needs(callback: Any, config_pair: tuple[Any, Any]) -> None:
    with pytest.raises(UserError, match="needs an RFDETRModelModule, but the module is a LightningModule"):
        callback.setup(build_trainer(*config_pair[::-1]), LightningModule(), "fit")
