from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rfdetr_core.model.deformable import Memory, flatten_maps
from rfdetr_core.model.layers import MLP
from rfdetr_core.model.proposals import Proposer, grouped_linear, grouped_mlp, grouped_norm, make_anchors


@pytest.fixture
def proposer() -> Proposer:
    torch.manual_seed(0)
    return Proposer(8, nn.Linear(8, 5), MLP(8, 8, 8, 4), groups=3, limit=6).double()


def memory(**changes: torch.Tensor) -> Memory:
    return Memory(torch.randn(2, 20, 8, dtype=torch.float64), ((4, 5),), **changes)


def test_proposals_are_the_best_tokens_best_first(proposer: Proposer) -> None:
    tokens = memory()
    proposals = proposer(tokens, 3)
    assert proposals.features.shape == (2, 18, 8)
    for group in range(3):
        best = proposals.logits[:, 6 * group : 6 * group + 6].amax(dim=-1)
        every = proposer.groups[group].scores(tokens.tokens)
        torch.testing.assert_close(best, every.sort(descending=True).values[:, :6])


def test_fewer_groups_give_the_same_proposals(proposer: Proposer) -> None:
    tokens = memory()
    alone, among = proposer(tokens, 1), proposer(tokens, 3)
    torch.testing.assert_close(alone.boxes, among.boxes[:, :6])
    torch.testing.assert_close(alone.features, among.features[:, :6])


def test_a_small_memory_gives_all_its_tokens(proposer: Proposer) -> None:
    proposals = proposer(Memory(torch.randn(2, 4, 8, dtype=torch.float64), ((2, 2),)), 3)
    assert proposals.boxes.shape == (2, 12, 4)


def test_the_choice_has_no_gradient_but_the_chosen_proposals_have(proposer: Proposer) -> None:
    tokens = memory()
    assert not proposer.groups[0].scores(tokens.tokens).requires_grad
    proposals = proposer(tokens, 3)
    (proposals.logits.sum() + proposals.boxes.sum()).backward()
    assert all(value.grad is not None for value in proposer.parameters())


def test_grouped_layers_equal_single_layers() -> None:
    rows = torch.randn(3, 7, 4, dtype=torch.float64)
    linears = [nn.Linear(4, 6).double() for _ in range(3)]
    mlps = [MLP(4, 5, 2).double() for _ in range(3)]
    norms = [nn.LayerNorm(4).double() for _ in range(3)]
    for norm in norms:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    for grouped, layers in ((grouped_linear, linears), (grouped_mlp, mlps), (grouped_norm, norms)):
        expected = torch.stack([layer(group_rows) for layer, group_rows in zip(layers, rows, strict=True)])
        torch.testing.assert_close(grouped(rows, layers), expected)


def test_anchors_are_relative_to_the_image_without_padding() -> None:
    padding = torch.zeros(2, 32, 32, dtype=torch.bool)
    padding[1, 16:] = padding[1, :, 24:] = True
    anchors, unusable = make_anchors(flatten_maps([torch.zeros(2, 1, 8, 8)], padding))
    whole, part = anchors.reshape(2, 8, 8, 4)
    assert not unusable[0].any()
    assert whole[0, 0].tolist() == pytest.approx([1 / 16, 1 / 16, 0.05, 0.05])
    torch.testing.assert_close(part[3, 5], torch.tensor([5.5 / 6, 3.5 / 4, 0.05, 0.05]))
    assert unusable[1].reshape(8, 8)[4:].all()
    assert unusable[1].reshape(8, 8)[:, 6:].all()
    assert (part[unusable[1, :, 0].reshape(8, 8)] == 0).all()


def test_anchors_close_to_the_border_are_not_used_and_grow_with_the_level() -> None:
    anchors, unusable = make_anchors(flatten_maps([torch.zeros(1, 1, 60, 60), torch.zeros(1, 1, 2, 2)], None))
    inner = F.pad(torch.zeros(58, 58), (1, 1, 1, 1), value=1.0).bool()
    assert unusable[0, :3600, 0].equal(inner.flatten())
    assert anchors[0, 3600:, 2:].unique().item() == pytest.approx(0.1)
