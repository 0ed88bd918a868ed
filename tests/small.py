"""A small architecture with random weights for tests. No weight is zero or one, which could hide a mistake."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from rfdetr_core.checkpoint.keys import to_upstream
from rfdetr_core.model.config import Architecture
from rfdetr_core.model.detector import Detector, build_detector

SMALL = Architecture(
    "RFDETRSmallest",
    None,
    resolution=64,
    patch_size=8,
    encoder_width=24,
    encoder_blocks=4,
    encoder_heads=3,
    feature_indexes=(1, 2, 3, 4),
    width=32,
    decoder_layers=2,
    self_heads=2,
    cross_heads=4,
    feedforward_width=48,
    queries=20,
    groups=13,
    classes=5,
)


def small_detector(architecture: Architecture = SMALL, dtype: torch.dtype = torch.float64) -> Detector:
    """A detector with random weights, in eval mode."""
    detector = build_detector(architecture)
    weights = detector.state_dict()
    detector.load_state_dict({name: random_weight(to_upstream(name), value) for name, value in weights.items()})
    return detector.to(dtype).eval()


def random_images(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal noise, smoothed so that neighbouring patches are similar, as in photographs."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (3 * torch.nn.functional.avg_pool2d(noise, 5, stride=1, padding=2)).to(dtype)


def random_weight(name: str, value: Tensor, seed: int = 0) -> Tensor:
    """A weight of the shape of `value`, a function of upstream's `name` and the seed alone.

    The directions of the sampling points are kept and moved a little; masks of bool are kept as they are.
    """
    if value.dtype == torch.bool:
        return value
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
    return (_scaled(name, value, noise)).to(value.dtype)


def _scaled(name: str, value: Tensor, noise: Tensor) -> Tensor:
    if "lambda1" in name:
        return 0.6 + 0.2 * noise
    if "sampling_offsets.bias" in name:
        return value + 0.5 * noise
    if "refpoint_embed" in name:
        return 0.2 * noise
    if name.endswith(("query_feat.weight", "cls_token", "mask_token", "position_embeddings")):
        return noise
    if value.ndim == 1:
        return 0.1 * noise + (1 if name.endswith("weight") else 0)
    # Smaller, because exp() turns the outputs of the last box layer into sizes, and mask logits are sums of products.
    tame = 0.3 if "bbox_embed" in name and "layers.2" in name else 0.2 if "features_proj" in name else 1.0
    return tame * noise / value[0].numel() ** 0.5
