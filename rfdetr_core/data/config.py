"""How training images are varied: part of the `train` section of params.yaml."""

from __future__ import annotations

from pydantic import Field, model_validator

from rfdetr_core.base.params import Config


class AugmentConfig(Config):
    """Upstream's augmentation by default; what comes after `horizontal_flip` helps small datasets and is off.

    `crop_sides` and `crop_range` are pixels of an image whose short side is first scaled to one of `crop_sides`. The
    crop is resized to the model's input afterwards, so only their ratio counts: upstream's crops keep 0.64 to 1 of the
    short side, whatever the resolution. A `crop_range` that starts lower magnifies more.
    """

    crop_sides: tuple[int, ...] = Field((400, 500, 600), description="short sides, one drawn per crop; none: no crop")
    crop_range: tuple[int, int] = Field((384, 600), description="smallest and largest side of a square crop")
    horizontal_flip: float = Field(0.5, ge=0, le=1, description="probability of a left-right flip")
    vertical_flip: float = Field(0.0, ge=0, le=1, description="probability of an upside-down flip")
    quarter_turn: float = Field(0.0, ge=0, le=1, description="probability of a turn by 90, 180 or 270 degrees")
    brightness: float = Field(0.0, ge=0, le=1, description="factor drawn from 1 - b to 1 + b")
    contrast: float = Field(0.0, ge=0, le=1, description="factor drawn from 1 - c to 1 + c")
    saturation: float = Field(0.0, ge=0, le=1, description="factor drawn from 1 - s to 1 + s")
    hue: float = Field(0.0, ge=0, le=0.5, description="shift drawn from -h to h, in turns of the colour circle")

    @model_validator(mode="after")
    def _crops_exist(self) -> AugmentConfig:
        if min(self.crop_sides, default=1) < 1 or not 1 <= self.crop_range[0] <= self.crop_range[1]:
            raise ValueError("crop_sides and crop_range count pixels from 1, and crop_range must not fall.")
        return self
