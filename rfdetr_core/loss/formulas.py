"""Formulas of the loss and of matching: classification over all logits, and masks at sampled points.

Masks are compared only at points (PointRend, https://arxiv.org/abs/1912.08193). Points are (x, y) in 0..1. Predictions
are sampled bilinearly, the truth at the nearest pixel. In shapes, P is the number of points and N the number of masks.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rfdetr_core.ops.sampling import sample_maps
from rfdetr_core.ops.structures import MaskFactors

_LOWEST_SCORE = 0.01  # a matched query is always pulled towards its class, even if its box is bad
_OVERSAMPLING = 3
_UNCERTAIN_SHARE = 0.75


def softplus(logits: Tensor) -> Tensor:
    """log(1 + exp(x)) = -log(sigmoid(-x)), without overflow and without a gradient. Infinity and NaN stay.

    On a CPU it takes a fifth of the time of torch's softplus or logsigmoid, because sigmoid and log are vectorised.
    """
    smallest = torch.finfo(logits.dtype).tiny
    with torch.no_grad():
        values = logits.neg().sigmoid_().clamp_(min=smallest).log_().neg_()
        return torch.maximum(values, logits, out=values)


def classification_loss(logits: Tensor, place: tuple[Tensor, Tensor, Tensor], iou: Tensor, alpha: float) -> Tensor:
    """IoU-aware binary cross-entropy, summed over all logits.

    For a logit with probability p, the summand is:
    - matched: the cross-entropy of p and the target t = max(0.01, p^alpha IoU^(1 - alpha)). t has no gradient.
    - not matched: the cross-entropy of p and the target 0, multiplied by p^2. This weight has a gradient.

    Args:
        logits: (B, Q, K).
        place: index of the M matched logits: their images, queries and classes, (M,) each.
        iou: of the matched pairs, (M,).
        alpha: see above.
    """
    chosen = logits[place]
    score = (chosen.detach().sigmoid().pow(alpha) * iou.pow(1 - alpha)).clamp(min=_LOWEST_SCORE)
    background: Tensor = _Background.apply(logits, place)
    return background + ((1 - score) * chosen - F.logsigmoid(chosen)).sum()


class _Background(torch.autograd.Function):
    """The sum of p^2 softplus(x) over the logits that are not matched. Its gradient is p^2 (2 (1 - p) softplus(x) + p).

    Written by hand because it is the only sum over all B Q K logits: autograd would keep five tensors of this size.
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
    def backward(ctx: Any, *output_gradients: Tensor) -> tuple[Tensor, None]:
        return output_gradients[0] * ctx.saved_tensors[0], None


def random_points(masks: int, count: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Uniform random points (masks, count, 2), on the generator's device.

    Args:
        masks: how many masks.
        count: points of each mask.
        dtype: of the points.
        generator: draws them.
    """
    return torch.rand(masks, count, 2, dtype=dtype, device=generator.device, generator=generator)


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values (N, C, P) of maps (N, C, h, w) at points (N, P, 2)."""
    return sample_maps(maps, 2 * points[:, None] - 1, border=True)[:, :, 0]


def sample_all(masks: Tensor | MaskFactors, points: Tensor) -> Tensor:
    """Mask logits (B, Q, P) of all queries at points (1, P, 2)."""
    if isinstance(masks, Tensor):
        return sample(masks, points.expand(len(masks), -1, -1))
    pixels = sample(masks.pixels, points.expand(len(masks.pixels), -1, -1))
    return masks.queries @ pixels + masks.bias


def sample_truth(masks: Tensor, index: Tensor, points: Tensor) -> Tensor:
    """Values (N, P), 0 or 1, of masks at points.

    `grid_sample` finds the number of the pixel at each point. The masks are then indexed with these numbers, so no mask
    is copied or converted. float32 holds the numbers exactly up to 4096 x 4096 pixels.

    Args:
        masks: (M, H, W).
        index: which mask each row reads, (N,).
        points: (N or 1, P, 2).
    """
    height, width = masks.shape[-2:]
    numbers = torch.arange(height * width, dtype=points.dtype, device=points.device).view(1, 1, height, width)
    grid = 2 * points[None] - 1
    pixel = F.grid_sample(numbers, grid, mode="nearest", padding_mode="border", align_corners=False)[0, 0]
    return masks.flatten(1)[index[:, None], pixel.long()].to(points.dtype)


def pairwise_losses(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy and dice (B, T, Q) of logits (B, Q, P) with truth (B, T, P)."""
    probability = logits.sigmoid()
    entropy = softplus(logits).sum(-1)[:, None] - truth @ logits.transpose(1, 2)
    shared = truth @ probability.transpose(1, 2)
    total = probability.sum(-1)[:, None] + truth.sum(-1)[:, :, None]
    return entropy / logits.shape[-1], 1 - (2 * shared + 1) / (total + 1)


def matched_logits(masks: Tensor | MaskFactors, images: Tensor, queries: Tensor, counts: list[int]) -> Tensor:
    """Mask logits (N, h, w) of matched queries.

    Args:
        masks: of all queries.
        images, queries: of the matched pairs, (N,) each, sorted by image.
        counts: pairs of each image.
    """
    if isinstance(masks, Tensor):
        return masks[images, queries]
    chosen = torch.split(masks.queries[images, queries], counts)
    dense = [torch.einsum("chw,nc->nhw", pixels, vectors) for pixels, vectors in zip(masks.pixels, chosen, strict=True)]
    return torch.cat(dense) + masks.bias


def uncertain_points(logits: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Points (N, count, 2): three quarters are where the logits are nearest to zero, the others are random.

    Args:
        logits: of masks, (N, 1, h, w).
        count: points of each mask.
        generator: draws them.
    """
    candidates = random_points(len(logits), _OVERSAMPLING * count, logits.dtype, generator)
    certainty = sample(logits, candidates)[:, 0].abs()
    uncertain = int(_UNCERTAIN_SHARE * count)
    best = (-certainty).topk(uncertain, dim=1).indices[..., None].expand(-1, -1, 2)
    anywhere = random_points(len(logits), count - uncertain, logits.dtype, generator)
    return torch.cat([candidates.gather(1, best), anywhere], dim=1)
