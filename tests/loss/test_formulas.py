from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from rfdetr_core.loss import formulas
from rfdetr_core.loss.formulas import softplus
from rfdetr_core.ops.structures import MaskFactors


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_truth_is_the_nearest_pixel_of_the_named_mask(dtype: torch.dtype) -> None:
    truth = torch.rand(4, 33, 47, generator=generator()) > 0.5
    index = torch.tensor([3, 0, 0, 2, 1])
    points = torch.rand(5, 400, 2, dtype=dtype, generator=generator())
    points[0, :4] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.5, 0.5]])
    grid = 2 * points[:, :, None] - 1
    images = truth[index][:, None].to(dtype)
    expected = F.grid_sample(images, grid, mode="nearest", padding_mode="border", align_corners=False)[:, 0, :, 0]
    assert formulas.sample_truth(truth, index, points).equal(expected)


def test_factors_and_dense_masks_give_the_same_samples() -> None:
    factors = MaskFactors(
        torch.randn(2, 5, 9, 8, dtype=torch.float64), torch.randn(2, 7, 5, dtype=torch.float64), torch.ones(1)
    )
    points = torch.rand(1, 30, 2, dtype=torch.float64)
    torch.testing.assert_close(formulas.sample_all(factors, points), formulas.sample_all(factors.dense(), points))
    images, queries = torch.tensor([0, 1, 1]), torch.tensor([2, 0, 6])
    factored = formulas.matched_logits(factors, images, queries, [1, 2])
    torch.testing.assert_close(factored, formulas.matched_logits(factors.dense(), images, queries, [1, 2]))


def test_pairwise_losses_are_the_losses_of_every_pair() -> None:
    logits = torch.randn(2, 6, 40, dtype=torch.float64)
    truth = (torch.rand(2, 3, 40) > 0.5).double()
    entropy, dice = formulas.pairwise_losses(logits, truth)
    for image, query, number in [(0, 0, 0), (1, 5, 2), (0, 3, 1)]:
        logit_row, truth_row = logits[image, query], truth[image, number]
        assert entropy[image, number, query].item() == pytest.approx(
            F.binary_cross_entropy_with_logits(logit_row, truth_row)
        )
        shared = (logit_row.sigmoid() * truth_row).sum()
        expected = 1 - (2 * shared + 1) / (logit_row.sigmoid().sum() + truth_row.sum() + 1)
        assert dice[image, number, query].item() == pytest.approx(expected)


def test_three_quarters_of_the_points_are_the_least_certain() -> None:
    # The logit is the distance of x from the middle, so the least certain points are those near it.
    logits = (torch.arange(64.0) - 31.5).expand(2, 1, 64, 64)
    points = formulas.uncertain_points(logits, 100, generator())
    assert points.shape == (2, 100, 2)
    candidates = formulas.random_points(2, 300, torch.float32, generator())
    nearest = (candidates[..., 0] - 0.5).abs().sort(dim=1).values[:, :75]
    torch.testing.assert_close((points[:, :75, 0] - 0.5).abs().sort(dim=1).values, nearest)
    assert ((points >= 0) & (points <= 1)).all()


def test_softplus_holds_everywhere() -> None:
    for dtype in (torch.float32, torch.float64):
        values = torch.linspace(-120, 120, 4001, dtype=dtype)
        torch.testing.assert_close(softplus(values), F.softplus(values.double(), threshold=1000).to(dtype))
        special = torch.tensor([torch.inf, -torch.inf, torch.nan, 1e30], dtype=dtype)
        assert softplus(special).nan_to_num(nan=-1.0, posinf=-2.0).tolist() == pytest.approx([-2, 0, -1, 1e30])
