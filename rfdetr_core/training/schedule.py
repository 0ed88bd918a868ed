"""Learning-rate schedules as functions of the optimiser step. To add one, write a function and a row of SCHEDULES."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple


class Number(NamedTuple):
    """A number in lr_scheduler_kwargs: its default, meaning and largest value. Its smallest value is 0."""

    default: float
    meaning: str
    most: float = math.inf


class Schedule(NamedTuple):
    """A schedule: its meaning, the numbers that it takes from lr_scheduler_kwargs (by key), and its function.

    The function `factor` gives the factor of the learning rate after the warm-up. Its arguments are the present step
    (from 0), the lengths of the warm-up, of an epoch and of the training, all in optimiser steps, and the values of
    `numbers` by keyword.
    """

    meaning: str
    numbers: dict[str, Number]
    factor: Callable[..., float]


def _step(step: int, warmup: int, per_epoch: int, steps: int, *, lr_drop: float) -> float:
    return 1.0 if step < lr_drop * per_epoch else 0.1


def _cosine(step: int, warmup: int, per_epoch: int, steps: int, *, min_factor: float) -> float:
    progress = (step - warmup) / max(1, steps - warmup)
    return min_factor + (1 - min_factor) * 0.5 * (1 + math.cos(math.pi * progress))


# After upstream's training/module_model.py.
SCHEDULES = {
    "step": Schedule("the learning rate x 0.1 after lr_drop epochs", {"lr_drop": Number(100, "epochs")}, _step),
    "cosine": Schedule(
        "falls as half a cosine wave until the last epoch",
        {"min_factor": Number(0, "factor of the learning rate at the end", most=1)},
        _cosine,
    ),
}


def learning_rate_factor(
    step: int, *, kind: str, steps_per_epoch: int, epochs: int, warmup_epochs: float = 0.0, **numbers: float
) -> float:
    """The factor of the learning rate at a step: it grows linearly from 0 in the warm-up, then follows the schedule.

    Args:
        step: of the optimiser, from 0.
        kind: a key of SCHEDULES.
        steps_per_epoch: optimiser steps in an epoch.
        epochs: length of the training.
        warmup_epochs: length of the warm-up.
        numbers: the schedule's lr_scheduler_kwargs.
    """
    schedule, warmup = SCHEDULES[kind], int(steps_per_epoch * warmup_epochs)
    if step < warmup:
        return step / warmup
    values = {name: number.default for name, number in schedule.numbers.items()} | numbers
    return schedule.factor(step, warmup, steps_per_epoch, steps_per_epoch * epochs, **values)
