from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from rfdetr_core.base import provenance
from rfdetr_core.base.code import ROOT, Code
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.files import md5_file
from rfdetr_core.base.params import parse
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.checkpoint.files import read_plain, write_plain
from rfdetr_core.model.config import VARIANTS, ModelConfig
from rfdetr_core.training import record
from rfdetr_core.training.config import RuntimeConfig, TrainConfig
from rfdetr_core.training.run import prepare_training
from tests.training.tiny import MODEL, OUTS, RUNTIME, TRAIN, make_files, outs, script, train, write_state


def start(source: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen([sys.executable, "-c", source], env=environment, text=True, **pipes)


def stopped(
    where: ProjectPaths, output: Path, number: signal.Signals, epoch: int = 0, **changes: Any
) -> tuple[int, str]:
    """Start a training, send it a signal after it has saved an epoch, and remove the outs as DVC does.

    On a busy machine the signal can come after the last epoch; then the training is started again. The training is
    paused while its large state is read, because a short epoch would end meanwhile.
    """
    state = output / "checkpoint.pth"
    for _ in range(5):
        shutil.rmtree(output, ignore_errors=True)
        process = start(script(where, output, **changes))
        seen, reached = None, False
        while not reached:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.01)
            if state.exists() and (now := (state.stat().st_ino, state.stat().st_mtime_ns)) != seen:
                process.send_signal(signal.SIGSTOP)
                seen, reached = now, not epoch or read_plain(state)["epoch"] >= epoch
                process.send_signal(number if reached else signal.SIGCONT)
        process.send_signal(signal.SIGCONT)
        output_text = process.communicate()[0]
        if not read_plain(state)["run"]["finished"]:
            break
    for name in OUTS:
        (output / name).unlink(missing_ok=True)
    return process.returncode, output_text


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(
    where: ProjectPaths, uninterrupted: dict[str, bytes], output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = json.loads(uninterrupted["scores.json"])["val/mAP_50_95"]
    best = max(scores["regular"]["epoch"], scores["ema"]["epoch"]) - 1
    status, _ = stopped(where, output, signal.SIGKILL, min(best, 1), runtime={"num_workers": 1})
    assert status == -signal.SIGKILL
    assert train(where, output) == uninterrupted
    printed = capsys.readouterr().out
    assert "resuming after epoch" in printed
    assert "epoch 1/3" not in printed
    assert "training from" not in printed  # it starts from scratch


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_with_an_error_after_the_step_and_can_be_resumed(
    where: ProjectPaths, uninterrupted: dict[str, bytes], output: Path, number: signal.Signals
) -> None:
    status, printed = stopped(where, output, number, runtime={"num_workers": 2})
    assert status == 1
    assert f"{number.name}: stopping after this step" in printed
    assert f"UserError: stopped by {number.name}" in printed
    assert train(where, output) == uninterrupted


@pytest.mark.slow
def test_in_a_thread_of_a_notebook_it_trains_and_signals_are_left_as_they_were(
    where: ProjectPaths, uninterrupted: dict[str, bytes], output: Path
) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    thread = threading.Thread(target=train, args=(where, output))
    thread.start()
    thread.join()
    assert outs(output) == uninterrupted
    train(where, output, train={"epochs": 1})
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.slow
def test_a_finished_state_is_not_resumed(
    where: ProjectPaths, uninterrupted: dict[str, bytes], output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(where, output)
    capsys.readouterr()
    assert train(where, output) == uninterrupted
    assert "epoch 1/3" in capsys.readouterr().out


@pytest.mark.slow
def test_a_finished_state_is_written_again_if_dvc_has_not_recorded_it(
    where: ProjectPaths,
    uninterrupted: dict[str, bytes],
    output: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(output.parent))
    train(where, output)
    digests = [md5_file(output / name) for name in OUTS[:2]]
    for name in OUTS:
        (output / name).unlink()
    capsys.readouterr()
    assert train(where, output) == uninterrupted
    printed = capsys.readouterr().out
    assert "had finished, but DVC had not recorded it" in printed
    assert "epoch 1/3" not in printed
    (output.parent / "dvc.lock").write_text(" ".join(digests))
    train(where, output)
    assert "epoch 1/3" in capsys.readouterr().out


def fingerprint(where: ProjectPaths, folder: Path, **changes: Any) -> dict[str, Any]:
    model = parse(ModelConfig, MODEL | changes.get("model", {}), "model")
    config = parse(TrainConfig, TRAIN | changes.get("train", {}), "train")
    runtime = parse(RuntimeConfig, RUNTIME | changes.get("runtime", {}), "runtime")
    return record.fingerprint(prepare_training(where, model, config, runtime, folder).record)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("param", "params.train.lr was 0.001, is 0.002"),
        ("epochs", "params.train.epochs was 3, is 4"),
        ("data", "inputs.annotations/train.json was"),
        ("weights", "weights.pretrain_weights was"),
        ("code", "code.rfdetr_core/training/run.py was"),
        ("package", "packages.torch was"),
        ("threads", "machine.threads was 1, is 2"),
        ("runtime", None),
    ],
)
def test_only_a_change_that_decides_the_result_starts_from_scratch_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: dict[str, bytes], change: str, named: str | None
) -> None:
    where, weights = make_files(tmp_path / "made"), {"model": {"pretrain_weights": "parent.pth"}}
    (where.weights / "parent.pth").write_bytes(uninterrupted[OUTS[0]])
    state = {"fingerprint": fingerprint(where, tmp_path, **weights), "finished": False}
    write_state(tmp_path, {"epoch": 0, "run": state})
    changes: dict[str, Any] = {
        "param": {"train": {"lr": 2e-3}},
        "epochs": {"train": {"epochs": 4}},
        "threads": {"runtime": {"threads": 2}},
        "runtime": {"runtime": {"num_workers": 3, "checkpoint_interval": 5, "progress_bar": None, "run": "other"}},
    }
    if change == "data":
        made = make_files(tmp_path / "other", train=5)
        shutil.copytree(made.annotations, where.annotations, dirs_exist_ok=True)
        shutil.copytree(made.manifests, where.manifests, dirs_exist_ok=True)
    elif change == "weights":
        (where.weights / "parent.pth").write_bytes(uninterrupted[OUTS[1]])
    elif change == "code":
        digests = Code.digests
        edited = {"rfdetr_core/training/run.py": "0" * 64}
        monkeypatch.setattr(Code, "digests", lambda code, *starts: digests(code, *starts) | edited)
    elif change == "package":
        environment = provenance.environment()
        changed = environment | {"packages": environment["packages"] | {"torch": "9.9"}}
        monkeypatch.setattr(provenance, "environment", lambda: changed)
    new = fingerprint(where, tmp_path, **weights | changes.get(change, {}))
    resumed, message = record.state_to_resume(tmp_path, new)
    if named is None:
        assert resumed is not None
        assert "resuming after epoch 1" in message
    else:
        assert resumed is None
        assert f"starting from scratch, because the interrupted training in {tmp_path} differs: " in message
        assert named in message
    assert (f"rfdetr_core promote {tmp_path / 'checkpoint.pth'}" in message) == (change == "epochs")


