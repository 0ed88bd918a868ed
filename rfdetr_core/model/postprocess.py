"""From the detector's output to detections in pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rfdetr_core.ops.boxes import cxcywh_to_xyxy
from rfdetr_core.ops.structures import Detections, DetectorOutput

MASKS_AT_ONCE = 32  # resized together: bounds the memory that float masks of the image's size take


def postprocess(
    output: DetectorOutput, sizes: list[tuple[int, int]], limit: int, threshold: float | None = None
) -> list[Detections]:
    """Detections of each image of a batch; sizes: (height, width) of the images in pixels. See `detections`."""
    return [detections(output, index, size, limit, threshold) for index, size in enumerate(sizes)]


@torch.no_grad()
def detections(
    output: DetectorOutput,
    index: int,
    size: tuple[int, int],
    limit: int,
    threshold: float | None = None,
    mask_size: tuple[int, int] | None = None,
) -> Detections:
    """The best `limit` pairs of query and class of image `index`, and of these only scores above the threshold.

    A tie goes to the lower query, then the lower class. Boxes end at the image's border. mask_size: (height, width) of
    the masks where it is not the image's.
    """
    height, width = size
    rows = output.logits.shape[-1]
    scores, order = output.logits[index].sigmoid().flatten().sort(descending=True, stable=True)
    scores, order = scores[:limit], order[:limit]
    if threshold is not None:
        kept = int((scores > threshold).sum())
        scores, order = scores[:kept], order[:kept]
    queries = order // rows
    corner = output.boxes.new_tensor([width, height, width, height])
    boxes = (cxcywh_to_xyxy(output.boxes[index, queries]) * corner).clamp(min=0).minimum(corner)
    masks = resize_masks(output.masks[index, queries], mask_size or size) if isinstance(output.masks, Tensor) else None
    return Detections(scores, order % rows, boxes, masks)


def resize_masks(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Mask logits (N, h, w), resized to (height, width) and cut at zero: (N, height, width) bool."""
    masks = torch.empty(len(logits), *size, dtype=torch.bool, device=logits.device)
    for start in range(0, len(logits), MASKS_AT_ONCE):
        chunk = F.interpolate(logits[start : start + MASKS_AT_ONCE, None], size, mode="bilinear", align_corners=False)
        masks[start : start + MASKS_AT_ONCE] = chunk[:, 0] > 0
    return masks
