"""The tables of docs/audit.md name existing tests."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache

import pytest

from rfdetr_core.base.code import ROOT

_PAGE = (ROOT / "docs" / "audit.md").read_text()
_FORGERIES, _LEGITIMATE = "Manipulations, and how they are detected", "Legitimate situations"
_TITLES = (_FORGERIES, _LEGITIMATE)
_NOT_DETECTED = "not detected"


def rows(title: str) -> list[list[str]]:
    """The cells of the table below a title, without rows that are titles themselves."""
    _, _, text = _PAGE.partition(f"# {title}\n")
    lines = [line for line in text.partition("\n#")[0].splitlines() if line.startswith("| ")][1:]
    table = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]
    return [cells for cells in table if not cells[0].startswith("**")]


def named_tests(cells: list[str]) -> list[str]:
    """The names of tests in the last cell."""
    return re.findall(r"`([^`]+)`", cells[-1]) if "tests/" not in cells[-1] and "test_" in cells[-1] else []


@cache
def collected_tests() -> list[str]:
    """Every test in the files that the tables name."""
    names = [name for title in _TITLES for cells in rows(title) for name in named_tests(cells)]
    files = sorted({f"tests/{name.split('[')[0].split('::')[0]}" for name in names})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-o", "addopts=", "-q", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [line.removeprefix("tests/") for line in done.stdout.splitlines() if "::" in line]


@pytest.mark.slow
@pytest.mark.parametrize("title", _TITLES)
def test_each_test_in_a_table_exists(title: str) -> None:
    def exists(name: str) -> bool:
        file, bracket, case = name.partition("[")
        if bracket:
            return any(test.startswith(f"{file}::") and test.endswith(f"[{case}") for test in collected_tests())
        return any(test == file or test.startswith((f"{file}[", f"{file}::")) for test in collected_tests())

    assert [name for cells in rows(title) for name in named_tests(cells) if not exists(name)] == []


def test_each_manipulation_has_a_test_or_is_marked_as_not_detected() -> None:
    assert len(rows(_FORGERIES)) > 50
    for cells in rows(_FORGERIES):
        assert bool(named_tests(cells)) != (_NOT_DETECTED in cells[1]), cells
    assert all(named_tests(cells) for cells in rows(_LEGITIMATE))
