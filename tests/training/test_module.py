from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.params import parse
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.model.config import ModelConfig
from rfdetr_core.training.config import RuntimeConfig, TrainConfig
from rfdetr_core.training.run import Training, prepare_training
from rfdetr_core.training.trainer import build_trainer
from tests.training.tiny import MODEL, RUNTIME, TRAIN


def prepared(
    where: ProjectPaths, model: dict[str, Any] | None = None, runtime: dict[str, Any] | None = None, **changes: Any
) -> tuple[Training, TrainConfig]:
    config = parse(TrainConfig, TRAIN | changes, "train")
    network = parse(ModelConfig, MODEL | (model or {}), "model")
    running = parse(RuntimeConfig, RUNTIME | (runtime or {}), "runtime")
    return prepare_training(where, network, config, running, where.dataset), config


def gradients_of_one_step(where: ProjectPaths, **changes: Any) -> dict[str, Tensor]:
    training, config = prepared(where, epochs=1, clip_max_norm=0.0, **changes)
    build_trainer(config, limit_val_batches=0, max_steps=1).fit(training.module, training.data)
    return {name: p.grad for name, p in training.module.named_parameters() if p.grad is not None}


def test_accumulating_two_batches_equals_one_batch_of_twice_the_size(where: ProjectPaths) -> None:
    whole = gradients_of_one_step(where, batch_size=4)
    parts = gradients_of_one_step(where, batch_size=2, grad_accum_steps=2)
    assert whole.keys() == parts.keys()
    for name, gradient in whole.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-5 * scale + 1e-7, msg=name)


def test_a_loss_that_is_not_finite_stops_and_names_images_and_terms(where: ProjectPaths) -> None:
    training, config = prepared(where)
    with torch.no_grad():
        training.module.detector.get_parameter("class_head.bias").fill_(float("nan"))
    with pytest.raises(UserError, match=r"loss_ce nan.*train/\d+\.png.*train\.lr"):
        build_trainer(config).fit(training.module, training.data)


def test_callbacks_and_loggers_see_the_values_of_an_epoch(where: ProjectPaths) -> None:
    training, config = prepared(where, epochs=1)
    trainer = build_trainer(config, callbacks=[training.callbacks[0]])
    trainer.fit(training.module, training.data)
    assert {"train/loss", "train/lr", "val/mAP_50_95", "val/ema_mAP_50_95"} <= trainer.callback_metrics.keys()


@pytest.mark.parametrize("amp_dtype", [None, "bf16"])
def test_the_norm_of_the_gradient_is_clipped_in_every_precision(where: ProjectPaths, amp_dtype: str | None) -> None:
    norms = []
    for limit in (0.0, 0.5):
        training, config = prepared(where, epochs=1, clip_max_norm=limit, amp_dtype=amp_dtype)
        build_trainer(config, limit_val_batches=0, max_steps=1).fit(training.module, training.data)
        gradients = [p.grad for p in training.module.parameters() if p.grad is not None]
        norms.append(torch.nn.utils.get_total_norm(gradients).item())
    assert norms[0] > 0.5
    assert norms[1] == pytest.approx(0.5, rel=1e-3)
