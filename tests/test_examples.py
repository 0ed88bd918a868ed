from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.plugins.precision import MixedPrecision
from pytorch_lightning.strategies import SingleDeviceStrategy

from rfdetr_core import from_checkpoint
from rfdetr_core.base.code import ROOT
from rfdetr_core.base.params import parse
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.checkpoint.files import read_plain
from rfdetr_core.model.config import ModelConfig
from rfdetr_core.training.config import RuntimeConfig, TrainConfig
from rfdetr_core.training.run import prepare_training
from rfdetr_core.training.trainer import build_trainer
from tests.pipeline.project import make_dataset
from tests.training.tiny import MODEL, RUNTIME, TRAIN, make_files


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("custom_training", ROOT / "examples" / "custom_training.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("enough", [0.0, 2.0])
def test_a_training_with_a_custom_callback(example: ModuleType, tmp_path: Path, enough: float) -> None:
    make_dataset(tmp_path / "data", {"train": 4, "valid": 2, "test": 1})
    output = tmp_path / "run"
    example.main(str(tmp_path / "data"), str(output), epochs=2, enough=enough, interval=1)
    rows = (output / "history.csv").read_text().splitlines()
    assert len(rows) == 1 + (1 if enough == 0 else 2)  # the callback stopped it, or did not
    checkpoints = {"checkpoint.pth", *(f"checkpoint_best_{track}.pth" for track in ("ema", "regular", "total"))}
    numbered = {f"checkpoint_{epoch}.pth" for epoch in range(len(rows) - 1)}
    assert {path.name for path in output.glob("*.pth")} == checkpoints | numbered
    model = from_checkpoint(output / "checkpoint_best_total.pth", device="cpu")
    assert model.class_names == ["red", "green"]
    model.predict(np.zeros((64, 64, 3), dtype=np.uint8))


def test_lightnings_callbacks_loggers_strategies_and_precision_plugins_work(tmp_path: Path) -> None:
    where: ProjectPaths = make_files(tmp_path)
    model, config = parse(ModelConfig, MODEL, "model"), parse(TrainConfig, TRAIN | {"epochs": 2}, "train")
    training = prepare_training(where, model, config, parse(RuntimeConfig, RUNTIME, "runtime"), tmp_path / "run")
    best = ModelCheckpoint(tmp_path, "best", monitor="val/ema_mAP_50", mode="max")
    scoring = training.callbacks[0]
    trainer = build_trainer(
        config,
        callbacks=[scoring, best, LearningRateMonitor("epoch")],
        logger=CSVLogger(tmp_path, "csv", ""),
        strategy=SingleDeviceStrategy("cpu"),
        plugins=[MixedPrecision("bf16-mixed", "cpu")],
    )
    assert trainer.precision == "bf16-mixed"
    trainer.fit(training.module, training.data)
    assert trainer.callback_metrics["val/ema_mAP_50"] <= (best.best_model_score or 0)
    assert "val/ema_mAP_50" in (tmp_path / "csv" / "metrics.csv").read_text()
    assert set(read_plain(Path(best.best_model_path))) >= {"state_dict", "optimizer_states"}
