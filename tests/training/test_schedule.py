from __future__ import annotations

from itertools import pairwise

import pytest

from rfdetr_core.training.schedule import learning_rate_factor


def cosine(step: int, **changes: float) -> float:
    numbers = {"steps_per_epoch": 10, "epochs": 100, "warmup_epochs": 3.0, "min_factor": 0.05} | changes
    return learning_rate_factor(step, kind="cosine", **numbers)


def test_warm_up_is_linear_and_ends_at_the_full_rate() -> None:
    assert [cosine(step) for step in range(31)] == pytest.approx([step / 30 for step in range(31)])


def test_a_cosine_falls_to_its_smallest_factor_at_the_last_step() -> None:
    factors = [cosine(step) for step in range(30, 1001)]
    assert all(earlier > later for earlier, later in pairwise(factors))
    assert factors[-1] == pytest.approx(0.05)


def test_the_step_schedule_drops_once() -> None:
    factors = [
        learning_rate_factor(step, kind="step", steps_per_epoch=10, epochs=100, lr_drop=40) for step in range(1000)
    ]
    assert factors == [1.0] * 400 + [0.1] * 600


def test_without_warm_up_the_first_step_has_the_full_rate() -> None:
    assert cosine(0, warmup_epochs=0) == 1
    assert learning_rate_factor(0, kind="step", steps_per_epoch=1, epochs=1) == 1
