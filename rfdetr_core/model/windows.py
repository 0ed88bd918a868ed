"""Cutting the grid of patches into windows, and joining them again."""

from __future__ import annotations

from torch import Tensor


def split_windows(grid: Tensor, windows: int) -> Tensor:
    """Cut (B, H, W, C) into windows x windows equal rectangles, row by row: (B * windows^2, H * W / windows^2, C)."""
    batch, height, width, channels = grid.shape
    grid = grid.reshape(batch, windows, height // windows, windows, width // windows, channels)
    return grid.transpose(2, 3).reshape(batch * windows**2, -1, channels)


def join_windows(tokens: Tensor, windows: int, height: int, width: int) -> Tensor:
    """Undo `split_windows`: (B * windows^2, height * width / windows^2, C) to (B, height, width, C)."""
    channels = tokens.shape[-1]
    tokens = tokens.reshape(-1, windows, windows, height // windows, width // windows, channels)
    return tokens.transpose(2, 3).reshape(-1, height, width, channels)
