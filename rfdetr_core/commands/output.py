"""Prints the answer of a command: lines for people, JSON for programs."""

from __future__ import annotations

import json
from typing import Any

SCHEMA = 1  # the version of the JSON answers; a version may add keys, but none is removed or changes its meaning


def print_versioned(answer: dict[str, Any] | list[str]) -> None:
    """As `print_answer`; JSON starts with the version of its schema (docs/schemas/)."""
    print_answer({"schema": SCHEMA} | answer if isinstance(answer, dict) else answer)


def print_answer(answer: dict[str, Any] | list[str]) -> None:
    """Print lines for people, or JSON for programs."""
    if isinstance(answer, dict):
        print_lines(json.dumps(answer, indent=2))
    else:
        print(*answer, sep="\n")


def print_lines(text: str) -> None:
    """Print a text line by line. In `printable_output`, a line end inside an argument of print becomes an escape."""
    print(*text.split("\n"), sep="\n")
