"""Softmax attention on torch's fused kernels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax(query key^T / sqrt(c)) value, each (N, heads, L, c)."""
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        return _HalfOnCPU.apply(query, key, value)  # type: ignore[no-any-return]
    return F.scaled_dot_product_attention(query, key, value)


class _HalfOnCPU(torch.autograd.Function):
    """bfloat16 is kept, float32 is computed with: on a CPU the fused kernel is up to twice as fast in it."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        inputs = (query.float(), key.float(), value.float())
        output, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*inputs)
        output = output.to(query.dtype)
        ctx.save_for_backward(query, key, value, output, logsumexp)
        return output  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, ...]:
        *values, logsumexp = ctx.saved_tensors
        values = [one.float() for one in values]
        gradients = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            outer[0].float(), *values, logsumexp, 0.0, False
        )
        return tuple(one.to(outer[0].dtype) for one in gradients)
