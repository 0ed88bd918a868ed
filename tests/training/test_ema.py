from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from rfdetr_core.training.callbacks import WeightAverage


def make_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()


def change(network: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype))
            else:
                tensor.add_(step)


@pytest.mark.parametrize("tau", [0.0, 5.0])
def test_the_average_follows_its_formula(tau: float) -> None:
    network = make_network()
    average = WeightAverage(network, 0.9, tau)
    expected: dict[str, torch.Tensor] = {}
    for step in range(1, 20):
        change(network, step)
        average.update(step)
        kept = 0.9 * (1 - math.exp(-step / tau)) if tau else 0.9
        weights = {name: value.clone() for name, value in network.named_parameters()}
        expected = {n: kept * expected[n] + (1 - kept) * weights[n] for n in weights} if expected else weights
    for name, parameter in average.module.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name].detach(), rtol=1e-12, atol=1e-12)


def test_the_first_update_copies() -> None:
    network = make_network()
    average = WeightAverage(network, 0.9, 100)
    change(network, 1)
    average.update(1)
    assert all(value.equal(network.state_dict()[name]) for name, value in average.module.state_dict().items())


def test_buffers_are_copied_and_equal_weights_do_not_change() -> None:
    network = make_network()
    average = WeightAverage(network, 0.9, 100)
    for step in (1, 2, 3):
        average.update(step)
    assert all(value.equal(network.state_dict()[name]) for name, value in average.module.state_dict().items())
    change(network, 7)
    average.update(4)
    for name, buffer in average.module.named_buffers():
        assert buffer.equal(network.get_buffer(name))


def test_resuming_from_a_saved_state_equals_no_interruption() -> None:
    network = make_network()
    average = WeightAverage(network, 0.9, 10)
    for step in (1, 2):
        change(network, step)
        average.update(step)
    restored = WeightAverage(network, 0.9, 10)
    restored.module.load_state_dict({name: value.clone() for name, value in average.module.state_dict().items()})
    for step in (3, 4):
        change(network, step)
        average.update(step)
        restored.update(step)
    assert all(value.equal(restored.module.state_dict()[name]) for name, value in average.module.state_dict().items())


def test_the_average_is_in_evaluation_mode_and_does_not_change_the_network() -> None:
    network = make_network().train()
    average = WeightAverage(network, 0.9, 10)
    assert not average.module.training
    assert network.training
    assert not any(parameter.requires_grad for parameter in average.module.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    average.update(1)
    average.update(2)
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())
