"""From the detector's output to detections in pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rfdetr_core.ops.boxes import cxcywh_to_xyxy
from rfdetr_core.ops.structures import Detections, DetectorOutput

MASKS_AT_ONCE = 32  # resized together: bounds the memory that float masks of the image's size take


@torch.no_grad()
def postprocess(
    output: DetectorOutput,
    sizes: Sequence[tuple[int, int]],
    limit: int,
    threshold: float | None = None,
    mask_size: tuple[int, int] | None = None,
) -> Iterator[Detections]:
    """Detections of each image of a batch, on the CPU; sizes: (height, width) of the images in pixels.

    Of each image the best `limit` pairs of query and class, and of these only scores above the threshold. A tie goes to
    the lower query, then the lower class. Boxes end at the image's border. mask_size: (height, width) of the masks
    where it is not the image's. Masks of an image's size are large: they are made when its turn comes.
    """
    # Ordered for the whole batch and cut on the CPU: each look at a value on a device waits for it.
    rows, device = output.logits.shape[-1], output.logits.device
    # Image by image, though: the last bit of a sigmoid depends on where the number lies in memory.
    every = torch.stack([image_logits.sigmoid().flatten() for image_logits in output.logits])
    scores, order = every.sort(dim=1, descending=True, stable=True)
    scores, order = scores[:, :limit], order[:, :limit]  # (B, limit)
    corners = output.boxes.new_tensor([[(width, height, width, height)] for height, width in sizes])  # (B, 1, 4)
    picked = output.boxes.gather(1, (order // rows)[..., None].expand(-1, -1, 4))
    boxes = (cxcywh_to_xyxy(picked) * corners).clamp(min=0).minimum(corners)
    scores, order, boxes = scores.cpu(), order.cpu(), boxes.cpu()
    for index, size in enumerate(sizes):
        kept = scores.shape[1] if threshold is None else int((scores[index] > threshold).sum())
        best, masks = order[index, :kept], None
        if isinstance(output.masks, Tensor):
            masks = resize_masks(output.masks[index, (best // rows).to(device)], mask_size or size).cpu()
        yield Detections(scores[index, :kept], best % rows, boxes[index, :kept], masks)


def resize_masks(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Mask logits (N, h, w), resized to (height, width) and cut at zero: (N, height, width) bool."""
    masks = torch.empty(len(logits), *size, dtype=torch.bool, device=logits.device)
    for start in range(0, len(logits), MASKS_AT_ONCE):
        chunk = F.interpolate(logits[start : start + MASKS_AT_ONCE, None], size, mode="bilinear", align_corners=False)
        masks[start : start + MASKS_AT_ONCE] = chunk[:, 0] > 0
    return masks
