"""A detector of 60,000 parameters, and its checkpoint."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from rfdetr_core.checkpoint.files import Checkpoint, make_checkpoint
from rfdetr_core.model.config import Architecture
from rfdetr_core.model.detector import Detector, build_detector

TINY = Architecture(
    "TinyDetector",
    None,
    resolution=32,
    patch_size=8,
    encoder_width=16,
    encoder_blocks=2,
    encoder_heads=2,
    feature_indexes=(1, 2),
    width=16,
    decoder_layers=2,
    self_heads=2,
    cross_heads=2,
    feedforward_width=24,
    queries=6,
    groups=3,
    classes=3,
)


def tiny_detector(seed: int = 0, **changes: Any) -> tuple[Architecture, Detector]:
    architecture = replace(TINY, **changes)
    torch.manual_seed(seed)
    detector = build_detector(architecture)
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return architecture, detector.eval()


def tiny_record(**changes: Any) -> dict[str, Any]:
    """The training record of a training without data."""
    parts = ("params", "inputs", "weights", "code", "packages", "machine", "files", "counts", "parents")
    return {key: {} for key in parts} | {"lock": None} | changes


def tiny_checkpoint(seed: int = 0, **changes: Any) -> Checkpoint:
    architecture, detector = tiny_detector(seed, **changes)
    names = [f"class {number}" for number in range(architecture.classes)]
    return make_checkpoint(architecture, detector.state_dict(), class_names=names, args={"epochs": 2, "lr": 1e-4})
