from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rfdetr_core.checkpoint.files import read_plain
from rfdetr_core.errors import UserError
from rfdetr_core.training import resume
from rfdetr_core.training.run import TrainingFiles
from tests.architecture import ROOT, closure
from tests.training.tiny import OUTS, script, train


def start(source: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen([sys.executable, "-c", source], env=environment, text=True, **pipes)


def stopped(
    where: TrainingFiles, output: Path, number: signal.Signals, epoch: int = 0, **changes: Any
) -> tuple[int, str]:
    """Start a training, send it a signal when it has saved an epoch, remove the outs as DVC does."""
    process, state = start(script(where, output, **changes)), output / "checkpoint.pth"
    while not state.exists() or read_plain(state)["epoch"] < epoch:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    process.send_signal(number)
    told = process.communicate()[0]
    for name in OUTS:
        (output / name).unlink(missing_ok=True)
    return process.returncode, told


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(
    where: TrainingFiles, uninterrupted: dict[str, bytes], output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = json.loads(uninterrupted["scores.json"])
    best = max(scores["regular"]["epoch"], scores["ema"]["epoch"])
    status, _ = stopped(where, output, signal.SIGKILL, min(best, 1), runtime={"num_workers": 1})
    assert status == -signal.SIGKILL
    assert train(where, output) == uninterrupted
    told = capsys.readouterr().out
    assert "going on after epoch" in told
    assert "epoch 1/3" not in told


@pytest.mark.slow
def test_sigterm_ends_with_an_error_and_can_be_resumed(
    where: TrainingFiles, uninterrupted: dict[str, bytes], output: Path
) -> None:
    status, told = stopped(where, output, signal.SIGTERM)
    assert status == 1
    assert "stopped by SIGTERM" in told
    assert train(where, output) == uninterrupted


def test_a_finished_state_is_not_resumed(
    where: TrainingFiles, uninterrupted: dict[str, bytes], output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(where, output)
    capsys.readouterr()
    assert train(where, output) == uninterrupted
    assert "epoch 1/3" in capsys.readouterr().out


@pytest.mark.slow
def test_a_changed_parameter_starts_anew_and_is_named(
    where: TrainingFiles, uninterrupted: dict[str, bytes], output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped(where, output, signal.SIGKILL, train={"epochs": 4, "lr": 2e-3})
    assert train(where, output) == uninterrupted
    told = capsys.readouterr().out
    assert "params.train.lr was 0.002, is 0.001" in told
    assert "train.resume" in told


def test_resume_goes_on_to_more_epochs_as_if_it_had_been_one_training(
    where: TrainingFiles, uninterrupted: dict[str, bytes], tmp_path: Path
) -> None:
    train(where, tmp_path / "short", train={"epochs": 2})
    (where.weights / "state.pth").write_bytes((tmp_path / "short" / "checkpoint.pth").read_bytes())
    longer = train(where, tmp_path / "long", train={"resume": "state.pth"})
    assert longer["history.csv"] == uninterrupted["history.csv"]
    with pytest.raises(UserError, match=r"lr was 0\.001, is 0\.002"):
        train(where, tmp_path / "changed", train={"resume": "state.pth", "lr": 2e-3})
    again = train(where, tmp_path / "reached", train={"resume": "state.pth", "epochs": 2})
    assert len(again["history.csv"].splitlines()) == 3


def test_resume_refuses_a_file_of_weights(where: TrainingFiles, uninterrupted: dict[str, bytes], output: Path) -> None:
    (where.weights / "weights.pth").write_bytes(uninterrupted["checkpoint_best_ema.pth"])
    with pytest.raises(UserError, match="pretrain_weights"):
        train(where, output, train={"resume": "weights.pth"})


def test_a_damaged_state_starts_anew(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pth").write_bytes(b"half")
    path, told = resume.state_to_resume(tmp_path, {})
    assert path is None
    assert "starting anew" in told


def test_a_state_holds_best_weights_and_optimiser_but_no_time_or_place(where: TrainingFiles, output: Path) -> None:
    train(where, output, train={"epochs": 1})
    state = read_plain(output / "checkpoint.pth")
    assert state["run"]["finished"]
    assert state["optimizer_states"][0]["state"]
    assert set(state["callbacks"]) == {"WeightAveraging", "RunFiles"}
    assert str(output) not in repr(state.keys()) + repr(state["args"]) + repr(state["run"])


def test_two_trainings_never_write_to_one_folder(tmp_path: Path) -> None:
    holder = start(
        "from pathlib import Path; import sys; from rfdetr_core.training.resume import sole_writer\n"
        f"with sole_writer(Path({str(tmp_path)!r})): print('ready', flush=True); sys.stdin.read()"
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "ready\n"
    with pytest.raises(UserError, match=str(holder.pid)), resume.sole_writer(tmp_path):
        pass
    holder.kill()
    holder.wait()
    (tmp_path / ".checkpoint.pth.abcd1234").write_text("half written")
    with resume.sole_writer(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [resume.LOCK_FILE]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
def test_a_trainer_ends_with_its_parent() -> None:
    child = (
        "from rfdetr_core.training.resume import end_with_parent; import time\n"
        "end_with_parent(); print(flush=True); time.sleep(60)"
    )
    parent = start(
        f"import subprocess, sys; c = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE)\n"
        "c.stdout.readline(); print(c.pid, flush=True); c.wait()"
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    for _ in range(500):
        if not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text():
            return
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the child outlived its parent")


def test_the_digest_of_the_code_covers_what_the_stage_runs() -> None:
    needed = {file.removeprefix("rfdetr_core/") for file in closure("stages.train") if file.startswith("rfdetr_core/")}
    covered = {file for file in needed if file in resume.CODE or file.split("/")[0] in resume.CODE}
    assert needed - covered <= {"__init__.py"}
