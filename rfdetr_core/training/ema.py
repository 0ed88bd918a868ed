"""The exponential moving average of the weights."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage:
    """An averaged copy of a detector, `module`, in evaluation mode and without gradients.

    Update n = 1 copies the weights. Update n > 1 keeps d = decay (1 - exp(-n / tau)) of the average and takes 1 - d of
    the weights; tau 0: d = decay. Parameters are averaged, frozen ones too; buffers are copied. After upstream's
    training/callbacks/ema.py.
    """

    def __init__(self, detector: nn.Module, decay: float, tau: float) -> None:
        """Copy the detector."""
        self.decay, self.tau = decay, tau
        self.module = copy.deepcopy(detector).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, detector: nn.Module, updates: int) -> None:
        """Take in the weights after an optimiser step; `updates` counts this one, so the first is 1."""
        average: list[Tensor] = list(self.module.parameters())
        weights: list[Tensor] = list(detector.parameters())
        if updates == 1:
            torch._foreach_copy_(average, weights)
        else:
            kept = self.decay * (1 - math.exp(-updates / self.tau)) if self.tau > 0 else self.decay
            torch._foreach_lerp_(average, weights, 1 - kept)
        for own, other in zip(self.module.buffers(), detector.buffers(), strict=True):
            own.copy_(other)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights by the detector's names."""
        return self.module.state_dict()

    def load_state_dict(self, weights: dict[str, Any]) -> None:
        """Take weights that `state_dict` gave; a missing or strange name is an error."""
        self.module.load_state_dict(weights)
