"""The encoder: DINOv2's vision transformer, where most blocks attend only within windows."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rfdetr_core.model.layers import attend, gelu_linear, norm_linear
from rfdetr_core.ops.sampling import resize_maps

NORM_EPSILON = 1e-6


class VisionTransformer(nn.Module):
    """Maps images (B, channels, H, W) to one map (B, width, H / patch_size, W / patch_size) per feature index.

    Feature N is the normalised hidden state after N blocks. Blocks after the last feature, and the mask token, exist
    because DINOv2's weights have them, but they are frozen and never run.

    Args:
        channels, patch_size, width, blocks, heads, mlp_ratio, windows, position_grid, feature_indexes: see
        `Architecture`.
        drop_path: rate of stochastic depth in the last block. It rises linearly from 0 in the first block.
        gradient_checkpointing: recompute activations in the backward pass.
    """

    def __init__(
        self,
        *,
        channels: int,
        patch_size: int,
        width: int,
        blocks: int,
        heads: int,
        mlp_ratio: int,
        windows: int,
        position_grid: int,
        feature_indexes: tuple[int, ...],
        drop_path: float = 0.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.windows = windows
        self.stride = patch_size * windows
        self.feature_indexes = feature_indexes
        self.gradient_checkpointing = gradient_checkpointing
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width), requires_grad=False)
        self.position_embeddings = nn.Parameter(torch.empty(1, 1 + position_grid**2, width))
        self.patch_projection = nn.Conv2d(channels, width, patch_size, stride=patch_size)
        self.blocks = nn.ModuleList(
            Block(
                width,
                heads,
                mlp_ratio,
                # Block `index`, counted from 0, has global attention if `index` is in `feature_indexes`, although
                # `feature_indexes` counts blocks from 1. The published weights were trained in this way.
                windows_seen=windows**2 if index in feature_indexes else 1,
                drop_path=drop_path * index / max(blocks - 1, 1),
            )
            for index in range(blocks)
        )
        self.norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self._initialise()
        self.blocks[feature_indexes[-1] :].requires_grad_(False)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.position_embeddings, std=0.02)
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps of the feature indexes, in order, in channels-last memory.

        Raises:
            ValueError: a side is not divisible by patch_size x windows.
        """
        if images.shape[-2] % self.stride or images.shape[-1] % self.stride:
            raise ValueError(
                f"the images have {tuple(images.shape[-2:])} pixels, but both sides must be divisible by {self.stride}"
            )
        patches = self.patch_projection(images).permute(0, 2, 3, 1)  # (B, H, W, C)
        height, width = patches.shape[1:3]
        positions = resize_positions(self.position_embeddings, height, width)
        tokens = split_windows(patches + positions[:, 1:].reshape(1, height, width, -1), self.windows)
        cls = (self.cls_token + positions[:, :1]).expand(tokens.shape[0], -1, -1)
        x = torch.cat([cls, tokens], dim=1)  # (B * windows^2, 1 + H * W / windows^2, C)
        recompute = self.gradient_checkpointing and self.training
        maps = []
        for index in range(self.feature_indexes[-1] + 1):
            if index in self.feature_indexes:
                maps.append(join_windows(self.norm(x[:, 1:]), self.windows, height, width).permute(0, 3, 1, 2))
            if index < self.feature_indexes[-1]:
                block = self.blocks[index]
                x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
        return maps


