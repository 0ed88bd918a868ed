"""Text for people, in which names and texts out of files cannot command the terminal."""

from __future__ import annotations

import contextlib
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any, TextIO, cast


@contextlib.contextmanager
def printable_output() -> Iterator[None]:
    """Print control characters as escapes while the block runs."""
    with contextlib.redirect_stdout(cast(TextIO, _Printable(sys.stdout))):
        yield


def printable(text: str) -> str:
    """A text with its control characters, and what is no Unicode, as escapes; line ends and tabs stay.

    A terminal obeys control characters: they move the cursor, write over lines, or turn the direction of the text.
    """
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(
        one if one in "\n\t" or unicodedata.category(one) not in ("Cc", "Cf", "Cs", "Zl", "Zp") else ascii(one)[1:-1]
        for one in text
    )


class _Printable:
    """Standard output, but for what its `write` is given."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(printable(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
