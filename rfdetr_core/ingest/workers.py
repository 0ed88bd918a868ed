"""Worker processes that survive bad input: one that dies is told apart by the item it was at."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.memory import shortage_message
from rfdetr_core.base.processes import end_with_parent

Item = TypeVar("Item")
Result = TypeVar("Result")
# Enough that a worker never waits for its next item; few enough that a message fits into a pipe's buffer.
_BATCH, _AHEAD = 32, 2
# What a decoder does to itself, unlike the SIGKILL of a system that runs out of memory.
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)
_WIDTH = 20
_SHORT_OF_MEMORY = 12  # the status with which a process ends: ENOMEM


class Workers(Generic[Result]):
    """Processes that do one function on many items, started at once: forked early, they copy no later memory.

    make_work: called in each process; gives the function of an item. crashed: the result for an item at which the
    process crashed, from the item and the name of the signal.
    """

    def __init__(
        self, make_work: Callable[[], Callable[[str], Result]], crashed: Callable[[str, str], Result], count: int
    ) -> None:
        self._make_work, self._crashed = make_work, crashed
        # A forked process does not run the caller's script again, as others do where that has no main guard.
        fork = "fork" in multiprocessing.get_all_start_methods()
        self._context: Any = multiprocessing.get_context("fork" if fork else None)
        self._workers = [_Worker(self._context, make_work) for _ in range(count)]

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.process.kill()
            worker.process.join()

    def map(self, items: Iterable[str]) -> Iterator[tuple[str, Result]]:
        """Each item and its result, in the order in which they are done.

        Raises:
            UserError: a process was killed or ran out of memory; names the item it was at.
        """
        left = deque(items)
        while True:
            for worker in self._workers:
                while left and len(worker.unanswered) <= (_AHEAD - 1) * _BATCH:
                    worker.send([left.popleft() for _ in range(min(_BATCH, len(left)))])
            busy = {worker.pipe: worker for worker in self._workers if worker.unanswered}
            if not busy:
                return
            for pipe in wait(list(busy)):
                worker = busy[pipe]
                try:
                    results = worker.pipe.recv()
                except (EOFError, OSError):
                    item, result = self._bury(worker)
                    left.extendleft(reversed(worker.unanswered))
                    yield item, result
                    continue
                worker.answered += len(results)
                yield from [(worker.unanswered.popleft(), result) for result in results]

    def _bury(self, dead: _Worker) -> tuple[str, Result]:
        """Replace a dead worker; the item that it crashed at, which is taken from the unanswered, and its result."""
        dead.process.join()
        status, at = dead.process.exitcode or 0, dead.begun.value - dead.answered
        item = dead.unanswered[at - 1] if at else "no file"
        if at and -status in _CRASHES:
            del dead.unanswered[at - 1]
            self._workers[self._workers.index(dead)] = _Worker(self._context, self._make_work)
            return item, self._crashed(item, signal.Signals(-status).name)
        if status == _SHORT_OF_MEMORY:
            raise out_of_memory(item)
        how = f"was killed ({signal.Signals(-status).name})" if status < 0 else f"ended with status {status}"
        raise UserError(
            f"a process that checks images {how} while it was at {item}. If the memory ran out, free some; if the file "
            "is huge or strange, remove it"
        )


def out_of_memory(item: str) -> UserError:
    """The error of an image for which memory does not suffice."""
    return UserError(f"memory ran out at {item}. Free some, or lower validate.max_pixels: larger images are findings.")


class _Worker:
    """One process. unanswered: the items that were sent and have no result yet. begun: how many it has begun."""

    def __init__(self, context: Any, make_work: Callable[[], Callable[[str], Any]]) -> None:
        self.unanswered: deque[str] = deque()
        self.answered = 0
        self.begun = context.RawValue("q", 0)
        self.pipe, end = context.Pipe()
        self.process = context.Process(target=_serve, args=(end, self.begun, make_work), daemon=True)
        self.process.start()
        end.close()  # so that reading fails when the process has died

    def send(self, batch: list[str]) -> None:
        self.unanswered += batch
        with suppress(OSError):  # it has died: the next reading tells
            self.pipe.send(batch)


def _serve(pipe: Connection, begun: Any, make_work: Callable[[], Callable[[str], Any]]) -> None:
    end_with_parent(signal.SIGKILL)
    faulthandler.disable()  # a crash is told by the parent
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes of a terminal; the parent ends this one
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    work = make_work()
    while True:
        try:
            batch = pipe.recv()
        except EOFError:
            os._exit(0)
        results = []
        for item in batch:
            begun.value += 1
            try:
                results.append(work(item))
            except Exception as error:
                if shortage_message(error):
                    os._exit(_SHORT_OF_MEMORY)
                raise
        pipe.send(results)


def with_progress(items: Iterable[Item], total: int, what: str, unit: str) -> Iterator[Item]:
    """Pass items on, and tell standard error how many of `total` were, and how many a second."""
    terminal = sys.stderr.isatty()
    every = 0.2 if terminal else 10.0
    start = told = time.monotonic()
    for count, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - told >= every or (terminal and count == total):
            told, share = now, count / total
            bar = f"[{'#' * int(share * _WIDTH):{_WIDTH}}] " if terminal else ""
            line = f"{what}: {bar}{count:,} of {total:,} {unit}, {count / (now - start):,.0f} a second"
            print(f"\r{line}\x1b[K" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)
    if terminal and told > start:
        print(file=sys.stderr)
