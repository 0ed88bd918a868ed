"""A line per epoch; on a terminal a progress bar above it."""

from __future__ import annotations

import resource
import time
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from tqdm import tqdm

from rfdetr_core.training.module import RFDETRModelModule


class Lines(Checkpoint):
    """Prints a line after each epoch. A Checkpoint, since Lightning calls those last, with all values there."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self.started = self.trained = time.monotonic()
        self.images = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.started, self.images = time.monotonic(), 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images; the scoring after the last batch is no part of the speed."""
        self.images += len(batch.samples) * trainer.world_size
        self.trained = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch."""
        assert isinstance(pl_module, RFDETRModelModule)
        row, epoch, epochs = pl_module.epoch_metrics, trainer.current_epoch + 1, trainer.max_epochs or 0
        kind = "segm_" if "val/segm_mAP_50_95" in row else ""
        tracks = {"mAP": f"val/{kind}mAP_50_95", "EMA mAP": f"val/ema_{kind}mAP_50_95"}
        scores = [f"{name} {row[key]:.3f}" for name, key in tracks.items() if key in row]
        seconds, speed = time.monotonic() - self.started, self.images / max(self.trained - self.started, 1e-9)
        left = int((epochs - epoch) * seconds)
        parts = [f"epoch {epoch}/{epochs}", f"loss {row['train/loss']:.3f}", *scores, f"lr {row['train/lr']:.2e}"]
        parts += [f"{speed:.1f} img/s", f"{seconds:.1f} s", f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"]
        if trainer.is_global_zero:
            print("  ".join(parts), flush=True)


class ProgressBar(Lines):
    """Adds a bar with loss and memory to the lines."""

    def __init__(self) -> None:
        """The bar is made when the number of batches is known."""
        super().__init__()
        self.bar: Any = None
        self.shown = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar; look at the loss twice a second at most, since that waits for the device."""
        assert isinstance(pl_module, RFDETRModelModule)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self.bar is None:
            epoch, disabled = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", not trainer.is_global_zero
            self.bar = tqdm(
                total=int(trainer.num_training_batches), desc=epoch, unit="batch", leave=False, disable=disabled
            )
        self.bar.update()
        if self.trained - self.shown > 0.5:
            self.shown = self.trained
            self.bar.set_postfix_str(f"loss {pl_module.loss.item():.3f}, {_memory()}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the bar by the line."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
        super().on_train_epoch_end(trainer, pl_module)


def _memory() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"  # kilobytes on Linux
