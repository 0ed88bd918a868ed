from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

PIPELINE = Path(__file__).parent / "pipeline"
# Two workers share two cores, so a second OpenMP thread would only wait. torch reads this at its import.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # if a test uses two threads, they do not spin
# A shell makes background processes ignore SIGINT. Processes that a test starts and interrupts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
# A busy machine must not fail a test. In CI, hypothesis uses its own profile, with the same examples each time.
settings.register_profile("untimed", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest modules first, so that no worker is idle at the end."""
    items.sort(key=lambda item: not item.path.is_relative_to(PIPELINE))


@pytest.fixture(autouse=True)
def _first_process() -> Iterator[None]:
    """Reset the rank. Lightning keeps that of the last Trainer; after another rank, no logger would write."""
    yield
    if module := sys.modules.get("lightning_fabric.utilities.rank_zero"):
        module.rank_zero_only.rank = 0