def test_an_option_missing_in_an_old_state_counts_as_its_default() -> None:
    assert not record.differences({}, {"params.train.compile": "off"})
    assert not record.differences({"params.train.compile": "off"}, {})
    assert record.differences({}, {"params.train.compile": "default"}) == ["params.train.compile was off, is default"]
    assert record.differences({}, {"params.train.unheard_of": 1}) == ["params.train.unheard_of was absent, is 1"]


def test_a_model_size_that_is_not_set_equals_the_size_of_the_variant() -> None:
    def sized(**sizes: int) -> dict[str, Any]:
        return {f"params.model.{name}": value for name, value in ({"variant": "pico"} | sizes).items()}

    pico = VARIANTS["pico"]
    read = sized(resolution=96, num_queries=pico.queries, group_detr=pico.groups)  # as from_checkpoint fills them in
    for old, new in ((sized(resolution=96), read), (read, sized(resolution=96))):
        assert not record.differences(old, new)
    assert record.differences(sized(), read) == [f"params.model.resolution was {pico.resolution}, is 96"]


def test_a_state_that_dvc_replaced_by_another_result_is_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = {"fingerprint": {"params.train.lr": 0.1}, "finished": True, "result": ["a" * 32, "b" * 32]}
    write_state(tmp_path, {"epoch": 0, "run": run})
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    lock = tmp_path / "dvc.lock"
    for recorded, expected in (
        (run["result"], "params.train.lr was 0.1, is 0.2"),
        (["c" * 32], "belongs to another training than dvc.lock"),
    ):
        lock.write_text(" ".join(recorded))
        state, message = record.state_to_resume(tmp_path, {"params.train.lr": 0.2})
        assert state is None
        assert message.startswith("starting from scratch")
        assert expected in message
    assert "train.lr" not in message


