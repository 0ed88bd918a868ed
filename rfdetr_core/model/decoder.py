"""The decoder (second stage): queries attend to each other within their group, then read the memory at their boxes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rfdetr_core.model.deformable import DeformableAttention, Memory
from rfdetr_core.model.layers import MLP, attend, relu_mlp


class Decoder(nn.Module):
    """Maps queries and their boxes to a normed hidden state per layer. The boxes are the same for all layers.

    Args:
        width: C, of the queries.
        layers: how many.
        numbers: the keyword arguments of each DecoderLayer.
    """

    def __init__(self, width: int, *, layers: int, **numbers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(width, **numbers) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.position_mlp = MLP(2 * width, width, width)
        for layer in self.position_mlp.layers:
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, queries: Tensor, boxes: Tensor, memory: Memory, groups: int) -> list[Tensor]:
        """The hidden states (B, G*Q, C) of all layers.

        Args:
            queries: (B, G*Q, C), group by group.
            boxes: of the queries, (B, G*Q, 4) cxcywh.
            memory: the tokens that the queries read.
            groups: G.
        """
        ratios = memory.valid_ratios()
        per_level = boxes[:, :, None]  # (B, G*Q, levels or 1, 4)
        if ratios is not None:
            per_level = per_level * ratios.repeat(1, 1, 2)[:, None]
        positions = self.position_mlp(encode_boxes(per_level[:, :, 0], queries.shape[-1] // 2))
        states = []
        for layer in self.layers:
            queries = layer(queries, positions, per_level, memory, groups)
            states.append(self.norm(queries))
        return states


class DecoderLayer(nn.Module):
    """Self-attention, deformable cross-attention and feed-forward. Each is added to its input, then normed.

    Args:
        width: C, of the queries.
        self_heads, cross_heads: heads of the two attentions.
        levels: of the memory.
        points: samples per head and level of the cross-attention.
        feedforward_width: hidden width of the feed-forward part.
    """

    def __init__(
        self, width: int, *, self_heads: int, cross_heads: int, levels: int, points: int, feedforward_width: int
    ) -> None:
        super().__init__()
        self.self_attention = GroupAttention(width, self_heads)
        self.norm1 = nn.LayerNorm(width)
        self.cross_attention = DeformableAttention(width, heads=cross_heads, levels=levels, points=points)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, feedforward_width)
        self.contract = nn.Linear(feedforward_width, width)
        self.norm3 = nn.LayerNorm(width)
        for layer in (self.expand, self.contract):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, queries: Tensor, positions: Tensor, boxes: Tensor, memory: Memory, groups: int) -> Tensor:
        """The refined queries (B, G*Q, C).

        Args:
            queries: (B, G*Q, C), group by group.
            positions: codes of the boxes, (B, G*Q, C).
            boxes: (B, G*Q, levels or 1, 4) cxcywh.
            memory: the tokens that the queries read.
            groups: G.
        """
        queries = self.norm1(queries + self.self_attention(queries, positions, groups))
        queries = self.norm2(queries + self.cross_attention(queries + positions, boxes, memory))
        return self.norm3(queries + relu_mlp(queries, self.expand, self.contract))  # type: ignore[no-any-return]


class GroupAttention(nn.Module):
    """Multi-head self-attention within each group. Positions are added to queries and keys, not to values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        for layer in (self.query_key_value, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, positions: Tensor, groups: int) -> Tensor:
        """The attended values (B, G*Q, C).

        Args:
            x: queries, (B, G*Q, C), group by group.
            positions: added to queries and keys, (B, G*Q, C).
            groups: G.
        """
        width = x.shape[-1]
        weight, bias = self.query_key_value.weight, self.query_key_value.bias
        query, key = F.linear(x + positions, weight[: 2 * width], bias[: 2 * width]).chunk(2, dim=-1)
        value = F.linear(x, weight[2 * width :], bias[2 * width :])
        query, key, value = (
            projected.reshape(x.shape[0] * groups, -1, self.heads, width // self.heads).transpose(1, 2)
            for projected in (query, key, value)
        )  # (B*G, heads, Q, C / heads)
        return self.output(attend(query, key, value).transpose(1, 2).reshape(x.shape))  # type: ignore[no-any-return]


def encode_boxes(boxes: Tensor, width: int) -> Tensor:
    """Sine code (..., 4 * width) of cxcywh boxes (..., 4). Sine and cosine alternate.

    As in Conditional DETR's `gen_sineembed_for_position`, the order is y, x, w, h, the scale is 2 pi, and the
    temperature is 10000.
    """
    periods = 10000 ** (torch.arange(0, width, 2, dtype=boxes.dtype, device=boxes.device) / width)
    x, y, *size = boxes.unbind(-1)
    angles = torch.stack([y, x, *size], dim=-1)[..., None] * (2 * math.pi) / periods  # (..., 4, width / 2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-3)
