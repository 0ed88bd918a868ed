"""SIGINT and SIGTERM end a training after its step, on every rank after the same one."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from rfdetr_core.base.errors import UserError, causes
from rfdetr_core.base.memory import shortage_message

_AGAIN = "Run again to go on after the last finished epoch."
# What torch waits for before a training begins, such as the other ranks, keeps Python from hearing a signal: seconds.
_PATIENCE = 1.0
# What the system is short of, by the words of an error or of the traceback of a worker.
_SHORTAGES = {
    "too many open files|ancdata": "too many files are open. Raise the limit: ulimit -n 4096. Or lower "
    "runtime.num_workers or runtime.prefetch_factor.",
    r"(</torch_\S*>|semaphore:).*(no space left|cannot allocate)|bus error": "shared memory (/dev/shm), by which "
    "images reach the trainer, is full. Enlarge it (docker run --shm-size=8g, or --ipc=host), or set "
    "runtime.num_workers: 0.",
}
_LESS_MEMORY = (
    "Lower train.batch_size and raise train.grad_accum_steps as much, lower model.resolution or runtime.num_workers, "
    "or set model.gradient_checkpointing."
)
_SEMAPHORES = "multiprocessing/synchronize.py"
# Asking the other ranks waits for an accelerator.
_STEPS_BETWEEN_QUESTIONS = 20


class Stopped(BaseException):
    """A signal asked to stop. No Exception: what survives its own failures must not survive this."""


class StopSignals(Callback):
    """Notes the signals and stops at the end of a step. A second signal, or one before the first step, stops at once.

    Lightning's own handler of SIGTERM, which this replaces, calls the other ranks from wherever it finds this one.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self.training = False
        self.trainer: Trainer | None = None

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle both signals; outside of the main thread, where Python does not allow it, leave them as they are."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        received, sent = socket.socketpair()
        sent.setblocking(False)
        fd_before = signal.set_wakeup_fd(sent.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=[received], daemon=True).start()
        self._install()
        of_children = signal.getsignal(signal.SIGCHLD)
        try:
            yield
        except BaseException:
            # A loader's handler raises at the death of a worker wherever Python is: no more while the error is told.
            signal.signal(signal.SIGCHLD, of_children or signal.SIG_DFL)
            raise
        finally:
            signal.set_wakeup_fd(fd_before)
            sent.close()
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

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Stop this rank, whose share may differ from the others'; they end when they miss it."""
        if self.asked is not None:
            raise Stopped

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the end of a finished training go on."""
        self.asked = None

    @property
    def told(self) -> UserError:
        """That a signal, which another rank may have received, ended this training."""
        return UserError(f"stopped by {self.asked.name if self.asked else 'a signal'}. {_AGAIN}")

    def _install(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._note)

    def _watch(self, received: socket.socket) -> None:
        """End a process whose main thread does not come to handle a signal before its training begins."""
        with received:
            while number := received.recv(1):
                if number[0] not in (signal.SIGINT, signal.SIGTERM):
                    continue
                time.sleep(_PATIENCE)
                if self.asked is None and not self.training:
                    launcher = self.trainer.strategy.launcher if self.trainer else None
                    if launcher is not None:
                        launcher.kill(signal.SIGKILL)
                    os.write(2, f"error: stopped by {signal.Signals(number[0]).name}. {_AGAIN}\n".encode())
                    os._exit(1)

    def _note(self, number: int, frame: FrameType | None) -> None:
        again, self.asked = self.asked is not None, signal.Signals(number)
        if again or not self.training:
            raise Stopped
        # Not print, which a signal may have interrupted.
        os.write(2, f"{self.asked.name}: stopping after this step.\n".encode())


def _words(error: BaseException) -> str:
    """The words of an error; those of a semaphore, which is in shared memory, do not say so themselves."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{'semaphore: ' if frames and frames[-1].filename.endswith(_SEMAPHORES) else ''}{error}"


def explained(error: Exception, signals: StopSignals) -> UserError | None:
    """What the user can do about a shortage, or an error of another process of this training; None where it is none."""
    if signals.asked:
        return signals.told
    # torch raises the death of a worker wherever it is, as in a file's writer, which then fails in its own words.
    behind = list(causes(error))
    for words, told in _SHORTAGES.items():
        if any(re.search(words, _words(one), re.IGNORECASE) for one in behind):
            return UserError(f"{told} {_AGAIN}")
    if (shortage := shortage_message(error)) is not None:
        return UserError(f"{shortage}. {_LESS_MEMORY}")
    for one in behind:
        if "DataLoader worker (pid" in str(one):
            told = f"a process that reads images ended ({one}). If memory was short, lower runtime.num_workers."
            return UserError(f"{told} {_AGAIN}")
        if "gloo" in str(one) or isinstance(one, torch.distributed.DistError):
            return UserError(f"another process of this training ended, see its own message ({one}). {_AGAIN}")
    return None
