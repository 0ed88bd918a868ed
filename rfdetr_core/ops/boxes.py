"""Box formats and overlaps. cxcywh = centre, width, height; xyxy = left, top, right, bottom."""

from __future__ import annotations

import torch
from torch import Tensor

_SMALLEST_AREA = 1e-7


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Convert (..., 4) boxes. A negative width or height counts as zero."""
    centre, size = boxes[..., :2], boxes[..., 2:].clamp(min=0)
    return torch.cat([centre - 0.5 * size, centre + 0.5 * size], dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Convert (..., 4) boxes."""
    start, end = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(start + end) / 2, end - start], dim=-1)


def apply_delta(delta: Tensor, reference: Tensor) -> Tensor:
    """Apply (..., 4) deltas to (..., 4) cxcywh reference boxes. The result is cxcywh.

    The centre moves by delta times the reference size. The size is multiplied by exp(delta).
    """
    centre = delta[..., :2] * reference[..., 2:] + reference[..., :2]
    size = delta[..., 2:].exp() * reference[..., 2:]
    return torch.cat([centre, size], dim=-1)


def overlap(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU (https://giou.stanford.edu) of xyxy boxes (..., 4) that broadcast against each other.

    A union or enclosing box without area counts as 1e-7, so that boxes without area give finite values.
    """
    left, top, right, bottom = first.unbind(-1)
    other_left, other_top, other_right, other_bottom = second.unbind(-1)
    area = (right - left) * (bottom - top)
    other_area = (other_right - other_left) * (other_bottom - other_top)
    # Computed in place. For all pairs of many boxes, allocating temporary tensors takes a CPU several times as long as
    # the arithmetic.
    width = torch.minimum(right, other_right).sub_(torch.maximum(left, other_left)).clamp_(min=0)
    height = torch.minimum(bottom, other_bottom).sub_(torch.maximum(top, other_top)).clamp_(min=0)
    intersection = width.mul_(height)
    union = area + other_area - intersection
    hull_width = torch.maximum(right, other_right).sub_(torch.minimum(left, other_left)).clamp_(min=0)
    hull_height = torch.maximum(bottom, other_bottom).sub_(torch.minimum(top, other_top)).clamp_(min=0)
    hull = hull_width.mul_(hull_height)
    iou = intersection / union.clamp(min=_SMALLEST_AREA)
    return iou, iou - (hull - union) / hull.clamp(min=_SMALLEST_AREA)
