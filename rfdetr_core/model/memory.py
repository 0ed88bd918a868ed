"""What the proposals and the decoder look at: the projector's maps as one row of tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Memory:
    """Tokens of all levels, level by level, each row by row.

    tokens: (B, S, C). shapes: (height, width) of each level. padding: (B, S) bool, True where there is no image, or
    None. extents: (B, L, 2) float32 width and height of the image within each level in tokens, None without padding.
    """

    tokens: Tensor
    shapes: tuple[tuple[int, int], ...]
    padding: Tensor | None = None
    extents: Tensor | None = None

    def valid_ratios(self) -> Tensor | None:
        """(B, L, 2): the part of each level's width and height that is image; None for all of it."""
        if self.extents is None:
            return None
        sizes = self.extents.new_tensor([(width, height) for height, width in self.shapes])
        return (self.extents / sizes).to(self.tokens.dtype)


def flatten_maps(maps: list[Tensor], padding: Tensor | None) -> Memory:
    """Maps (B, C, h, w) of the levels, and the padding (B, H, W) of the images or None, as one memory."""
    tokens = torch.cat([one.flatten(2).transpose(1, 2) for one in maps], dim=1)
    shapes = tuple((one.shape[-2], one.shape[-1]) for one in maps)
    if padding is None:
        return Memory(tokens, shapes)
    masks = [F.interpolate(padding[None].float(), shape)[0].bool() for shape in shapes]  # nearest
    extents = [torch.stack([(~one[:, 0]).sum(1), (~one[:, :, 0]).sum(1)], dim=1) for one in masks]
    return Memory(
        tokens, shapes, torch.cat([one.flatten(1) for one in masks], dim=1), torch.stack(extents, dim=1).float()
    )
