"""Random outputs and targets with all difficult cases, without a detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rfdetr_core.ops.structures import DetectorOutput, MaskFactors, Target

GROUPS = 3
# Objects of each image.
BATCHES = {
    "several": [5, 3],
    "an image with none": [4, 0, 2],
    "none at all": [0, 0],
    "one object": [1],
    "300 objects": [300, 2],
    "more objects than queries": [25, 1],
}


def make_output(
    images: int,
    *,
    layers: int = 3,
    queries: int = 20,
    groups: int = GROUPS,
    classes: int = 6,
    masks: bool = False,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> DetectorOutput:
    """A training output with decoder layers and proposals. Every tensor is a leaf that gets a gradient."""
    generator = torch.Generator().manual_seed(seed)

    def leaf(value: Tensor) -> Tensor:
        return value.to(dtype).requires_grad_()

    def layer() -> DetectorOutput:
        rows = groups * queries
        logits = torch.randn(images, rows, classes, generator=generator, dtype=torch.float64) * 2 - 2
        centre = torch.rand(images, rows, 2, generator=generator, dtype=torch.float64)
        size = torch.rand(images, rows, 2, generator=generator, dtype=torch.float64) * 0.4 + 0.01
        factors = None
        if masks:
            pixels = torch.randn(images, 4, 12, 14, generator=generator, dtype=torch.float64)
            features = torch.randn(images, rows, 4, generator=generator, dtype=torch.float64)
            factors = MaskFactors(leaf(pixels), leaf(features), leaf(torch.full((1,), -0.5)))
        return DetectorOutput(leaf(logits), leaf(torch.cat([centre, size], -1)), factors)

    outputs = [layer() for _ in range(layers + 1)]
    return replace(outputs[0], auxiliary=tuple(outputs[1:layers]), proposals=outputs[layers])


def make_targets(
    counts: Sequence[int],
    *,
    classes: int = 5,
    masks: bool = False,
    dtype: torch.dtype = torch.float64,
    seed: int = 1,
) -> list[Target]:
    """Targets. In an image the second box touches two borders, the third has no area, the fourth repeats the first."""
    generator = torch.Generator().manual_seed(seed)

    def target(count: int) -> Target:
        labels = torch.randint(classes, (count,), generator=generator)
        size = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 0.3 + 0.02
        centre = size / 2 + torch.rand(count, 2, generator=generator, dtype=torch.float64) * (1 - size)
        boxes = torch.cat([centre, size], -1)
        if count > 3:
            boxes[1] = torch.tensor([0.9, 0.2, 0.2, 0.4])
            boxes[2, 2] = 0
            boxes[3], labels[3] = boxes[0], labels[0]
        shapes = torch.rand(count, 48, 56, generator=generator) > 0.6 if masks else None
        return Target(labels, boxes.to(dtype), shapes)

    return [target(count) for count in counts]


def layers_of(output: DetectorOutput) -> list[DetectorOutput]:
    """The last layer, the inner layers and the proposals."""
    return [output, *output.auxiliary, *([output.proposals] if output.proposals else [])]


def leaves_of(output: DetectorOutput) -> list[Tensor]:
    """Every tensor that gets a gradient."""
    leaves = []
    for layer in layers_of(output):
        leaves += [layer.logits, layer.boxes]
        if isinstance(layer.masks, MaskFactors):
            leaves += [layer.masks.pixels, layer.masks.queries, layer.masks.bias]
    return leaves


def gradients(output: DetectorOutput, total: Tensor) -> list[Tensor]:
    """Gradients of `total` at every leaf. A leaf without influence is an error."""
    return list(torch.autograd.grad(total, leaves_of(output), retain_graph=True))


def as_upstream(output: DetectorOutput, targets: Sequence[Target]) -> tuple[dict[str, Any], list[dict[str, Tensor]]]:
    """The output and targets in the form that upstream's criterion takes."""

    def layer_as_upstream(layer: DetectorOutput) -> dict[str, Any]:
        values: dict[str, Any] = {"pred_logits": layer.logits, "pred_boxes": layer.boxes}
        if isinstance(layer.masks, MaskFactors):
            factors = layer.masks
            values["pred_masks"] = {
                "spatial_features": factors.pixels,
                "query_features": factors.queries,
                "bias": factors.bias,
            }
        elif layer.masks is not None:
            values["pred_masks"] = layer.masks
        return values

    outputs = layer_as_upstream(output) | {"aux_outputs": [layer_as_upstream(layer) for layer in output.auxiliary]}
    if output.proposals is not None:
        outputs["enc_outputs"] = layer_as_upstream(output.proposals)
    return outputs, targets_as_upstream(targets)


def targets_as_upstream(targets: Sequence[Target]) -> list[dict[str, Tensor]]:
    """The targets in the form that upstream's criterion takes."""
    truth = [{"labels": target.labels, "boxes": target.boxes} for target in targets]
    for values, target in zip(truth, targets, strict=True):
        if target.masks is not None:
            values["masks"] = target.masks
    return truth
