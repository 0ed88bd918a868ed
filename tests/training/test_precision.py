from __future__ import annotations

import statistics

import pytest
import torch

from rfdetr_core.loss.criterion import Criterion
from rfdetr_core.model.detector import build_detector
from rfdetr_core.ops.structures import Target
from tests.small import SMALL, random_images

STEPS = 60


def losses(bf16: bool) -> list[float]:
    """Losses of training on one batch."""
    torch.manual_seed(0)
    detector = build_detector(SMALL).train()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    images, generator = random_images(2, 3, 64, 64), torch.Generator().manual_seed(0)
    targets = [Target(torch.arange(3), torch.rand(3, 4, generator=generator) * 0.3 + 0.3) for _ in range(2)]
    values = []
    for _ in range(STEPS):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            output = detector(images)
        loss = Criterion()(output, targets, groups=SMALL.groups).total
        loss.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
        values.append(loss.item())
    return values


@pytest.mark.slow
def test_training_in_bf16_learns_as_in_fp32() -> None:
    exact, coarse = losses(False), losses(True)
    assert abs(coarse[0] / exact[0] - 1) < 0.02
    ends = [statistics.mean(values[-10:]) for values in (exact, coarse)]
    assert ends[0] < 0.6 * exact[0]
    assert abs(ends[1] / ends[0] - 1) < 0.1
