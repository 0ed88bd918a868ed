from __future__ import annotations

import pytest
import torch

from rfdetr_core.errors import UserError
from rfdetr_core.training.config import TrainConfig
from rfdetr_core.training.trainer import device_kind, resolved_precision


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without CUDA")
def test_a_device_that_is_not_there_is_an_error() -> None:
    with pytest.raises(UserError, match="accelerator"):
        device_kind(TrainConfig(accelerator="cuda"))


def test_precision_is_resolved_by_device_and_16_bits_need_a_gpu() -> None:
    assert resolved_precision(TrainConfig(accelerator="cpu")) == "32-true"
    assert resolved_precision(TrainConfig(accelerator="cpu", precision="bf16-mixed")) == "bf16-mixed"
    with pytest.raises(UserError, match="16-mixed"):
        resolved_precision(TrainConfig(accelerator="cpu", precision="16-mixed"))
