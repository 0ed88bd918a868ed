from __future__ import annotations

import torch

from rfdetr_core.model.segmentation import SegmentationHead
from rfdetr_core.ops.structures import MaskFactors


def test_factors_multiply_to_the_dense_masks() -> None:
    pixels, queries, bias = torch.rand(2, 3, 4, 5), torch.rand(2, 6, 3), torch.rand(1)
    dense = MaskFactors(pixels, queries, bias).dense()
    expected = (queries[:, :, :, None, None] * pixels[:, None]).sum(dim=2) + bias
    torch.testing.assert_close(dense, expected)


def test_blocks_add_up_over_the_layers() -> None:
    torch.manual_seed(0)
    head = SegmentationHead(8, blocks=3, downsample_ratio=4).eval()
    pixels = head.pixels(torch.rand(1, 8, 4, 4), (32, 24))
    assert pixels.shape == (1, 8, 8, 6)
    states = [torch.rand(1, 5, 8) for _ in range(3)]
    masks = head(pixels, states)
    for block, state, mask in zip(head.blocks, states, masks, strict=True):
        pixels = block(pixels)
        torch.testing.assert_close(mask.dense(), head.factors(pixels, state).dense())
