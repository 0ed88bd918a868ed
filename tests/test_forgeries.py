"""The tables of docs/audit.md name tests that there are."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache

import pytest

from rfdetr_core.base.code import ROOT

_PAGE = (ROOT / "docs" / "audit.md").read_text()
_NOT_SEEN = "not seen"


def rows(title: str) -> list[list[str]]:
    """The cells of the table below a title, without rows that are titles themselves."""
    _, _, text = _PAGE.partition(f"# {title}\n")
    lines = [line for line in text.partition("\n#")[0].splitlines() if line.startswith("| ")][1:]
    found = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]
    return [cells for cells in found if not cells[0].startswith("**")]


def named(cells: list[str]) -> list[str]:
    """The tests in the last cell."""
    return re.findall(r"`([^`]+)`", cells[-1]) if "tests/" not in cells[-1] and "test_" in cells[-1] else []


@cache
def there() -> list[str]:
    """Every test of the files that the tables name."""
    files = {one.split("[")[0].split("::")[0] for title in TITLES for cells in rows(title) for one in named(cells)}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-o",
        "addopts=",
        "-q",
        *sorted(f"tests/{one}" for one in files),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [line.removeprefix("tests/") for line in done.stdout.splitlines() if "::" in line]


TITLES = ("What a forger may try", "Honest situations")


@pytest.mark.slow
@pytest.mark.parametrize("title", TITLES)
def test_each_test_that_a_table_names_is_there(title: str) -> None:
    def exists(name: str) -> bool:
        file, bracket, case = name.partition("[")
        if bracket:
            return any(one.startswith(f"{file}::") and one.endswith(f"[{case}") for one in there())
        return any(one == file or one.startswith((f"{file}[", f"{file}::")) for one in there())

    assert [one for cells in rows(title) for one in named(cells) if not exists(one)] == []


def test_what_is_not_seen_is_said_to_be_so_and_all_else_has_a_test() -> None:
    for cells in rows("What a forger may try"):
        untold = _NOT_SEEN in cells[1] or cells[1].startswith("seen by")
        assert bool(named(cells)) != untold, cells
    assert all(named(cells) for cells in rows("Honest situations"))
