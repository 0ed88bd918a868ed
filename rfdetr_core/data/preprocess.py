"""Resizes and normalises images for the model. Validation, evaluation and prediction share these functions."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def preprocess(image: Image.Image, resolution: int) -> Tensor:
    """Resize an RGB image to a square and normalise it: (3, resolution, resolution) float32.

    Pillow resizes (bilinear, antialiased), as in upstream's validation. It computes in integers, so the result is the
    same on every processor.
    """
    return normalise(pixels(image, resolution))


def pixels(image: Image.Image, size: int | tuple[int, int]) -> Tensor:
    """Resize an RGB image: (3, height, width) uint8. size: see `resize`."""
    return F.pil_to_tensor(resize(image, size))  # type: ignore[no-any-return]


def resize(image: Any, size: int | tuple[int, int]) -> Any:
    """Resize a PIL image or a tensor. size: the side of a square, or (height, width)."""
    sides = [size, size] if isinstance(size, int) else [*size]
    return F.resize(image, sides, interpolation=F.InterpolationMode.BILINEAR, antialias=True)


def normalise(images: Tensor) -> Tensor:
    """Scale uint8 (..., 3, H, W) to 0..1, subtract ImageNet's mean and divide by its deviation: float32."""
    scaled: Tensor = F.to_dtype(images.contiguous(), torch.float32, scale=True)
    # The numbers are made on the device. torchvision's `normalize` copies them there, and the host would wait for that.
    mean, deviation = (
        torch.stack([scaled.new_full((1, 1), number) for number in numbers])
        for numbers in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return scaled.sub_(mean).div_(deviation)
