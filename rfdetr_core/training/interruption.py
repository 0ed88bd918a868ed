"""SIGINT and SIGTERM end a training after its step, on every rank after the same one."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from rfdetr_core.errors import UserError

# Asking the other ranks waits for an accelerator.
_STEPS_BETWEEN_QUESTIONS = 20


class Stopped(BaseException):
    """A signal asked to stop. No Exception: what survives its own failures must not survive this."""


class StopSignals(Callback):
    """Notes the signals and stops at the end of a step. A second signal, or one outside of the epochs, stops at once.

    Lightning's own handler of SIGTERM, which this replaces, calls the other ranks from wherever it finds this one.
    """

    def __init__(self) -> None:
        """Nothing is asked yet."""
        self.asked: signal.Signals | None = None
        self.training = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle both signals; outside of the main thread, where Python does not allow it, leave them as they are."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self._install()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals back from Lightning."""
        self.training = True
        self._install()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop if any rank was asked to."""
        asked = self.asked is not None
        if trainer.world_size > 1:
            soon = pl_module.device.type != "cpu" and (batch_idx + 1) % _STEPS_BETWEEN_QUESTIONS
            asked = not soon and trainer.strategy.reduce_boolean_decision(asked, all=False)
        if asked:
            raise Stopped

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop this rank, whose share may differ from the others'; they end when they miss it."""
        if self.asked is not None:
            raise Stopped

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the end of a finished training go on."""
        self.asked = None

    @property
    def reason(self) -> str:
        """What asked: the name of a signal, which another rank may have received."""
        return self.asked.name if self.asked else "a signal"

    def _install(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        again, self.asked = self.asked is not None, signal.Signals(number)
        if again or not self.training:
            raise Stopped
        # Not print, which a signal may have interrupted.
        os.write(2, f"{self.asked.name}: stopping after this step.\n".encode())


def explained(error: Exception, signals: StopSignals) -> UserError | None:
    """What the user can do about an error of another process of this training; None where it is none."""
    again = "Run again to go on after the last finished epoch."
    if signals.asked:
        return UserError(f"stopped by {signals.reason}. {again}")
    for one in _chain(error):
        if "DataLoader worker (pid" in str(one):
            return UserError(
                f"a process that reads images ended ({one}). If memory was short, lower runtime.num_workers. {again}"
            )
        if "gloo" in str(one) or isinstance(one, torch.distributed.DistError):
            return UserError(f"another process of this training ended, see its own message ({one}). {again}")
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those behind it: torch raises the death of a worker wherever it is, as in the middle of a file,
    whose writer then fails in its own words."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
