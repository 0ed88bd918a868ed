"""How far a long loop is: a line that rewrites itself on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
_WIDTH = 20


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
