"""Text for people, in which names and texts out of files cannot command the terminal."""

from __future__ import annotations

import contextlib
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any, TextIO, cast


@contextlib.contextmanager
def printable_output() -> Iterator[None]:
    """Print each argument of `print` as `one_line` has it while the block runs."""
    with contextlib.redirect_stdout(cast(TextIO, _Printable(sys.stdout))):
        yield


def printable(text: str) -> str:
    """A text with its control characters, and what is no Unicode, as escapes; line ends and tabs stay.

    A terminal obeys control characters: they move the cursor, write over lines, or turn the direction of the text.
    """
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(
        char
        if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else ascii(char)[1:-1]
        for char in text
    )


def one_line(text: object) -> str:
    """As `printable`, with line ends as escapes too: a name with one in it cannot forge a line."""
    return printable(str(text)).replace("\n", "\\n")


def say(*lines: object, file: TextIO | None = None) -> None:
    """Print lines with words of files in them, each as `one_line` has it; file: else standard output."""
    print(*map(one_line, lines), sep="\n", file=file or sys.stdout, flush=True)


def message_of(error: BaseException) -> str:
    """The message of an error for the terminal, its further lines indented: none looks like a message of its own."""
    return printable(f"error: {error}").replace("\n", "\n  ")


class _Printable:
    """Standard output, but for what its `write` is given."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        line = text.rstrip("\n")
        self._stream.write(one_line(line) + text[len(line) :])
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
