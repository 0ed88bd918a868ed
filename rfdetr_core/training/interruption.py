"""How a training ends before its last epoch: by SIGINT or SIGTERM, by a shortage, or because a process ended.

A signal ends the training after its current step, on every rank after the same step.
"""

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

_AGAIN = "Run again to resume after the last finished epoch."
# Seconds after a signal. If the training has not begun, and Python has not handled the signal after this time, the
# process is ended. While torch waits for the other ranks, Python cannot handle a signal.
_PATIENCE = 1.0
# Patterns that reveal a shortage of open files or of shared memory, and the message for the user. They are searched for
# in the text of an error and in the traceback of a worker.
_SHORTAGES = {
    "too many open files|ancdata": "too many files are open. Raise the limit: ulimit -n 4096. Or lower "
    "runtime.num_workers or runtime.prefetch_factor.",
    r"(</torch_\S*>|semaphore:).*(no space left|cannot allocate)|bus error": "shared memory (/dev/shm), through "
    "which workers send images, is full. Enlarge it (docker run --shm-size=8g, or --ipc=host), or set "
    "runtime.num_workers: 0.",
}
_LESS_MEMORY = (
    "Lower train.batch_size and raise train.grad_accum_steps by the same factor, lower model.resolution or "
    "runtime.num_workers, or set model.gradient_checkpointing."
)
_SEMAPHORES = "multiprocessing/synchronize.py"
# Steps after which the ranks ask each other whether one has to stop. To ask, a rank has to wait for its accelerator.
_STEPS_BETWEEN_QUESTIONS = 20


class Stopped(BaseException):
    """A signal asked the training to stop. Not an Exception, so that `except Exception` does not catch it."""


class StopSignals(Callback):
    """Notes SIGINT and SIGTERM, and stops the training at the end of a step.

    A second signal, or a signal before the first step, stops it at once. This replaces Lightning's handler of SIGTERM,
    which communicates with the other ranks at any line of the code.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.training = False
        self.trainer: Trainer | None = None

    @contextmanager
    def handled(self) -> Iterator[None]:
        """A context in which SIGINT and SIGTERM are handled. Outside of the main thread, where Python does not allow
        handlers, it does nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        received, sent = socket.socketpair()
        sent.setblocking(False)
        fd_before = signal.set_wakeup_fd(sent.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=[received], daemon=True).start()
        self._install()
        child_handler = signal.getsignal(signal.SIGCHLD)
        try:
            yield
        except BaseException:
            # When a worker dies, torch's handler of SIGCHLD raises an error at whatever line runs at that moment. It
            # must not interrupt error handling.
            signal.signal(signal.SIGCHLD, child_handler or signal.SIG_DFL)
            raise
        finally:
            signal.set_wakeup_fd(fd_before)
            sent.close()
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handlers again: Lightning has replaced them."""
        self.training = True
        self._install()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop if a signal asked any rank to stop."""
        stop = self.received is not None
        if trainer.world_size > 1:
            too_soon = pl_module.device.type != "cpu" and (batch_idx + 1) % _STEPS_BETWEEN_QUESTIONS
            stop = not too_soon and trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop:
            raise Stopped

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Stop only this rank, since ranks may have different numbers of batches. The others end after it."""
        if self.received is not None:
            raise Stopped

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ignore a signal that came during the last step: the training is finished."""
        self.received = None

    @property
    def stop_error(self) -> UserError:
        """The error that says which signal stopped this training. Another rank may have received it."""
        return UserError(f"stopped by {self.received.name if self.received else 'a signal'}. {_AGAIN}")

    def _install(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._note)

    def _watch(self, received: socket.socket) -> None:
        """End this process if its main thread is too busy to handle a signal before the training begins."""
        with received:
            while number := received.recv(1):
                if number[0] not in (signal.SIGINT, signal.SIGTERM):
                    continue
                time.sleep(_PATIENCE)
                if self.received is None and not self.training:
                    launcher = self.trainer.strategy.launcher if self.trainer else None
                    if launcher is not None:
                        launcher.kill(signal.SIGKILL)
                    os.write(2, f"error: stopped by {signal.Signals(number[0]).name}. {_AGAIN}\n".encode())
                    os._exit(1)

    def _note(self, number: int, frame: FrameType | None) -> None:
        is_second, self.received = self.received is not None, signal.Signals(number)
        if is_second or not self.training:
            raise Stopped
        # Not print: the signal may have interrupted a print.
        os.write(2, f"{self.received.name}: stopping after this step.\n".encode())


def _text_of(error: BaseException) -> str:
    """The text of an error. That of a semaphore begins with "semaphore: ": semaphores are in shared memory."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{'semaphore: ' if frames and frames[-1].filename.endswith(_SEMAPHORES) else ''}{error}"


def explained(error: Exception, signals: StopSignals) -> UserError | None:
    """The UserError to raise after a signal, a shortage, or the end of another process of this training.

    None for other errors.
    """
    if signals.received:
        return signals.stop_error
    # When a worker dies, torch raises an error at any line, for example while a file is written. An error about that
    # file may then hide the worker's error, so the causes of the error are searched, too.
    chain = list(causes(error))
    for pattern, message in _SHORTAGES.items():
        if any(re.search(pattern, _text_of(cause), re.IGNORECASE) for cause in chain):
            return UserError(f"{message} {_AGAIN}")
    if (shortage := shortage_message(error)) is not None:
        return UserError(f"{shortage}. {_LESS_MEMORY}")
    for cause in chain:
        if "DataLoader worker (pid" in str(cause):
            message = f"a process that reads images ended ({cause}). If memory was short, lower runtime.num_workers."
            return UserError(f"{message} {_AGAIN}")
        if "gloo" in str(cause) or isinstance(cause, torch.distributed.DistError):
            return UserError(
                f"another process of this training ended ({cause}). See the message of that process. {_AGAIN}"
            )
    return None
