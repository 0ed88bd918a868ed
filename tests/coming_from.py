"""Reads the code of docs/coming-from-rfdetr.md for its tests."""

from __future__ import annotations

import re

from rfdetr_core.base.code import ROOT

PAGE = (ROOT / "docs" / "coming-from-rfdetr.md").read_text()
SNIPPETS = re.findall(r"^(\w[^\n]*):\n\n```python\n(.*?)```", PAGE, re.M | re.S)  # title, code

SHARED = re.findall(r"share.*?`(model = .*?)`", PAGE)[0]  # code that all rows may use


def rows() -> list[tuple[str, str]]:
    """The rows of the first table: the code of rfdetr, and the code here."""
    table = PAGE.split("## Row by row")[1].split("## ")[0]
    cells = (line.strip("|").split(" | ") for line in table.split("\n") if line.startswith("| `"))
    return [(code_of(theirs), code_of(ours)) for theirs, ours in cells]


def code_of(cell: str) -> str:
    """The code at the start of a cell."""
    match = re.match(r"\s*`([^`]+)`", cell)
    assert match, cell
    return match[1]
