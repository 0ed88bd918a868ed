"""The learning rate of 1000 steps equals that of upstream's scheduler."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rfdetr_core.training.schedule import learning_rate_factor
from tests.parity.upstream_training import module_model

upstream_config = pytest.importorskip("rfdetr.config")


@pytest.mark.parametrize("warmup", [0.0, 0.5, 2.75])
@pytest.mark.parametrize(
    ("kind", "options"),
    [("step", {}), ("step", {"lr_drop": 17}), ("cosine", {}), ("cosine", {"min_factor": 0.03})],
)
def test_every_step_has_upstreams_rate(kind: Any, options: dict[str, Any], warmup: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    config = upstream_config.TrainConfig(
        dataset_dir=".", epochs=40, lr_scheduler=kind, lr_scheduler_kwargs=options, warmup_epochs=warmup
    )
    scheduler = module_model._build_managed_scheduler(optimizer, config, 1000, 25, int(25 * warmup))
    for step in range(1001):
        factor = learning_rate_factor(step, kind=kind, steps_per_epoch=25, epochs=40, warmup_epochs=warmup, **options)
        assert 0.5 * factor == pytest.approx(scheduler.get_last_lr()[0], rel=1e-12, abs=1e-15)
        optimizer.step()
        scheduler.step()
