"""The one exception whose message is meant for the user, and what such messages are made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

_LONGEST_LINE = 4_000  # characters of a message: a value of a file may have any number


class UserError(Exception):
    """Something the user can mend: the message names the file, line or key at fault and what to do.

    Stages and the command line print it without a traceback and exit non-zero. A long value of a file may be in it: the
    middle of a line that is too long is left out.
    """

    def __str__(self) -> str:
        return "\n".join(map(_shortened, super().__str__().split("\n")))

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows, by IPython's protocol: the message, without the code that raised it."""
        return [f"{type(self).__name__}: {self}"]


def _shortened(line: str) -> str:
    if len(line) <= _LONGEST_LINE:
        return line
    half = _LONGEST_LINE // 2
    return f"{line[:half]} ... ({len(line) - 2 * half:,} characters) ... {line[-half:]}"


def listed(names: Iterable[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those behind it, the latest first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
