"""From an RGB image to the model's input: one resize and one normalisation for validation, evaluate and predict."""

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

    Pillow resizes (bilinear, antialiased): in integers, so alike on every processor, and as upstream's validation does.
    """
    return normalise(pixels(image, resolution))


def pixels(image: Image.Image, size: int | tuple[int, int]) -> Tensor:
    """Resize an RGB image to a size as `resize` takes it: (3, height, width) uint8."""
    return F.pil_to_tensor(resize(image, size))  # type: ignore[no-any-return]


def resize(thing: Any, size: int | tuple[int, int]) -> Any:
    """Resize an image, boxes or masks to the side of a square, or to (height, width)."""
    sides = [size, size] if isinstance(size, int) else [*size]
    return F.resize(thing, sides, interpolation=F.InterpolationMode.BILINEAR, antialias=True)


def normalise(images: Tensor) -> Tensor:
    """Scale uint8 (..., 3, H, W) to 0..1, subtract ImageNet's mean and divide by its deviation: float32."""
    scaled: Tensor = F.to_dtype(images.contiguous(), torch.float32, scale=True)
    # Filled on the device: torchvision's own `normalize` copies its numbers there, and the host would wait for it.
    mean, deviation = (
        torch.stack([scaled.new_full((1, 1), number) for number in numbers])
        for numbers in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return scaled.sub_(mean).div_(deviation)
