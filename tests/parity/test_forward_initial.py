"""Every initial weight is drawn from the same distribution as upstream's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rfdetr_core.model.config import Architecture
from rfdetr_core.model.detector import build_detector
from tests.parity.reference import SMALL, build_upstream_like, our_weights

WIDE = replace(SMALL, encoder_width=192, width=128, feedforward_width=160, projector_scales=("P3", "P4", "P5"))


@pytest.mark.parametrize("architecture", [WIDE, replace(WIDE, segmentation=True)], ids=["detector", "segmenter"])
def test_initial_weights_are_drawn_as_upstreams(architecture: Architecture) -> None:
    upstream = our_weights(build_upstream_like(architecture).state_dict())
    for name, ours in build_detector(architecture).state_dict().items():
        theirs = upstream[name]
        if theirs.unique().numel() <= 2 or name.endswith("offsets.bias"):
            torch.testing.assert_close(ours, theirs, msg=name)
            continue
        assert theirs.numel() >= 96, name
        # Five standard errors of the mean and of the standard deviation, for two samples of this size.
        error = 5 * (2 / theirs.numel()) ** 0.5
        assert (ours.mean() - theirs.mean()).abs() < error * theirs.std(), name
        assert (ours.std() / theirs.std() - 1).abs() < error, name
        # A uniform distribution ends at 1.7 standard deviations, a normal one has no end.
        ends = [bool(weights.abs().max() < 2.2 * weights.std()) for weights in (ours, theirs)]
        assert ends[0] == ends[1], name
