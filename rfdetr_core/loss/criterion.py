"""The loss of a step: IoU-aware classification, boxes and masks of the last layer, the others and the proposals.

After upstream's models/criterion.py; the terms are in terms.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rfdetr_core.loss.matcher import Matched, Objects, match
from rfdetr_core.loss.terms import LossConfig
from rfdetr_core.ops.structures import DetectorOutput, MaskFactors, Target


@dataclass(frozen=True)
class Losses:
    """total: the weighted sum that training minimises.

    terms: each term of `TERMS` that has a weight, before that weight, by its name of the last layer; with _0, _1, .. of
    the layers before it; with _enc of the proposals.
    """

    total: Tensor
    terms: dict[str, Tensor]


@dataclass(frozen=True)
class Criterion:
    """Computes the losses of a batch, in float32 or better whatever the autocast. config: upstream's by default."""

    config: LossConfig = field(default_factory=LossConfig)

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
            # By the ending of their terms' names: the last layer, the layers before it and the proposals.
            named = {"": output} | {f"_{number}": layer for number, layer in enumerate(output.auxiliary)}
            named |= {} if output.proposals is None else {"_enc": output.proposals}
            layers = {name: _precise(layer) for name, layer in named.items()}
            objects = Objects.of(targets, layers[""].logits.dtype)
            generator = None
            if output.masks is not None:
                if point_seed is None or objects.masks is None:
                    raise ValueError("a segmentation loss needs a point_seed and the targets' masks")
                generator = torch.Generator(device).manual_seed(point_seed)
            pairs = match(list(layers.values()), objects, groups, self.config, generator)
            number = torch.full((), float(sum(objects.counts) * groups), device=device)
            if shared and torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.all_reduce(number)
                number /= torch.distributed.get_world_size()
            number.clamp_(min=1)
            chosen = self.config.weighted_terms(masks=generator is not None)
            terms: dict[str, Tensor] = {}
            weighted: list[Tensor] = []
            for (ending, layer), layer_pairs in zip(layers.items(), pairs, strict=True):
                matched = Matched(layer, layer_pairs, objects, self.config, generator)
                for term, weight in chosen:
                    if weight:
                        terms[term.name + ending] = term.function(matched) / number
                        weighted.append(weight * terms[term.name + ending])
            total = torch.stack(weighted).sum()
            if any(term.default and not weight for term, weight in chosen):
                # What only a term without weight would reach gets a gradient of zero: DDP waits for everyone's.
                total = total + 0 * sum(values.sum() for layer in layers.values() for values in _tensors(layer))
            return Losses(total, terms)


def _precise(layer: DetectorOutput) -> DetectorOutput:
    """One layer in float32, or in float64 if it is that already."""
    dtype = torch.promote_types(layer.logits.dtype, torch.float32)
    masks = layer.masks
    if isinstance(masks, MaskFactors):
        masks = MaskFactors(masks.pixels.to(dtype), masks.queries.to(dtype), masks.bias.to(dtype))
    elif masks is not None:
        masks = masks.to(dtype)
    return DetectorOutput(layer.logits.to(dtype), layer.boxes.to(dtype), masks)


def _tensors(layer: DetectorOutput) -> list[Tensor]:
    masks = vars(layer.masks).values() if isinstance(layer.masks, MaskFactors) else (layer.masks,)
    return [values for values in (layer.logits, layer.boxes, *masks) if values is not None]
