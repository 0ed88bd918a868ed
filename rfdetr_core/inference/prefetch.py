"""Preparing the next images in threads while the model runs."""

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
    """`prepare` of each item, in order; threads work on up to `ahead` items more than were taken.

    An error of an item is raised in its place. Closed early, the iterator waits for the items that are in work and
    forgets the others. A single item is prepared in the caller's thread.
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
    """Threads for the processors that this process may use: a model on a CPU needs most of them."""
    return min(MOST_WORKERS, max(1, usable_cores() // 4))
