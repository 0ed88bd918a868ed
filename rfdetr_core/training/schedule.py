"""The learning rate over the steps of a training."""

from __future__ import annotations

import math
from typing import Literal


def learning_rate_factor(
    step: int,
    *,
    kind: Literal["step", "cosine"],
    steps_per_epoch: int,
    epochs: int,
    warmup_epochs: float = 0.0,
    lr_drop: int = 100,
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
