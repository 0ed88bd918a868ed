"""The mask head: a mask is the product of a map of pixel features and a vector of the query.

The pixel features are refined once per decoder layer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rfdetr_core.ops.sampling import resize_maps
from rfdetr_core.ops.structures import MaskFactors


class SegmentationHead(nn.Module):
    """Computes mask logits from the projector's first map and the decoder's states.

    Args:
        width: C, of maps and states.
        blocks: as many as decoder layers.
        downsample_ratio: side of the image divided by the side of its masks.
    """

    def __init__(self, width: int, *, blocks: int, downsample_ratio: int) -> None:
        super().__init__()
        self.downsample_ratio = downsample_ratio
        self.blocks = nn.ModuleList(PixelBlock(width) for _ in range(blocks))
        self.pixel_projection = nn.Conv2d(width, width, kernel_size=1)
        self.query_block = QueryBlock(width)
        self.query_projection = nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros(1))

    def pixels(self, features: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Resize the projector's first map (B, C, h, w) to the size of the masks."""
        height, width = (side // self.downsample_ratio for side in image_size)
        return resize_maps(features, (height, width))

    def forward(self, pixels: Tensor, states: list[Tensor]) -> list[MaskFactors]:
        """Masks of each decoder state (B, Q, C). State i uses the pixels after i + 1 blocks."""
        masks = []
        for block, state in zip(self.blocks, states, strict=True):
            pixels = block(pixels)
            masks.append(self.factors(pixels, state))
        return masks

    def factors(self, pixels: Tensor, queries: Tensor) -> MaskFactors:
        """Masks of queries (B, Q, C) on pixels (B, C, h, w). No `PixelBlock` is applied here.

        `forward` calls this with the pixels after each block. For the proposals, the detector calls it with the
        pixels before all blocks.
        """
        return MaskFactors(self.pixel_projection(pixels), self.query_projection(self.query_block(queries)), self.bias)


class PixelBlock(nn.Module):
    """Depthwise 3x3 convolution, norm, pointwise layer and GELU, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, kernel_size=3, padding=1, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pointwise = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, h, w) to the same shape."""
        rows = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + F.gelu(self.pointwise(rows)).permute(0, 3, 1, 2)


class QueryBlock(nn.Module):
    """Norm and MLP, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, Q, C) to the same shape."""
        return x + self.contract(F.gelu(self.expand(self.norm(x))))  # type: ignore[no-any-return]
