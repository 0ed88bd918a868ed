"""Signals, the death of the parent process, usable CPU cores, starting processes, and pausing garbage collection."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import multiprocessing
import os
import signal
import sys
import types
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Disable garbage collection in this block.

    With millions of records in memory, garbage collection takes a third of the time and frees nothing.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def without_script() -> Iterator[None]:
    """In this block, new processes do not run the caller's script again, even if it has no main guard.

    Python's start methods spawn and forkserver run the script in each new process, to import its definitions. In this
    block they do not. So functions and classes that the script defines cannot be passed to the new processes.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def usable_cores(control: Path = Path("/sys/fs/cgroup")) -> int:
    """The number of cores that this process may use: its CPU affinity, or its container's CPU quota rounded up.

    control: the folder where Linux mounts the control groups, version 2 (cpu.max) or 1. Inside a container its root is
    the container's group.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with contextlib.suppress(
            OSError, ValueError
        ):  # ValueError: `max` means that there is no quota; in version 1 it is -1
            quota, period = map(int, " ".join((control / name).read_text() for name in names).split())
            if quota > 0 < period:
                return min(cores, math.ceil(quota / period))
    return cores


def may_start_processes() -> bool:
    """Whether this process may start others. Python forbids it to a daemonic process."""
    return not multiprocessing.current_process().daemon


def treat_sigterm_as_ctrl_c() -> None:
    """Let SIGTERM raise KeyboardInterrupt, so that the process cleans up before it ends."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def end_with_parent(death_signal: signal.Signals = signal.SIGTERM) -> None:
    """Make Linux send a signal to this process when its parent dies. So no stage outlives a killed `dvc`."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, death_signal, 0, 0, 0)
