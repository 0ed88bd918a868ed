"""Compares each published variant with upstream: parameters, largest differences of the outputs, time.

    python benchmarks/parity.py [VARIANT ...]

Random weights, one image at full resolution, fp32, one forward pass each in evaluation mode. Swaps are proposals whose
order differs, because their scores are closer than 1e-5. Needs the parity tools (`make setup-dev`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rfdetr_core.model.config import VARIANTS
from tests.parity.reference import (
    PUBLISHED,
    build_upstream,
    nested,
    pair,
    random_images,
    recorded_order,
    replayed_order,
)


def timed(model: Callable[[Any], Any], batch: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    return model(batch), time.perf_counter() - start


def main() -> None:
    print("| variant | parameters | logits | boxes | masks | swaps | upstream s | ours s |")
    print("|---" * 8 + "|")
    for variant in sys.argv[1:] or PUBLISHED:
        architecture = VARIANTS[variant]
        both = pair(architecture, build_upstream(variant), torch.float32)
        images = random_images(1, 3, architecture.resolution, architecture.resolution)
        with torch.inference_mode():
            both.upstream(nested(images)), both.ours(images)  # the first pass prepares the kernels
            with recorded_order() as order:
                theirs, upstream_seconds = timed(both.upstream, nested(images))
            with replayed_order(order):
                ours, our_seconds = timed(both.ours, images)
        pairs = [(theirs["pred_logits"], ours.logits), (theirs["pred_boxes"], ours.boxes)]
        if architecture.segmentation:
            pairs.append((theirs["pred_masks"], ours.masks))
        cells = [f"{(a - b).abs().max().item():.1e}" for a, b in pairs] + ["-"] * (3 - len(pairs))
        parameters = sum(parameter.numel() for parameter in both.ours.parameters())
        row = [variant, f"{parameters:,}", *cells, str(order.swaps)]
        print(f"| {' | '.join(row)} | {upstream_seconds:.2f} | {our_seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
