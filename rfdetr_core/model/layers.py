"""Shared layers: MLP, attention, and fused pairs of layers.

A fused pair saves memory: the backward pass recomputes the activation between its two layers.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Evaluated once: torch.compile cannot trace these calls.
_TILES = torch.cpu._is_amx_tile_supported()
_FUSED = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # type: ignore[no-untyped-call]


class MLP(nn.Module):
    """Linear layers that map (..., widths[0]) to (..., widths[-1])."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(inward, outward) for inward, outward in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers, with ReLU after each one except the last."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x), inplace=True)
        return self.layers[-1](x)  # type: ignore[no-any-return]


def zero_last(mlp: MLP) -> MLP:
    """Set the last layer to zero and return the MLP. A new box head then leaves the reference boxes as they are."""
    last = mlp.layers[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return mlp


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The attention softmax(query key^T / sqrt(c)) value.

    Args:
        query: (N, heads, L, c).
        key: (N, heads, L, c).
        value: (N, heads, L, c).
    """
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        return _Bfloat16AttentionOnCPU.apply(query, key, value)  # type: ignore[no-any-return]
    return F.scaled_dot_product_attention(query, key, value)


class _Bfloat16AttentionOnCPU(torch.autograd.Function):
    """Attention on a CPU that stores bfloat16 tensors but computes in float32.

    torch's float32 kernel is up to twice as fast. Exception: a CPU with AMX multiplies bfloat16 in tiles. There, the
    forward pass is faster in bfloat16, so it computes in bfloat16.
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
    def backward(ctx: Any, *output_gradients: Tensor) -> tuple[Tensor, ...]:
        *values, logsumexp = ctx.saved_tensors
        gradients = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            output_gradients[0].float(), *(tensor.float() for tensor in values), logsumexp, 0.0, False
        )
        return tuple(gradient.to(output_gradients[0].dtype) for gradient in gradients)


def norm_linear(x: Tensor, norm: nn.LayerNorm, weight: Tensor, bias: Tensor) -> Tensor:
    """`F.linear(norm(x), weight, bias)` of x (..., C).

    Args:
        x: (..., C).
        norm: normalises over C.
        weight: of the linear layer, (D, C).
        bias: of the linear layer, (D,).
    """
    return _NormLinear.apply(x, norm.weight, norm.bias, norm.eps, *_as_autocast(weight, bias))  # type: ignore[no-any-return]


def gelu_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`F.linear(F.gelu(x), weight, bias)` of x (..., C).

    Args:
        x: (..., C), before GELU.
        weight: of the linear layer, (D, C).
        bias: of the linear layer, (D,).
    """
    return _GeluLinear.apply(x, *_as_autocast(weight, bias))  # type: ignore[no-any-return]


def relu_mlp(x: Tensor, expand: nn.Linear, contract: nn.Linear) -> Tensor:
    """`contract(F.relu(expand(x)))` of x (..., C).

    Args:
        x: (..., C).
        expand: maps C to the hidden width.
        contract: maps the hidden width to the width of the result.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return contract(F.relu(expand(x), inplace=True))  # type: ignore[no-any-return]
    weights = _as_autocast(expand.weight, expand.bias), _as_autocast(contract.weight, contract.bias)
    return _ReluMLP.apply(x.to(weights[0][0].dtype), *weights[0], *weights[1])  # type: ignore[no-any-return]


class _ReluMLP(torch.autograd.Function):
    """The MLP on a CPU. oneDNN applies ReLU within the matrix product; a separate ReLU takes as long as the product.

    In bfloat16 the backward pass computes the hidden rows again. This takes less time than keeping them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, expand: Tensor, expand_bias: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        hidden = _relu_linear(x, expand, expand_bias)
        ctx.save_for_backward(x, expand, expand_bias, weight, None if x.dtype == torch.bfloat16 else hidden)
        return F.linear(hidden, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *output_gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, expand, expand_bias, weight, hidden = ctx.saved_tensors
        if hidden is None:
            hidden = _relu_linear(x, expand, expand_bias)
        hidden_gradient, *second_layer_gradients = _linear_backward(
            output_gradients[0], hidden, weight, *ctx.needs_input_grad[3:5]
        )
        torch.ops.aten.threshold_backward.grad_input(hidden_gradient, hidden, 0, grad_input=hidden_gradient)
        return *_linear_backward(hidden_gradient, x, expand, *ctx.needs_input_grad[1:3]), *second_layer_gradients


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
    def backward(ctx: Any, *output_gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, shift, mean, deviation, weight = ctx.saved_tensors
        hidden = F.layer_norm(x, x.shape[-1:], scale, shift, ctx.epsilon).to(weight.dtype)
        hidden_gradient, weight_gradient, bias_gradient = _linear_backward(
            output_gradients[0], hidden, weight, *ctx.needs_input_grad[4:6]
        )
        x_gradient, scale_gradient, shift_gradient = torch.ops.aten.native_layer_norm_backward(
            hidden_gradient.to(x.dtype), x, x.shape[-1:], mean, deviation, scale, shift, [True, True, True]
        )
        return x_gradient, scale_gradient, shift_gradient, None, weight_gradient, bias_gradient


class _GeluLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(F.gelu(x), weight, bias)

    @staticmethod
    def backward(ctx: Any, *output_gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        hidden_gradient, weight_gradient, bias_gradient = _linear_backward(
            output_gradients[0], F.gelu(x), weight, *ctx.needs_input_grad[1:3]
        )
        return torch.ops.aten.gelu_backward(hidden_gradient, x), weight_gradient, bias_gradient


def _linear_backward(
    output_gradient: Tensor, hidden: Tensor, weight: Tensor, needs_weight: bool, needs_bias: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients of a linear layer's input, weight and bias.

    Args:
        output_gradient: gradient of the layer's output.
        hidden: the layer's input.
        weight: the layer's weight.
        needs_weight, needs_bias: compute that gradient; otherwise it is None.
    """
    rows = output_gradient.flatten(0, -2)
    input_gradient = output_gradient @ weight
    weight_gradient = rows.t() @ hidden.flatten(0, -2) if needs_weight else None
    return input_gradient, weight_gradient, rows.sum(0) if needs_bias else None


def _as_autocast(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Cast the parameters as autocast would. Inside of an autograd.Function, autograd would not see the cast."""
    device = weight.device.type
    if not torch.is_autocast_enabled(device):
        return weight, bias
    dtype = torch.get_autocast_dtype(device)
    return weight.to(dtype), bias.to(dtype)
