from __future__ import annotations

import os

import pytest
import torch

from rfdetr_core.errors import UserError
from rfdetr_core.training.config import TrainConfig
from rfdetr_core.training.trainer import build_trainer, device_kind, resolved_precision


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
