"""Everything here compares with upstream's `rfdetr` package."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.parity)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
