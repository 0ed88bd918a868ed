"""Worker processes that survive bad input. If a worker crashes, the item that it was processing is known."""

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
# _BATCH: the number of items in a message. 32 items are so few that a message fits into the buffer of a pipe.
# _AHEAD: the most messages that a worker has not answered yet. With two, a worker never waits for an item.
_BATCH, _AHEAD = 32, 2
# Signals of a crashing decoder. A system that runs out of memory sends SIGKILL instead.
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)
_BAR_WIDTH = 20  # characters of the progress bar
_SHORT_OF_MEMORY = 12  # exit status of a worker without memory: ENOMEM


class Workers(Generic[Result]):
    """Processes that apply one function to many items.

    The constructor starts them: early in the caller's life a fork copies little memory.

    Args:
        make_work: called in each process. Returns the function that is applied to the items.
        crashed: gives the result of an item that crashed its process, from the item and the name of the signal.
        count: the number of processes.
    """

    def __init__(
        self, make_work: Callable[[], Callable[[str], Result]], crashed: Callable[[str, str], Result], count: int
    ) -> None:
        self._make_work, self._crashed = make_work, crashed
        # A forked process does not run the caller's script again; a spawned one would, without a main guard.
        fork = "fork" in multiprocessing.get_all_start_methods()
        self._context: Any = multiprocessing.get_context("fork" if fork else None)
        self._workers = [_Worker(self._context, make_work) for _ in range(count)]

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.process.kill()
            worker.process.join()

    def map(self, items: Iterable[str]) -> Iterator[tuple[str, Result]]:
        """Yield each item and its result, in the order in which they finish.

        Raises:
            UserError: a process was killed or ran out of memory. Names the item that it was processing.
        """
        pending = deque(items)
        while True:
            for worker in self._workers:
                while pending and len(worker.unanswered) <= (_AHEAD - 1) * _BATCH:
                    worker.send([pending.popleft() for _ in range(min(_BATCH, len(pending)))])
            busy = {worker.pipe: worker for worker in self._workers if worker.unanswered}
            if not busy:
                return
            for pipe in wait(list(busy)):
                worker = busy[pipe]
                try:
                    results = worker.pipe.recv()
                except (EOFError, OSError):
                    item, result = self._replace_dead(worker)
                    pending.extendleft(reversed(worker.unanswered))
                    yield item, result
                    continue
                worker.answered += len(results)
                yield from [(worker.unanswered.popleft(), result) for result in results]

    def _replace_dead(self, dead: _Worker) -> tuple[str, Result]:
        """Replace a dead worker. Returns the item that it crashed at, and the result for it."""
        dead.process.join()
        status, position = dead.process.exitcode or 0, dead.begun.value - dead.answered
        item = dead.unanswered[position - 1] if position else "no file"
        if position and -status in _CRASHES:
            del dead.unanswered[position - 1]
            self._workers[self._workers.index(dead)] = _Worker(self._context, self._make_work)
            return item, self._crashed(item, signal.Signals(-status).name)
        if status == _SHORT_OF_MEMORY:
            raise out_of_memory(item)
        how = f"was killed ({signal.Signals(-status).name})" if status < 0 else f"ended with status {status}"
        raise UserError(
            f"a process that checks images {how} while it read {item}. If memory ran out, free some memory. If the "
            "file is huge or strange, remove it."
        )


def out_of_memory(item: str) -> UserError:
    """The error for an image that does not fit into memory."""
    return UserError(
        f"memory ran out while {item} was decoded. Free some memory, or lower validate.max_pixels: larger images are "
        "then reported as findings."
    )


class _Worker:
    """One process. unanswered: items that were sent and have no result yet. begun: how many items it has begun."""

    def __init__(self, context: Any, make_work: Callable[[], Callable[[str], Any]]) -> None:
        self.unanswered: deque[str] = deque()
        self.answered = 0
        self.begun = context.RawValue("q", 0)
        self.pipe, end = context.Pipe()
        self.process = context.Process(target=_serve, args=(end, self.begun, make_work), daemon=True)
        self.process.start()
        end.close()  # then reading fails after the process has died

    def send(self, batch: list[str]) -> None:
        self.unanswered += batch
        with suppress(OSError):  # it has died; the next read reports that
            self.pipe.send(batch)


def _serve(pipe: Connection, begun: Any, make_work: Callable[[], Callable[[str], Any]]) -> None:
    end_with_parent(signal.SIGKILL)
    faulthandler.disable()  # the parent reports a crash
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent ends this one
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


def with_progress(items: Iterable[Item], total: int, task: str, unit: str) -> Iterator[Item]:
    """Yield the items and print the progress to standard error.

    Args:
        items: the items to yield.
        total: how many items there will be.
        task: the name of the task, at the start of the line.
        unit: the plural noun for the items.
    """
    terminal = sys.stderr.isatty()
    interval = 0.2 if terminal else 10.0
    start = last_report = time.monotonic()
    for count, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last_report >= interval or (terminal and count == total):
            last_report, share = now, count / total
            bar = f"[{'#' * int(share * _BAR_WIDTH):{_BAR_WIDTH}}] " if terminal else ""
            line = f"{task}: {bar}{count:,} of {total:,} {unit}, {count / (now - start):,.0f} a second"
            print(f"\r{line}\x1b[K" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)
    if terminal and last_report > start:
        print(file=sys.stderr)
