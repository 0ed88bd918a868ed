"""Pico and SegPico with random weights, small enough to be exported in seconds, and pictures for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from rfdetr_core.inference.predictor import Predictor
from rfdetr_core.model.config import VARIANTS
from rfdetr_core.model.postprocess import resize_masks
from tests.evaluation.scene import NAMES, write_random_checkpoint

# The resolutions are smaller than the published ones, so that tracing and running takes seconds.
LESS = {"queries": 30, "groups": 2, "classes": 3, "position_grid": 0}
SMALLER = {
    "pico": replace(VARIANTS["pico"], resolution=128, **LESS),
    "seg-pico": replace(VARIANTS["seg-pico"], resolution=96, **LESS),
}
PHOTOGRAPHS = ((640, 480), (480, 640))  # width and height


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Noise in which every second pixel is black or white, so that weighted sums reach both ends of their range."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[random.random((height, width)) < 0.5] = random.choice([0, 255])
    return Image.fromarray(pixels)


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth noise, similar to a photograph."""
    return noise(width // 16, height // 16, seed).resize((width, height), Image.Resampling.BICUBIC)


def make_predictor(folder: Path, variant: str) -> Predictor:
    path = folder / f"{variant}.pth"
    write_random_checkpoint(path, SMALLER[variant], seed=5)  # with this seed, each class is detected
    return Predictor.from_checkpoint(path, device="cpu")


def as_batch(pictures: list[Image.Image], kind: Literal["uint8", "float"]) -> torch.Tensor:
    batch = torch.stack([torch.from_numpy(np.asarray(picture).copy()) for picture in pictures])
    return batch if kind == "uint8" else batch.permute(0, 3, 1, 2) / 255


def check_detections(
    outputs: dict[str, Any], model: Predictor, pictures: list[Image.Image], *, every_class: bool = True
) -> None:
    """Assert that the outputs of a complete graph are the detections of `predict`."""
    named: set[str] = set()
    for row, picture in enumerate(pictures):
        expected = model.predict(picture, threshold=0.0)
        names = {NAMES[number] for number in outputs["classes"][row] if number < len(NAMES)}
        assert names == {*expected.data["class_name"]} & {*NAMES}
        named |= names
        assert np.abs(np.asarray(outputs["boxes"][row]) - expected.xyxy).max() < 0.01
        assert np.abs(np.asarray(outputs["scores"][row]) - expected.confidence).max() < 1e-4
        assert np.asarray(outputs["classes"][row]).tolist() == expected.class_id.tolist()
        if model.architecture.segmentation:
            masks = resize_masks(torch.from_numpy(np.asarray(outputs["masks"][row])), (picture.height, picture.width))
            assert 0.001 < expected.mask.mean() < 0.999
            assert (masks.numpy() != expected.mask).mean() < 1e-4
    assert named == {*NAMES} or not every_class
