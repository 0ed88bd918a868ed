from __future__ import annotations

import subprocess
import sys

import pytest

from rfdetr_core.base.code import ROOT

# Counts page faults while 64 MiB are allocated, filled and freed eight times.
FAULTS = """
import resource, sys
import numpy as np
from rfdetr_core.training.trainer import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
np.ones(2**23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    np.ones(2**23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str, **environment: str) -> int:
    command = [sys.executable, "-c", FAULTS, how]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_freed_memory_is_used_again_as_with_glibcs_tunables() -> None:
    huge = "glibc.malloc.mmap_threshold=8589934592:glibc.malloc.trim_threshold=17179869184"
    given_back, kept, tuned = faults("not"), faults("keep"), faults("not", GLIBC_TUNABLES=huge)
    assert given_back >= 8 * 32  # even if the system maps 2 MiB at a time
    assert kept < given_back / 10
    assert tuned < given_back / 10
