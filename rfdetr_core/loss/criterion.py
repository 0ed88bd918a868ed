"""The loss of a step, summed over the last decoder layer, the inner layers and the proposals.

After upstream's models/criterion.py. The terms are in terms.py.
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
    """The losses of a batch.

    total: the weighted sum that training minimises. terms: each term of `TERMS` whose weight is not 0, before it is
    weighted. `loss_ce` is the class loss of the last decoder layer, `loss_ce_0` that of layer 0, and `loss_ce_enc` that
    of the encoder's proposals. The names of the other terms have the same suffixes.
    """

    total: Tensor
    terms: dict[str, Tensor]


@dataclass(frozen=True)
class Criterion:
    """Computes the losses of a batch, in float32 or float64 even under autocast. config: by default upstream's."""

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
        """Match the queries of a batch with its objects, and compute the losses.

        Args:
            output: of the detector.
            targets: one for each image.
            groups: groups of queries in the output: the model's number in training, 1 in evaluation.
            point_seed: seed of the points at which masks are compared. Needed if the output has masks.
            shared: the number by which the sums are divided. True: the mean number of objects per rank; every rank must
                make this call in the same step. False: the number of objects of this rank.

        Raises:
            ValueError: the output has masks, but the seed or the targets' masks are missing; or the queries are not
                divisible by the groups.
        """
        device = output.logits.device
        with torch.autocast(device.type, enabled=False):
            # The last layer, the inner layers and the proposals, by the suffix of their terms' names.
            layers = {"": output} | {f"_{number}": layer for number, layer in enumerate(output.auxiliary)}
            layers |= {} if output.proposals is None else {"_enc": output.proposals}
            layers = {name: _precise(layer) for name, layer in layers.items()}
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
                # Tensors that only terms of weight 0 use get a gradient of 0: DDP waits for each gradient.
                total = total + 0 * sum(values.sum() for layer in layers.values() for values in _tensors(layer))
            return Losses(total, terms)


def _precise(layer: DetectorOutput) -> DetectorOutput:
    """The layer in float32, or in float64 if it is in float64."""
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
