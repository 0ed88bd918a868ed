from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.training.config import TrainConfig
from rfdetr_core.training.record import first_process
from rfdetr_core.training.trainer import build_trainer, device_kind, resolved_precision
from tests.training.tiny import train


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without CUDA")
def test_a_missing_device_is_an_error() -> None:
    with pytest.raises(UserError, match="accelerator"):
        device_kind(TrainConfig(accelerator="cuda"))


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_a_cpu_with_bf16_instructions_trains_in_bf16(
    native: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert resolved_precision(TrainConfig(accelerator="cpu")) == precision


def test_a_chosen_precision_is_used_and_fp16_needs_a_gpu() -> None:
    assert resolved_precision(TrainConfig(accelerator="cpu", amp_dtype=None)) == "32-true"
    assert resolved_precision(TrainConfig(accelerator="cpu", amp_dtype="bf16")) == "bf16-mixed"
    with pytest.raises(UserError, match="amp_dtype fp16"):
        resolved_precision(TrainConfig(accelerator="cpu", amp_dtype="fp16"))


@pytest.mark.parametrize("strict", [True, False])
def test_deterministic_is_strict_and_reaches_cublas(strict: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        build_trainer(TrainConfig(accelerator="cpu", deterministic=strict))
        assert torch.are_deterministic_algorithms_enabled() == strict
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == (":4096:8" if strict else None)
        assert not torch.backends.cudnn.benchmark
    finally:
        torch.use_deterministic_algorithms(False)


# Two nodes with a process each: the variables of the second node's process.
LAUNCHERS: dict[str, dict[str, str]] = {
    "torchrun": {
        **{"TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "node-0", "MASTER_PORT": "29500"},
        **{"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "0", "GROUP_RANK": "1"},
    },
    "SLURM": {
        **{"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "train"},
        **{"SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_NODEID": "1"},
    },
    "LSF": {
        **{"LSB_JOBID": "1", "LSB_DJOB_RANKFILE": "hosts", "JSM_NAMESPACE_SIZE": "2"},
        **{"JSM_NAMESPACE_RANK": "1", "JSM_NAMESPACE_LOCAL_RANK": "0"},
    },
    "Kubeflow": {"MASTER_ADDR": "node-0", "MASTER_PORT": "29500", "WORLD_SIZE": "2", "RANK": "1"},
    "by hand": {"MASTER_ADDR": "node-0", "MASTER_PORT": "29500", "NODE_RANK": "1"},
}
BATCH = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "job.sh", "SLURM_NTASKS": "4", "SLURM_NNODES": "1"} | {
    f"SLURM_{name}": "0" for name in ("PROCID", "LOCALID", "NODEID")
}
TASK = BATCH | {"SLURM_STEP_ID": "0"}
# States of a launcher when train.devices is 1. None: it trains.
STATES: dict[str, tuple[dict[str, str], str | None]] = {
    "a batch script of four tasks": (BATCH, None),
    "its tasks are set per node": (BATCH | {"SLURM_NTASKS_PER_NODE": "4"}, None),
    "its nodes are two": (BATCH | {"SLURM_NNODES": "2"}, None),
    "an interactive shell": (TASK | {"SLURM_JOB_NAME": "interactive"}, None),
    "another shell of it": (TASK | {"SLURM_JOB_NAME": "bash", "SLURM_PROCID": "2"}, "SLURM_PROCID is not 0"),
    "srun of one task": (TASK | {"SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "4"}, None),
    "srun of four": (TASK | {"SLURM_NTASKS_PER_NODE": "4"}, "4 processes were started.*train.devices: 4"),
    "srun of four, not per node": (TASK, "--ntasks-per-node"),
    "srun of four, cut": ({name: TASK[name] for name in ("SLURM_NTASKS", "SLURM_STEP_ID")}, "--ntasks-per-node"),
    "srun without a rank": ({"SLURM_NTASKS": "1", "SLURM_STEP_ID": "0"}, None),
    "torchrun of two": (LAUNCHERS["torchrun"], "2 processes were started.*train.devices: 2"),
    "torchrun of one in a batch script": (BATCH | LAUNCHERS["torchrun"] | {"WORLD_SIZE": "1", "RANK": "0"}, None),
    "torchrun without a rank": ({"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "1"}, "RANK is missing"),
    "LSF of two": (LAUNCHERS["LSF"], "2 processes were started"),
    "LSF without its file": (LAUNCHERS["LSF"] | {"LSB_DJOB_RANKFILE": "nowhere"}, "nowhere"),
    "mpirun without mpi4py": ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, "install mpi4py"),
    "Kubeflow of two": (LAUNCHERS["Kubeflow"], "2 processes were started"),
    "Kubeflow of one": (LAUNCHERS["Kubeflow"] | {"WORLD_SIZE": "1", "RANK": "0"}, None),
}


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Work in a new folder without a launcher. Variables that Lightning sets are removed afterwards."""
    environments = [*LAUNCHERS.values(), *(variables for variables, _ in STATES.values())]
    for name in {name for environment in environments for name in environment}:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_several_nodes_without_a_launcher_give_its_command_before_any_file_is_read(alone: Path) -> None:
    nowhere = ProjectPaths(*(alone / name for name in ("data", "annotations", "manifest", "weights")))
    command = "torchrun --nnodes=3 --nproc-per-node=2 --rdzv-backend=c10d --rdzv-endpoint=HOST:PORT -m stages.train"
    with pytest.raises(UserError, match=command):
        train(nowhere, alone / "output", train={"num_nodes": 3, "devices": 2, "accelerator": "cpu"})
    assert not list(alone.iterdir())


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_several_nodes_with_a_launcher_have_a_rank_each(
    alone: Path, launcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (alone / "hosts").write_text(f"launch\nnode-0\n{socket.gethostname()}\n")
    for name, value in LAUNCHERS[launcher].items():
        monkeypatch.setenv(name, value)
    made = build_trainer(TrainConfig(num_nodes=2, accelerator="cpu", strategy="ddp"))
    assert (made.world_size, made.global_rank, made.node_rank) == (2, 1, 1)
    assert not first_process()


@pytest.mark.parametrize("state", STATES)
def test_under_each_launcher_one_process_trains_or_the_error_says_what_to_set(
    alone: Path,
    state: str,
    where: ProjectPaths,
    output: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (alone / "hosts").write_text(f"launch\n{socket.gethostname()}\n")
    variables, message = STATES[state]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if message is None:
        assert train(where, output, train={"epochs": 1, "accelerator": "cpu"})
        return
    with pytest.raises(UserError, match=message) as raised:
        train(where, output, train={"epochs": 1, "accelerator": "cpu"})
    assert "\n" not in str(raised.value)
    assert not output.exists()
