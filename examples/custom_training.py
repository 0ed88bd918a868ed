"""A training with a callback of one's own: python examples/custom_training.py data/sample runs/custom"""

from __future__ import annotations

import sys

from pytorch_lightning import Callback, LightningModule, Trainer

from rfdetr_core.config import RFDETRPicoConfig, TrainConfig
from rfdetr_core.training import RFDETRDataModule, RFDETRModelModule, build_trainer


class StopAt(Callback):
    """Ends the training when the averaged weights are good enough."""

    def __init__(self, score: float) -> None:
        self.score = score

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the scores, which are those of the documentation: val/mAP_50, val/ema_mAP_50 and others."""
        trainer.should_stop = float(trainer.callback_metrics["val/ema_mAP_50"]) >= self.score


def main(dataset: str, output: str, epochs: int = 20, enough: float = 0.5, interval: int = 10) -> None:
    """Train a new Pico on a COCO or YOLO folder.

    `output` receives checkpoint_best_total.pth, checkpoint_best_regular.pth, checkpoint_best_ema.pth, checkpoint.pth to
    resume from, and every `interval` epochs a checkpoint_<N>.pth.
    """
    model_config = RFDETRPicoConfig()
    train_config = TrainConfig(
        dataset_dir=dataset, output_dir=output, epochs=epochs, batch_size=4, lr=5e-4, checkpoint_interval=interval
    )
    trainer = build_trainer(train_config, model_config, callbacks=[StopAt(enough)])
    trainer.fit(RFDETRModelModule(model_config, train_config), RFDETRDataModule(model_config, train_config))


if __name__ == "__main__":
    main(*sys.argv[1:])
