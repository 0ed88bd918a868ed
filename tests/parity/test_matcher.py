"""The assignments equal those of upstream's matcher, for the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rfdetr_core.loss.matcher import Objects, match
from rfdetr_core.loss.terms import LossConfig
from rfdetr_core.ops.structures import DetectorOutput, Target
from tests.loss.synthetic import BATCHES, GROUPS, as_upstream, layers_of, make_output, make_targets

matcher = pytest.importorskip("rfdetr.models.matcher")

Indices = list[tuple[Tensor, Tensor]]


def theirs(layer: DetectorOutput, targets: list[Target], groups: int = GROUPS) -> Indices:
    outputs, truth = as_upstream(replace(layer, auxiliary=(), proposals=None), targets)
    return matcher.HungarianMatcher(cost_class=2, cost_bbox=5, cost_giou=2)(outputs, truth, group_detr=groups)


def ours(layers: list[DetectorOutput], targets: list[Target], groups: int = GROUPS) -> list[Indices]:
    objects = Objects.of(targets, layers[0].boxes.dtype)
    first = torch.tensor([0, *objects.counts]).cumsum(0)
    indices = []
    for pairs in match(layers, objects, groups, LossConfig()):
        assert pairs.counts == pairs.images.bincount(minlength=len(targets)).tolist()
        assert pairs.images.equal(pairs.images.sort().values)
        image = [pairs.images == number for number in range(len(targets))]
        indices.append([(pairs.queries[here], pairs.objects[here] - first[n]) for n, here in enumerate(image)])
    return indices


def assert_same(ours: Indices, theirs: Indices) -> None:
    for (queries, objects), (their_queries, their_objects) in zip(ours, theirs, strict=True):
        assert queries.tolist() == their_queries.tolist()
        assert objects.tolist() == their_objects.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", BATCHES)
def test_every_layer_is_matched_as_upstream_matches_it(kind: str, dtype: torch.dtype) -> None:
    queries = 300 if kind == "300 objects" else 20
    output = make_output(len(BATCHES[kind]), queries=queries, dtype=dtype)
    targets = make_targets(BATCHES[kind], dtype=dtype)
    layers = layers_of(output)
    for layer, matched in zip(layers, ours(layers, targets), strict=True):
        assert_same(matched, theirs(layer, targets))


def test_proposals_may_have_fewer_queries_than_the_decoder() -> None:
    layers = [make_output(2, seed=1), make_output(2, queries=7, seed=2)]
    targets = make_targets([5, 9])
    for layer, matched in zip(layers, ours(layers, targets), strict=True):
        assert_same(matched, theirs(layer, targets))


def nan_queries(output: DetectorOutput) -> None:
    output.boxes[0, 3:9] = torch.nan
    output.logits[1, ::5] = torch.nan


def nan_class(output: DetectorOutput) -> None:
    output.logits[:, 10:30, 2] = torch.nan
    output.logits[0, :, 1] = torch.inf
    output.logits[1, 5:50, 0] = -torch.inf


def huge_boxes(output: DetectorOutput) -> None:
    output.boxes[0, ::3, 2:] = 1e30
    output.boxes[1, ::4, 0] = torch.inf
    output.logits[:, ::7] = 1e4


def nan_group(output: DetectorOutput) -> None:
    output.boxes[:, 20:40] = torch.nan


def nan_image(output: DetectorOutput) -> None:
    output.logits[0] = torch.nan


def nearly_all(output: DetectorOutput) -> None:
    keep = output.logits[:, [0, 21, 22, 45]].clone()
    output.logits.fill_(-torch.inf)
    output.logits[:, [0, 21, 22, 45]] = keep


def everything(output: DetectorOutput) -> None:
    output.boxes.fill_(torch.nan)


DAMAGE = [nan_queries, nan_class, huge_boxes, nan_group, nan_image, nearly_all, everything]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda function: function.__name__)
@pytest.mark.parametrize("seed", range(5))
def test_nan_and_infinite_costs_are_matched_as_upstream_matches_them(damage: Callable[[Any], None], seed: int) -> None:
    output = make_output(2, layers=1, dtype=torch.float32, seed=seed)
    with torch.no_grad():
        damage(output)
    targets = make_targets([6, 4], dtype=torch.float32, seed=seed + 50)
    assert_same(ours([output], targets)[0], theirs(output, targets))
    for image, target in enumerate(targets):
        alone = DetectorOutput(output.logits[image : image + 1], output.boxes[image : image + 1])
        assert_same(ours([alone], [target])[0], theirs(alone, [target]))
        assert_same(ours([alone], [target])[0], ours([output], targets)[0][image : image + 1])


def test_the_replacement_of_invalid_costs_is_upstreams() -> None:
    from rfdetr_core.loss.matcher import replace_invalid

    nan, inf = np.nan, np.inf
    largest = np.finfo(np.float32).max
    for rows in ([[1, nan], [inf, -2]], [[-3, nan], [-1, -2]], [[nan, inf]], [[largest, -inf]], [[1, 2]]):
        cost = np.array(rows, dtype=np.float32)
        expected = matcher.HungarianMatcher._sanitize_cost_matrix(torch.from_numpy(cost)).numpy()
        np.testing.assert_array_equal(replace_invalid(cost), expected)