@pytest.mark.slow
def test_resume_to_more_epochs_equals_one_training(
    where: ProjectPaths, uninterrupted: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(where, tmp_path / "short", train={"epochs": 2})
    (where.weights / "state.pth").write_bytes((tmp_path / "short" / "checkpoint.pth").read_bytes())
    longer = train(where, tmp_path / "long", train={"resume": "state.pth"})
    assert f"resuming after epoch 2 of {where.weights / 'state.pth'}" in capsys.readouterr().out
    assert longer["history.csv"] == uninterrupted["history.csv"]
    assert longer["scores.json"] == uninterrupted["scores.json"]
    (tmp_path / "best.pth").write_bytes(uninterrupted[OUTS[0]])
    weights = [read_plain(path)["model"] for path in (tmp_path / "long" / OUTS[0], tmp_path / "best.pth")]
    assert all(torch.equal(tensor, weights[1][key]) for key, tensor in weights[0].items())
    with pytest.raises(UserError, match=r"lr was 0\.001, is 0\.002.*model\.pretrain_weights"):
        train(where, tmp_path / "changed", train={"resume": "state.pth", "lr": 2e-3})
    with pytest.raises(UserError, match=r"has 2 epochs, but train\.epochs is 1"):
        train(where, tmp_path / "fewer", train={"resume": "state.pth", "epochs": 1})
    again = train(where, tmp_path / "reached", train={"resume": "state.pth", "epochs": 2})
    short = outs(tmp_path / "short")
    assert [again[name] for name in OUTS[2:]] == [short[name] for name in OUTS[2:]]
    for name in OUTS[:2]:
        weights = [read_plain(tmp_path / folder / name)["model"] for folder in ("reached", "short")]
        assert all(torch.equal(tensor, weights[1][key]) for key, tensor in weights[0].items())


@pytest.mark.slow
def test_resuming_for_more_epochs_reports_the_rate_and_resets_early_stopping(
    where: ProjectPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # No score grows by 1, so the first epoch is the best.
    stopping = {"early_stopping": True, "early_stopping_patience": 2, "early_stopping_min_delta": 1.0}
    settings = {"epochs": 6, "lr_scheduler": "cosine", **stopping}
    first = train(where, tmp_path / "first", train=settings)
    assert len(first["history.csv"].splitlines()) == 1 + 3
    (where.weights / "early.pth").write_bytes((tmp_path / "first" / "checkpoint.pth").read_bytes())
    capsys.readouterr()
    longer = train(where, tmp_path / "longer", train=settings | {"epochs": 12, "resume": "early.pth"})
    printed = capsys.readouterr().out
    assert "That training had stopped early. Early stopping counts again from 0." in printed
    assert len(longer["history.csv"].splitlines()) == 1 + 3 + 2
    (percentages,) = re.findall(r"The learning rate goes from (\d+)% to (\d+)% of its full value", printed)
    parts = (5 / 12, 6 / 24)  # step 5 (from 0) of the old schedule of 2 x 6 steps, step 6 of the new one of 2 x 12
    assert [int(number) for number in percentages] == [round(50 * (1 + math.cos(math.pi * part))) for part in parts]


def test_resume_needs_the_same_classes_and_names_what_else_differs(
    where: ProjectPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(where, tmp_path / "short", train={"epochs": 1})
    states = [
        make_files(tmp_path / name, train=5, kinds=kinds) for name, kinds in (("one class", 1), ("more images", 2))
    ]
    for project_paths in states:
        (project_paths.weights / "state.pth").write_bytes((tmp_path / "short" / "checkpoint.pth").read_bytes())
    with pytest.raises(UserError, match=r"annotations/classes\.json was"):
        train(states[0], tmp_path / "changed", train={"resume": "state.pth"})
    train(states[1], tmp_path / "longer", train={"resume": "state.pth", "epochs": 2})
    assert "inputs.annotations/train.json was" in capsys.readouterr().out


def test_resume_refuses_a_file_of_weights(where: ProjectPaths, uninterrupted: dict[str, bytes], output: Path) -> None:
    (where.weights / "weights.pth").write_bytes(uninterrupted["checkpoint_best_ema.pth"])
    with pytest.raises(UserError, match="pretrain_weights"):
        train(where, output, train={"resume": "weights.pth"})


@pytest.mark.slow
@pytest.mark.parametrize("part", ["loops", "optimizer_states", "callbacks", "lr_schedulers"])
def test_a_crafted_state_gives_one_message(where: ProjectPaths, output: Path, part: str) -> None:
    train(where, output, train={"epochs": 1})
    content = read_plain(output / "checkpoint.pth") | {part: {"RunFiles": [1], "fit_loop": None}}
    write_state(where.weights, content, "state.pth")
    with pytest.raises(UserError, match=r"state\.pth: (its state cannot be restored \(|callbacks\.RunFiles: )"):
        train(where, output, train={"epochs": 2, "resume": "state.pth"})


def test_a_state_that_was_edited_is_not_resumed(where: ProjectPaths, output: Path) -> None:
    train(where, output, train={"epochs": 1})
    path = output / "checkpoint.pth"
    content = read_plain(path)
    write_plain(path, content)
    assert (
        "starting from scratch, because" in record.state_to_resume(output, {})[1]
    )  # the unchanged content still matches its digest
    name = sorted(content["model"])[0]
    content["model"][name] = 1.5 * content["model"][name]
    write_plain(path, content)
    state, message = record.state_to_resume(output, content["run"]["fingerprint"])
    assert state is None
    assert "was changed after the training wrote it" in message
    assert "starting from scratch" in message
    shutil.copy(path, where.weights / "state.pth")
    with pytest.raises(UserError, match=r"state\.pth was changed after the training wrote it"):
        train(where, output, train={"epochs": 2, "resume": "state.pth"})


def test_a_damaged_state_starts_from_scratch(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pth").write_bytes(b"half")
    path, message = record.state_to_resume(tmp_path, {})
    assert path is None
    assert "starting from scratch" in message


def test_a_state_has_best_weights_and_optimiser_but_no_time_or_folder(where: ProjectPaths, output: Path) -> None:
    train(where, output, train={"epochs": 1})
    state = read_plain(output / "checkpoint.pth")
    assert state["run"]["finished"]
    assert state["optimizer_states"][0]["state"]
    assert set(state["callbacks"]) == {"WeightAveraging", "RunFiles"}
    assert str(output) not in repr(state.keys()) + repr(state["args"]) + repr(state["run"])


@pytest.mark.slow
def test_two_trainings_never_write_to_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "PATIENCE", 0.3)
    holder = start(
        "from pathlib import Path; import sys; from rfdetr_core.training.record import sole_writer\n"
        f"with sole_writer(Path({str(tmp_path)!r})): print('ready', flush=True); sys.stdin.read()"
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "ready\n"
    with pytest.raises(UserError, match=str(holder.pid)), record.sole_writer(tmp_path):
        pass
    own = tmp_path / "own"

    def enter() -> None:
        with record.sole_writer(own):
            pass

    with ThreadPoolExecutor(1) as other_thread, record.sole_writer(own):
        for _ in range(2):
            enter()  # this thread has the lock, and still has it afterwards
            with pytest.raises(UserError, match=str(os.getpid())):
                other_thread.submit(enter).result()
    enter()
    shutil.rmtree(own)
    holder.kill()
    holder.wait()
    (tmp_path / ".checkpoint.pth.abcd1234").write_text("half written")
    with record.sole_writer(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [record.LOCK_FILE]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
def test_a_trainer_ends_with_its_parent() -> None:
    child = (
        "from rfdetr_core.base.processes import end_with_parent; import time\n"
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


@contextmanager
def short_of_space(folder: Path, way: str) -> Iterator[str]:
    """Make writing to a folder fail for lack of space or rights. Yields the text of the error."""
    if way == "limit":
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
        try:
            yield "File too large"
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        return
    used = sum(path.stat().st_size for path in folder.iterdir())
    kept = folder.rename(folder.with_name("kept"))
    folder.mkdir()
    options = f"size={used + 2_000_000}"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("no right to mount here")
    try:
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        if way == "read-only":
            subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        yield "No space left on device" if way == "disk" else "Read-only file system"
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_without_locks_is_not_reported_as_another_training(
    number: int, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    monkeypatch.setattr(record, "PATIENCE", 0.0)
    if number == errno.EIO:  # an error of the disk is not about locks
        with pytest.raises(UserError, match=r"cannot be written \(Input/output error\)"), record.sole_writer(output):
            pass
    else:
        with record.sole_writer(output):
            assert f"{output} has no locks ({os.strerror(number)})" in capsys.readouterr().out


@pytest.mark.parametrize("way", ["limit", "disk", "read-only"])
def test_without_space_or_rights_earlier_files_stay_and_the_error_says_so(
    where: ProjectPaths, output: Path, way: str
) -> None:
    before = train(where, output, train={"epochs": 1})
    with short_of_space(output, way) as reason:
        files = sorted(path.name for path in output.iterdir())
        with pytest.raises(UserError, match=reason):
            train(where, output, train={"epochs": 1, "seed": 1})
        assert outs(output) == before
        assert sorted(path.name for path in output.iterdir()) == files


def test_a_file_in_place_of_the_run_folder_is_an_error(where: ProjectPaths, output: Path) -> None:
    output.write_text("here already")
    with pytest.raises(UserError, match=r"output cannot be written \(File exists\)"):
        train(where, output)
    assert output.read_text() == "here already"


@pytest.mark.parametrize(
    ("variables", "first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "0"}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"NODE_RANK": "1"}, False),
        ({"RANK": "0", "LOCAL_RANK": "0", "SLURM_PROCID": "1"}, True),  # torchrun under srun
        ({"RANK": "2", "LOCAL_RANK": "0"}, False),
        ({"SLURM_PROCID": "3", "SLURM_LOCALID": "0"}, False),
        ({"SLURM_PROCID": "0", "LOCAL_RANK": "1"}, False),  # started by Lightning within an interactive job
    ],
)
def test_rank_0_of_every_launcher_writes(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], first: bool
) -> None:
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert record.first_process() == first
