"""Hungarian matching of queries with objects, for all layers, groups and images of a step together.

The costs of all layers are copied to the host in one transfer. Each block (layer, image, group) of them is a separate
problem, so the matches of an image do not depend on the batch. In shapes, B is the number of images, T the largest
number of objects in an image, and Q the number of queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rfdetr_core.loss import formulas
from rfdetr_core.loss.formulas import softplus
from rfdetr_core.loss.terms import LossConfig
from rfdetr_core.ops.boxes import cxcywh_to_xyxy, overlap
from rfdetr_core.ops.structures import DetectorOutput, Target


@dataclass(frozen=True)
class Objects:
    """The N objects of a batch, image by image.

    labels: (N,). boxes: (N, 4) cxcywh. masks: (N, H, W) bool or None. counts: objects of each image.
    """

    labels: Tensor
    boxes: Tensor
    masks: Tensor | None
    counts: list[int]

    @classmethod
    def of(cls, targets: Sequence[Target], dtype: torch.dtype) -> Objects:
        """Join the targets of a batch. dtype: of the boxes."""
        masks = [target.masks for target in targets if target.masks is not None]
        return cls(
            labels=torch.cat([target.labels for target in targets]),
            boxes=torch.cat([target.boxes for target in targets]).to(dtype),
            masks=torch.cat(masks) if masks else None,
            counts=[len(target.labels) for target in targets],
        )


@dataclass(frozen=True)
class Pairs:
    """The P matched pairs of one layer, sorted by image and query.

    images, queries, objects: (P,) int64. Objects are numbered through the batch. counts: pairs of each image.
    """

    images: Tensor
    queries: Tensor
    objects: Tensor
    counts: list[int]


@dataclass(frozen=True)
class Matched:
    """A layer of an output, and the objects that its queries are matched with: the input of a loss term.

    Each property is computed once, when it is first used. P pairs, sorted by image and query.
    """

    layer: DetectorOutput
    pairs: Pairs
    objects: Objects
    config: LossConfig
    generator: torch.Generator | None = None

    @cached_property
    def place(self) -> tuple[Tensor, Tensor, Tensor]:
        """Image, query and class of each pair, (P,) each: an index into the logits."""
        return self.pairs.images, self.pairs.queries, self.objects.labels[self.pairs.objects]

    @cached_property
    def predicted_boxes(self) -> Tensor:
        """Boxes (P, 4) of the queries, cxcywh in 0..1."""
        return self.layer.boxes[self.pairs.images, self.pairs.queries]

    @cached_property
    def target_boxes(self) -> Tensor:
        """Boxes (P, 4) of the objects, cxcywh in 0..1."""
        return self.objects.boxes[self.pairs.objects]

    @cached_property
    def overlap(self) -> tuple[Tensor, Tensor]:
        """IoU and generalised IoU of the boxes, (P,) each."""
        return overlap(cxcywh_to_xyxy(self.predicted_boxes), cxcywh_to_xyxy(self.target_boxes))

    @cached_property
    def mask_samples(self) -> tuple[Tensor, Tensor]:
        """Predicted logits and truth (0 or 1) of the masks at sampled points, (P, points) each.

        The points are drawn once, so all terms use the same points.
        """
        assert self.layer.masks is not None
        assert self.objects.masks is not None
        assert self.generator is not None
        pairs = self.pairs
        logits = formulas.matched_logits(self.layer.masks, pairs.images, pairs.queries, pairs.counts)[:, None]
        height, width = logits.shape[-2:]
        count = max(height, height * width // self.config.mask_point_sample_ratio)
        points = formulas.uncertain_points(logits.detach(), count, self.generator)
        truth = formulas.sample_truth(self.objects.masks, pairs.objects, points)
        return formulas.sample(logits, points)[:, 0], truth


@torch.no_grad()
def match(
    layers: Sequence[DetectorOutput],
    objects: Objects,
    groups: int,
    config: LossConfig,
    generator: torch.Generator | None = None,
) -> list[Pairs]:
    """Match the queries of each layer and group one to one with the objects of their image.

    Args:
        layers: the layers of an output.
        objects: of the batch.
        groups: groups of queries.
        config: weights of the costs.
        generator: draws the points at which masks are compared; None: masks are not compared.

    Returns:
        The pairs of each layer.

    Raises:
        ValueError: the number of queries is not divisible by `groups`.
    """
    labels, boxes = _padded(objects.labels, objects.counts), _padded(objects.boxes, objects.counts)
    costs = [detection_cost(layer.logits, layer.boxes, labels, boxes, config) for layer in layers]
    if generator is not None:
        for cost, layer in zip(costs, layers, strict=True):
            cost.add_(_mask_cost(layer, objects, config, generator))
    host: NDArray[np.float32] = torch.cat(costs, dim=2).float().cpu().numpy()  # (B, T, sum of Q), the only transfer
    all_valid = bool(np.isfinite(host).all())
    pairs, start = [], 0
    for cost in costs:
        queries_per_group, remainder = divmod(cost.shape[2], groups)
        if remainder:
            raise ValueError(f"{cost.shape[2]} queries are not divisible by {groups} groups")
        index = _assign_layer(host[:, :, start : start + cost.shape[2]], objects.counts, queries_per_group, all_valid)
        images, queries, matched = torch.from_numpy(index).to(cost.device, non_blocking=True)
        pairs.append(
            Pairs(images, queries, matched, [groups * min(queries_per_group, count) for count in objects.counts])
        )
        start += cost.shape[2]
    return pairs


@torch.no_grad()
def detection_cost(logits: Tensor, boxes: Tensor, labels: Tensor, truth: Tensor, config: LossConfig) -> Tensor:
    """The cost (B, T, Q) of class, L1 and GIoU. An image with fewer than T objects is padded.

    The class cost of a query is its focal loss (gamma 2) with the object's class as its target, minus its focal loss
    without an object. After upstream's matcher.py.

    Args:
        logits: predicted, (B, Q, K).
        boxes: predicted, (B, Q, 4) cxcywh.
        labels: of the objects, (B, T).
        truth: boxes of the objects, (B, T, 4) cxcywh.
        config: weights of the costs.
    """
    image = torch.arange(len(labels), device=labels.device)[:, None]
    logits = logits.transpose(1, 2)[image, labels]  # (B, T, Q)
    boxes, truth = boxes[:, None], truth[:, :, None]
    # Computed in place, with each coordinate contiguous. On a CPU, large temporary tensors would take longer than the
    # arithmetic. For a logit x with probability p, softplus(x) is -log(1 - p), and softplus(x) - x is -log(p).
    probability, softplus_of_logits = (logits.sigmoid(), softplus(logits))
    positive = (1 - probability).square_().mul_(softplus_of_logits - logits).mul_(config.focal_alpha)
    negative = probability.square_().mul_(softplus_of_logits).mul_(1 - config.focal_alpha)
    cost = positive.sub_(negative).mul_(config.set_cost_class)
    for predicted_coordinate, true_coordinate in zip(_planar(boxes).unbind(-1), truth.unbind(-1), strict=True):
        cost.add_((predicted_coordinate - true_coordinate).abs_(), alpha=config.set_cost_bbox)
    giou = overlap(_planar(cxcywh_to_xyxy(boxes)), cxcywh_to_xyxy(truth))[1]
    return cost.sub_(giou, alpha=config.set_cost_giou)


def replace_invalid(cost: NDArray[np.float32]) -> NDArray[np.float32]:
    """Replace NaN and infinity by a number above every valid cost: max + max of the absolute values + 1.

    If that overflows, or no cost is valid, the number is the largest float32. This is upstream's rule, but applied to
    each image of a layer, so that other images are not affected.
    """
    valid = np.isfinite(cost)
    highest = limit = float(np.finfo(np.float32).max)
    if valid.any():
        highest = min(float(cost[valid].max()) + float(np.abs(cost[valid]).max()) + 1, limit)
    return np.where(valid, cost, np.float32(highest))


def _assign_layer(
    cost: NDArray[np.float32], counts: list[int], queries_per_group: int, all_valid: bool
) -> NDArray[np.int64]:
    """The pairs of a layer as rows (image, query, object), from its costs (B, T, Q)."""
    starts = range(0, cost.shape[2], queries_per_group)
    pairs = np.empty((3, sum(len(starts) * min(queries_per_group, count) for count in counts)), dtype=np.int64)
    first_object = place = 0
    for image, count in enumerate(counts):
        block = cost[image, :count] if all_valid else replace_invalid(cost[image, :count])
        image_pairs = pairs[:, place : place + len(starts) * min(queries_per_group, count)].reshape(3, len(starts), -1)
        for number, start in enumerate(starts):
            # Queries as rows: then SciPy returns them in order, and treats ties as upstream does.
            image_pairs[1:, number] = linear_sum_assignment(block[:, start : start + queries_per_group].T)
        image_pairs[0] = image
        image_pairs[1] += np.arange(0, cost.shape[2], queries_per_group)[:, None]
        image_pairs[2] += first_object
        first_object, place = first_object + count, place + image_pairs[0].size
    return pairs


def _mask_cost(layer: DetectorOutput, objects: Objects, config: LossConfig, generator: torch.Generator) -> Tensor:
    """Weighted cost (B, T, Q) of mask cross-entropy and dice, at random points that all pairs of a layer share."""
    assert layer.masks is not None
    assert objects.masks is not None
    maps = layer.masks if isinstance(layer.masks, Tensor) else layer.masks.pixels
    count = maps[0, 0].numel() // config.mask_point_sample_ratio
    points = formulas.random_points(1, count, maps.dtype, generator)
    truth = formulas.sample_truth(objects.masks, torch.arange(len(objects.masks), device=points.device), points)
    logits = formulas.sample_all(layer.masks, points)
    entropy, dice = formulas.pairwise_losses(logits, _padded(truth, objects.counts))
    return config.weights["mask_ce_loss_coef"] * entropy + config.weights["mask_dice_loss_coef"] * dice


def _padded(values: Tensor, counts: list[int]) -> Tensor:
    """Split (N, ...) by image, and pad with zeros to one length: (B, T, ...)."""
    return pad_sequence(list(torch.split(values, counts)), batch_first=True)


def _planar(boxes: Tensor) -> Tensor:
    """The same boxes (..., 4), with each of the four coordinates contiguous in memory."""
    return boxes.movedim(-1, 0).contiguous().movedim(0, -1)
