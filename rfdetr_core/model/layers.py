"""Layers that several parts of the model share: MLP, fused attention, and pairs that recompute in the backward pass."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Asked once: a compiler does not see through the question.
_TILES = torch.cpu._is_amx_tile_supported()
_FUSED = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # type: ignore[no-untyped-call]


class MLP(nn.Module):
    """Maps (..., widths[0]) to (..., widths[-1])."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(inward, outward) for inward, outward in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """ReLU after every layer but the last."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x), inplace=True)
        return self.layers[-1](x)  # type: ignore[no-any-return]


def zero_last(mlp: MLP) -> MLP:
    """The same module, made to answer zero at first: boxes start as their references."""
    last = mlp.layers[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return mlp


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax(query key^T / sqrt(c)) value, each (N, heads, L, c)."""
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        return _HalfOnCPU.apply(query, key, value)  # type: ignore[no-any-return]
    return F.scaled_dot_product_attention(query, key, value)


class _HalfOnCPU(torch.autograd.Function):
    """bfloat16 is kept, float32 is computed with: on a CPU the fused kernel is up to twice as fast in it.

    Only a CPU with AMX, which multiplies bfloat16 in tiles, is faster in bfloat16, and that forward alone.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        inputs = [query, key, value]
        if not _TILES:
            inputs = [tensor.float() for tensor in inputs]
        output, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*inputs)
        output = output.to(query.dtype)
        ctx.save_for_backward(query, key, value, output, logsumexp)
        return output  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, ...]:
        *values, logsumexp = ctx.saved_tensors
        gradients = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            outer[0].float(), *(tensor.float() for tensor in values), logsumexp, 0.0, False
        )
        return tuple(gradient.to(outer[0].dtype) for gradient in gradients)


def norm_linear(x: Tensor, norm: nn.LayerNorm, weight: Tensor, bias: Tensor) -> Tensor:
    """`F.linear(norm(x), weight, bias)` of x (..., C)."""
    return _NormLinear.apply(x, norm.weight, norm.bias, norm.eps, *_as_autocast(weight, bias))  # type: ignore[no-any-return]


def gelu_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`F.linear(F.gelu(x), weight, bias)` of x (..., C)."""
    return _GeluLinear.apply(x, *_as_autocast(weight, bias))  # type: ignore[no-any-return]


def relu_mlp(x: Tensor, expand: nn.Linear, contract: nn.Linear) -> Tensor:
    """`contract(F.relu(expand(x)))` of x (..., C)."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return contract(F.relu(expand(x), inplace=True))  # type: ignore[no-any-return]
    weights = _as_autocast(expand.weight, expand.bias), _as_autocast(contract.weight, contract.bias)
    return _ReluMLP.apply(x.to(weights[0][0].dtype), *weights[0], *weights[1])  # type: ignore[no-any-return]


class _ReluMLP(torch.autograd.Function):
    """On a CPU. A pass over the hidden rows costs as much as a product, so ReLU is part of the product where it can be.

    In bfloat16 the hidden rows are computed again in the backward pass: it takes less time than to keep them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, expand: Tensor, expand_bias: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        hidden = _relu_linear(x, expand, expand_bias)
        ctx.save_for_backward(x, expand, expand_bias, weight, None if x.dtype == torch.bfloat16 else hidden)
        return F.linear(hidden, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        x, expand, expand_bias, weight, hidden = ctx.saved_tensors
        if hidden is None:
            hidden = _relu_linear(x, expand, expand_bias)
        of_hidden, *of_second = _linear_backward(outer[0], hidden, weight, *ctx.needs_input_grad[3:5])
        torch.ops.aten.threshold_backward.grad_input(of_hidden, hidden, 0, grad_input=of_hidden)
        return *_linear_backward(of_hidden, x, expand, *ctx.needs_input_grad[1:3]), *of_second


def _relu_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if x.dtype == torch.bfloat16 and _FUSED:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "relu", [], "")  # type: ignore[no-any-return]
    return F.linear(x, weight, bias).relu_()


class _NormLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, epsilon: float, weight: Tensor, bias: Tensor
    ) -> Tensor:
        scale, shift = scale.to(x.dtype), shift.to(x.dtype)
        hidden, mean, deviation = torch.native_layer_norm(x, x.shape[-1:], scale, shift, epsilon)
        ctx.save_for_backward(x, scale, shift, mean, deviation, weight)
        ctx.epsilon = epsilon
        return F.linear(hidden.to(weight.dtype), weight, bias)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, shift, mean, deviation, weight = ctx.saved_tensors
        hidden = F.layer_norm(x, x.shape[-1:], scale, shift, ctx.epsilon).to(weight.dtype)
        of_hidden, of_weight, of_bias = _linear_backward(outer[0], hidden, weight, *ctx.needs_input_grad[4:6])
        of_x, of_scale, of_shift = torch.ops.aten.native_layer_norm_backward(
            of_hidden.to(x.dtype), x, x.shape[-1:], mean, deviation, scale, shift, [True, True, True]
        )
        return of_x, of_scale, of_shift, None, of_weight, of_bias


class _GeluLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(F.gelu(x), weight, bias)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_hidden, of_weight, of_bias = _linear_backward(outer[0], F.gelu(x), weight, *ctx.needs_input_grad[1:3])
        return torch.ops.aten.gelu_backward(of_hidden, x), of_weight, of_bias


def _linear_backward(
    outer: Tensor, hidden: Tensor, weight: Tensor, of_weight: bool, of_bias: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients of a linear layer's input, and of its weight and bias where they are asked for."""
    rows = outer.flatten(0, -2)
    return outer @ weight, rows.t() @ hidden.flatten(0, -2) if of_weight else None, rows.sum(0) if of_bias else None


def _as_autocast(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """As autocast would cast the parameters of a linear layer; inside of a Function it would do so unseen."""
    device = weight.device.type
    if not torch.is_autocast_enabled(device):
        return weight, bias
    dtype = torch.get_autocast_dtype(device)
    return weight.to(dtype), bias.to(dtype)
