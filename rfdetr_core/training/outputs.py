"""The files of a run folder."""

from __future__ import annotations

import csv
import io
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint as LightningCheckpoint
from torch import Tensor

from rfdetr_core import files
from rfdetr_core.checkpoint.files import Checkpoint, file_content, write_checkpoint
from rfdetr_core.training.callbacks import PREFIX
from rfdetr_core.training.module import RFDETRModelModule
from rfdetr_core.training.resume import STATE_FILE


@dataclass
class Best:
    """The best epoch of a track so far; no score: none above zero yet."""

    score: float | None = None
    epoch: int | None = None
    weights: dict[str, Tensor] | None = None


class RunFiles(LightningCheckpoint):
    """Writes a run folder: both best files, history.csv, scores.json, and the state from which a stopped run goes on.

    The best epoch of a track is the first with the highest score. A score of zero, or none, is no better than
    nothing: if it stays so, the last epoch's weights are written, so that both best files exist after every run.
    """

    def __init__(
        self,
        folder: Path,
        metric: str,
        key: str,
        describe: Callable[[Mapping[str, Tensor]], Checkpoint],
        *,
        fingerprint: Mapping[str, Any] | None = None,
        interval: int = 10,
    ) -> None:
        """Take the folder, best_model_metric, the name of its value in the history, and what makes a model file."""
        self.folder, self.metric, self.key = folder, metric, key
        self.describe = describe
        self.fingerprint = dict(fingerprint or {})
        self.interval = interval
        self.history: list[dict[str, float]] = []
        self.best = {track: Best() for track in PREFIX}
        self.unwritten: set[str] = set()
        self.finished = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take in the epoch and write what changed."""
        assert isinstance(pl_module, RFDETRModelModule)
        epoch = trainer.current_epoch
        metrics = sorted(pl_module.epoch_metrics.items(), key=lambda entry: not entry[0].startswith("train/"))
        self.history.append({"epoch": epoch, **dict(metrics)})
        for track, network in pl_module.tracks.items():
            value = pl_module.epoch_metrics.get(PREFIX[track] + self.key, math.nan)
            if value > (self.best[track].score or 0.0):
                self._take(track, network.state_dict(), value, epoch)
        self.finished = trainer.should_stop or epoch + 1 == trainer.max_epochs
        if self.finished:
            for track, network in pl_module.tracks.items():
                if self.best[track].weights is None:
                    value = pl_module.epoch_metrics.get(PREFIX[track] + self.key, math.nan)
                    self._take(track, network.state_dict(), value if math.isfinite(value) else None, epoch)
        self._write(trainer)
        trainer.save_checkpoint(self.folder / STATE_FILE)
        if (epoch + 1) % self.interval == 0 and trainer.is_global_zero:
            with files.replacing(self.folder / f"checkpoint_{epoch}.pth") as temporary:
                shutil.copyfile(self.folder / STATE_FILE, temporary)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the files of a run that had no epoch left to train."""
        self._write(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the files are written from."""
        return {"history": self.history, "best": {track: vars(best) for track, best in self.best.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the files of a stopped run; they are written again, since DVC removes them when a stage starts."""
        self.history = [dict(row) for row in state_dict["history"]]
        self.best = {track: Best(**best) for track, best in state_dict["best"].items()}
        self.unwritten = {track for track, best in self.best.items() if best.weights is not None}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the weights as a model file does, so that the state also loads as a model; add what decides a resume."""
        prefix = "detector."
        weights = {name.removeprefix(prefix): tensor for name, tensor in checkpoint["state_dict"].items()}
        checkpoint |= file_content(self.describe(weights)) | {"state_dict": {}}
        checkpoint["run"] = {"fingerprint": self.fingerprint, "finished": self.finished}

    def _take(self, track: str, weights: Mapping[str, Tensor], value: float | None, epoch: int) -> None:
        copied = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
        self.best[track] = Best(value, epoch, copied)
        self.unwritten.add(track)

    def _write(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero:
            return
        for track in sorted(self.unwritten):
            best = self.best[track]
            assert best.weights is not None
            checkpoint = replace(self.describe(best.weights), epoch=best.epoch)
            write_checkpoint(self.folder / f"checkpoint_best_{track}.pth", checkpoint)
        self.unwritten.clear()
        files.write_text(self.folder / "history.csv", _table(self.history))
        tracks = {track: {"score": best.score, "epoch": best.epoch} for track, best in self.best.items()}
        content = {"metric": self.metric, "key": f"val/{self.key}", **tracks, "epochs": len(self.history)}
        files.write_json(self.folder / "scores.json", content)


def _table(rows: Sequence[Mapping[str, float]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: value if math.isfinite(value) else "" for name, value in row.items()} for row in rows)
    return text.getvalue()
