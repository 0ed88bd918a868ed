"""Signals, the death of the parent process, the cores and processes it may use, and pausing garbage collection."""

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
    """Let Python not search for cycles: among millions of records it finds none, and takes a third of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def without_script() -> Iterator[None]:
    """Start processes that do not run the caller's script again, whether or not it has a main guard.

    Python's start methods spawn and forkserver would run it in each process, to find there what the script defines. So
    a process that is started here can be given nothing that the script defines.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def usable_cores(control: Path = Path("/sys/fs/cgroup")) -> int:
    """How many cores this process may use: those of its CPU affinity, or the CPU quota of its container, rounded up.

    control: where Linux mounts the control groups, version 2 (cpu.max) or 1, whose root is the container's.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with contextlib.suppress(OSError, ValueError):  # ValueError: no quota is `max`, or -1 of the period
            quota, period = map(int, " ".join((control / name).read_text() for name in names).split())
            if quota > 0 < period:
                return min(cores, math.ceil(quota / period))
    return cores


def may_start_processes() -> bool:
    """Whether this process may start others: Python forbids it to a daemonic one."""
    return not multiprocessing.current_process().daemon


def treat_sigterm_as_ctrl_c() -> None:
    """Make SIGTERM what Ctrl-C is: the process cleans up behind itself and ends."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def end_with_parent(death_signal: signal.Signals = signal.SIGTERM) -> None:
    """Have Linux send a signal to this process when its parent dies: a killed `dvc` leaves no stage behind."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, death_signal, 0, 0, 0)
