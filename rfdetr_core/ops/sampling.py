"""Bilinear samples and resized maps, with gradients that are the same bits again on every device.

On accelerators torch's own kernels add up gradients in any order, so `torch.use_deterministic_algorithms` forbids them
there. Under it, and there alone, samples are gathered (torch then adds up a gather's gradient in a fixed order) and
maps are resized by two matrices.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Kernel = Literal["bilinear", "bicubic"]


def sample_maps(maps: Tensor, grid: Tensor, *, border: bool = False) -> Tensor:
    """Values (N, C, P, Q) of maps (N, C, h, w) at the places (N, P, Q, 2), x and y from -1 to 1, edge to edge.

    Beyond the edges there is zero, or with `border` the nearest value. In the wider of both precisions.
    """
    if _forbidden_on(maps.device):
        return gather_samples(maps, grid, border=border)
    return F.grid_sample(maps, grid, padding_mode="border" if border else "zeros", align_corners=False)


def resize_maps(maps: Tensor, size: tuple[int, int], *, kernel: Kernel = "bilinear", antialias: bool = False) -> Tensor:
    """Maps (N, C, h, w) at another height and width, edge to edge."""
    if _forbidden_on(maps.device):
        return multiply_to_size(maps, size, kernel=kernel, antialias=antialias)
    return F.interpolate(maps, size, mode=kernel, align_corners=False, antialias=antialias)


def gather_samples(maps: Tensor, grid: Tensor, *, border: bool = False) -> Tensor:
    """As `sample_maps`: the four neighbours of each place by index, times their shares."""
    count, channels, height, width = maps.shape
    dtype = torch.promote_types(maps.dtype, grid.dtype)
    rows = maps.to(dtype).flatten(2).transpose(1, 2).reshape(-1, channels)  # (N * h * w, C)
    x, y = (((grid[..., axis].to(dtype) + 1) * side - 1) / 2 for axis, side in enumerate((width, height)))
    if border:
        x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    left, top = x.detach().floor(), y.detach().floor()
    first = torch.arange(count, device=maps.device)[:, None, None] * (height * width)
    total = rows.new_zeros(*x.shape, channels)
    for row, share_y in ((top, top + 1 - y), (top + 1, y - top)):
        for column, share_x in ((left, left + 1 - x), (left + 1, x - left)):
            there = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            # Clamped as integers, so that no infinite place can lead out of the map.
            index = first + row.long().clamp(0, height - 1) * width + column.long().clamp(0, width - 1)
            values = rows.index_select(0, index.flatten()).view(*x.shape, channels)
            total = total + values * torch.where(there, share_x * share_y, 0)[..., None]
    return total.permute(0, 3, 1, 2)


def multiply_to_size(
    maps: Tensor, size: tuple[int, int], *, kernel: Kernel = "bilinear", antialias: bool = False
) -> Tensor:
    """As `resize_maps`: rows and columns times the matrices that torch's kernel makes of the identity."""
    dtype = torch.promote_types(maps.dtype, torch.float32)
    with torch.autocast(maps.device.type, enabled=False):
        identities = (torch.eye(side, dtype=dtype, device=maps.device)[None, :, None] for side in maps.shape[-2:])
        rows, columns = (
            F.interpolate(identity, (1, side), mode=kernel, align_corners=False, antialias=antialias)[0, :, 0]
            for identity, side in zip(identities, size, strict=True)
        )  # (inward, outward)
        return (rows.t() @ maps.to(dtype) @ columns).to(maps.dtype)


def _forbidden_on(device: torch.device) -> bool:
    return device.type != "cpu" and torch.are_deterministic_algorithms_enabled()