class Block(nn.Module):
    """Attention and MLP. Each has a norm before it, is scaled per channel, and is added to its input.

    Args:
        width, heads, mlp_ratio: see `Architecture`.
        windows_seen: number of windows that are joined, with their cls tokens, to one sequence for the attention.
        drop_path: rate of stochastic depth.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: int, *, windows_seen: int, drop_path: float) -> None:
        super().__init__()
        self.windows_seen = windows_seen
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.attention = Attention(width, heads)
        self.scale1 = nn.Parameter(torch.ones(width))
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.expand = nn.Linear(width, mlp_ratio * width)
        self.contract = nn.Linear(mlp_ratio * width, width)
        self.scale2 = nn.Parameter(torch.ones(width))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (windows of all images, tokens of a window, C) to the same shape."""
        sequences = x.reshape(x.shape[0] // self.windows_seen, -1, x.shape[-1])
        x = x + self.drop_path(self.attention(sequences, self.norm1, self.scale1).view_as(x))
        hidden = norm_linear(x, self.norm2, self.expand.weight, self.expand.bias)
        return x + self.drop_path(gelu_linear(hidden, *scaled(self.contract, self.scale2)))  # type: ignore[no-any-return]


def scaled(layer: nn.Linear, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of a linear layer, multiplied by a scale per output channel.

    If the outputs were scaled instead, autograd would keep them for the gradient of the scale.
    """
    return layer.weight * scale[:, None], layer.bias * scale


class Attention(nn.Module):
    """Norm, then multi-head self-attention within each sequence. The outputs are scaled per channel."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, norm: nn.LayerNorm, scale: Tensor) -> Tensor:
        """The scaled outputs (N, L, C).

        Args:
            x: N sequences, (N, L, C).
            norm: applied to x.
            scale: of each output channel, (C,).
        """
        layers = (self.query, self.key, self.value)
        weight, bias = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
        projected = norm_linear(x, norm, weight, bias).view(*x.shape[:2], 3, self.heads, -1)
        query, key, value = projected.permute(2, 0, 3, 1, 4)  # (N, heads, L, C / heads)
        attended = attend(query, key, value).transpose(1, 2).flatten(2)
        return F.linear(attended, *scaled(self.output, scale))


class DropPath(nn.Module):
    """Stochastic depth: in training, set each row of the batch to 0 with probability `rate`, and scale up the rest."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, L, C) to the same shape."""
        if self.rate == 0 or not self.training:
            return x
        kept = torch.rand(len(x), 1, 1, dtype=x.dtype, device=x.device) >= self.rate
        return x / (1 - self.rate) * kept


def split_windows(grid: Tensor, windows: int) -> Tensor:
    """Split (B, H, W, C) into windows x windows rectangles, row by row: (B * windows^2, H * W / windows^2, C)."""
    batch, height, width, channels = grid.shape
    grid = grid.reshape(batch, windows, height // windows, windows, width // windows, channels)
    return grid.transpose(2, 3).reshape(batch * windows**2, -1, channels)


def join_windows(tokens: Tensor, windows: int, height: int, width: int) -> Tensor:
    """Undo `split_windows`: (B * windows^2, height * width / windows^2, C) to (B, height, width, C).

    Args:
        tokens: of the windows.
        windows: per side.
        height, width: of the whole grid in tokens.
    """
    channels = tokens.shape[-1]
    tokens = tokens.reshape(-1, windows, windows, height // windows, width // windows, channels)
    return tokens.transpose(2, 3).reshape(-1, height, width, channels)


def resize_positions(positions: Tensor, height: int, width: int) -> Tensor:
    """Resize the patch positions of (1, 1 + grid^2, C) to a grid of height x width. The first row, cls, stays.

    Bicubic, antialiased, in fp32, as DINOv2's `interpolate_pos_encoding`.

    Args:
        positions: (1, 1 + grid^2, C).
        height, width: of the new grid in tokens.

    Returns:
        (1, 1 + height * width, C).
    """
    side = math.isqrt(positions.shape[1] - 1)
    if (height, width) == (side, side):
        return positions
    grid = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)  # (1, C, side, side)
    grid = resize_maps(grid.float(), (height, width), kernel="bicubic", antialias=True)
    patches = grid.to(positions.dtype).flatten(2).transpose(1, 2)  # (1, height * width, C)
    return torch.cat([positions[:, :1], patches], dim=1)
