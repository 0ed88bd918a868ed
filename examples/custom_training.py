"""Train with your own Lightning callback.

python examples/custom_training.py data/sample runs/custom
"""

from __future__ import annotations

import sys

from pytorch_lightning import Callback, LightningModule, Trainer

from rfdetr_core.config import RFDETRPicoConfig, TrainConfig
from rfdetr_core.training import RFDETRDataModule, RFDETRModelModule, build_trainer


class StopAt(Callback):
    """Stops the training when the averaged (EMA) weights reach a target score."""

    def __init__(self, score: float) -> None:
        self.score = score

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare a score with the target. The name of a score is its column in history.csv."""
        trainer.should_stop = float(trainer.callback_metrics["val/ema_mAP_50"]) >= self.score


def main(dataset: str, output: str, epochs: int = 20, enough: float = 0.5, interval: int = 10) -> None:
    """Train a new Pico on a COCO or YOLO dataset.

    Args:
        dataset: The folder of the dataset.
        output: The folder for the results: checkpoint_best_total.pth, checkpoint_best_regular.pth,
            checkpoint_best_ema.pth, and checkpoint.pth, which resumes the training.
        epochs: The largest number of epochs.
        enough: The target score. The training stops when val/ema_mAP_50 is at least this number.
        interval: Epochs between two checkpoint_<N>.pth.
    """
    model_config = RFDETRPicoConfig()
    train_config = TrainConfig(
        dataset_dir=dataset, output_dir=output, epochs=epochs, batch_size=4, lr=5e-4, checkpoint_interval=interval
    )
    trainer = build_trainer(train_config, model_config, callbacks=[StopAt(enough)])
    trainer.fit(RFDETRModelModule(model_config, train_config), RFDETRDataModule(model_config, train_config))


if __name__ == "__main__":
    main(*sys.argv[1:])
