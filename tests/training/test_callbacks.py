from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from rfdetr_core.training.callbacks import EarlyStopping, WeightAveraging
from rfdetr_core.training.config import TrainConfig
from rfdetr_core.training.module import TrainingModule
from tests.training.test_outputs import SMALL


def epochs_until_stop(scores: list[tuple[float, float]], *, use_ema: bool = False) -> int | None:
    import torch

    module = TrainingModule(torch.nn.Linear(1, 1), SMALL, TrainConfig())
    stopping = EarlyStopping("mAP_50_95", patience=2, min_delta=0.01, use_ema=use_ema)
    trainer: Any = SimpleNamespace(should_stop=False, is_global_zero=True)
    for epoch, (regular, ema) in enumerate(scores):
        trainer.current_epoch = epoch
        module.epoch_metrics = {"val/mAP_50_95": regular, "val/ema_mAP_50_95": ema}
        stopping.on_train_epoch_end(trainer, module)
        if trainer.should_stop:
            return epoch
    return None


@pytest.mark.parametrize(
    ("scores", "stop"),
    [
        ([0.1, 0.2, 0.3, 0.4], None),
        ([0.1, 0.2, 0.205, 0.209], 3),
        ([0.1, 0.2, 0.1, 0.3], None),
        ([0.1, math.nan, math.nan], 2),
    ],
)
def test_training_stops_after_patience_evaluations_without_growth(scores: list[float], stop: int | None) -> None:
    assert epochs_until_stop([(score, 0.0) for score in scores]) == stop
    assert epochs_until_stop([(0.0, score) for score in scores]) == stop


def test_stopping_early_says_when_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    epochs_until_stop([(0.1, 0.0), (0.2, 0.0), (0.205, 0.0), (0.209, 0.0), (0.3, 0.0)])
    message = (
        "after epoch 4: in 2 evaluations val/mAP_50_95 and val/ema_mAP_50_95 did not exceed 0.200 by more than 0.01"
    )
    assert message in capsys.readouterr().out


def test_early_stopping_can_watch_only_the_ema_score() -> None:
    assert epochs_until_stop([(0.1, 0.1), (0.2, 0.1), (0.3, 0.1)], use_ema=True) == 2


def test_the_average_is_updated_every_nth_optimiser_step() -> None:
    import torch

    module = TrainingModule(torch.nn.Linear(1, 1), SMALL, TrainConfig())
    averaging = WeightAveraging(0.5, 0.0, interval=3)
    trainer: Any = SimpleNamespace(global_step=0)
    averaging.setup(trainer, module, "fit")
    averaging.on_train_start(trainer, module)
    taken = []
    for trainer.global_step in (0, 0, 1, 2, 3, 3, 4, 5, 6, 7):  # an equal step is a batch that is accumulated
        torch.nn.init.constant_(module.detector.get_parameter("bias"), trainer.global_step)
        averaging.on_train_batch_end(trainer, module, None, None, 0)
        taken.append(averaging.average.module.get_parameter("bias").item())
    assert taken[4:] == [3, 3, 3, 3, 4.5, 4.5]
