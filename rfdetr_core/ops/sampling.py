"""Bilinear sampling and resizing of maps, with deterministic gradients on every device.

On accelerators, torch's own kernels add up gradients in any order. `torch.use_deterministic_algorithms` forbids these
kernels. If it is set, this module gathers samples, sums their gradients by matrix products, and resizes maps by two
matrix products.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_SPREAD_BYTES = 2**28  # the temporary memory of _gradient_of_maps(), in bytes
Kernel = Literal["bilinear", "bicubic"]


def sample_maps(maps: Tensor, grid: Tensor, *, border: bool = False) -> Tensor:
    """Sample maps bilinearly: (N, C, P, Q), in the wider precision of `maps` and `grid`.

    Args:
        maps: (N, C, h, w).
        grid: (N, P, Q, 2): x and y from -1 to 1, from edge to edge.
        border: Beyond the edges, use the nearest value; by default zero.
    """
    if _forbidden_on(maps.device):
        return gather_samples(maps, grid, border=border)
    return F.grid_sample(maps, grid, padding_mode="border" if border else "zeros", align_corners=False)


def resize_maps(maps: Tensor, size: tuple[int, int], *, kernel: Kernel = "bilinear", antialias: bool = False) -> Tensor:
    """Resize maps from edge to edge.

    Args:
        maps: (N, C, h, w).
        size: (height, width) of the result.
        kernel: The interpolation.
        antialias: See F.interpolate.
    """
    if _forbidden_on(maps.device):
        return multiply_to_size(maps, size, kernel=kernel, antialias=antialias)
    return F.interpolate(maps, size, mode=kernel, align_corners=False, antialias=antialias)


def gather_samples(maps: Tensor, grid: Tensor, *, border: bool = False) -> Tensor:
    """Compute `sample_maps` from the four neighbours of each place and their bilinear weights.

    Args:
        maps: See `sample_maps`.
        grid: See `sample_maps`.
        border: See `sample_maps`.
    """
    dtype = torch.promote_types(maps.dtype, grid.dtype)
    x, y = (((grid[..., axis].to(dtype) + 1) * maps.shape[3 - axis] - 1) / 2 for axis in (0, 1))
    if border:
        x, y = x.clamp(0, maps.shape[3] - 1), y.clamp(0, maps.shape[2] - 1)
    return _Gathered.apply(maps.to(dtype), x, y)  # type: ignore[no-any-return]


class _Gathered(torch.autograd.Function):
    """Samples (N, C, P, Q) of maps (N, C, h, w) at x and y (N, P, Q) in pixels.

    The neighbours are gathered again in the backward pass. To keep them would take four times the memory of the result.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(maps, x, y)
        left, top = x.floor(), y.floor()
        weights = ((left + 1 - x) * (top + 1 - y), (x - left) * (top + 1 - y), (left + 1 - x) * (y - top))
        total: Any = 0
        for (values, inside), weight in zip(
            _neighbours(maps, left, top), (*weights, (x - left) * (y - top)), strict=True
        ):
            total = total + values * torch.where(inside, weight, 0)[..., None]
        return total.permute(0, 3, 1, 2)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        maps, x, y = ctx.saved_tensors
        maps_gradient = _gradient_of_maps(outer[0], x, y, maps.shape) if ctx.needs_input_grad[0] else None
        if not (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
            return maps_gradient, None, None
        left, top = x.floor(), y.floor()
        rows = outer[0].permute(0, 2, 3, 1)  # (N, P, Q, C)
        # The derivative of the result with respect to each neighbour's weight.
        upper_left, upper_right, lower_left, lower_right = (
            torch.where(inside, (values * rows).sum(-1), 0) for values, inside in _neighbours(maps, left, top)
        )
        x_gradient = (upper_right - upper_left) * (top + 1 - y) + (lower_right - lower_left) * (y - top)
        y_gradient = (lower_left - upper_left) * (left + 1 - x) + (lower_right - upper_right) * (x - left)
        return maps_gradient, x_gradient, y_gradient


def _neighbours(maps: Tensor, left: Tensor, top: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the values (N, P, Q, C) at upper left, upper right, lower left and lower right.

    Each comes with a mask (N, P, Q): True inside the map.
    """
    count, channels, height, width = maps.shape
    rows = maps.flatten(2).transpose(1, 2).reshape(-1, channels)  # (N * h * w, C)
    first = torch.arange(count, device=maps.device)[:, None, None] * (height * width)
    for row in (top, top + 1):
        for column in (left, left + 1):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            # Clamped as integers, so that even an infinite coordinate gives an index inside the map.
            index = first + row.long().clamp(0, height - 1) * width + column.long().clamp(0, width - 1)
            yield rows.index_select(0, index.flatten()).view(*left.shape, channels), inside


def _gradient_of_maps(samples_gradient: Tensor, x: Tensor, y: Tensor, shape: torch.Size) -> Tensor:
    """Compute the gradient of the maps (N, C, h, w) from that of the samples.

    A pixel's weight in a sample is (1 - |x - column|) (1 - |y - row|), if both factors are above zero. So the sum over
    the samples is a matrix product. It is deterministic, while a deterministic index_add would have to sort all
    samples.
    """
    channels, height, width = shape[1:]
    places = samples_gradient.flatten(2)  # (N, C, K)
    columns, rows = (torch.arange(side, dtype=x.dtype, device=x.device)[:, None] for side in (width, height))
    chunk = max(1, _SPREAD_BYTES // max(1, channels * height * places.shape[2] * places.element_size()))
    parts = []
    with torch.autocast(samples_gradient.device.type, enabled=False):
        for values, across, down in zip(
            *(torch.split(tensor, chunk) for tensor in (places, x.flatten(1)[:, None], y.flatten(1)[:, None])),
            strict=True,
        ):
            weight_x, weight_y = (
                torch.where(weight > 0, weight, 0) for weight in (1 - (across - columns).abs(), 1 - (down - rows).abs())
            )  # (n, w, K), (n, h, K)
            weighted = (values[:, :, None] * weight_y[:, None]).flatten(1, 2)  # (n, C * h, K)
            parts.append((weighted @ weight_x.transpose(1, 2)).view(-1, channels, height, width))
    return torch.cat(parts)


def multiply_to_size(
    maps: Tensor, size: tuple[int, int], *, kernel: Kernel = "bilinear", antialias: bool = False
) -> Tensor:
    """Compute `resize_maps` by two matrix products. The matrices are torch's resize applied to identity matrices.

    Args:
        maps: See `resize_maps`.
        size: See `resize_maps`.
        kernel: See `resize_maps`.
        antialias: See `resize_maps`.
    """
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
