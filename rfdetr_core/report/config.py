"""The `report` section of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rfdetr_core.base.params import Config

Share = Annotated[float, Field(gt=0, lt=1)]


class ReportConfig(Config):
    """What the page of an evaluation shows. It changes no score: evaluate does not run again."""

    target: Annotated[dict[Literal["precision", "recall"], Share], Field(min_length=1, max_length=1)] | None = Field(
        None,
        description="the precision or recall that a threshold shall reach, as {precision: 0.9}; null: the best F1",
    )
    resamples: int = Field(1000, ge=100, description="draws of the images behind each interval")
    images: int = Field(300, ge=0, description="small pictures on the page; of more images, those with the lowest F1")
    crops: int = Field(
        12, ge=0, description="pictures of each kind of error, and five times as many of suspected labels"
    )
