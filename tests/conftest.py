from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

PIPELINE = Path(__file__).parent / "pipeline"
# Two workers share two cores: a second OpenMP thread of each would only wait. torch reads this when it is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # where a test asks for two, they do not spin
# A shell has what it starts in the background ignore it, and so would every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
# A machine that is busy is no failure. In CI hypothesis draws the same examples each time, by a profile of its own.
settings.register_profile("untimed", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest modules first, so that no worker is idle while the other one ends."""
    items.sort(key=lambda item: not item.path.is_relative_to(PIPELINE))


@pytest.fixture(autouse=True)
def _first_process() -> Iterator[None]:
    """Lightning keeps the rank of a Trainer beyond its life: after one that was another's, no logger would write."""
    yield
    if module := sys.modules.get("lightning_fabric.utilities.rank_zero"):
        module.rank_zero_only.rank = 0
