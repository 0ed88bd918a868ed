"""How commands print an answer of several lines."""

from __future__ import annotations

import json
from typing import Any


def print_answer(answer: dict[str, Any] | list[str]) -> None:
    """Lines for people, or JSON for programs."""
    if isinstance(answer, dict):
        print_lines(json.dumps(answer, indent=2))
    else:
        print(*answer, sep="\n")


def print_lines(text: str) -> None:
    """The lines of a text, each as a line: in an argument of `print` a line end would be an escape."""
    print(*text.split("\n"), sep="\n")
