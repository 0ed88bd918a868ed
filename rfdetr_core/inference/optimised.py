"""A faster copy of a detector for prediction: weights in another precision, and precomputed products of weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rfdetr_core.base.errors import UserError
from rfdetr_core.model.detector import Detector
from rfdetr_core.model.layers import attend
from rfdetr_core.model.vit import Block, resize_positions, scaled
from rfdetr_core.ops.structures import DetectorOutput

_ON_CPU = (torch.float32, torch.bfloat16)
_ON_CUDA = (*_ON_CPU, torch.float16)


class OptimisedDetector(nn.Module):
    """A copy of a detector for images (B, channels, resolution, resolution).

    Encoder and projector do nine tenths of the work; they compute in `dtype`. Decoder and heads compute the boxes, so
    they stay in float32. compiled: batches are cut, or filled up, to `batch_size`, because every other shape would be
    compiled again.
    """

    def __init__(
        self, detector: Detector, resolution: int, *, dtype: torch.dtype, batch_size: int, compiled: bool
    ) -> None:
        super().__init__()
        self.dtype = dtype
        self.batch_size = batch_size if compiled else None
        copied: Any = copy.deepcopy(detector).eval().requires_grad_(False)
        encoder, patch = copied.encoder, copied.encoder.patch_projection.kernel_size
        encoder.position_embeddings.data = resize_positions(
            encoder.position_embeddings, resolution // patch[0], resolution // patch[1]
        )
        needed = list(encoder.blocks)[: encoder.feature_indexes[-1]]  # no feature comes from the later blocks
        encoder.blocks = nn.ModuleList(FoldedBlock(block) for block in needed)
        copied.encoder = nn.Sequential(_Cast(dtype), encoder.to(dtype))
        copied.projector = nn.Sequential(copied.projector.to(dtype), _ToFloat())
        copied.proposer.groups = copied.proposer.groups[:1]
        self.detector = copied
        self.eval()
        self.run: Any = torch.compile(self._tensors, dynamic=False) if compiled else self._tensors

    def forward(self, images: Tensor) -> DetectorOutput:
        """Compute logits, boxes and masks of the last decoder layer for normalised images."""
        if self.batch_size is None:
            return DetectorOutput(*self.run(images))
        count, side = len(images), self.batch_size
        if missing := -count % side:
            images = torch.cat([images, images.new_zeros(missing, *images.shape[1:])])
        logits, boxes, masks = zip(*map(self.run, torch.split(images, side)), strict=True)
        joined = None if masks[0] is None else torch.cat(masks)[:count]
        return DetectorOutput(torch.cat(logits)[:count], torch.cat(boxes)[:count], joined)

    def _tensors(self, images: Tensor) -> tuple[Tensor, Tensor, Any]:
        output = self.detector(images)
        return output.logits, output.boxes, output.masks


class FoldedBlock(nn.Module):
    """A `Block` for prediction. One layer computes query, key and value; the scales are multiplied into the weights."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        attention = block.attention
        self.windows_seen, self.heads = block.windows_seen, attention.heads
        self.norm1, self.norm2, self.expand = block.norm1, block.norm2, block.expand
        layers = (attention.query, attention.key, attention.value)
        weight, bias = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
        self.query_key_value = _linear(weight, bias)
        self.output = _linear(*scaled(attention.output, block.scale1))
        self.contract = _linear(*scaled(block.contract, block.scale2))

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens (windows of all images, tokens of a window, C) to the same shape."""
        rows = self.norm1(x).reshape(x.shape[0] // self.windows_seen, -1, x.shape[-1])
        projected = self.query_key_value(rows).view(*rows.shape[:2], 3, self.heads, -1)
        query, key, value = projected.permute(2, 0, 3, 1, 4)  # (N, heads, L, C / heads)
        x = x + self.output(attend(query, key, value).transpose(1, 2).flatten(2)).view_as(x)
        return x + self.contract(F.gelu(self.expand(self.norm2(x))))  # type: ignore[no-any-return]


class _Cast(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, images: Tensor) -> Tensor:
        return images.to(self.dtype)


class _ToFloat(nn.Module):
    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return [level.float() for level in maps]


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = (nn.Parameter(value.detach(), requires_grad=False) for value in (weight, bias))
    return layer


def optimise(
    detector: Detector, resolution: int, device: str, *, dtype: torch.dtype | str, batch_size: int, compiled: bool
) -> OptimisedDetector:
    """Make an optimised copy of a detector. The detector itself is not changed.

    Args:
        detector: The detector to copy.
        resolution: The side of its images.
        device: Where it runs, by torch's name.
        dtype: float32 or bfloat16, on CUDA also float16; the type or its name.
        batch_size: Images of a compiled batch.
        compiled: Compile the copy now. This is only done on CUDA: on a CPU the compiled copy was slower.

    Raises:
        UserError: dtype or batch_size is wrong, or the copy cannot be compiled here.
    """
    compiled = compiled and device.startswith("cuda")
    optimised = OptimisedDetector(
        detector,
        resolution,
        dtype=_dtype(dtype, device),
        batch_size=require_positive_int("batch_size", batch_size),
        compiled=compiled,
    )
    if compiled:
        channels = detector.encoder.patch_projection.in_channels
        try:
            with torch.inference_mode():
                optimised(torch.zeros(batch_size, channels, resolution, resolution, device=device))
        except Exception as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise UserError(f"the model cannot be compiled here: {reason}. Give compile=False.") from error
    return optimised


def require_positive_int(name: str, value: Any) -> int:
    """Return the value. Raises a UserError if it is not an integer of 1 or more."""
    if type(value) is not int or value < 1:
        raise UserError(f"{name} is {value!r}: it must be a whole number, 1 or more.")
    return value


def _dtype(requested: Any, device: str) -> torch.dtype:
    known_dtypes = _ON_CUDA if device.startswith("cuda") else _ON_CPU
    match = next(
        (dtype for dtype in known_dtypes if requested in (dtype, str(dtype), str(dtype).removeprefix("torch."))), None
    )
    if match is None:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in known_dtypes)
        raise UserError(f"dtype is {str(requested).removeprefix('torch.')!r}: on {device} it must be one of {names}.")
    return match
