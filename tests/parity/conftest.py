"""Parity tests compare with upstream's `rfdetr` package."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
IN_CI = bool(os.environ.get("CI"))
if IN_CI:
    import rfdetr  # noqa: F401 - in CI a missing rfdetr must be an error: the modules would skip themselves


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.parity)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, object, None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if IN_CI and report.skipped and item.path.is_relative_to(HERE):
        report.outcome, report.longrepr = "failed", f"skipped in CI: {report.longrepr}"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
