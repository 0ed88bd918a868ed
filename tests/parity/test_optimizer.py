"""Parameter groups, optimiser steps and a whole small training equal upstream's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from rfdetr_core.checkpoint.keys import KEYPOINT_MASK, to_ours, to_upstream
from rfdetr_core.loss.criterion import Criterion
from rfdetr_core.model.detector import Detector, build_detector
from rfdetr_core.training.callbacks import WeightAverage
from rfdetr_core.training.config import TrainConfig
from rfdetr_core.training.optimization import build_optimizer, parameter_groups
from rfdetr_core.training.schedule import learning_rate_factor
from tests.loss.synthetic import make_targets, targets_as_upstream
from tests.parity import reference
from tests.parity.test_ema import upstream_average
from tests.parity.upstream_training import module_model, param_groups

lwdetr = pytest.importorskip("rfdetr.models.lwdetr")
upstream_config = pytest.importorskip("rfdetr.config")

# The first numbers are the defaults.
NUMBERS, OTHER_NUMBERS = (
    dict(zip(("lr", "lr_encoder", "weight_decay", "lr_vit_layer_decay", "lr_component_decay"), values, strict=True))
    for values in ((1e-4, 1.5e-4, 1e-4, 0.8, 0.7), (3e-4, 2e-5, 0.05, 0.65, 0.9))
)


def upstream_groups(model: nn.Module, namespace: Any) -> list[dict[str, Any]]:
    return param_groups.get_param_dict(namespace, model)


@pytest.mark.parametrize("numbers", [NUMBERS, OTHER_NUMBERS], ids=["defaults", "others"])
@pytest.mark.parametrize("variant", reference.published("nano", "seg-nano"))
def test_every_parameter_has_upstreams_rate_and_decay(variant: str, numbers: dict[str, float]) -> None:
    architecture = reference.VARIANTS[variant]
    with torch.device("meta"):
        model, detector = reference.build_upstream(variant), build_detector(architecture)
    namespace = reference.upstream_namespace(architecture, **numbers)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    expected = {
        names[id(parameter)]: (group["lr"], group.get("weight_decay", numbers["weight_decay"]))
        for group in upstream_groups(model, namespace)
        for parameter in group["params"]
    }
    groups = {
        to_upstream(name): (group["lr"], group["weight_decay"])
        for group in parameter_groups(detector, TrainConfig(**numbers))
        for name, _ in group["params"]
    }
    for name, (rate, decay) in groups.items():
        assert (rate, decay) == pytest.approx(expected[name], rel=1e-12), name
    # The missing parameters are never used. Upstream's optimiser gets no gradient for them and skips them.
    frozen = {to_upstream(name) for name, value in detector.named_parameters() if not value.requires_grad}
    assert sorted(expected) == sorted([*groups, *frozen])


def twins(dtype: torch.dtype) -> tuple[nn.Module, Detector, Any]:
    """Upstream's model and ours with the same weights, and upstream's namespace."""
    model = reference.build_upstream_like(reference.SMALL).to(dtype).train()
    model.load_state_dict(reference.random_weights(model))
    detector = build_detector(reference.SMALL).to(dtype).train()
    detector.load_state_dict(weights_of(model))
    return model, detector, reference.upstream_namespace(reference.SMALL)


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {to_ours(name): value for name, value in model.state_dict().items() if name != KEYPOINT_MASK}


def upstream_optimizer(model: nn.Module, namespace: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW(upstream_groups(model, namespace), lr=NUMBERS["lr"], weight_decay=NUMBERS["weight_decay"])


def assert_equal_weights(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], tolerance: float) -> None:
    assert sorted(ours) == sorted(theirs)
    for name, value in theirs.items():
        assert (ours[name] - value).norm() <= tolerance * value.norm(), name


@pytest.mark.parametrize("fused", [False, True])
def test_five_steps_with_the_same_gradients(fused: bool) -> None:
    model, detector, namespace = twins(torch.float32)
    theirs, ours = upstream_optimizer(model, namespace), build_optimizer(detector, TrainConfig(**NUMBERS), fused=fused)
    parameters = dict(model.named_parameters())
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in detector.named_parameters():
            if parameter.requires_grad:
                parameter.grad = 0.01 * torch.randn(parameter.shape, generator=generator)
                parameters[to_upstream(name)].grad = parameter.grad.clone()
        theirs.step()
        ours.step()
    assert_equal_weights(detector.state_dict(), weights_of(model), 1e-6)


def test_five_steps_of_training_from_end_to_end() -> None:
    model, detector, namespace = twins(torch.float64)
    theirs, ours = upstream_optimizer(model, namespace), build_optimizer(detector, TrainConfig(**NUMBERS))
    config = upstream_config.TrainConfig(
        dataset_dir=".", epochs=3, lr_scheduler="cosine", lr_scheduler_kwargs={"min_factor": 0.1}, warmup_epochs=1
    )
    their_schedule = module_model._build_managed_scheduler(theirs, config, 6, 2, 2)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        ours,
        lambda step: learning_rate_factor(
            step, kind="cosine", steps_per_epoch=2, epochs=3, warmup_epochs=1, min_factor=0.1
        ),
    )
    criterion = lwdetr.build_criterion_and_postprocessors(namespace)[0]
    their_average, average = upstream_average(model), WeightAverage(detector, 0.993, 100)

    for step in range(5):
        images = reference.random_images(2, 3, 64, 64, seed=step, dtype=torch.float64)
        targets = make_targets([4, 1], seed=step)
        theirs.zero_grad()
        ours.zero_grad()
        truth = targets_as_upstream(targets)
        terms = criterion(model(reference.nested(images), truth), truth)
        sum(value * criterion.weight_dict.get(name, 0) for name, value in terms.items()).backward()
        Criterion()(detector(images), targets, groups=detector.groups).total.backward()
        with without_key_biases(model, detector):
            for network in (model, detector):
                nn.utils.clip_grad_norm_(network.parameters(), 0.1)
            theirs.step()
            ours.step()
        their_schedule.step()
        schedule.step()
        their_average.update_parameters(model)
        average.update(step + 1)
    assert_equal_weights(detector.state_dict(), weights_of(model), 1e-8)
    assert_equal_weights(average.module.state_dict(), weights_of(their_average.module), 1e-8)


@contextmanager
def without_key_biases(*models: nn.Module) -> Iterator[None]:
    """Remove gradients that are only rounding: AdamW would enlarge them to whole steps."""
    for model in models:
        for name, parameter in model.named_parameters():
            if name.endswith("attention.key.bias"):
                parameter.grad = None
    yield
