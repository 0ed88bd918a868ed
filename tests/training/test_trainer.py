from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.training.config import TrainConfig
from rfdetr_core.training.trainer import build_trainer, check_launched, device_kind, resolved_precision
from tests.training.tiny import train


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without CUDA")
def test_a_device_that_is_not_there_is_an_error() -> None:
    with pytest.raises(UserError, match="accelerator"):
        device_kind(TrainConfig(accelerator="cuda"))


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_a_cpu_trains_in_bf16_where_it_has_instructions_for_it(
    native: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert resolved_precision(TrainConfig(accelerator="cpu")) == precision


def test_a_precision_that_is_named_is_used_and_fp16_needs_a_gpu() -> None:
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


LAUNCHERS: dict[str, dict[str, str]] = {
    "torchrun": {"TORCHELASTIC_RUN_ID": "none"},
    "SLURM": {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "train"},
    "by hand": {"MASTER_ADDR": "node-0", "MASTER_PORT": "29500"},
}


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {name for launcher in LAUNCHERS.values() for name in launcher}:
        monkeypatch.delenv(name, raising=False)


def test_several_nodes_without_a_launcher_end_with_its_command_before_anything_is_read(
    alone: None, tmp_path: Path
) -> None:
    nowhere = ProjectPaths(*(tmp_path / name for name in ("data", "annotations", "manifest", "weights")))
    command = "torchrun --nnodes=3 --nproc-per-node=2 --rdzv-backend=c10d --rdzv-endpoint=HOST:PORT -m stages.train"
    with pytest.raises(UserError, match=command):
        train(nowhere, tmp_path / "output", train={"num_nodes": 3, "devices": 2, "accelerator": "cpu"})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_several_nodes_with_a_launcher_are_not_refused(
    alone: None, launcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in LAUNCHERS[launcher].items():
        monkeypatch.setenv(name, value)
    check_launched(TrainConfig(num_nodes=2, accelerator="cpu"))
