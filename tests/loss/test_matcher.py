from __future__ import annotations

from itertools import permutations

import pytest
import torch

from rfdetr_core.loss.matcher import Objects, Pairs, detection_cost, match
from rfdetr_core.loss.terms import LossConfig
from rfdetr_core.ops.structures import DetectorOutput, Target
from tests.loss.synthetic import BATCHES, GROUPS, layers_of, make_output, make_targets


def matched(output: DetectorOutput, targets: list[Target], masks: bool = False) -> list[Pairs]:
    generator = torch.Generator().manual_seed(3) if masks else None
    return match(layers_of(output), Objects.of(targets, torch.float64), GROUPS, LossConfig(), generator)


@pytest.mark.parametrize("kind", BATCHES)
def test_every_group_matches_each_object_once(kind: str) -> None:
    counts = BATCHES[kind]
    output = make_output(len(counts))
    first = [sum(counts[:image]) for image in range(len(counts))]
    for pairs in matched(output, make_targets(counts)):
        for image, count in enumerate(counts):
            for group in range(GROUPS):
                here = (pairs.images == image) & (pairs.queries // 20 == group)
                queries, objects = pairs.queries[here].tolist(), pairs.objects[here].tolist()
                assert len(set(queries)) == len(queries) == min(20, count)
                assert queries == sorted(queries)
                assert len(set(objects)) == len(objects)
                assert set(objects) <= set(range(first[image], first[image] + count))


@pytest.mark.parametrize("masks", [False, True])
def test_matching_alone_equals_matching_in_a_batch(masks: bool) -> None:
    output = make_output(3, masks=masks)
    targets = make_targets([5, 0, 7], masks=masks)
    together = matched(output, targets, masks)
    first = [0, 5, 5]
    for image, target in enumerate(targets):
        alone = matched(image_of(output, image), [target], masks)
        for single, all_images in zip(alone, together, strict=True):
            here = all_images.images == image
            assert single.queries.equal(all_images.queries[here])
            assert single.objects.equal(all_images.objects[here] - first[image])


def image_of(output: DetectorOutput, image: int) -> DetectorOutput:
    def crop(layer: DetectorOutput) -> DetectorOutput:
        masks = layer.masks
        if masks is not None:
            masks = masks.dense()[image : image + 1]
        return DetectorOutput(layer.logits[image : image + 1], layer.boxes[image : image + 1], masks)

    last, *inner_layers = [crop(layer) for layer in layers_of(output)]
    return DetectorOutput(last.logits, last.boxes, last.masks, tuple(inner_layers[:-1]), inner_layers[-1])


def test_no_other_assignment_costs_less() -> None:
    for seed in range(5):
        output = make_output(1, layers=1, queries=5, groups=1, seed=seed)
        objects = Objects.of(make_targets([3], seed=seed), torch.float64)
        cost = detection_cost(output.logits, output.boxes, objects.labels[None], objects.boxes[None], LossConfig())[0]
        pairs = match([output], objects, 1, LossConfig())[0]
        best = min(sum(cost[slot, query] for slot, query in enumerate(order)) for order in permutations(range(5), 3))
        assert cost[pairs.objects, pairs.queries].sum().item() == pytest.approx(best.item())


def test_queries_that_are_not_divisible_by_groups_are_an_error() -> None:
    with pytest.raises(ValueError, match="60 queries are not divisible by 7 groups"):
        match([make_output(1)], Objects.of(make_targets([1]), torch.float64), 7, LossConfig())
