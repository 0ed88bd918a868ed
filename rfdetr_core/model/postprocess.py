"""Turns the detector's output into detections in pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rfdetr_core.ops.boxes import cxcywh_to_xyxy
from rfdetr_core.ops.structures import Detections, DetectorOutput

MASKS_AT_ONCE = 32  # resized together: this bounds the memory of float masks at the image's size


@torch.no_grad()
def postprocess(
    output: DetectorOutput,
    sizes: Sequence[tuple[int, int]],
    limit: int,
    threshold: float | None = None,
    mask_size: tuple[int, int] | None = None,
) -> Iterator[Detections]:
    """The detections of each image of a batch, on the CPU.

    A detection is a pair of query and class. Of equal scores, the lower query comes first, then the lower class. Boxes
    are clipped to the image. Masks are large, so those of an image are computed only when the iteration reaches it.

    Args:
        output: of the detector, for the batch.
        sizes: (height, width) of the images in pixels.
        limit: the most detections of an image, the best first.
        threshold: only scores above it are returned; None: all scores.
        mask_size: (height, width) of the masks in pixels; None: the image's size.
    """
    # Sorted for the whole batch, and filtered on the CPU: reading a single value waits for the device.
    rows, device = output.logits.shape[-1], output.logits.device
    # The sigmoid is computed image by image: its last bit depends on the number's position in memory.
    probabilities = torch.stack([image_logits.sigmoid().flatten() for image_logits in output.logits])
    scores, order = probabilities.sort(dim=1, descending=True, stable=True)
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
    """Masks (N, height, width) bool: True where the logits (N, h, w), resized to (height, width), are above zero."""
    masks = torch.empty(len(logits), *size, dtype=torch.bool, device=logits.device)
    for start in range(0, len(logits), MASKS_AT_ONCE):
        chunk = F.interpolate(logits[start : start + MASKS_AT_ONCE, None], size, mode="bilinear", align_corners=False)
        masks[start : start + MASKS_AT_ONCE] = chunk[:, 0] > 0
    return masks
