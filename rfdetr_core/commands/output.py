"""How commands print an answer of several lines."""

from __future__ import annotations

import json
from typing import Any

SCHEMA = 1  # of the answers in JSON: within a version keys are added, and none is removed or changes its meaning


def print_versioned(answer: dict[str, Any] | list[str]) -> None:
    """As `print_answer`; the first key of JSON is the version of its schema (docs/schemas/)."""
    print_answer({"schema": SCHEMA} | answer if isinstance(answer, dict) else answer)


def print_answer(answer: dict[str, Any] | list[str]) -> None:
    """Lines for people, or JSON for programs."""
    if isinstance(answer, dict):
        print_lines(json.dumps(answer, indent=2))
    else:
        print(*answer, sep="\n")


def print_lines(text: str) -> None:
    """The lines of a text, each as a line: in an argument of `print` a line end would be an escape."""
    print(*text.split("\n"), sep="\n")
