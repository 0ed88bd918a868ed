from __future__ import annotations

import math

import pytest
import torch

from rfdetr_core.model.decoder import Decoder, encode_boxes
from rfdetr_core.model.deformable import Memory


@pytest.fixture
def decoder() -> Decoder:
    torch.manual_seed(0)
    numbers = {"layers": 2, "self_heads": 2, "cross_heads": 4, "levels": 1, "points": 2, "feedforward_width": 24}
    return Decoder(16, **numbers).double()


def test_groups_never_see_each_other(decoder: Decoder) -> None:
    memory = Memory(torch.randn(2, 20, 16, dtype=torch.float64), ((4, 5),))
    queries, boxes = torch.randn(2, 12, 16, dtype=torch.float64), torch.rand(2, 12, 4, dtype=torch.float64)
    together = decoder(queries, boxes, memory, 3)
    for group in range(3):
        own = slice(4 * group, 4 * group + 4)
        for alone, among in zip(decoder(queries[:, own], boxes[:, own], memory, 1), together, strict=True):
            torch.testing.assert_close(alone, among[:, own])


def test_padding_is_never_read(decoder: Decoder) -> None:
    tokens = torch.randn(1, 20, 16, dtype=torch.float64)
    padding = torch.zeros(1, 4, 5, dtype=torch.bool)
    padding[:, :, 3:] = True
    extents = torch.tensor([[[3.0, 4.0]]])
    queries, boxes = torch.randn(1, 6, 16, dtype=torch.float64), torch.rand(1, 6, 4, dtype=torch.float64)
    changed = tokens + 5 * padding.reshape(1, 20, 1)
    answers = [
        decoder(queries, boxes, Memory(tokens_in, ((4, 5),), padding.flatten(1), extents), 1)[-1]
        for tokens_in in (tokens, changed)
    ]
    torch.testing.assert_close(*answers)


def test_queries_follow_a_permutation(decoder: Decoder) -> None:
    memory = Memory(torch.randn(1, 20, 16, dtype=torch.float64), ((4, 5),))
    queries, boxes = torch.randn(1, 9, 16, dtype=torch.float64), torch.rand(1, 9, 4, dtype=torch.float64)
    order = torch.randperm(9)
    expected = decoder(queries, boxes, memory, 1)[-1][:, order]
    torch.testing.assert_close(decoder(queries[:, order], boxes[:, order], memory, 1)[-1], expected)


def test_box_codes_follow_the_formula() -> None:
    box = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    code = encode_boxes(box, 4)[0].tolist()
    expected = []
    for coordinate in (0.2, 0.1, 0.3, 0.4):  # y before x
        angle = 2 * math.pi * coordinate
        expected += [math.sin(angle), math.cos(angle), math.sin(angle / 100), math.cos(angle / 100)]
    torch.testing.assert_close(torch.tensor(code), torch.tensor(expected))
