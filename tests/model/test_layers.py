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
            output = made[CONTRACT](F.relu(made[EXPAND](x)))
        else:
            expand, contract = made[EXPAND], made[CONTRACT]
            assert isinstance(expand, nn.Linear)
            assert isinstance(contract, nn.Linear)
            output = relu_mlp(x, expand, contract)
    generator = torch.Generator().manual_seed(1)
    output.backward(torch.randn(output.shape, dtype=torch.float64, generator=generator).to(output.dtype))
    return {
        "output": output.detach(),
        "input": x.grad,
        **{name: parameter.grad for name, parameter in made.named_parameters()},
    }


@pytest.mark.parametrize("trained", [["weight", "bias"], ["weight"], ["bias"], []], ids=str)
@pytest.mark.parametrize("rows", [0, 1, 37])
def test_the_feed_forward_has_the_gradients_of_its_layers(trained: list[str], rows: int) -> None:
    made = layers().double()
    for name, parameter in made.named_parameters():
        parameter.requires_grad_(name.rpartition(".")[2] in trained)
    x = torch.randn(2, rows, 24, dtype=torch.float64)
    fused, expected = results(made, x, plain=False), results(made, x, plain=True)
    assert fused.keys() == expected.keys()
    for name, value in expected.items():
        assert (fused[name] is None) == (value is None), name
        if value is not None:
            torch.testing.assert_close(fused[name], value, rtol=1e-13, atol=1e-13)


def test_in_bfloat16_the_feed_forward_is_as_close_as_its_8_bits() -> None:
    made, x = layers(), torch.randn(3, 50, 24)
    fused, expected = results(made, x, plain=False, half=True), results(made, x, plain=True, half=True)
    for name, value in expected.items():
        fused_value = fused[name]
        assert fused_value is not None
        assert value is not None
        assert fused_value.dtype == value.dtype
        torch.testing.assert_close(fused_value, value, rtol=2**-7, atol=2**-7 * float(value.abs().max()))


def test_attention_in_bfloat16_is_within_its_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 4, 33, 16, generator=generator, dtype=torch.float64) for _ in range(3))
    outer = torch.randn(2, 4, 33, 16, generator=generator, dtype=torch.float64)
    exact = [tensor.clone().requires_grad_() for tensor in (query, key, value)]
    halves = [tensor.bfloat16().requires_grad_() for tensor in (query, key, value)]
    pairs = []
    for inputs in (exact, halves):
        attended = attend(*inputs)
        attended.backward(outer.to(attended.dtype))
        pairs.append([attended.detach(), *(tensor.grad for tensor in inputs)])
    for exact_value, attended in zip(*pairs, strict=True):
        assert exact_value is not None
        assert attended is not None
        assert float((attended.double() - exact_value).norm() / exact_value.norm()) < 2**-6
