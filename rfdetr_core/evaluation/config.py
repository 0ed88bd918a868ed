"""The `evaluate` section of params.yaml."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rfdetr_core.base.params import Config


class EvaluateConfig(Config):
    """The settings of an evaluation: its split, its score threshold and its pictures."""

    split: Literal["test", "valid"] = Field(
        "test", description="the split that is scored; if test has no image, valid is used"
    )
    batch_size: int = Field(
        1, gt=0, description="images that go through the model together; 1: exactly the results of predict()"
    )
    pictures: int = Field(
        9, ge=0, description="number of images to draw: a third of them the best, a third the middle, a third the worst"
    )
    threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="pictures and confusion show detections with a score above this number; "
        "null: the threshold with the highest F1",
    )
