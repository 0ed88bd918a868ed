from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from lightning_fabric.utilities.rank_zero import rank_zero_only

# A shell has what it starts in the background ignore it, and so would every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _first_process() -> Iterator[None]:
    """Lightning keeps the rank of a Trainer beyond its life: after one that was another's, no logger would write."""
    yield
    rank_zero_only.rank = 0
