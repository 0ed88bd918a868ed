"""Memory of a training on CPU."""

from __future__ import annotations

import ctypes

# Of glibc's malloc.h, for mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Have this process keep the memory that it frees; False where the C library is not glibc, which changes nothing.

    What glibc gives back to the system after a step is faulted in again, page by page, in the next one: 4 to 15 % of
    its time. As GLIBC_TUNABLES with thresholds beyond any tensor's size, but without starting the process anew.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    # No block gets a mapping of its own, and the heap is never trimmed.
    return bool(library.mallopt(_MMAP_MAX, 0)) and bool(library.mallopt(_TRIM_THRESHOLD, -1))
