"""Runs a Python program that limits its own memory to its current size and some MiB more."""

from __future__ import annotations

import os
import subprocess
import sys

from rfdetr_core.base.code import ROOT

_LIMIT = """
import re, resource
def limit(mebibytes):
    status = open("/proc/self/status").read()
    size = 1024 * int(re.search(r"VmSize:\\s+(\\d+)", status).group(1)) + mebibytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
"""


def run_short(program: str, *arguments: str, cwd: str | os.PathLike[str] = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a program. It calls `limit(mebibytes)` after its imports."""
    return subprocess.run(
        [sys.executable, "-c", _LIMIT + program, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
