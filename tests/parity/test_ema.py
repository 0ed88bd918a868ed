"""The averaged weights equal those of upstream's callback."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from rfdetr_core.training.callbacks import WeightAverage
from tests.parity import upstream_training


def upstream_average(model: nn.Module, decay: float = 0.993, tau: int = 100) -> AveragedModel:
    """The averaged model that upstream's callback creates at the start of a fit."""
    callback = upstream_training.ema.RFDETREMACallback(decay=decay, tau=tau)
    return AveragedModel(model, use_buffers=True, multi_avg_fn=callback._multi_avg_fn)


@pytest.mark.parametrize(("decay", "tau"), [(0.993, 100), (0.9, 0), (0.9997, 2000)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_200_updates(decay: float, tau: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3)).to(dtype)
    theirs, ours = upstream_average(network, decay, tau), WeightAverage(network, decay, tau)
    for step in range(1, 201):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        theirs.update_parameters(network)
        ours.update(step)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    for name, value in theirs.module.state_dict().items():
        assert (ours.module.state_dict()[name] - value).norm() <= tolerance * value.norm()
