"""The loss of a step: IoU-aware classification, boxes and masks of the last layer, the others and the proposals.

Formulas after upstream's models/criterion.py. B images, Q queries, K classes, P matched pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rfdetr_core.loss import masks
from rfdetr_core.loss.config import LossConfig
from rfdetr_core.loss.matcher import Objects, Pairs, match
from rfdetr_core.loss.softplus import softplus
from rfdetr_core.ops.boxes import cxcywh_to_xyxy, overlap
from rfdetr_core.ops.structures import DetectorOutput, MaskFactors, Target

_LOWEST_SCORE = 0.01  # a matched query is always pulled towards its class, however bad its box


@dataclass(frozen=True)
class Losses:
    """total: the weighted sum that training minimises.

    terms: each term before its weight, by upstream's names: loss_ce, loss_bbox, loss_giou, loss_mask_ce,
    loss_mask_dice of the last layer; with _0, _1, .. of the layers before it; with _enc of the proposals.
    """

    total: Tensor
    terms: dict[str, Tensor]


class Criterion:
    """Computes the losses of a batch, in float32 or better whatever the autocast."""

    def __init__(self, config: LossConfig | None = None) -> None:
        """Keep the weights; upstream's where none are given."""
        self.config = config or LossConfig()
        self.weights = {
            "loss_ce": self.config.cls_loss_coef,
            "loss_bbox": self.config.bbox_loss_coef,
            "loss_giou": self.config.giou_loss_coef,
            "loss_mask_ce": self.config.mask_ce_loss_coef,
            "loss_mask_dice": self.config.mask_dice_loss_coef,
        }

    def __call__(
        self,
        output: DetectorOutput,
        targets: Sequence[Target],
        *,
        groups: int,
        point_seed: int | None = None,
        shared: bool = True,
    ) -> Losses:
        """Match and score a batch. With torch.distributed, every rank must call this in the same step if `shared`.

        groups: groups of queries in the output: the model's in training, 1 in evaluation. point_seed: fixes the
        points at which masks are compared; needed where the output has masks. shared: divide by the mean number of
        objects of all ranks, not by this rank's.

        Raises:
            ValueError: masks without a seed or without targets' masks, or queries that do not divide into groups.
        """
        device = output.logits.device
        with torch.autocast(device.type, enabled=False):
            layers = {name: _precise(layer) for name, layer in _named_layers(output).items()}
            objects = Objects.of(targets, layers[""].logits.dtype)
            generator = None
            if output.masks is not None:
                if point_seed is None or objects.masks is None:
                    raise ValueError("a segmentation loss needs a point_seed and the targets' masks")
                generator = torch.Generator(device).manual_seed(point_seed)
            pairs = match(list(layers.values()), objects, groups, self.config, generator)
            number = _number_of_objects(sum(objects.counts) * groups, device, shared)
            terms: dict[str, Tensor] = {}
            weighted: list[Tensor] = []
            for (ending, layer), matched in zip(layers.items(), pairs, strict=True):
                for term, value in self._layer_sums(layer, matched, objects, generator).items():
                    terms[term + ending] = value / number
                    weighted.append(self.weights[term] * terms[term + ending])
            return Losses(torch.stack(weighted).sum(), terms)

    def _layer_sums(
        self, layer: DetectorOutput, pairs: Pairs, objects: Objects, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        predicted = layer.boxes[pairs.images, pairs.queries]
        wanted = objects.boxes[pairs.objects]
        iou, giou = overlap(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted))
        place = (pairs.images, pairs.queries, objects.labels[pairs.objects])
        sums = {
            "loss_ce": classification_loss(layer.logits, place, iou.detach(), self.config.focal_alpha),
            "loss_bbox": F.l1_loss(predicted, wanted, reduction="sum"),
            "loss_giou": (1 - giou).sum(),
        }
        if layer.masks is not None and objects.masks is not None and generator is not None:
            logits = masks.matched_logits(layer.masks, pairs.images, pairs.queries, pairs.counts)
            ratio = self.config.mask_point_sample_ratio
            entropy, dice = masks.mask_losses(logits, objects.masks, pairs.objects, ratio, generator)
            sums |= {"loss_mask_ce": entropy, "loss_mask_dice": dice}
        return sums


def classification_loss(logits: Tensor, place: tuple[Tensor, Tensor, Tensor], iou: Tensor, alpha: float) -> Tensor:
    """IoU-aware binary cross-entropy, summed over logits (B, Q, K).

    At the P matched (image, query, class) of `place` the aim is a score p^alpha IoU^(1 - alpha), held constant and
    at least 0.01. Everywhere else it is zero, weighted with p^2, which takes part in the gradient.
    """
    chosen = logits[place]
    score = (chosen.detach().sigmoid().pow(alpha) * iou.pow(1 - alpha)).clamp(min=_LOWEST_SCORE)
    rest: Tensor = _Background.apply(logits, place)
    return rest + ((1 - score) * chosen - F.logsigmoid(chosen)).sum()


class _Background(torch.autograd.Function):
    """Sum of p^2 softplus(x) over the logits that are not matched, with its gradient p^2 (2 (1 - p) softplus(x) + p).

    Written out because this is the one term over all B Q K logits: autograd would keep and visit five such tensors.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, place: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        probability = logits.sigmoid()
        weight = probability.square().index_put_(place, logits.new_zeros(()))
        negative_log = softplus(logits)
        gradient = (1 - probability).mul_(negative_log).mul_(2).add_(probability).mul_(weight)
        ctx.save_for_backward(gradient)
        return negative_log.mul_(weight).sum()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        return outer[0] * ctx.saved_tensors[0], None


def _named_layers(output: DetectorOutput) -> dict[str, DetectorOutput]:
    """The last layer, the layers before it and the proposals, by the ending of their terms' names."""
    layers = {"": output} | {f"_{number}": layer for number, layer in enumerate(output.auxiliary)}
    return layers if output.proposals is None else layers | {"_enc": output.proposals}


def _precise(layer: DetectorOutput) -> DetectorOutput:
    """One layer in float32, or in float64 if it is that already."""
    dtype = torch.promote_types(layer.logits.dtype, torch.float32)
    masks = layer.masks
    if isinstance(masks, MaskFactors):
        masks = MaskFactors(masks.pixels.to(dtype), masks.queries.to(dtype), masks.bias.to(dtype))
    elif masks is not None:
        masks = masks.to(dtype)
    return DetectorOutput(layer.logits.to(dtype), layer.boxes.to(dtype), masks)


def _number_of_objects(own: int, device: torch.device, shared: bool) -> Tensor:
    """The objects (times groups) of a batch, as a mean over the ranks if `shared`; at least 1."""
    number = torch.full((), float(own), device=device)
    if shared and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(number)
        number /= torch.distributed.get_world_size()
    return number.clamp(min=1)
