"""The files of a run folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint as LightningCheckpoint
from torch import Tensor

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.schema import require
from rfdetr_core.checkpoint.files import Checkpoint, file_content, tensor_digest, write_checkpoint
from rfdetr_core.checkpoint.schema import RunState
from rfdetr_core.metrics.names import PREFIX
from rfdetr_core.training.module import TrainingModule
from rfdetr_core.training.ranking import best_epoch, recommended_threshold, scores_content
from rfdetr_core.training.record import STATE_FILE
from rfdetr_core.training.steps import Steps


@dataclass
class Best:
    """The best epoch of a track so far; no score: none above zero yet.

    ranked: see `BestEpoch`. threshold: of the detections, that of the epoch's best F1.
    """

    score: float | None = None
    ranked: float | None = None
    epoch: int | None = None
    threshold: float | None = None
    weights: dict[str, Tensor] | None = None


class RunFiles(LightningCheckpoint):
    """Writes a run folder: both best files, history.csv, steps.csv, scores.json, and the state to go on from.

    The best epoch of a track is the first with the highest score. A score of zero, or none, is no better than
    nothing: if it stays so, the last epoch's weights are written, so that both best files exist after every run.
    Without an average of the weights, both files have the regular ones.

    key: the name of the value in the history that picks the best epoch. describe: makes a model file of weights.
    interval: epochs between kept states. skip, smooth: see skip_best_epochs and smooth_alpha of TrainConfig.
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        describe: Callable[[Mapping[str, Tensor]], Checkpoint],
        *,
        fingerprint: Mapping[str, Any] | None = None,
        interval: int = 10,
        skip: int = 0,
        smooth: float = 0.0,
    ) -> None:
        self.folder, self.key, self.describe = folder, key, describe
        self.fingerprint = dict(fingerprint or {})
        self.interval, self.skip, self.smooth = interval, skip, smooth
        self.history: list[dict[str, float]] = []
        self.best = {track: Best() for track in PREFIX}
        self.unwritten: set[str] = set()
        self.finished = False
        self.steps = Steps()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the epoch's steps."""
        self.steps.begin(trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Note the step that the batch ended, if it did."""
        assert isinstance(pl_module, TrainingModule)
        weights = pl_module.detector.state_dict
        of_epoch = trainer.num_training_batches / trainer.accumulate_grad_batches
        digest = (lambda: tensor_digest(weights())) if trainer.is_global_zero else None
        self.steps.see(trainer.global_step, of_epoch, pl_module.terms, digest)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take in the epoch and write what changed."""
        assert isinstance(pl_module, TrainingModule)
        epoch = trainer.current_epoch
        metrics = sorted(pl_module.epoch_metrics.items(), key=lambda entry: not entry[0].startswith("train/"))
        self.history.append({"epoch": epoch, **dict(metrics)})
        self.finished = trainer.should_stop or epoch + 1 == trainer.max_epochs
        for track, network in pl_module.tracks.items():
            values = [row.get(PREFIX[track] + self.key, math.nan) for row in self.history]
            smooth = self.smooth if track == "regular" else 0.0
            best = best_epoch(values, skip=self.skip, smooth=smooth, finished=self.finished)
            if best is not None and best.epoch == epoch:
                weights = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
                threshold = recommended_threshold(pl_module.epoch_metrics, track, self.key)
                self.best[track] = Best(best.score, best.ranked, epoch, threshold, weights)
                self.unwritten.add(track)
        if self.finished and "ema" not in pl_module.tracks:
            self.best["ema"] = replace(self.best["regular"], score=None)
            self.unwritten.add("ema")
        states = {track: network.state_dict() for track, network in pl_module.tracks.items()}
        if trainer.is_global_zero:
            self.steps.end(epoch + 1, {track: tensor_digest(weights) for track, weights in states.items()})
            self._write()
        trainer.save_checkpoint(self.folder / STATE_FILE)
        if (epoch + 1) % self.interval == 0 and trainer.is_global_zero:
            files.copy(self.folder / STATE_FILE, self.folder / f"checkpoint_{epoch}.pth")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to train if the ranks, each of which looked for a state to go on from, found different ones."""
        epochs = trainer.strategy.broadcast(len(self.history))
        if epochs != len(self.history):
            raise UserError(
                f"rank {trainer.global_rank} goes on after epoch {len(self.history)}, rank 0 after {epochs}: they "
                f"differ in machine or folder. Remove {self.folder / STATE_FILE}, or name it as train.resume."
            )

    def rewrite(self, state: Mapping[str, Any], path: Path) -> None:
        """Write the files of a training that has no epoch left to train, from its resume state, which is at `path`.

        Raises:
            UserError: the state has not what they are written from.
        """
        callbacks, name = state.get("callbacks"), type(self).__name__
        own = callbacks.get(name) if isinstance(callbacks, dict) else None
        require(RunState, own, str(path), f"callbacks.{name}")
        assert isinstance(own, dict)
        self.load_state_dict(own)
        self._write()

    def state_dict(self) -> dict[str, Any]:
        """Everything that the files are written from."""
        best = {track: vars(best) for track, best in self.best.items()}
        return {"history": self.history, "steps": self.steps.lines, "best": best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the files of a stopped run; they are written again, since DVC removes them when a stage starts."""
        self.history = [dict(row) for row in state_dict["history"]]
        self.steps.lines = list(state_dict.get("steps", []))
        self.best = {track: Best(**best) for track, best in state_dict["best"].items()}
        self.unwritten = {track for track, best in self.best.items() if best.weights is not None}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the weights as a model file does, so that the state also loads as a model; add what decides a resume."""
        weights = {name.removeprefix("detector."): tensor for name, tensor in checkpoint["state_dict"].items()}
        checkpoint |= file_content(self.describe(weights)) | {"state_dict": {}}
        checkpoint["run"] = {"fingerprint": self.fingerprint, "finished": self.finished}
        if self.finished and trainer.is_global_zero:
            digests = [files.md5_file(self.folder / f"checkpoint_best_{track}.pth") for track in self.best]
            checkpoint["run"]["result"] = digests

    def _write(self) -> None:
        for track in sorted(self.unwritten):
            best = self.best[track]
            assert best.weights is not None
            checkpoint = replace(self.describe(best.weights), epoch=best.epoch, threshold=best.threshold)
            write_checkpoint(self.folder / f"checkpoint_best_{track}.pth", checkpoint)
        self.unwritten.clear()
        # Epochs count from 1 in what people read, the progress and these files; in checkpoints from 0, as upstream's.
        files.write_table(self.folder / "history.csv", [row | {"epoch": int(row["epoch"]) + 1} for row in self.history])
        self.steps.write(self.folder)
        tracks = {track: (best.score, best.epoch) for track, best in self.best.items()}
        files.write_json(self.folder / "scores.json", scores_content(self.key, tracks, len(self.history)))
