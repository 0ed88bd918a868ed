"""The proposals (first stage): each group of queries chooses the best tokens and predicts a box for each."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rfdetr_core.model.deformable import Memory
from rfdetr_core.model.layers import MLP
from rfdetr_core.ops.boxes import apply_delta

ANCHOR_SIZE = 0.05  # side of an anchor on the first level, relative to the image; it doubles with each level
MARGIN = 0.01  # anchors closer than this to 0 or 1 are not used


@dataclass(frozen=True)
class Proposals:
    """The chosen tokens of all groups, group by group, best first.

    features: (B, G*k, C). logits: (B, G*k, K). boxes: (B, G*k, 4) cxcywh in 0..1.
    """

    features: Tensor
    logits: Tensor
    boxes: Tensor


class ProposalHead(nn.Module):
    """The layers of one group.

    Args:
        width: C, of the tokens.
        class_head, box_head: the decoder's heads. The group starts with copies of them.
    """

    def __init__(self, width: int, class_head: nn.Linear, box_head: MLP) -> None:
        super().__init__()
        self.project = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.class_head = copy.deepcopy(class_head)
        self.box_head = copy.deepcopy(box_head)
        nn.init.xavier_uniform_(self.project.weight)

    def scores(self, tokens: Tensor) -> Tensor:
        """The best class logit (B, S) of each token (B, S, C), without gradients."""
        # Detached instead of no_grad: autocast would cache the casts that are made under no_grad, and use them again
        # where gradients are needed.
        project, norm, classify = (
            (layer.weight.detach(), layer.bias.detach()) for layer in (self.project, self.norm, self.class_head)
        )
        hidden = F.layer_norm(F.linear(tokens.detach(), *project), self.norm.normalized_shape, *norm)
        return F.linear(hidden, *classify).amax(dim=-1)


def best_tokens(scores: Tensor, count: int) -> Tensor:
    """Indexes (B, count) of the highest scores (B, S), best first."""
    return scores.topk(count, dim=1).indices


class Proposer(nn.Module):
    """The proposal heads of all groups. Each group proposes its best `limit` tokens.

    To compare two models, `choose` is replaced by a function that gives both the same tokens, even if scores are nearly
    equal.

    Args:
        width, class_head, box_head: see `ProposalHead`.
        groups: how many groups.
        limit: tokens that each group proposes.
    """

    choose = staticmethod(best_tokens)

    def __init__(self, width: int, class_head: nn.Linear, box_head: MLP, *, groups: int, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.groups = nn.ModuleList(ProposalHead(width, class_head, box_head) for _ in range(groups))

    def forward(self, memory: Memory, groups: int) -> Proposals:
        """Proposals of the first `groups` groups. A group has fewer than `limit` if the memory has fewer tokens."""
        heads = [cast(ProposalHead, head) for head in self.groups[:groups]]
        anchors, unusable = make_anchors(memory)
        tokens = memory.tokens.masked_fill(unusable, 0)
        batch, count, width = tokens.shape
        chosen = [self.choose(head.scores(tokens), min(self.limit, count)) for head in heads]
        picked = torch.cat(chosen, dim=1)[..., None]  # (B, G*k, 1)
        anchors = anchors.expand(batch, -1, -1).gather(1, picked.expand(-1, -1, 4))
        # All tokens are scored above, without gradients. Only the picked tokens pass through the heads with gradients.
        rows = _swap(tokens.gather(1, picked.expand(-1, -1, width)), len(heads))  # (G, B*k, C)
        rows = grouped_linear(rows, [head.project for head in heads])
        rows = grouped_norm(rows, [head.norm for head in heads])
        logits = grouped_linear(rows, [head.class_head for head in heads])
        delta = grouped_mlp(rows, [head.box_head for head in heads])
        return Proposals(_swap(rows, batch), _swap(logits, batch), apply_delta(_swap(delta, batch), anchors))


def make_anchors(memory: Memory) -> tuple[Tensor, Tensor]:
    """An anchor for each token, and a mask of the anchors that must not be used.

    Returns the anchors (B, S, 4), cxcywh relative to the image, zero where unusable; and the mask (B, S, 1), bool. B is
    1 without padding. Anchors at the border are unusable, and those of padding too: they are beyond 1. The arithmetic
    is in fp32, as in upstream.
    """
    anchors = []
    for level, shape in enumerate(memory.shapes):
        sides = (torch.arange(side, dtype=torch.float32, device=memory.tokens.device) for side in shape)
        y, x = torch.meshgrid(*sides, indexing="ij")
        grid = torch.stack([x, y], dim=-1).reshape(1, -1, 2)
        if memory.extents is None:
            # Filled on the device: a tensor made from Python numbers would make the host wait.
            extent = torch.cat([grid.new_full((1, 1), side) for side in reversed(shape)], dim=1)
        else:
            extent = memory.extents[:, level]
        centre = (grid + 0.5) / extent[:, None]
        anchors.append(torch.cat([centre, torch.full_like(centre, ANCHOR_SIZE * 2.0**level)], dim=-1))
    anchor = torch.cat(anchors, dim=1)
    unusable = ~((anchor > MARGIN) & (anchor < 1 - MARGIN)).all(dim=-1, keepdim=True)
    return anchor.masked_fill(unusable, 0).to(memory.tokens.dtype), unusable


def grouped_linear(rows: Tensor, layers: list[nn.Linear]) -> Tensor:
    """Apply each group's linear layer to its rows: (G, N, in) to (G, N, out), in one batched product."""
    weight = torch.stack([layer.weight for layer in layers])
    bias = torch.stack([layer.bias for layer in layers])
    return torch.baddbmm(bias[:, None], rows, weight.transpose(1, 2))


def grouped_norm(rows: Tensor, layers: list[nn.LayerNorm]) -> Tensor:
    """Apply each group's layer norm to its rows (G, N, C)."""
    normal = F.layer_norm(rows, layers[0].normalized_shape, eps=layers[0].eps)
    weight = torch.stack([layer.weight for layer in layers])
    bias = torch.stack([layer.bias for layer in layers])
    return torch.addcmul(bias[:, None], normal, weight[:, None])


def grouped_mlp(rows: Tensor, mlps: list[MLP]) -> Tensor:
    """Apply each group's MLP to its rows: (G, N, in) to (G, N, out)."""
    for number, layers in enumerate(zip(*(mlp.layers for mlp in mlps), strict=True)):
        rows = grouped_linear(rows.relu() if number else rows, [cast(nn.Linear, layer) for layer in layers])
    return rows


def _swap(rows: Tensor, parts: int) -> Tensor:
    """Reorder (B, G*k, C) to (G, B*k, C), with parts = G; or back, with parts = B."""
    return rows.reshape(rows.shape[0], parts, -1, rows.shape[-1]).transpose(0, 1).flatten(1, 2)
