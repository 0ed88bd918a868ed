from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rfdetr_core.model.layers import attend, gelu_linear, norm_linear

Call = Callable[[Tensor, nn.LayerNorm, nn.Linear], Tensor]
PAIRS: dict[str, tuple[Call, Call]] = {  # the fused pair, and its layers called separately
    "norm": (lambda x, norm, last: norm_linear(x, norm, last.weight, last.bias), lambda x, norm, last: last(norm(x))),
    "gelu": (lambda x, norm, last: gelu_linear(x, last.weight, last.bias), lambda x, norm, last: last(F.gelu(x))),
}
DTYPES = [(torch.float32, False), (torch.bfloat16, False), (torch.float32, True)]


def layers(dtype: torch.dtype = torch.float32) -> tuple[Tensor, nn.LayerNorm, nn.Linear]:
    torch.manual_seed(0)
    x, norm, layer = torch.randn(3, 5, 8), nn.LayerNorm(8), nn.Linear(8, 6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return x.to(dtype).requires_grad_(), norm.to(dtype), layer.to(dtype)


def gradients(call: Call, dtype: torch.dtype, autocast: bool, train_layer: bool = True) -> list[Tensor | None]:
    x, norm, layer = layers(dtype)
    layer.requires_grad_(train_layer)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        inputs = F.silu(x).bfloat16() if autocast and call in PAIRS["gelu"] else F.silu(x)
        values = call(inputs, norm, layer)
    (values * torch.linspace(-1, 1, values.numel()).view_as(values)).sum().backward()
    return [values.detach(), *(tensor.grad for tensor in (x, *norm.parameters(), *layer.parameters()))]


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize(("dtype", "autocast"), DTYPES)
@pytest.mark.parametrize("train_layer", [True, False])
def test_values_and_gradients_equal_those_of_separate_layers_bit_for_bit(
    pair: tuple[Call, Call], dtype: torch.dtype, autocast: bool, train_layer: bool
) -> None:
    for combined, apart in zip(*(gradients(call, dtype, autocast, train_layer) for call in pair), strict=True):
        assert (combined is None) == (apart is None)
        assert combined is None or apart is None or (combined.dtype == apart.dtype and combined.equal(apart))


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_gradients_pass_the_numeric_check(pair: tuple[Call, Call]) -> None:
    x, norm, layer = layers(torch.float64)
    assert torch.autograd.gradcheck(lambda x, *_: pair[0](x, norm, layer), (x, *norm.parameters(), *layer.parameters()))


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_the_activation_between_the_layers_is_not_kept(pair: tuple[Call, Call]) -> None:
    kept = []
    for call in pair:
        x, norm, layer = layers()
        sizes: dict[int, int] = {}

        def note(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            values = call(x, norm, layer)  # noqa: F841 - keeps the graph
        kept.append(sum(sizes.values()))
    assert kept[0] == kept[1] - layers()[0].numel()


@pytest.mark.parametrize("length", [1, 145])
def test_attention_in_bfloat16_equals_float32_except_for_rounding(length: int) -> None:
    torch.manual_seed(0)
    exact: list[Any] = [torch.randn(4, 3, length, 16).bfloat16().float().requires_grad_() for _ in range(3)]
    coarse: list[Any] = [tensor.detach().bfloat16().requires_grad_() for tensor in exact]
    outer = torch.randn(4, 3, length, 16)
    answers = []
    for inputs in (exact, coarse):
        values = attend(*inputs)
        assert values.dtype == inputs[0].dtype
        answers.append((values, *torch.autograd.grad(values, inputs, outer.to(values.dtype))))
    for exact_value, coarse_value in zip(*answers, strict=True):
        torch.testing.assert_close(exact_value, coarse_value.float(), rtol=0.02, atol=0.02)
