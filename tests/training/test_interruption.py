"""Errors of other processes of a training are told as such, wherever they are noticed."""

from __future__ import annotations

import io

import pytest
import torch

from rfdetr_core.training.interruption import StopSignals, explained


class Killed(io.BytesIO):
    """A file while whose writing torch raises that a loader worker ended, as it does in the main thread anywhere."""

    def write(self, content: object) -> int:
        """Never returns."""
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")


def test_a_worker_that_dies_while_a_file_is_written_is_what_the_user_is_told_of() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.save({"weights": torch.rand(100_000)}, Killed())
    told = explained(raised.value, StopSignals())
    assert told is not None
    assert "pid 7" in str(told)
    assert "runtime.num_workers" in str(told)


def test_an_error_of_this_process_is_none_of_another() -> None:
    assert explained(ValueError("gl00"), StopSignals()) is None
