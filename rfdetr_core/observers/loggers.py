"""Loggers: TensorBoard, Weights & Biases, ClearML and MLflow; and run.json, the facts of a run."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from rfdetr_core.base import files
from rfdetr_core.base.code import exact_digests
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.provenance import RUN_FILE, flattened
from rfdetr_core.base.waiting import OutOfTimeError, TimeLimit
from rfdetr_core.data.datamodule import TrainingData
from rfdetr_core.observers.history import fingerprint, main_repository, read_history
from rfdetr_core.observers.runs import PATIENCE, connect, mlflow_failure, open_run, source_tags
from rfdetr_core.training.config import RuntimeConfig
from rfdetr_core.training.interruption import Stopped, StopSignals

_PATIENCE = 60.0  # seconds for sending the remaining epochs after the training
# The time that a training may spend on MLflow, in seconds. It begins with _IN_ALL. After each epoch, _EPOCH is added,
# or _SHARE of the epoch's duration if this is more. It never exceeds _IN_ALL.
_IN_ALL, _EPOCH, _SHARE = 60.0, 2.0, 0.05
_LAST = 10.0  # seconds for MLflow after the training failed or was stopped


class EpochLogger(Checkpoint):
    """Sends each epoch of history.csv. A resumed training sends the earlier epochs again, in case they are missing.

    A logger is a subclass in LOGGERS with `open`, `send` and `close`. key: the field of RuntimeConfig that enables it.
    It is a subclass of Lightning's Checkpoint, because Lightning calls such callbacks last: then RunFiles has written
    history.csv.
    """

    key = ""

    def __init__(self, runtime: RuntimeConfig, record: Mapping[str, Any], folder: Path) -> None:
        self.project, self.record, self.folder = runtime.project, record, folder
        self.identity = fingerprint(record)[:32]
        self.name = runtime.run or self.identity[:8]
        self.connection: Any = None
        self.last = -1

    @property
    def local_folder(self) -> Path:
        """A folder for local files. It is in the project, not in a temporary experiment's copy, which DVC deletes."""
        return main_repository() / self.folder / self.key

    def open(self) -> Any:
        """Connect; returns the object that `send` and `close` use. Any exception means failure."""
        raise NotImplementedError

    def send(self, epoch: int, row: Mapping[str, float]) -> None:
        """Log the values of an epoch."""
        raise NotImplementedError

    def close(self, failed: bool) -> None:
        """End the run."""
        raise NotImplementedError

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the run. UserError: the service refuses, or it is not configured."""
        if trainer.is_global_zero:
            try:
                self.connection = self.open()
            except Exception as error:
                reason = " ".join(str(error).split())[:300]
                option = f"runtime.{self.key}"
                raise UserError(f"{option}: {reason}. Configure the service, or set {option}: false.") from error

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send new epochs."""
        if self.connection is not None:
            self._guarded(self._send_new)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the run."""
        self._end(failed=False)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the run as failed."""
        self._end(failed=True)

    def _send_new(self) -> None:
        for epoch, row in read_history(self.folder / "history.csv").items():
            if epoch > self.last:
                self.send(epoch, row)
                self.last = epoch

    def _end(self, failed: bool) -> None:
        if self.connection is not None:
            self._guarded(lambda: self.close(failed))
            self.connection = None

    def _guarded(self, step: Any) -> None:
        try:
            step()
        except Exception as error:  # noqa: BLE001 - a failing logger must not stop a training
            warnings.warn(f"{type(self).__name__} failed; the training continues. {error}", stacklevel=2)


class TensorBoard(EpochLogger):
    """Event files in <run folder>/tensorboard/, a folder for each result."""

    key = "tensorboard"

    def open(self) -> Any:
        """Delete the folder; every epoch is written again from history.csv."""
        from torch.utils.tensorboard import SummaryWriter

        folder = self.local_folder / (
            self.name if self.name == self.identity[:8] else f"{self.name}-{self.identity[:8]}"
        )
        shutil.rmtree(folder, ignore_errors=True)
        writer = SummaryWriter(str(folder))
        table = "\n".join(f"| {key} | {value} |" for key, value in flattened(self.record).items())
        writer.add_text("record", f"| key | value |\n|---|---|\n{table}")
        return writer

    def send(self, epoch: int, row: Mapping[str, float]) -> None:
        """Write scalars."""
        for key, value in row.items():
            self.connection.add_scalar(key, value, epoch)
        self.connection.flush()

    def close(self, failed: bool) -> None:
        """Close the file."""
        self.connection.close()


