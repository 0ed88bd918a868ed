"""A run of MLflow: params, metrics by epoch, tags, history and scores. A server that is away costs no training."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from rfdetr_core import files
from rfdetr_core.training.module import RFDETRModelModule
from rfdetr_core.training.resume import flattened

# MLflow's own patience is minutes, for each call. And nobody is told of this training.
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
_AT_ONCE = 100  # params that MLflow takes in one call


class MlflowRun(Checkpoint):
    """Writes where MLFLOW_TRACKING_URI points, else into mlflow.db of the main repository.

    What could not be sent is kept and sent after the next epoch. A Checkpoint, since Lightning calls those last.
    """

    def __init__(self, project: str, name: str | None, record: Mapping[str, Any], folder: Path) -> None:
        """Take the names of the experiment and of the run, what the training says of itself, and the run folder."""
        self.project, self.name, self.record, self.folder = project, name, record, folder
        self.client: Any = None
        self.run = ""
        self.params: list[Any] = []
        self.waiting: list[tuple[int, dict[str, float]]] = []
        self.reported = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the run."""
        self._send(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send the epoch."""
        assert isinstance(pl_module, RFDETRModelModule)
        self.waiting.append((int(time.time() * 1000), {"epoch": trainer.current_epoch, **pl_module.epoch_metrics}))
        self._send(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach history and scores, close the run."""
        self._send(trainer, "FINISHED")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the run as failed."""
        self._send(trainer, "FAILED")

    def _send(self, trainer: Trainer, status: str | None = None) -> None:
        if not trainer.is_global_zero:
            return
        try:
            self._open()
            self._log_waiting()
            for name in ("history.csv", "scores.json") if status == "FINISHED" else ():
                self.client.log_artifact(self.run, str(self.folder / name))
            if status is not None:
                self.client.set_terminated(self.run, status)
        except Exception as error:  # noqa: BLE001 - nothing that MLflow does may stop a training
            reason = " ".join(str(error).split())[:300]
            if not self.reported:
                warnings.warn(f"MLflow cannot be reached; training goes on and tries again. {reason}", stacklevel=2)
            self.reported = True

    def _open(self) -> None:
        if self.run:
            return
        for key, value in _SETTINGS.items():
            os.environ.setdefault(key, value)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        from mlflow import MlflowClient
        from mlflow.entities import Param

        home = main_repository()
        own = "MLFLOW_TRACKING_URI" not in os.environ
        self.client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}" if own else None)
        experiment = self.client.get_experiment_by_name(self.project)
        place = (home / "mlartifacts").as_uri() if own else None
        identity = experiment.experiment_id if experiment else self.client.create_experiment(self.project, place)
        self.params = [Param(key, str(value)) for key, value in flattened(self.record).items()]
        self.run = self.client.create_run(identity, run_name=self.name, tags=self._tags()).info.run_id

    def _log_waiting(self) -> None:
        from mlflow.entities import Metric

        while self.params:
            self.client.log_batch(self.run, params=self.params[:_AT_ONCE])
            del self.params[:_AT_ONCE]
        while self.waiting:
            moment, row = self.waiting[0]
            values = {key: float(value) for key, value in row.items() if math.isfinite(value)}
            metrics = [Metric(key, value, moment, int(row["epoch"])) for key, value in values.items()]
            self.client.log_batch(self.run, metrics=metrics)
            self.waiting.pop(0)

    def _tags(self) -> dict[str, str]:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
        tags = {
            "mlflow.source.name": "rfdetr_core.training",
            "mlflow.source.git.commit": commit.stdout.strip(),
            "dvc.stage": os.environ.get("DVC_STAGE", ""),
            "dvc.experiment": os.environ.get("DVC_EXP_NAME", ""),
            "fingerprint": files.digest(self.record),
        }
        return {key: value for key, value in tags.items() if value}


def main_repository() -> Path:
    """The folder of the project, also from within the copy in which `dvc exp run --temp` works."""
    here = Path(os.environ.get("DVC_ROOT", ".")).resolve()
    copies = [parent for parent in (here, *here.parents) if parent.parts[-3:] == (".dvc", "tmp", "exps")]
    return copies[0].parents[2] if copies else here
