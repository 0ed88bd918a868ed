"""A slow tracking server delays a training only for a bounded time, changes no byte, and a signal ends the wait."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rfdetr_core.base.code import ROOT
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.base.waiting import OutOfTimeError, TimeLimit
from rfdetr_core.observers import loggers
from rfdetr_core.observers.runs import Client
from tests.slow import KINDS, slow_server
from tests.training.tiny import outs, script, train

LONG = 60  # seconds; an endless wait would take longer


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_slow_server_is_given_up_with_one_message_and_costs_no_byte(
    kind: str,
    where: ProjectPaths,
    uninterrupted: dict[str, bytes],
    output: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loggers, "_IN_ALL", 2.0)
    begun = time.monotonic()
    with slow_server(kind) as (address, _):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.warns(UserWarning, match="MLflow is too slow") as caught:
            assert train(where, output, runtime={"mlflow": True}) == uninterrupted
    (message,) = [str(warning.message) for warning in caught if "MLflow" in str(warning.message)]
    assert "python -m rfdetr_core publish" in message
    assert time.monotonic() - begun < LONG


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_one_signal_stops_a_training_that_waits_for_a_server(kind: str, where: ProjectPaths, output: Path) -> None:
    program = script(where, output, runtime={"mlflow": True}, train={"epochs": 1000})
    with slow_server(kind) as (address, requested):
        environment = os.environ | {"MLFLOW_TRACKING_URI": address}
        process = subprocess.Popen(
            [sys.executable, "-c", program], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
        )
        assert requested.wait(LONG)
        time.sleep(0.5)  # it waits for the answer
        process.send_signal(signal.SIGTERM)
        _, printed = process.communicate(timeout=LONG / 3)
    assert process.returncode == 1
    assert "stopped by SIGTERM. Run again" in printed


@pytest.mark.slow
def test_a_process_ends_during_an_endless_call(
    where: ProjectPaths, uninterrupted: dict[str, bytes], output: Path
) -> None:
    program = "from rfdetr_core.observers import loggers\nloggers._IN_ALL = 1.0\n"
    program += script(where, output, runtime={"mlflow": True})
    with slow_server("header") as (address, _):
        environment = os.environ | {"MLFLOW_TRACKING_URI": address}
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LONG
        )
    assert done.returncode == 0, done.stderr
    assert outs(output) == uninterrupted


class Sleeper:
    def sleep(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    def log_artifact(self, run: str, path: str) -> str:
        time.sleep(2)
        return path

    def fail(self) -> None:
        raise TimeoutError("its own")


def test_calls_share_their_time_limit_unless_it_is_per_call() -> None:
    shared, renewed = (Client(Sleeper, TimeLimit(2.0, per_call=renewed)) for renewed in (False, True))
    for _ in range(3):
        assert renewed.sleep(0.8) == 0.8
    assert shared.sleep(0.8) == 0.8
    with pytest.raises(OutOfTimeError):
        shared.sleep(1.9)
    with pytest.raises(OutOfTimeError):
        shared.sleep(1.9)


def test_a_time_limit_is_extended_up_to_its_first_value() -> None:
    limit = TimeLimit(3.0)
    limit.extend(math.inf)
    assert limit.remaining == 3.0
    with pytest.raises(OutOfTimeError):
        TimeLimit(0.0).call(lambda: time.sleep(1))
    limit.call(lambda: time.sleep(0.2))
    assert limit.remaining < 3.0
    limit.extend(0.1)
    assert limit.remaining < 3.0


def test_an_upload_may_take_the_time_that_its_size_needs(tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"1")
    large.write_bytes(bytes(2_000_000))
    client = Client(Sleeper, TimeLimit(1.0))
    assert client.log_artifact("run", str(large)) == str(large)
    with pytest.raises(OutOfTimeError):
        client.log_artifact("run", str(small))


def test_an_exception_of_a_call_is_raised() -> None:
    with pytest.raises(TimeoutError, match="its own"):
        Client(Sleeper, TimeLimit(1.0)).fail()


def test_a_stop_signal_ends_the_wait() -> None:
    with pytest.raises(OutOfTimeError, match="signal"):
        TimeLimit(LONG, stopping=lambda: True).call(lambda: time.sleep(LONG))
    assert TimeLimit(LONG, stopping=lambda: True).call(lambda: 1) == 1
