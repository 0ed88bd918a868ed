from __future__ import annotations

from collections.abc import Iterator

import pytest
from lightning_fabric.utilities.rank_zero import rank_zero_only


@pytest.fixture(autouse=True)
def _first_process() -> Iterator[None]:
    """Lightning keeps the rank of a Trainer beyond its life: after one that was another's, no logger would write."""
    yield
    rank_zero_only.rank = 0
