"""The `gate` section of params.yaml: what a retraining in CI may lose."""

from __future__ import annotations

from pydantic import Field

from rfdetr_core.params import Config


class GateConfig(Config):
    """How far a new model may fall behind the one before, both scored on the new test split."""

    max_drop: float | None = Field(
        0.5, ge=0, description="points of mAP (0 to 100) that a new model may lose in CI; null: any number"
    )
    resamples: int = Field(200, gt=0, description="draws of the test images behind the interval of the difference")
