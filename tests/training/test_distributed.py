from __future__ import annotations

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

from rfdetr_core.base.code import ROOT
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.checkpoint.files import read_checkpoint, read_plain
from rfdetr_core.model.config import VARIANTS
from rfdetr_core.model.detector import build_detector
from rfdetr_core.ops.structures import Target
from rfdetr_core.training import record, trainer
from rfdetr_core.training.config import TrainConfig
from rfdetr_core.training.module import TrainingModule
from tests.training.tiny import OUTS, make_files, outs, script, train

TWO = {"devices": 2, "strategy": "ddp", "accelerator": "cpu"}


def start(folder: Path, source: str, *launcher: str) -> subprocess.Popen[str]:
    """Run source as a separate program, which Lightning or a launcher starts again for each rank."""
    program = folder / "program.py"
    program.write_text("if __name__ == '__main__':\n    " + source.replace("\n", "\n    "))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "start_new_session": True}
    command = [sys.executable, *launcher, str(program)]
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, **pipes)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def listened(port: int) -> bool:
    """Whether a process listens at the port. Connecting would count as one of the ranks that it waits for."""
    sockets = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    return any(fields[1].endswith(f":{port:04X}") and fields[3] == "0A" for fields in sockets)


def torchrun() -> tuple[str, ...]:
    address = ("--master-addr=127.0.0.1", f"--master-port={free_port()}")
    return ("-m", "torch.distributed.run", "--nproc-per-node=2", *address)


def trained(folder: Path, where: ProjectPaths, name: str, *launcher: str, **config: Any) -> dict[str, bytes]:
    process = start(folder, script(where, folder / name, train=config), *launcher)
    output_text = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output_text
    assert output_text.count("epoch 1/") == 1  # only rank 0 reports
    return outs(folder / name)


def rows(files: dict[str, bytes]) -> list[dict[str, str]]:
    return list(csv.DictReader(files["history.csv"].decode().splitlines()))


@pytest.mark.slow
@pytest.mark.parametrize("valid", [1, 3])
def test_two_processes_train_and_score_as_one_with_the_same_batches(tmp_path: Path, valid: int) -> None:
    # With one image rank 1 has none to score. With three it has one, and rank 0 has two.
    where = make_files(tmp_path, train=4, valid=valid)
    one_process = train(where, tmp_path / "one", train={"epochs": 2, "batch_size": 2})
    launcher = torchrun() if valid == 1 else ()
    two_processes = trained(tmp_path, where, "two", *launcher, epochs=2, batch_size=1, **TWO)
    for row, row_of_two in zip(rows(one_process), rows(two_processes), strict=True):
        for name in row:
            assert float(row_of_two[name]) == pytest.approx(float(row[name]), rel=1e-3, abs=1e-4), name
    weights = [read_checkpoint(tmp_path / name / OUTS[1]).weights for name in ("one", "two")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=1e-4, msg=name)
    assert len(read_plain(tmp_path / "two" / "checkpoint.pth")["callbacks"]["RunFiles"]["history"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "number"), [("rank", signal.SIGKILL), ("launcher", signal.SIGTERM)])
