"""UserError, the exception whose message is meant for the user, and helpers for its messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

_LONGEST_LINE = 4_000  # characters: a message may quote a value of a file, which may be of any length


class UserError(Exception):
    """An error that the user can fix. The message says what is wrong, where (file, line or key), and what to do.

    Stages and the command line print it without a traceback and exit non-zero. The middle of a very long line is left
    out.
    """

    def __str__(self) -> str:
        return "\n".join(map(_shortened, super().__str__().split("\n")))

    def _render_traceback_(self) -> list[str]:
        """The lines that a notebook shows (IPython's protocol): the message without a traceback."""
        return [f"{type(self).__name__}: {self}"]


def _shortened(line: str) -> str:
    if len(line) <= _LONGEST_LINE:
        return line
    half = _LONGEST_LINE // 2
    return f"{line[:half]} ... ({len(line) - 2 * half:,} characters) ... {line[-half:]}"


def listed(names: Iterable[str], most: int = 3) -> str:
    """The first `most` names, joined by commas, and the number of further ones."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, then its cause or context, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
