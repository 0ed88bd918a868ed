"""The `validate` section of params.yaml."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from rfdetr_core.base.images import MAX_PIXELS
from rfdetr_core.base.params import Config
from rfdetr_core.ingest.rules import RULES, Severity


class CocoFiles(Config):
    """Where a split of a COCO dataset is, below the dataset folder: a JSON file, and the folder of its images."""

    annotations: str = Field(min_length=1)
    images: str = Field(min_length=1)


class SplitConfig(Config):
    """Parts of train, in 0..1, that become the splits that are missing; another seed cuts otherwise."""

    valid: float = Field(0.0, ge=0, lt=1, description="part of the images of train that become valid")
    test: float = Field(0.0, ge=0, lt=1, description="part of the images of train that become test")
    seed: int = Field(0, ge=0, description="of the draw")

    @model_validator(mode="after")
    def _leaves_train(self) -> Self:
        if not 0 < self.valid + self.test < 1:
            raise ValueError(f"valid {self.valid} and test {self.test} must together be more than 0 and less than 1")
        return self


class ValidateConfig(Config):
    """What validation is asked for."""

    on_error: Literal["stop", "drop"] = Field("stop", description="at errors: stop, or leave out what they name")
    severities: dict[str, Severity] = Field(default_factory=dict, description="another severity for a code")
    coco: dict[Literal["train", "valid", "test"], CocoFiles] | None = Field(
        None, description="where the splits of a COCO dataset are, if not where its layout has them"
    )
    split: SplitConfig | None = Field(None, description="cut missing splits from train; copies stay together")
    max_pixels: int = Field(MAX_PIXELS, gt=0, description="the largest image that is decoded; of WebP half")

    @field_validator("severities")
    @classmethod
    def _changeable(cls, severities: dict[str, Severity]) -> dict[str, Severity]:
        known = sorted(code for code, rule in RULES.items() if rule.scope != "dataset")
        for code in severities.keys() - known:
            fixed = "always stops: nothing can be left out to mend it" if code in RULES else "is no code"
            raise ValueError(f"{code} {fixed}. Codes that can be set: {', '.join(known)}")
        return severities