class WeightsAndBiases(EpochLogger):
    """One run for each result; its id is from the digest of the training record.

    WANDB_MODE=offline stores it in <run folder>/wandb/.
    """

    key = "wandb"

    def open(self) -> Any:
        """Start or resume the run."""
        import wandb

        self.local_folder.mkdir(parents=True, exist_ok=True)
        return wandb.init(
            project=self.project,
            name=self.name,
            id=self.identity,
            resume="allow",
            dir=str(self.local_folder.parent),
            config=dict(self.record),
            settings=wandb.Settings(console="off", finish_timeout=_PATIENCE),
        )

    def send(self, epoch: int, row: Mapping[str, float]) -> None:
        """Log the epoch as a step of W&B, unless the run already has a later step."""
        if epoch >= self.connection.step:
            self.connection.log(dict(row), step=epoch)

    def close(self, failed: bool) -> None:
        """Upload the remaining data for at most a minute; `wandb sync` sends the rest."""
        self.connection.finish(exit_code=int(failed))


class ClearML(EpochLogger):
    """A task for each training process, with the digest of the training record as its tag and with every epoch.

    CLEARML_OFFLINE_MODE=1 stores it on this machine. The task runs in a separate process: see clearml_task.py.
    """

    key = "clearml"

    def open(self) -> Any:
        """Start the process; wait until its task exists."""
        command, pipe = [sys.executable, "-P", str(Path(__file__).with_name("clearml_task.py"))], subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True)
        assert process.stdin is not None
        assert process.stdout is not None
        task = {"project_name": self.project, "task_name": self.name, "tags": [self.identity]}
        settings = {"task": task, "params": {key: str(value) for key, value in flattened(self.record).items()}}
        impatience = threading.Timer(2 * _PATIENCE, process.kill)
        impatience.start()
        print(json.dumps(settings), file=process.stdin, flush=True)
        answer = process.stdout.readline().strip()
        impatience.cancel()
        if answer != "ready":
            process.kill()
            raise UserError(answer or "ClearML does not answer.")
        return process

    def send(self, epoch: int, row: Mapping[str, float]) -> None:
        """Send the epoch to the process."""
        print(json.dumps({"epoch": epoch, "row": row}), file=self.connection.stdin, flush=True)

    def close(self, failed: bool) -> None:
        """Let the process send the remaining data, for at most a minute."""
        if failed:
            print(json.dumps({"failed": "the training stopped"}), file=self.connection.stdin)
        self.connection.stdin.close()
        try:
            self.connection.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.connection.kill()
            raise


LOGGERS = (TensorBoard, WeightsAndBiases, ClearML)


