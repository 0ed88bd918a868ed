"""Tracks a training in MLflow. A server that is away costs no training, and nothing is lost."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from rfdetr_core.data.datamodule import RFDETRDataModule
from rfdetr_core.observers.history import read_history
from rfdetr_core.observers.runs import connect, fault, open_run, origin
from rfdetr_core.training.interruption import Stopped

_PATIENCE = 5  # seconds


class MlflowRun(Checkpoint):
    """Brings the run of the training's fingerprint up to history.csv after each epoch.

    What could not be sent is in history.csv, and is sent after the next epoch, by the process that goes on with the
    training, or by `publish`. A Checkpoint, since Lightning calls those last: RunFiles has written the file then.
    """

    def __init__(self, project: str, name: str | None, record: Mapping[str, Any], folder: Path) -> None:
        """Take the names of the experiment and of the run, what the training says of itself, and the run folder."""
        self.project, self.name, self.record, self.folder = project, name, record, folder
        self.client: Any = None
        self.described = False
        self.reported: set[str] = set()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find or open the run."""
        self._send(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send the epoch, and what could not be sent before."""
        self._send(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach history and scores, close the run."""
        self._send(trainer, "FINISHED")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the run as killed or failed."""
        self._send(trainer, "KILLED" if isinstance(exception, Stopped) else "FAILED")

    def _send(self, trainer: Trainer, status: str | None = None) -> None:
        if not trainer.is_global_zero:
            return
        try:
            self.client = self.client or connect(_PATIENCE)
            rows = read_history(self.folder / "history.csv")
            run = open_run(self.client, self.project, self.name, self.record, rows)
            if not self.described:
                run.describe(self.record, self._datasets(trainer), origin())
                run.resume()
                self.described = True
            run.log_epochs(rows)
            for name in ("history.csv", "scores.json") if status == "FINISHED" else ():
                run.log_file(self.folder / name)
            if status is not None:
                run.end(status)
        except Exception as error:  # noqa: BLE001 - nothing that MLflow does may stop a training
            what, reason = fault(error)
            if what not in self.reported:
                told = f"{what}; training goes on and tries again after each epoch. What is missing then"
                warnings.warn(f"{told} is sent by `python -m rfdetr_core publish`. {reason}", stacklevel=2)
            self.reported.add(what)

    def _datasets(self, trainer: Trainer) -> dict[str, str]:
        data = getattr(trainer, "datamodule", None)
        name = data.train_set.root.name if isinstance(data, RFDETRDataModule) else "dataset"
        digests = {split: self.record["inputs"].get(f"manifest/{split}.json") for split in ("train", "valid")}
        return {f"{name}/{split}": digest for split, digest in digests.items() if digest}
