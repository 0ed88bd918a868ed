"""The files of a run folder: a callback that writes them after each epoch."""

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
    """The best epoch of a track so far. score None: no epoch has a score above zero yet.

    ranked: the score, smoothed if smooth_alpha is set; the epochs are ranked by it. threshold: the score threshold with
    the epoch's best F1.
    """

    score: float | None = None
    ranked: float | None = None
    epoch: int | None = None
    threshold: float | None = None
    weights: dict[str, Tensor] | None = None


class RunFiles(LightningCheckpoint):
    """Writes a run folder: both best files, history.csv, steps.csv, scores.json, and the state for a resume.

    The best epoch of a track is the first one with the highest score above zero. If no epoch scores above zero, the
    last epoch is written, so that both best files exist after every run. If weights are not averaged, both files have
    the regular weights.

    Args:
        folder: the run folder.
        key: name of the value in history.csv that chooses the best epoch, without val/ or val/ema_.
        describe: makes the content of a model file from weights.
        fingerprint: of the training. It is stored in the state, and decides later whether a run may resume from it.
        interval: epochs between two states that are kept as checkpoint_<epoch>.pth.
        skip, smooth: see skip_best_epochs and smooth_alpha of TrainConfig.
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
        """Begin to count the epoch's steps."""
        self.steps.begin(trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Note the optimiser step that this batch ended, if it ended one."""
        assert isinstance(pl_module, TrainingModule)
        weights = pl_module.detector.state_dict
        steps_of_epoch = trainer.num_training_batches / trainer.accumulate_grad_batches
        digest = (lambda: tensor_digest(weights())) if trainer.is_global_zero else None
        self.steps.add_batch(trainer.global_step, steps_of_epoch, pl_module.terms, digest)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the epoch to the history, and write the files that changed."""
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
        """Stop if the ranks found different states to resume from. Each rank has searched for a state by itself."""
        epochs = trainer.strategy.broadcast(len(self.history))
        if epochs != len(self.history):
            raise UserError(
                f"rank {trainer.global_rank} resumes after epoch {len(self.history)}, but rank 0 after epoch {epochs}: "
                "they use different machines or folders. "
                f"Remove {self.folder / STATE_FILE}, or set train.resume to this file."
            )

    def rewrite(self, state: Mapping[str, Any], path: Path) -> None:
        """Write the files of a finished training again, from its state.

        Args:
            state: content of the state.
            path: of the state, for messages.

        Raises:
            UserError: the state is incomplete.
        """
        callbacks, name = state.get("callbacks"), type(self).__name__
        own = callbacks.get(name) if isinstance(callbacks, dict) else None
        require(RunState, own, str(path), f"callbacks.{name}")
        assert isinstance(own, dict)
        self.load_state_dict(own)
        self._write()

    def state_dict(self) -> dict[str, Any]:
        """Everything from which the files can be written again."""
        best = {track: vars(best) for track, best in self.best.items()}
        return {"history": self.history, "steps": self.steps.lines, "best": best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the files of an interrupted run. They are written again: DVC removes them when a stage starts."""
        self.history = [dict(row) for row in state_dict["history"]]
        self.steps.lines = list(state_dict.get("steps", []))
        self.best = {track: Best(**best) for track, best in state_dict["best"].items()}
        self.unwritten = {track for track, best in self.best.items() if best.weights is not None}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the weights as in a model file, so that the state loads as a model too, and add the fingerprint."""
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
        # Epochs are numbered from 1 in texts and files for people, and from 0 in checkpoints (as in upstream's).
        files.write_table(self.folder / "history.csv", [row | {"epoch": int(row["epoch"]) + 1} for row in self.history])
        self.steps.write(self.folder)
        tracks = {track: (best.score, best.epoch) for track, best in self.best.items()}
        files.write_json(self.folder / "scores.json", scores_content(self.key, tracks, len(self.history)))
