from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rfdetr_core.model.layers import attend, relu_mlp

EXPAND, CONTRACT = "expand", "contract"


def layers() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({EXPAND: nn.Linear(24, 64), CONTRACT: nn.Linear(64, 24)})


def results(made: nn.ModuleDict, x: Tensor, plain: bool, half: bool = False) -> dict[str, Tensor | None]:
    made, x = copy.deepcopy(made), x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        if plain:
            found = made[CONTRACT](F.relu(made[EXPAND](x)))
        else:
            expand, contract = made[EXPAND], made[CONTRACT]
            assert isinstance(expand, nn.Linear)
            assert isinstance(contract, nn.Linear)
            found = relu_mlp(x, expand, contract)
    generator = torch.Generator().manual_seed(1)
    found.backward(torch.randn(found.shape, dtype=torch.float64, generator=generator).to(found.dtype))
    return {"output": found.detach(), "input": x.grad, **{name: one.grad for name, one in made.named_parameters()}}


@pytest.mark.parametrize("trained", [["weight", "bias"], ["weight"], ["bias"], []], ids=str)
@pytest.mark.parametrize("rows", [0, 1, 37])
def test_the_feed_forward_has_the_gradients_of_its_layers(trained: list[str], rows: int) -> None:
    made = layers().double()
    for name, parameter in made.named_parameters():
        parameter.requires_grad_(name.rpartition(".")[2] in trained)
    x = torch.randn(2, rows, 24, dtype=torch.float64)
    found, expected = results(made, x, plain=False), results(made, x, plain=True)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] is None) == (value is None), name
        if value is not None:
            torch.testing.assert_close(found[name], value, rtol=1e-13, atol=1e-13)


def test_in_bfloat16_the_feed_forward_is_as_close_as_its_8_bits() -> None:
    made, x = layers(), torch.randn(3, 50, 24)
    found, expected = results(made, x, plain=False, half=True), results(made, x, plain=True, half=True)
    for name, value in expected.items():
        other = found[name]
        assert other is not None
        assert value is not None
        assert other.dtype == value.dtype
        torch.testing.assert_close(other, value, rtol=2**-7, atol=2**-7 * float(value.abs().max()))


def test_attention_in_bfloat16_is_within_its_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 4, 33, 16, generator=generator, dtype=torch.float64) for _ in range(3))
    outer = torch.randn(2, 4, 33, 16, generator=generator, dtype=torch.float64)
    exact = [one.clone().requires_grad_() for one in (query, key, value)]
    halves = [one.bfloat16().requires_grad_() for one in (query, key, value)]
    pairs = []
    for inputs in (exact, halves):
        found = attend(*inputs)
        found.backward(outer.to(found.dtype))
        pairs.append([found.detach(), *(one.grad for one in inputs)])
    for wanted, found in zip(*pairs, strict=True):
        assert wanted is not None
        assert found is not None
        assert float((found.double() - wanted).norm() / wanted.norm()) < 2**-6
