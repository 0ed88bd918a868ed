"""Errors of other processes of a training get the right message, wherever they are noticed."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from rfdetr_core.base.code import ROOT
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.training.interruption import StopSignals, explained
from tests.training.tiny import script


class Killed(io.BytesIO):
    """A file. While it is written, torch raises that a loader worker ended. This can happen at any line."""

    def write(self, content: object) -> int:
        """Never returns."""
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")


def test_the_message_names_a_worker_that_died_while_a_file_was_written() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.save({"weights": torch.rand(100_000)}, Killed())
    error = explained(raised.value, StopSignals())
    assert error is not None
    assert "pid 7" in str(error)
    assert "runtime.num_workers" in str(error)


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("unable to allocate shared memory(shm) for file </torch_7_1_0>: No space left on device (28)", "--shm-size"),
        ("unable to write to file </torch_7_1_0>", None),
        ("DataLoader worker (pid 7) is killed by signal: Bus error. ", "--shm-size"),
        ("unable to open shared memory object </torch_7_1_0> in read-write mode: Too many open files (24)", "ulimit"),
        ("received 0 items of ancdata", "ulimit"),
        ("[Errno 28] No space left on device: 'output/history.csv'", None),
    ],
)
def test_a_shortage_of_shared_memory_or_descriptors_is_reported_with_its_remedy(text: str, remedy: str | None) -> None:
    error = explained(RuntimeError(text), StopSignals())
    assert error is None if remedy is None else remedy in str(error)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["4k", "100k", "1m"])  # too small for a semaphore, for a batch, for several batches
def test_a_training_without_shared_memory_says_how_to_get_more(size: str, where: ProjectPaths, tmp_path: Path) -> None:
    program = script(where, tmp_path / "output", runtime={"num_workers": 1}, train={"batch_size": 32})
    source = (
        f"from rfdetr_core.base.errors import UserError\ntry:\n  exec({program!r})\nexcept UserError as e: print(e)"
    )
    full = f'mount -t tmpfs -o size={size} tmpfs /dev/shm || exit 77; exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", full, "sh", sys.executable, "-c", source]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    if done.returncode == 77 or done.stderr.startswith("unshare:"):
        pytest.skip("no right to mount here")
    assert "docker run --shm-size" in done.stdout, done.stderr


def test_the_shortage_that_killed_a_worker_is_reported_first() -> None:
    error = RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")
    error.__cause__ = RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. ")
    assert "--shm-size" in str(explained(error, StopSignals()))


def test_a_worker_that_dies_later_does_not_hide_the_first_error() -> None:
    before = signal.getsignal(signal.SIGCHLD)
    with suppress(UserError), StopSignals().handled():
        signal.signal(signal.SIGCHLD, lambda *_: None)  # as a loader sets its handler
        raise UserError
    assert signal.getsignal(signal.SIGCHLD) == before


LATE = """
import atexit, os, signal, sys, time
from rfdetr_core.base.errors import UserError
from stages import run

def lose_a_worker():
    if os.fork() == 0:
        os._exit(1)
    time.sleep(0.5)

def raise_as_torch_does(number, frame):
    raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated.")

def stage():
    signal.signal(signal.SIGCHLD, raise_as_torch_does)
    raise UserError("stopped by SIGTERM")

sys.argv[0] = "code"  # the only stage whose code is not compared with digests
atexit.register(lose_a_worker)
run(stage)
"""


def test_a_worker_that_dies_while_the_stage_exits_prints_no_traceback() -> None:
    done = subprocess.run([sys.executable, "-c", LATE], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: stopped by SIGTERM\n")
    assert "Traceback" not in done.stderr


def test_an_error_of_this_process_is_not_explained_by_another_process() -> None:
    assert explained(ValueError("gl00"), StopSignals()) is None
