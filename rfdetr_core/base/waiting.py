"""Calls of a server that end in time, whatever the server does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

T = TypeVar("T")
_LOOK = 0.1  # seconds between looks for a signal
_GRACE = 1.0  # seconds that a call has left when a signal asks to stop


class OutOfTimeError(Exception):
    """A server took longer than it may, or a signal came before its answer."""


class TimeLimit:
    """The seconds that a server may still take, in all; per_call: each call has them anew.

    The limit of an HTTP client is for each read: a server that sends a byte a second never reaches it. So a call has a
    thread of its own. If it takes too long, nobody waits for the thread, which does not keep the process alive.

    stopping: whether a signal asked to stop, which cuts short what is waited for.
    """

    def __init__(self, seconds: float, *, per_call: bool = False, stopping: Callable[[], bool] = lambda: False) -> None:
        self.limit = self.remaining = seconds
        self.per_call, self.stopping = per_call, stopping

    def extend(self, seconds: float) -> None:
        """Allow more seconds, up to those of the beginning."""
        self.remaining = min(self.limit, self.remaining + seconds)

    def call(self, function: Callable[[], T], more: float = 0.0) -> T:
        """What `function` returns or raises. more: seconds that this call may take besides.

        Raises:
            OutOfTimeError: it takes too long, or a signal asks to stop.
        """
        if self.per_call:
            self.remaining = self.limit
        answer: Future[T] = Future()
        threading.Thread(target=lambda: _run(function, answer), daemon=True).start()
        begun = now = time.monotonic()
        end, stopped = begun + self.remaining + more, False
        while not answer.done() and now < end:
            wait([answer], min(_LOOK, end - now))
            now = time.monotonic()
            if not stopped and self.stopping():
                stopped, end = True, min(end, now + _GRACE)
        self.remaining = max(0.0, self.remaining - max(0.0, now - begun - more))
        if answer.done():
            return answer.result()
        self.remaining = 0.0
        raise OutOfTimeError(f"A call did not end {'before a signal' if stopped else f'in {now - begun:.0f} s'}.")


def _run(function: Callable[[], T], answer: Future[T]) -> None:
    try:
        answer.set_result(function())
    except BaseException as error:  # noqa: BLE001 - raised where it is waited for
        answer.set_exception(error)
