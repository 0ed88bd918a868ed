"""The `evaluate` section of params.yaml."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rfdetr_core.base.params import Config


class EvaluateConfig(Config):
    """The settings of an evaluation: its split, its score threshold and its pictures."""

    split: Literal["test", "valid"] = Field("test", description="the split; if test has no image, valid is used")
    batch_size: int = Field(1, gt=0, description="images at a time; 1: exactly the results of predict()")
    pictures: int = Field(
        9, ge=0, description="number of images to draw: a third each of the best, the middle and the worst"
    )
    threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="detections count in pictures and confusion if their score is above it; "
        "null: the threshold with the highest F1",
    )