def test_a_killed_rank_or_a_signalled_launcher_ends_all_ranks_and_the_training_resumes(
    where: ProjectPaths, tmp_path: Path, victim: str, number: signal.Signals
) -> None:
    config = {"epochs": 6, "batch_size": 1, **TWO}
    source = script(where, tmp_path / "output", train=config)
    process, state = start(tmp_path, source, *torchrun()), tmp_path / "output" / "checkpoint.pth"
    while not state.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    at = time.monotonic()
    os.kill(int(children[-1]) if victim == "rank" else process.pid, number)
    output_text = process.communicate(timeout=100)[0]
    assert process.returncode != 0
    assert time.monotonic() - at < 60
    if victim == "launcher":
        assert "stopped by SIGTERM" in output_text
    assert not read_plain(state)["run"]["finished"]
    resumed = start(tmp_path, source, *torchrun())
    output_text = resumed.communicate(timeout=300)[0]
    assert resumed.returncode == 0, output_text
    assert output_text.count("resuming after epoch") == 1
    assert len(rows(outs(tmp_path / "output"))) == 6


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_rank_that_waits_for_others_ends_by_a_signal(
    where: ProjectPaths, tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    launched = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "LOCAL_RANK": "0"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    config = {"num_nodes": 2, "accelerator": "cpu"}
    process = start(tmp_path, script(where, tmp_path / "output", train=config))
    while not listened(port):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    process.send_signal(number)
    try:
        output_text = process.communicate(timeout=60)[0]
    finally:
        process.kill()
    assert process.returncode > 0
    assert f"stopped by {number.name}. Run again" in output_text
    assert "Traceback" not in output_text


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "deepspeed_stage_2"])
def test_any_strategy_of_lightning_is_passed_on(monkeypatch: pytest.MonkeyPatch, strategy: str) -> None:
    passed: dict[str, Any] = {}
    monkeypatch.setattr(trainer, "Trainer", lambda **options: passed.update(options))
    monkeypatch.setattr(trainer, "check_launched", lambda _: None)  # no launcher has started the three nodes
    whole = strategy == "ddp"
    trainer.build_trainer(TrainConfig(strategy=strategy, devices=2, num_nodes=3, accelerator="cpu", use_ema=whole))
    assert {name: passed[name] for name in ("strategy", "devices", "num_nodes")} == {
        "strategy": strategy,
        "devices": 2,
        "num_nodes": 3,
    }


def test_a_strategy_that_lightning_refuses_gives_a_message() -> None:
    with pytest.raises(UserError, match=r"cannot train with strategy fsdp, accelerator cpu.*GPU"):
        trainer.build_trainer(TrainConfig(strategy="fsdp", accelerator="cpu", use_ema=False))
    with pytest.raises(UserError, match="strategy is ddp_spawn"):
        trainer.build_trainer(TrainConfig(strategy="ddp_spawn", accelerator="cpu"))
    with pytest.raises(UserError, match="strategy dpp"):
        trainer.build_trainer(TrainConfig(strategy="dpp", accelerator="cpu"))


def test_lightning_detects_slurm_and_does_not_save_in_the_middle_of_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    slurm = {"NTASKS": "2", "JOB_NAME": "train", "PROCID": "1", "LOCALID": "1", "NODEID": "0", "NTASKS_PER_NODE": "2"}
    slurm["STEP_ID"] = "0"
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    made = trainer.build_trainer(TrainConfig(strategy="ddp", devices=2, accelerator="cpu"))
    environment = made._accelerator_connector.cluster_environment
    assert isinstance(environment, SLURMEnvironment)
    assert not environment.auto_requeue
    assert (made.global_rank, made.world_size) == (1, 2)
    assert not record.first_process()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("objects", [0, 3])
def test_every_trained_parameter_gets_a_gradient_as_ddp_requires(variant: str, objects: int) -> None:
    full = VARIANTS[variant]
    small = {"encoder_width": 24, "encoder_heads": 3, "width": 32, "self_heads": 2, "cross_heads": 4, "groups": 2}
    side = 2 * full.stride
    architecture = replace(
        full,
        **small,
        feedforward_width=16,
        queries=5,
        classes=3,
        resolution=side,
        position_grid=side // full.patch_size,
    )
    module = TrainingModule(build_detector(architecture), architecture, TrainConfig())
    boxes, masks = torch.rand(objects, 4) / 4 + 0.3, torch.rand(objects, side, side) > 0.5
    target = Target(torch.arange(objects), boxes, masks if architecture.segmentation else None)
    output = module.detector(torch.rand(1, 3, side, side), None)
    module.criterion(output, [target], groups=2, point_seed=0).total.backward()
    assert not [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
