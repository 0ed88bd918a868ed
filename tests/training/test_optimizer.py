from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from rfdetr_core.model.config import VARIANTS
from rfdetr_core.model.detector import Detector, build_detector
from rfdetr_core.training.config import TrainConfig
from rfdetr_core.training.optimization import build_optimizer, parameter_groups


def make_detector(variant: str, **options: Any) -> Detector:
    with torch.device("meta"):
        return build_detector(VARIANTS[variant], **options)


@pytest.mark.parametrize("variant", ["nano", "base", "seg-pico"])
def test_every_trained_parameter_is_in_one_group(variant: str) -> None:
    detector = make_detector(variant)
    names = [name for group in parameter_groups(detector, TrainConfig()) for name, _ in group["params"]]
    assert sorted(names) == sorted(name for name, value in detector.named_parameters() if value.requires_grad)


def test_nano_has_the_documented_rates() -> None:
    # The number of groups and the rates are those of upstream.
    groups = parameter_groups(make_detector("nano"), TrainConfig())
    rates = {name: group["lr"] for group in groups for name, _ in group["params"]}
    assert len(groups) == 28
    assert rates["encoder.position_embeddings"] == pytest.approx(3.2326e-6, rel=1e-4)
    assert rates["encoder.blocks.11.scale1"] == pytest.approx(4.704e-5)
    assert rates["encoder.norm.weight"] == pytest.approx(7.35e-5)
    assert rates["decoder.norm.weight"] == pytest.approx(7e-5)
    assert rates["class_head.bias"] == pytest.approx(1e-4)


def test_a_frozen_encoder_is_not_trained() -> None:
    groups = parameter_groups(make_detector("nano", freeze_encoder=True), TrainConfig())
    assert not [name for group in groups for name, _ in group["params"] if name.startswith("encoder.")]


@pytest.mark.parametrize("fused", [False, True])
def test_resuming_from_a_saved_state_equals_no_interruption(fused: bool) -> None:
    architecture = replace(VARIANTS["pico"], resolution=64, position_grid=4, queries=4, groups=1, encoder_width=48)
    uninterrupted, continued = build_detector(architecture), build_detector(architecture)
    optimizer = build_optimizer(uninterrupted, TrainConfig(), fused=fused)
    step(uninterrupted, optimizer, 0)
    continued.load_state_dict(uninterrupted.state_dict())
    continued_optimizer = build_optimizer(continued, TrainConfig(), fused=fused)
    continued_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for number in (1, 2):
        step(uninterrupted, optimizer, number)
        step(continued, continued_optimizer, number)
    assert all(value.equal(continued.state_dict()[name]) for name, value in uninterrupted.state_dict().items())


def step(detector: Detector, optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in detector.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
