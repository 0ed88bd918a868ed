"""The `report` section of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rfdetr_core.base.params import Config

Share = Annotated[float, Field(gt=0, lt=1)]


class ReportConfig(Config):
    """The content of the evaluation page. A change affects only the stage report; scores stay the same."""

    target: Annotated[dict[Literal["precision", "recall"], Share], Field(min_length=1, max_length=1)] | None = Field(
        None,
        description="the precision or recall that the recommended thresholds should reach, as {precision: 0.9}; "
        "null: thresholds with the highest F1",
    )
    resamples: int = Field(
        1000, ge=100, description="number of times the images are resampled for each interval (bootstrap)"
    )
    images: int = Field(
        300, ge=0, description="largest number of images on the page; if the split has more: those with the lowest F1"
    )
    crops: int = Field(
        12,
        ge=0,
        description="largest number of pictures for each kind of error; for suspected labels five times this number",
    )
