"""The `evaluate` section of params.yaml."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rfdetr_core.base.params import Config


class EvaluateConfig(Config):
    """What evaluation measures and draws."""

    split: Literal["test", "valid"] = Field("test", description="valid serves where test has no image")
    batch_size: int = Field(1, gt=0, description="images at a time; 1: exactly what predict() gives")
    pictures: int = Field(9, ge=0, description="drawn: a third each of the best, the middle and the worst images")
    threshold: float | None = Field(
        None, ge=0, le=1, description="score that counts in pictures and confusion; null: that of the best F1"
    )
