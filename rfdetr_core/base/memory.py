"""Recognises errors of Python, NumPy, torch, Pillow and the system that mean that memory ran out."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rfdetr_core.base.errors import UserError, causes

# "could not create a ..." comes from oneDNN, "failed to map segment" from the dynamic linker.
_WORDS = re.compile(
    "out of memory|(cannot|can't|unable to|failed to) allocate|could not create a (primitive|memory)"
    "|failed to map segment|bad_alloc|can't start new thread",
    re.IGNORECASE,
)
_LONGEST = 200  # characters of a quoted message


def shortage_message(error: BaseException) -> str | None:
    """A text such as "memory ran out (...)" if the error or one of its causes means that; None for other errors."""
    for cause in causes(error):
        # The name of a file is left out: it may contain such words.
        text = cause.strerror or "" if isinstance(cause, OSError) and cause.filename is not None else str(cause)
        if isinstance(cause, MemoryError) or (
            isinstance(cause, RuntimeError | OSError | ImportError) and _WORDS.search(text)
        ):
            words = (str(cause).strip() or type(cause).__name__).splitlines()[0]
            return f"memory ran out ({words[:_LONGEST]})"
    return None


@contextmanager
def explaining_shortage(advice: str) -> Iterator[None]:
    """Replace an out-of-memory error in the block by a UserError.

    Raises:
        UserError: memory ran out. The message ends with `advice`.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if (shortage := shortage_message(error)) is None:
            raise
        raise UserError(f"{shortage}. {advice}") from error


def silence_shortages() -> None:
    """From here on, print nothing about an out-of-memory error that Python ignores.

    For a process that ends because of such an error: exit handlers and finalizers of libraries need memory, too, and
    Python prints a traceback for each that fails.
    """
    report = sys.unraisablehook

    def report_others(unraisable: sys.UnraisableHookArgs) -> None:
        if unraisable.exc_value is None or shortage_message(unraisable.exc_value) is None:
            report(unraisable)

    sys.unraisablehook = report_others
