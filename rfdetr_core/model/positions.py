"""Where things are: the encoder's grid of learned positions, and the sine code of the decoder's boxes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rfdetr_core.sampling import resize_maps


def resize_positions(positions: Tensor, height: int, width: int) -> Tensor:
    """Resample the patch positions of (1, 1 + grid^2, C) to a grid of height x width; the first row, cls, stays.

    Bicubic, antialiased, in fp32, as DINOv2's `interpolate_pos_encoding`. Returns (1, 1 + height * width, C).
    """
    side = math.isqrt(positions.shape[1] - 1)
    if (height, width) == (side, side):
        return positions
    grid = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)  # (1, C, side, side)
    grid = resize_maps(grid.float(), (height, width), kernel="bicubic", antialias=True)
    patches = grid.to(positions.dtype).flatten(2).transpose(1, 2)  # (1, height * width, C)
    return torch.cat([positions[:, :1], patches], dim=1)


def encode_boxes(boxes: Tensor, width: int) -> Tensor:
    """Sine code (..., 4 * width) of (..., 4) cxcywh boxes: y, x, w, h one after the other, sine and cosine in turn.

    Scale 2 pi, temperature 10000: Conditional DETR's `gen_sineembed_for_position`.
    """
    index = torch.arange(width, dtype=boxes.dtype, device=boxes.device)
    periods = 10000 ** (2 * (index // 2) / width)
    x, y, *size = boxes.unbind(-1)
    angles = torch.stack([y, x, *size], dim=-1)[..., None] * (2 * math.pi) / periods  # (..., 4, width)
    return torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], dim=-1).flatten(-3)
