"""What is true of a run and not of its result, noted in its folder; the stage strip puts it in records/."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from rfdetr_core import files
from rfdetr_core.observers.history import fingerprint
from rfdetr_core.observers.runs import origin
from rfdetr_core.provenance import RUN_FILE


class RunFacts(Checkpoint):
    """Writes run.json at the end. A Checkpoint, since Lightning calls those last."""

    def __init__(self, record: Mapping[str, Any], folder: Path) -> None:
        """Take what the training says of itself, by which the note is known as its own."""
        self.record, self.folder = record, folder
        self.started = time.time()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the note."""
        if not trainer.is_global_zero:
            return
        tags, own = origin(), fingerprint(self.record)
        run = {
            "parent_commit": tags.get("mlflow.source.git.commit"),
            "dirty": tags.get("git.dirty") == "true",
            "started": datetime.fromtimestamp(self.started, UTC).isoformat(timespec="seconds"),
            "seconds": round(time.time() - self.started, 1),
            "epochs_here": trainer.current_epoch,
            "host": platform.node(),
            "cpus": os.cpu_count(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "tracked_at": os.environ.get("MLFLOW_TRACKING_URI") or "mlflow.db of the project",
            "mlflow_fingerprint": own,
        }
        files.write_json(self.folder / RUN_FILE, {"record": own, "run": run})
