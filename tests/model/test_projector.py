from __future__ import annotations

import pytest
import torch

from rfdetr_core.model.projector import ChannelNorm, Projector


@pytest.mark.parametrize(("scale", "size"), [("P3", (12, 20)), ("P4", (6, 10)), ("P5", (3, 5))])
def test_a_level_resamples_by_its_scale(scale: str, size: tuple[int, int]) -> None:
    (level,) = Projector(features=2, inward=8, outward=6, scales=(scale,))([torch.rand(2, 8, 6, 10)] * 2)
    assert level.shape == (2, 6, *size)


def test_an_unknown_scale_is_named() -> None:
    with pytest.raises(ValueError, match="P6"):
        Projector(features=2, inward=8, outward=6, scales=("P6",))


def test_channel_norm_is_layer_norm_over_channels() -> None:
    x = torch.rand(2, 5, 3, 4, dtype=torch.float64)
    normed = ChannelNorm(5).double()(x)
    expected = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-6).sqrt()
    torch.testing.assert_close(normed, expected)
