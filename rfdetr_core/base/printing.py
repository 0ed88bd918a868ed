"""Prints text with names from files. Their control characters are escaped, so they cannot control the terminal."""

from __future__ import annotations

import contextlib
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any, TextIO, cast


@contextlib.contextmanager
def printable_output() -> Iterator[None]:
    """While the block runs, everything that is printed goes through `one_line`."""
    with contextlib.redirect_stdout(cast(TextIO, _Printable(sys.stdout))):
        yield


def printable(text: str) -> str:
    """A text with control characters and unpaired surrogates as escapes. Line ends and tabs stay.

    A terminal obeys control characters: they move the cursor, overwrite lines or reverse the direction of the text.
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
    """Like `printable`, but line ends are escaped, too: a name that contains one cannot forge a line."""
    return printable(str(text)).replace("\n", "\\n")


def say(*lines: object, file: TextIO | None = None) -> None:
    """Print lines, each through `one_line`. file: by default the standard output."""
    print(*map(one_line, lines), sep="\n", file=file or sys.stdout, flush=True)


def message_of(error: BaseException) -> str:
    """The message of an error for the terminal. Further lines are indented, so that none looks like another message."""
    return printable(f"error: {error}").replace("\n", "\n  ")


class _Printable:
    """Standard output whose `write` escapes the text."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        line = text.rstrip("\n")
        self._stream.write(one_line(line) + text[len(line) :])
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
