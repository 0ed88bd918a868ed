"""Converts images of any kind to RGB, and detections to those of supervision."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from rfdetr_core.base import images as image_files
from rfdetr_core.base.errors import UserError
from rfdetr_core.inference.addresses import fetch_image, is_address
from rfdetr_core.ops.structures import Detections

if TYPE_CHECKING:
    import supervision

Picture: TypeAlias = str | os.PathLike[str] | Image.Image | npt.NDArray[np.uint8] | Tensor


def to_rgb(image: Picture) -> Image.Image:
    """Convert an image of any kind that `predict` takes to an upright RGB image.

    Raises:
        UserError: the image cannot be read or downloaded, or has another type, shape or range.
    """
    if isinstance(image, str) and is_address(image):
        return fetch_image(image)
    if isinstance(image, str | os.PathLike):
        path = Path(image)
        if path.parts[:1] in (("https:",), ("http:",)) and not path.exists():
            raise UserError(
                f"{path} is an address in a Path, which removes one of its slashes. Give the address as a str."
            )
        try:
            data = image_files.read_limited(path, image_files.MAX_PIXELS)
        except (OSError, image_files.TooLargeError) as error:
            raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
        return image_files.decode(data, str(path))
    if isinstance(image, Image.Image):
        return image_files.upright_rgb(image)
    if isinstance(image, Tensor):
        if image.ndim != 3 or len(image) != 3:
            raise UserError(f"an image tensor must have the shape (3, H, W), RGB; this one is {tuple(image.shape)}.")
        return Image.fromarray(_to_uint8(image.detach().cpu()).permute(1, 2, 0).numpy())  # (H, W, 3)
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise UserError(f"an image array must be RGB uint8 of shape (H, W, 3), not {image.dtype} of {image.shape}.")
        return Image.fromarray(np.ascontiguousarray(image))
    kind = type(image).__name__
    raise UserError(f"an image must be a path, an https address, a PIL image, an array or a tensor; this is a {kind}.")


def to_supervision(detections: Detections, class_names: Sequence[str]) -> supervision.Detections:
    """Convert to supervision's Detections. A label that is not in the class table is named by its number."""
    labels = detections.labels.numpy()
    names = [class_names[label] if label < len(class_names) else str(label) for label in labels]
    kind: type[supervision.Detections] = import_supervision().Detections
    return kind(
        xyxy=detections.boxes.numpy(),
        confidence=detections.scores.numpy(),
        class_id=labels,
        mask=None if detections.masks is None else detections.masks.numpy(),
        data={"class_name": np.array(names, dtype=np.str_)},
    )


def import_supervision() -> Any:
    """Import supervision, which takes a second. Its warning that OpenCV is not installed is hidden."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="OpenCV", category=UserWarning)
        return importlib.import_module("supervision")


def _to_uint8(image: Tensor) -> Tensor:
    if image.dtype == torch.uint8:
        return image
    if not image.is_floating_point() or not bool(((image >= 0) & (image <= 1)).all()):
        raise UserError("an image tensor must be uint8, or floats in 0..1 (not normalised).")
    return (image.float() * 255).round().to(torch.uint8)