class MlflowRun(Checkpoint):
    """After each epoch, sends the missing rows of history.csv to the MLflow run of the training.

    An epoch that could not be sent is sent after the next epoch, by the process that resumes the training, or by
    `publish`. If the server is too slow, nothing more is sent until `publish`. It is a subclass of Lightning's
    Checkpoint, because Lightning calls such callbacks last: then RunFiles has written history.csv. project: the name of
    the MLflow experiment.
    """

    def __init__(self, project: str, name: str | None, record: Mapping[str, Any], folder: Path) -> None:
        self.project, self.name, self.record, self.folder = project, name, record, folder
        self.note = folder / ".mlflow_run"  # has the id of the latest MLflow run for this folder
        self.client: Any = None
        self.patience = TimeLimit(_IN_ALL)
        self.before = time.monotonic()
        self.described = self.given_up = False
        self.reported: set[str] = set()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find or open the run."""
        self.patience.stopping = lambda: _asked_to_stop(trainer)
        self._send(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send the epoch, and earlier epochs that are missing."""
        self._send(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach history.csv and scores.json; close the run."""
        self._send(trainer, "FINISHED")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the run as killed or failed."""
        self.patience.limit, self.patience.stopping = _LAST, lambda: False
        self._send(trainer, "KILLED" if isinstance(exception, Stopped) else "FAILED")

    def _send(self, trainer: Trainer, status: str | None = None) -> None:
        # If the training is about to stop, on_exception sends the missing epochs.
        if not trainer.is_global_zero or self.given_up or (status is None and _asked_to_stop(trainer)):
            return
        self.patience.extend(max(_EPOCH, _SHARE * (time.monotonic() - self.before)))
        self.before = time.monotonic()
        try:
            self._send_missing(trainer, status)
        except Stopped:  # a second signal
            self.given_up = True
            raise
        except OutOfTimeError as error:
            self.given_up = True
            message = f"{mlflow_failure(error)[0]}. This training is no longer tracked"
            warnings.warn(f"{message}. After it has ended, run `python -m rfdetr_core publish`. {error}", stacklevel=2)
        except Exception as error:  # noqa: BLE001 - an error of MLflow must not stop a training
            failure, reason = mlflow_failure(error)
            if failure not in self.reported:
                message = f"{failure}; the training continues and tries again after each epoch"
                warnings.warn(
                    f"{message}. To send missing epochs later: `python -m rfdetr_core publish`. {reason}", stacklevel=2
                )
            self.reported.add(failure)

    def _send_missing(self, trainer: Trainer, status: str | None) -> None:
        self.client = self.client or connect(PATIENCE, self.patience)
        rows = read_history(self.folder / "history.csv")
        run = open_run(self.client, self.project, self.name, self.record, rows)
        if not self.described:
            data, inputs = getattr(trainer, "datamodule", None), self.record["inputs"]
            name = data.train_set.root.name if isinstance(data, TrainingData) else "dataset"
            digests = {f"{name}/{split}": inputs.get(f"manifest/{split}.json") for split in ("train", "valid")}
            run.describe(self.record, {name: digest for name, digest in digests.items() if digest}, source_tags())
            run.resume()
            if self.note.exists():
                run.replace(files.read_text(self.note))
            files.write_text(self.note, run.id)
            self.described = True
        run.log_epochs(rows)
        for name in ("history.csv", "scores.json") if status == "FINISHED" else ():
            run.log_file(self.folder / name)
        if status is not None:
            run.end(status)


def _asked_to_stop(trainer: Trainer) -> bool:
    return any(isinstance(callback, StopSignals) and callback.received is not None for callback in trainer.callbacks)  # type: ignore[attr-defined]


class RunFacts(Checkpoint):
    """Writes run.json when a training has finished.

    run.json has the record digest (`history.fingerprint`), and facts about this run: commit, digests of the code,
    start, duration, epochs, machine, and the address of its tracking server.

    It is a subclass of Lightning's Checkpoint, because Lightning calls such callbacks last.
    """

    def __init__(self, record: Mapping[str, Any], folder: Path) -> None:
        self.record, self.folder, self.started = record, folder, time.time()
        # Read at the start, since code may be edited or committed while the training runs.
        self.code, self.source_tags = exact_digests(record["code"]), source_tags()
        self.before = 0  # epochs that an interrupted training had finished

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Store the epoch from which a training is resumed."""
        self.before = trainer.current_epoch

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write run.json."""
        if not trainer.is_global_zero:
            return
        tags, record_fingerprint = self.source_tags, fingerprint(self.record)
        run = {
            "parent_commit": tags.get("mlflow.source.git.commit"),
            "dirty": tags.get("git.dirty") == "true",
            "code": self.code,
            "started": datetime.fromtimestamp(self.started, UTC).isoformat(timespec="seconds"),
            "seconds": round(time.time() - self.started, 1),
            "epochs_here": trainer.current_epoch - self.before,
            "host": platform.node(),
            "cpus": os.cpu_count(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "tracked_at": os.environ.get("MLFLOW_TRACKING_URI") or "mlflow.db of the project",
            "mlflow_fingerprint": record_fingerprint,
        }
        files.write_json(self.folder / RUN_FILE, {"record": record_fingerprint, "run": run})
