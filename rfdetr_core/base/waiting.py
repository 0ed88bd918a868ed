"""TimeLimit: limits the time of calls to a server, whatever the server does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

T = TypeVar("T")
_INTERVAL = 0.1  # seconds between two checks for a signal
_GRACE = 1.0  # seconds that a running call still gets after a signal


class OutOfTimeError(Exception):
    """A server took too long, or a signal came before its answer."""


class TimeLimit:
    """The seconds that calls to a server may take.

    The time limit of an HTTP client counts for each read; a server that sends a byte a second never reaches it. So each
    call runs in a daemon thread. If it takes too long, nobody waits for the thread any longer.

    Args:
        seconds: The limit of all calls together, or with `per_call` of each call.
        per_call: Whether `seconds` is the limit of each call.
        stopping: Returns True if a signal asked the process to stop; then waiting ends early.
    """

    def __init__(self, seconds: float, *, per_call: bool = False, stopping: Callable[[], bool] = lambda: False) -> None:
        self.limit = self.remaining = seconds
        self.per_call, self.stopping = per_call, stopping

    def extend(self, seconds: float) -> None:
        """Add seconds to the remaining time, up to the initial limit."""
        self.remaining = min(self.limit, self.remaining + seconds)

    def call(self, function: Callable[[], T], more: float = 0.0) -> T:
        """Return or raise what `function` does. more: seconds for this call in addition to the remaining time.

        Raises:
            OutOfTimeError: the call takes too long, or a signal asks to stop.
        """
        if self.per_call:
            self.remaining = self.limit
        answer: Future[T] = Future()
        threading.Thread(target=lambda: _run(function, answer), daemon=True).start()
        begun = now = time.monotonic()
        end, stopped = begun + self.remaining + more, False
        while not answer.done() and now < end:
            wait([answer], min(_INTERVAL, end - now))
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
    except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
        answer.set_exception(error)
