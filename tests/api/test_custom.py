"""Training by Lightning's parts: the same bytes as `RFDETR.train`, with upstream's arguments, and an honest record."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning
import torch
from pytorch_lightning import Callback

import rfdetr_core
from rfdetr_core.api import configs
from rfdetr_core.api.configs import ScriptTrainConfig as TrainConfig
from rfdetr_core.audit.text import compare_lineages
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.files import read_json, sha256_file
from rfdetr_core.checkpoint.files import read_checkpoint
from rfdetr_core.training import RFDETRDataModule, RFDETRModelModule, build_trainer
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
    """Trainer, module and data module after the fit of a user of upstream, and the run folder."""
    output = data.parent / "fit"
    pair = model_config(), train_config(data, output)
    module, datamodule = RFDETRModelModule(*pair), RFDETRDataModule(*pair)
    trainer = build_trainer(pair[1], pair[0], log_every_n_steps=10)
    trainer.fit(module, datamodule, ckpt_path=pair[1].resume or None)
    return trainer, module, datamodule, output


def record(output: Path) -> dict[str, Any]:
    lineage = read_checkpoint(output / "checkpoint_best_total.pth").lineage
    assert lineage is not None
    training: dict[str, Any] = lineage["training"]
    return training


def test_the_parts_leave_the_bytes_that_train_leaves(fitted: tuple[Any, Any, Any, Path], trained: Path) -> None:
    output = fitted[3]
    for name in (*FIVE, "history.csv", "scores.json", "selection.json"):
        assert (output / name).read_bytes() == (trained / name).read_bytes(), name
    assert {path.name for path in output.iterdir()} == {path.name for path in trained.iterdir()}
    assert "custom" not in record(output)


def test_the_parts_validate_test_and_predict(fitted: tuple[Any, Any, Any, Path], data: Path) -> None:
    trainer, module, datamodule, output = fitted
    last = (output / "history.csv").read_text().splitlines()
    row = dict(zip(last[0].split(","), last[-1].split(","), strict=True))
    (found,) = trainer.validate(module, datamodule)
    for key in ("val/F1", "val/ema_threshold", "val/mAR"):
        assert found[key] == pytest.approx(float(row[key]), abs=1e-6), key
    (found,) = trainer.test(module, datamodule)
    assert {"test/mAP_50_95", "test/ema_mAP_50"} <= found.keys()
    assert not [key for key in found if key.startswith("val/")]
    datamodule.setup("fit")
    assert datamodule.class_names == ["red", "green"]
    sets = [[one.path for batch in loader for one in batch.samples] for loader in _loaders(datamodule)]
    assert sets == [["valid/valid_0.png", "valid/valid_1.png"], ["test/test_0.png", "test/test_1.png"]]
    ((one, _),) = trainer.predict(module, dataloaders=datamodule.val_dataloader())
    (batch,) = datamodule.val_dataloader()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=trainer.precision == "bf16-mixed"):
        output = module.model.eval()(batch.normalised().images, None)
    assert one["scores"][0] == output.logits[0].sigmoid().max()
    assert one["boxes"].max() > 1


def _loaders(datamodule: Any) -> list[Any]:
    return [datamodule.val_dataloader(), datamodule.test_dataloader()]


def test_a_pair_of_configs_is_prepared_once_and_forgotten(data: Path, tmp_path: Path) -> None:
    from rfdetr_core.api import preparation

    pair = model_config(), train_config(data, tmp_path)
    gc.collect()
    before = len(preparation._made)
    module, again = RFDETRModelModule(*pair), RFDETRModelModule(*pair)
    assert module.preparation is again.preparation
    assert module.model is not again.model
    digests = [one.first_weights for one in (module, again)]
    assert digests[0] == digests[1]
    assert len(preparation._made) == before + 1
    del module, again
    gc.collect()
    assert len(preparation._made) == before


@pytest.mark.slow
def test_a_resume_by_path_goes_on_and_ends_as_one_training(
    fitted: tuple[Any, Any, Any, Path], data: Path, tmp_path: Path
) -> None:
    class Interrupted(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                raise RuntimeError("here")

    pair = model_config(), train_config(data, tmp_path)
    trainer = build_trainer(pair[1], pair[0])
    trainer.callbacks.extend([Interrupted()])
    with pytest.raises(RuntimeError, match="here"):
        trainer.fit(RFDETRModelModule(*pair), RFDETRDataModule(*pair))
    trainer = build_trainer(pair[1], pair[0])
    state = tmp_path / "checkpoint.pth"
    trainer.fit(RFDETRModelModule(*pair), RFDETRDataModule(*pair), ckpt_path=state)
    end, whole = (read_checkpoint(one / "checkpoint_best_ema.pth").weights for one in (tmp_path, fitted[3]))
    assert all(torch.equal(end[name], whole[name]) for name in whole)
    # The first part ran another callback, which the state says: it is a parent, not the same training.
    assert record(tmp_path)["parents"]["resume"]["name"] == "checkpoint.pth"
    # From a finished one, to more epochs.
    longer = model_config(), train_config(data, tmp_path, epochs=3)
    build_trainer(*longer[::-1]).fit(RFDETRModelModule(*longer), RFDETRDataModule(*longer), ckpt_path=str(state))
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 1 + 3
    assert record(tmp_path)["params"]["train"]["resume"] == "checkpoint.pth"
    other = model_config(), train_config(data, tmp_path, epochs=4, lr=1e-4)
    module, datamodule = RFDETRModelModule(*other), RFDETRDataModule(*other)
    with pytest.raises(UserError, match=r"params\.train\.lr was 0\.001"):
        build_trainer(*other[::-1]).fit(module, datamodule, ckpt_path=state)
    with pytest.raises(UserError, match="which is no file"):
        build_trainer(*other[::-1]).fit(module, datamodule, ckpt_path=tmp_path / "none.pth")


def test_what_a_script_changes_is_in_the_record_and_no_claim_of_this_project(
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

    pair = model_config(), train_config(data, tmp_path, epochs=1)
    trainer, counting = build_trainer(*pair[::-1], max_epochs=2, callbacks=[DropPathCallback(0.1)]), Counting()
    trainer.callbacks.extend([counting])
    trainer.fit(Module(*pair), Data(*pair))
    assert counting.batches == 4
    made, source = record(tmp_path), sha256_file(Path(__file__))
    assert {name.rpartition(".")[2]: digest for name, digest in made["custom"]["classes"].items()} == {
        "Module": source,
        "Data": source,
    }
    callbacks = {name.rpartition(".")[2]: one for name, one in made["custom"]["callbacks"].items()}
    assert callbacks == {"Counting": source, "DropPathCallback": {"drop_path": 0.1}}
    assert made["custom"]["trainer"] == {"max_epochs": 2}
    report = Report()
    check_custom(report, made, "the lineage")
    assert any("Module" in reason for reason in report.unchecked.values())
    lineages = [read_checkpoint(one / "checkpoint_best_total.pth").lineage for one in (fitted[3], tmp_path)]
    assert lineages[0] is not None
    assert lineages[1] is not None
    assert "trainer.max_epochs" in compare_lineages(*lineages)["custom"]


def test_weights_that_a_script_loads_are_in_the_record(data: Path, tmp_path: Path) -> None:
    pair = model_config(), train_config(data, tmp_path, epochs=1)
    module = RFDETRModelModule(*pair)
    with torch.no_grad():
        next(module.model.parameters()).add_(1)
    build_trainer(*pair[::-1]).fit(module, RFDETRDataModule(*pair))
    assert record(tmp_path)["custom"].keys() == {"weights"}


def test_upstreams_callbacks_work_in_a_trainer_of_lightning(data: Path, tmp_path: Path) -> None:
    pair = model_config(), train_config(data, tmp_path)
    module, datamodule = RFDETRModelModule(*pair), RFDETRDataModule(*pair)
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
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert made >= {*FIVE, "scores.json", "selection.json", "records", "evaluate"}
    assert read_json(tmp_path / "out" / "evaluate" / "about.json")["split"] == "test"
    used = record(tmp_path / "out")["custom"]["callbacks"]
    assert used["rfdetr_core.api.callbacks.RFDETREMACallback"]["decay"] == 0.5
    found = rfdetr_core.from_checkpoint(tmp_path / "out" / "checkpoint_best_total.pth", device="cpu")
    assert found.class_names == ["red", "green"]


@pytest.mark.slow
def test_a_state_of_train_and_one_of_the_parts_are_the_same(trained: Path, data: Path, tmp_path: Path) -> None:
    pair = model_config(), train_config(data, tmp_path, epochs=3, resume=trained / "checkpoint.pth")
    build_trainer(*pair[::-1]).fit(RFDETRModelModule(*pair), RFDETRDataModule(*pair))
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 1 + 3
    other = tmp_path / "train"
    model = rfdetr_core.RFDETRPico(**SMALL)
    settings = SETTINGS | {"epochs": 3, "resume": trained / "checkpoint.pth", "checkpoint_interval": 2}
    model.train(dataset_dir=data, output_dir=other, **settings)
    name = "checkpoint_best_total.pth"
    assert (tmp_path / name).read_bytes() == (other / name).read_bytes()


@pytest.mark.parametrize("options", [{"fast_dev_run": 2}, {"include_training_callbacks": False, "max_epochs": 1}])
def test_nothing_is_written_where_that_is_asked(data: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    pair = model_config(), train_config(data, tmp_path, early_stopping=True)
    trainer = build_trainer(*pair[::-1], enable_progress_bar=False, accelerator="cpu", **options)
    trainer.fit(RFDETRModelModule(*pair), RFDETRDataModule(*pair))
    assert "val/mAP_50_95" in trainer.callback_metrics
    assert {path.name for path in tmp_path.iterdir()} == {"dataset", ".lock"}


def test_a_callback_of_train_that_is_removed_is_in_the_record(data: Path, tmp_path: Path) -> None:
    pair = model_config(), train_config(data, tmp_path, epochs=1)
    trainer = build_trainer(*pair[::-1])
    trainer.callbacks = [one for one in trainer.callbacks if not isinstance(one, RFDETREMACallback)]
    trainer.fit(RFDETRModelModule(*pair), RFDETRDataModule(*pair))
    assert record(tmp_path)["custom"] == {"missing": ["rfdetr_core.api.callbacks.RFDETREMACallback"]}


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
    pair, other = (model_config(num_classes=2), config), (model_config(), train_config(data, tmp_path, lr=1e-5))
    with pytest.raises(UserError, match="the data module was made of other configs"):
        build_trainer(*pair[::-1]).fit(RFDETRModelModule(*pair), RFDETRDataModule(*other))


@pytest.mark.parametrize(
    ("callback", "arguments", "message"),
    [
        (RFDETREMACallback, {"use_buffers": False}, "use_buffers=False is not possible here"),
        (RFDETREMACallback, {"decay": 1.0}, "decay"),
        (COCOEvalCallback, {"keypoint_oks_sigmas": [0.1]}, "no keypoint models"),
        (COCOEvalCallback, {"eval_base_model": False}, "always evaluated"),
        (COCOEvalCallback, {"eval_backend": "mine"}, "no such one"),
        (BestModelCallback, {"output_dir": "a", "monitor_regular": "loss"}, "val/NAME"),
        (BestModelCallback, {"output_dir": "a", "monitor_ema": "val/ema_F1"}, "val/NAME"),
        (BestModelCallback, {"output_dir": "a", "evaluates_base_model": False}, "always evaluated"),
        (RFDETREarlyStopping, {"patience": 0}, "patience"),
        (DropPathCallback, {"mode": "early", "drop_path": 0.1}, "mode='early' is not possible here"),
        (DropPathCallback, {"drop_path": 1.0}, "drop_path"),
    ],
)
def test_what_a_callback_cannot_do_is_an_error(callback: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        callback(**arguments)
