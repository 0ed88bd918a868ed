"""Prepares the next images in threads while the model runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from rfdetr_core.base.processes import usable_cores

T = TypeVar("T")
R = TypeVar("R")
MOST_WORKERS = 4  # each holds a decoded picture


def prefetch(prepare: Callable[[T], R], items: Iterable[T], ahead: int) -> Generator[R, None, None]:
    """Yield `prepare(item)` of each item, in order, computed in threads.

    If an item raises an error, it is raised when the iteration reaches the item. If the iterator is closed early, it
    waits for the items that a thread works on, and drops the others. A single item is prepared in the caller's thread.

    Args:
        prepare: Called in several threads at once.
        items: Read as needed; a sequence is not required.
        ahead: The largest number of items that are prepared before they are asked for.
    """
    if isinstance(items, Sequence) and len(items) < 2:
        yield from map(prepare, items)
        return
    waiting = deque[Future[R]]()
    with ThreadPoolExecutor(workers(), thread_name_prefix="prepare") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(prepare, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def workers() -> int:
    """The number of threads: a quarter of the usable cores. A model on the CPU needs the others."""
    return min(MOST_WORKERS, max(1, usable_cores() // 4))
