"""The one exception whose message is meant for the user."""

from __future__ import annotations

from collections.abc import Iterator


class UserError(Exception):
    """Something the user can mend: the message names the file, line or key at fault and what to do.

    Stages and the command line print it without a traceback and exit non-zero.
    """


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those behind it, the latest first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
