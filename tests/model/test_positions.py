from __future__ import annotations

import torch

from rfdetr_core.model.vit import resize_positions


def test_a_grid_of_the_same_size_is_not_resized() -> None:
    positions = torch.rand(1, 17, 3)
    assert resize_positions(positions, 4, 4) is positions


def test_resizing_keeps_cls_and_constant_positions() -> None:
    positions = torch.cat([torch.rand(1, 1, 3), torch.rand(1, 1, 3).expand(1, 16, 3)], dim=1)
    resized = resize_positions(positions, 6, 2)
    assert resized.shape == (1, 13, 3)
    assert resized[:, 0].equal(positions[:, 0])
    torch.testing.assert_close(resized[:, 1:], positions[:, 1:2].expand(1, 12, 3))


def test_resizing_keeps_the_orientation() -> None:
    rows = torch.arange(4.0).repeat_interleave(4)  # the value of a patch is its row
    positions = torch.cat([torch.zeros(1), rows]).reshape(1, 17, 1)
    resized = resize_positions(positions, 8, 4)[0, 1:, 0].reshape(8, 4)
    assert (resized.diff(dim=0) > 0).all()
    torch.testing.assert_close(resized.diff(dim=1), torch.zeros(8, 3))
