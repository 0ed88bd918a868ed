"""The learning rate over the steps of a training."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LinearLR, LRScheduler, ReduceLROnPlateau, SequentialLR

from rfdetr_core.training.config import SCHEDULE_NUMBERS, TrainConfig
from rfdetr_core.training.named import make


def build_schedule(optimizer: Optimizer, config: TrainConfig, steps_per_epoch: int) -> dict[str, Any]:
    """The schedule that `lr_scheduler` names, as Lightning takes it; step and cosine are functions of the step alone.

    Raises:
        UserError: a class that does not exist or does not take lr_scheduler_kwargs.
    """
    if "." not in config.lr_scheduler:
        numbers: dict[str, Any] = SCHEDULE_NUMBERS | config.lr_scheduler_kwargs

        def factor(step: int) -> float:
            return learning_rate_factor(
                step,
                kind=config.lr_scheduler,
                steps_per_epoch=steps_per_epoch,
                epochs=config.epochs,
                warmup_epochs=config.warmup_epochs,
                **numbers,
            )

        return {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}
    kinds, kwargs = (LRScheduler, ReduceLROnPlateau), config.lr_scheduler_kwargs
    scheduler = make("train.lr_scheduler", config.lr_scheduler, kinds, optimizer, **kwargs)
    if isinstance(scheduler, ReduceLROnPlateau):
        # Not strict: between evaluations there is no new value. The module checks that there ever is one.
        return {
            "scheduler": scheduler, "interval": "epoch", "monitor": config.lr_scheduler_monitor, "strict": False
        }  # fmt: skip
    warmup = int(steps_per_epoch * config.warmup_epochs)
    if warmup:
        growing = LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup)
        scheduler = SequentialLR(optimizer, [growing, scheduler], [warmup])
    return {"scheduler": scheduler, "interval": config.lr_scheduler_interval}


def learning_rate_factor(
    step: int,
    *,
    kind: str,
    steps_per_epoch: int,
    epochs: int,
    warmup_epochs: float = 0.0,
    lr_drop: float = 100,
    min_factor: float = 0.0,
) -> float:
    """What to multiply the learning rate with at optimiser step `step`, counted from 0.

    Grows linearly from 0 over the warm-up. Then "step" is 1, and 0.1 from epoch `lr_drop` on; "cosine" falls in half a
    period to `min_factor` at the end. After upstream's training/module_model.py.
    """
    warmup = int(steps_per_epoch * warmup_epochs)
    if step < warmup:
        return step / warmup
    if kind == "step":
        return 1.0 if step < lr_drop * steps_per_epoch else 0.1
    progress = (step - warmup) / max(1, steps_per_epoch * epochs - warmup)
    return min_factor + (1 - min_factor) * 0.5 * (1 + math.cos(math.pi * progress))
