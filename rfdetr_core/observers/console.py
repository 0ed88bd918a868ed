"""Prints one line for each epoch. On a terminal or in a notebook, a progress bar shows the epoch that runs."""

from __future__ import annotations

import importlib
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from rfdetr_core.base import files
from rfdetr_core.base.printing import say
from rfdetr_core.observers.history import best_scores
from rfdetr_core.training.module import TrainingModule

# Both modules have a class `tqdm` with the same interface; the first also works in notebooks.
_BARS = {"tqdm": "tqdm.auto", "rich": "tqdm.rich"}
_PAUSE = 0.5  # seconds between updates of the bar; reading the loss waits for the device
_TRACKS = {"mAP": "", "EMA mAP": "ema_"}


class EpochLines(Checkpoint):
    """Prints a line after each epoch.

    It is a subclass of Lightning's Checkpoint, because Lightning calls such callbacks last: then all values are known.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.begun = self.started = self.trained = time.monotonic()
        self.epochs = self.images = 0
        self.scores: list[str] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.started, self.images = time.monotonic(), 0
        self.begun = self.begun if self.epochs else self.started

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images. The speed does not include the scoring after the last batch."""
        self.images += len(batch.samples) * trainer.world_size
        self.trained = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch."""
        assert isinstance(pl_module, TrainingModule)
        row, now, epochs = pl_module.epoch_metrics, time.monotonic(), trainer.max_epochs or 0
        kind = "segm_" if "val/segm_mAP_50_95" in row or "val/ema_segm_mAP_50_95" in row else ""
        tracks = {name: f"val/{track}{kind}mAP_50_95" for name, track in _TRACKS.items()}
        self.scores = [f"{name} {row[key]:.3f}" for name, key in tracks.items() if key in row] or self.scores
        self.epochs += 1
        remaining = (now - self.begun) / self.epochs * (epochs - trainer.current_epoch - 1)
        # A custom training step may record no loss.
        numbers = {"loss": ("train/loss", ".3f"), "lr": ("train/lr", ".2e")}
        loss, rate = ([f"{name} {row[key]:{form}}"] if key in row else [] for name, (key, form) in numbers.items())
        parts = [_epoch(trainer), *loss, *self.scores, *rate]
        parts += [f"{self._speed():.1f} img/s", _memory(), f"{now - self.started:.1f} s", f"{_clock(remaining)} left"]
        if trainer.is_global_zero:
            say("  ".join(parts))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the best score of each track."""
        if trainer.is_global_zero:
            say(best_scores(files.read_json(self.folder / "scores.json")))

    def _speed(self) -> float:
        return self.images / max(self.trained - self.started, 1e-9)


class ProgressBar(EpochLines):
    """Also shows a progress bar while an epoch runs."""

    def __init__(self, folder: Path, kind: Literal["tqdm", "rich"]) -> None:
        super().__init__(folder)
        self.kind, self.shown = kind, 0.0
        self.bar: Any = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the bar."""
        assert isinstance(pl_module, TrainingModule)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if not trainer.is_global_zero:
            return
        batches = int(trainer.num_training_batches)
        if self.bar is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # tqdm.rich calls itself experimental, each time
                self.bar = importlib.import_module(_BARS[self.kind]).tqdm(total=batches, unit="batch", leave=False)
        if self.trained - self.shown > _PAUSE or batch_idx == 0:
            self.shown = self.trained
            rate = max(group["lr"] for group in trainer.optimizers[0].param_groups)
            loss = getattr(pl_module, "loss", None)
            loss_text = [] if loss is None else [f"loss {loss.item():.3f}"]
            parts = [_epoch(trainer), *loss_text, *self.scores, f"lr {rate:.1e}"]
            parts += [f"{self._speed():.1f} img/s", _memory(), self._remaining_time(trainer, (batch_idx + 1) / batches)]
            self._show(", ".join(parts))
        self.bar.update()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show that the evaluation runs, since the full bar does not move."""
        if self.bar is not None:
            self._show(f"{_epoch(trainer)}, evaluating")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar; print the line."""
        self._close()
        super().on_train_epoch_end(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the bar, so that the message is readable."""
        self._close()

    def _show(self, text: str) -> None:
        self.bar.set_description(text)

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _remaining_time(self, trainer: Trainer, fraction_done: float) -> str:
        """The remaining time. Before the first evaluation, a lower bound: it does not include evaluations yet.

        fraction_done: of the current epoch.
        """
        epochs, in_epoch = (trainer.max_epochs or 0) - trainer.current_epoch, self.trained - self.started
        if self.epochs:
            return f"{_clock((self.started - self.begun) / self.epochs * epochs - in_epoch)} left"
        return f"over {_clock(in_epoch * (epochs / fraction_done - 1))} left"


def console(kind: Literal["tqdm", "rich"] | None, folder: Path) -> EpochLines:
    """A progress bar on a terminal or in a notebook, else only lines. kind: None for only lines."""
    is_watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    return ProgressBar(folder, kind) if kind and is_watched else EpochLines(folder)


def _epoch(trainer: Trainer) -> str:
    return f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"


def _clock(seconds: float) -> str:
    total = max(0, int(seconds))
    return f"{total // 3600}:{total // 60 % 60:02}:{total % 60:02}"


def _memory() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"  # kilobytes on Linux
