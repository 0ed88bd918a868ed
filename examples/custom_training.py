"""A training of one's own: any callback, logger, strategy or precision of Lightning fits in.

python examples/custom_training.py data/sample runs/custom
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger

from rfdetr_core.base import files
from rfdetr_core.base.manifest import read_classes
from rfdetr_core.checkpoint.files import make_checkpoint, write_checkpoint
from rfdetr_core.data.samples import read_samples
from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.ingest.convert import convert_dataset
from rfdetr_core.ingest.validate import validate_dataset
from rfdetr_core.model.config import ModelConfig
from rfdetr_core.model.detector import build_detector
from rfdetr_core.training import RFDETRDataModule, RFDETRModelModule, build_trainer
from rfdetr_core.training.callbacks import CocoScoring
from rfdetr_core.training.config import TrainConfig


class StopAt(Callback):
    """Ends the training when the averaged weights are good enough."""

    def __init__(self, score: float) -> None:
        self.score = score

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the values that the scoring recorded."""
        trainer.should_stop = float(trainer.callback_metrics["val/ema_mAP_50"]) >= self.score


class JsonLines(Logger):
    """Appends what is logged to a file, a line of JSON for each time."""

    name, version = "json lines", 0

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Write a line."""
        with self.path.open("a") as file:
            print(json.dumps({"step": step} | metrics), file=file)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Leave them out; Lightning asks every logger for this."""


def main(dataset: Path, output: Path, model: ModelConfig, config: TrainConfig, enough: float) -> Trainer:
    """Train on a COCO or YOLO folder; write metrics.jsonl and model.pth, which `from_checkpoint` reads."""
    manifests, annotations = output / "manifest", output / "annotations"
    validate_dataset(dataset, ValidateConfig(), output / "dataset", manifests)
    convert_dataset(dataset, ValidateConfig(), manifests, annotations)
    names = [entry.name for entry in read_classes(annotations / "classes.json")]
    train, valid = (read_samples(annotations / f"{one}.json", manifests / f"{one}.json") for one in ("train", "valid"))

    architecture = model.architecture(len(names))
    torch.manual_seed(config.seed)
    module = RFDETRModelModule(build_detector(architecture), architecture, config)
    assert config.batch_size != "auto"
    sizes: dict[str, int] = {"resolution": architecture.resolution, "batch_size": config.batch_size}
    data = RFDETRDataModule(dataset, train, valid, seed=config.seed, augmentation=config.augmentation, **sizes)

    scoring = CocoScoring(files.read_json(annotations / "valid.json"), architecture.segmentation)
    callbacks = [scoring, StopAt(enough)]
    trainer: Trainer = build_trainer(config, callbacks=callbacks, logger=JsonLines(output / "metrics.jsonl"))
    trainer.fit(module, data)

    weights = module.tracks["ema"].state_dict()
    write_checkpoint(output / "model.pth", make_checkpoint(architecture, weights, class_names=names, args={}))
    return trainer


if __name__ == "__main__":
    settings = TrainConfig(epochs=20, lr=5e-4, multi_scale="off", amp_dtype=None)
    main(Path(sys.argv[1]), Path(sys.argv[2]), ModelConfig(variant="pico"), settings, enough=0.5)
