"""Errors that mean that memory ran out, of Python, NumPy, torch, Pillow and the system."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from rfdetr_core.base.errors import UserError, causes

# The third is oneDNN's, the fourth the dynamic linker's.
_WORDS = re.compile(
    "out of memory|(cannot|can't|unable to|failed to) allocate|could not create a (primitive|memory)"
    "|failed to map segment|bad_alloc|can't start new thread",
    re.IGNORECASE,
)
_LONGEST = 200  # characters of the words that are quoted


def shortage_message(error: BaseException) -> str | None:
    """What says that memory ran out: the words of an error, or of one behind it; None: it is something else."""
    for cause in causes(error):
        # Not the name of a file, which may have such words.
        text = cause.strerror or "" if isinstance(cause, OSError) and cause.filename is not None else str(cause)
        if isinstance(cause, MemoryError) or (
            isinstance(cause, RuntimeError | OSError | ImportError) and _WORDS.search(text)
        ):
            words = (str(cause).strip() or type(cause).__name__).splitlines()[0]
            return f"memory ran out ({words[:_LONGEST]})"
    return None


@contextmanager
def explaining_shortage(advice: str) -> Iterator[None]:
    """Say what to do where memory runs out within the block.

    Raises:
        UserError: it did; the message ends with `advice`.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if (shortage := shortage_message(error)) is None:
            raise
        raise UserError(f"{shortage}. {advice}") from error
