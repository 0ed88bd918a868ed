"""Multi-scale deformable attention (Deformable DETR): each query reads the memory at a few learned points."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rfdetr_core.ops.sampling import sample_maps


class DeformableAttention(nn.Module):
    """Each query reads a few samples of the memory, relative to its box, weighted by a softmax over all samples.

    Args:
        width: C, of queries and memory.
        heads: each reads C / heads channels.
        levels: of the memory.
        points: samples per head and level.
    """

    def __init__(self, width: int, *, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(width, heads * levels * points * 2)
        self.weights = nn.Linear(width, heads * levels * points)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.initialise()

    def initialise(self) -> None:
        """Initialise the sampling points: those of head i are 1, 2, ... steps away in direction 2 pi i / heads.

        All points have equal weights.
        """
        for layer in (self.offsets, self.weights):
            nn.init.zeros_(layer.weight)
        for layer in (self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
        for layer in (self.weights, self.value, self.output):
            nn.init.zeros_(layer.bias)
        angles = torch.arange(self.heads, dtype=torch.float32) * (2 * math.pi / self.heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, self.points + 1, dtype=torch.float32)
        pattern = directions[:, None, None, :] * steps[:, None]  # (heads, 1, points, 2)
        with torch.no_grad():
            self.offsets.bias.copy_(pattern.expand(-1, self.levels, -1, -1).flatten())

    def forward(self, queries: Tensor, boxes: Tensor, memory: Memory) -> Tensor:
        """The weighted samples (B, Q, C).

        Args:
            queries: (B, Q, C).
            boxes: of the queries per level, (B, Q, levels or 1, 4) cxcywh.
            memory: the tokens that the queries read.
        """
        per_level = (self.heads, self.levels, self.points)
        values = self.value(memory.tokens)
        if memory.padding is not None:
            values = values.masked_fill(memory.padding[..., None], 0)
        values = values.unflatten(-1, (self.heads, -1))  # (B, S, heads, C / heads)
        weights = self.weights(queries).unflatten(-1, (self.heads, -1)).softmax(dim=-1)
        weights = weights.unflatten(-1, per_level[1:])  # (B, Q, heads, levels, points)
        offsets = self.offsets(queries).unflatten(-1, (*per_level, 2))
        boxes = boxes[:, :, None, :, None]  # (B, Q, 1, levels or 1, 1, 4)
        locations = boxes[..., :2] + offsets / self.points * boxes[..., 2:] * 0.5
        return self.output(sample(values, memory.shapes, locations, weights))  # type: ignore[no-any-return]


def sample(values: Tensor, shapes: tuple[tuple[int, int], ...], locations: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum (B, Q, heads * c) of bilinear samples. Samples outside of the map are zero.

    Args:
        values: (B, S, heads, c), level by level.
        shapes: (height, width) of each level.
        locations: (B, Q, heads, levels, points, 2), x and y in 0..1.
        weights: (B, Q, heads, levels, points).
    """
    batch, queries = locations.shape[:2]
    maps = values.permute(0, 2, 3, 1).flatten(0, 1)  # (B * heads, c, S)
    # Queries are the last axis, so the sum over points adds contiguous rows.
    grids = (2 * locations - 1).permute(0, 2, 3, 4, 1, 5).flatten(0, 1)  # (B * heads, levels, points, Q, 2)
    weights = weights.permute(0, 2, 3, 4, 1).flatten(0, 1)[:, None]  # (B * heads, 1, levels, points, Q)
    levels, start = [], 0
    for level, (height, width) in enumerate(shapes):
        level_map = maps[:, :, start : start + height * width].reshape(*maps.shape[:2], height, width)
        levels.append((sample_maps(level_map, grids[:, level]) * weights[:, :, level]).sum(dim=2))  # (B * heads, c, Q)
        start += height * width
    return sum(levels[1:], levels[0]).reshape(batch, -1, queries).transpose(1, 2)


@dataclass(frozen=True)
class Memory:
    """The tokens of all levels, level by level, each level row by row.

    tokens: (B, S, C). shapes: (height, width) of each level. padding: (B, S) bool, True outside of the image, or None.
    extents: (B, L, 2) float32, width and height of the image in each level in tokens; None without padding.
    """

    tokens: Tensor
    shapes: tuple[tuple[int, int], ...]
    padding: Tensor | None = None
    extents: Tensor | None = None

    def valid_ratios(self) -> Tensor | None:
        """Width and height of the image divided by those of the padded level, (B, L, 2). None without padding."""
        if self.extents is None:
            return None
        # Filled on the device: a tensor made from Python numbers would make the host wait.
        sides = [self.extents.new_full((), side) for height, width in self.shapes for side in (width, height)]
        return (self.extents / torch.stack(sides).view(-1, 2)).to(self.tokens.dtype)


def flatten_maps(maps: list[Tensor], padding: Tensor | None) -> Memory:
    """Join the maps (B, C, h, w) of the levels to one memory. padding: of the images, (B, H, W) bool, or None."""
    tokens = torch.cat([level_map.flatten(2).transpose(1, 2) for level_map in maps], dim=1)
    shapes = tuple((level_map.shape[-2], level_map.shape[-1]) for level_map in maps)
    if padding is None:
        return Memory(tokens, shapes)
    masks = [F.interpolate(padding[None].float(), shape)[0].bool() for shape in shapes]  # nearest
    extents = [torch.stack([(~mask[:, 0]).sum(1), (~mask[:, :, 0]).sum(1)], dim=1) for mask in masks]
    outside = torch.cat([mask.flatten(1) for mask in masks], dim=1)
    return Memory(tokens, shapes, outside, torch.stack(extents, dim=1).float())
