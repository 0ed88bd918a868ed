from __future__ import annotations

import pytest
import torch

from rfdetr_core.model.vit import join_windows, split_windows


@pytest.mark.parametrize("windows", [1, 2, 3])
def test_joining_undoes_splitting(windows: int) -> None:
    grid = torch.rand(2, 6, 12, 5)
    assert join_windows(split_windows(grid, windows), windows, 6, 12).equal(grid)


def test_windows_are_rectangles_row_by_row() -> None:
    grid = torch.rand(2, 4, 6, 1)
    tokens = split_windows(grid, 2).reshape(2, 2, 2, 2, 3)
    for row in range(2):
        for column in range(2):
            rectangle = grid[:, 2 * row : 2 * row + 2, 3 * column : 3 * column + 3, 0]
            assert tokens[:, row, column].equal(rectangle)
