from __future__ import annotations

import math

import torch

from rfdetr_core.model.deformable import DeformableAttention, Memory, sample


def test_sampling_a_ramp_gives_the_location() -> None:
    height, width = 5, 8
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    values = torch.stack([(x + 0.5) / width, (y + 0.5) / height], dim=-1).reshape(1, -1, 1, 2).double()
    places = torch.rand(1, 9, 1, 1, 1, 2, dtype=torch.float64) * 0.7 + 0.15
    samples = sample(values, ((height, width),), places, torch.ones(1, 9, 1, 1, 1, dtype=torch.float64))
    torch.testing.assert_close(samples, places.reshape(1, 9, 2))


def test_samples_outside_of_the_map_are_zero() -> None:
    places = torch.tensor([[-0.5, 0.5], [0.5, 1.7]]).reshape(1, 2, 1, 1, 1, 2)
    assert sample(torch.ones(1, 12, 1, 3), ((3, 4),), places, torch.ones(1, 2, 1, 1, 1)).equal(torch.zeros(1, 2, 3))


def test_levels_and_points_add_up_by_weight() -> None:
    values = torch.cat([torch.full((1, 6, 1, 1), 1.0), torch.full((1, 4, 1, 1), 10.0)], dim=1)
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4]).reshape(1, 1, 1, 2, 2)
    samples = sample(values, ((2, 3), (2, 2)), torch.full((1, 1, 1, 2, 2, 2), 0.5), weights)
    torch.testing.assert_close(samples, torch.full((1, 1, 1), 0.3 * 1 + 0.7 * 10))


def test_initially_each_head_has_its_direction_and_equal_weights() -> None:
    attention = DeformableAttention(16, heads=4, levels=2, points=3)
    queries, memory = torch.rand(1, 5, 16), Memory(torch.rand(1, 20, 16), ((4, 4), (2, 2)))
    pattern = attention.offsets(queries)[0, 0].reshape(4, 2, 3, 2)
    for head, (x, y) in enumerate([(1, 0), (0, 1), (-1, 0), (0, -1)]):
        for point in range(3):
            expected = torch.tensor([[x, y]] * 2) * (point + 1.0)
            torch.testing.assert_close(pattern[head, :, point], expected, rtol=0, atol=1e-6)
    boxes = torch.tensor([0.5, 0.5, 1e-9, 1e-9]).expand(1, 5, 1, 4)
    answers = attention(queries, boxes, memory)
    torch.testing.assert_close(answers, answers[:, :1].expand_as(answers))
    assert math.isfinite(answers.sum().item())
