"""The `validate` section of params.yaml."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from rfdetr_core.base.images import MAX_PIXELS
from rfdetr_core.base.params import Config
from rfdetr_core.ingest.rules import RULES, Severity


class CocoFiles(Config):
    """The files of one split of a COCO dataset: its JSON file, and the folder of its images. Paths in the dataset."""

    annotations: str = Field(min_length=1)
    images: str = Field(min_length=1)


class SplitConfig(Config):
    """Fractions of train, from 0 to 1, that become the missing splits. Another seed gives other splits."""

    valid: float = Field(0.0, ge=0, lt=1, description="fraction of the images of train that becomes valid")
    test: float = Field(0.0, ge=0, lt=1, description="fraction of the images of train that becomes test")
    seed: int = Field(0, ge=0, description="seed of the random split")

    @model_validator(mode="after")
    def _leaves_train(self) -> Self:
        if not 0 < self.valid + self.test < 1:
            raise ValueError(f"the sum of valid {self.valid} and test {self.test} must be more than 0 and less than 1")
        return self


class ValidateConfig(Config):
    """Options of validation."""

    on_error: Literal["stop", "drop"] = Field(
        "stop", description="if there are errors: stop; or drop: leave out the images and objects with errors"
    )
    severities: dict[str, Severity] = Field(
        default_factory=dict, description="other severities for codes of findings, as {leakage: error}"
    )
    coco: dict[Literal["train", "valid", "test"], CocoFiles] | None = Field(
        None, description="the files of each split, if a COCO dataset has neither of the two layouts in docs/data.md"
    )
    split: SplitConfig | None = Field(
        None,
        description="take missing splits from train, as {valid: 0.15}; all copies of a picture go to the same split",
    )
    max_pixels: int = Field(
        MAX_PIXELS, gt=0, description="the largest image that is decoded, in pixels; half of it for WebP"
    )

    @field_validator("severities")
    @classmethod
    def _changeable(cls, severities: dict[str, Severity]) -> dict[str, Severity]:
        changeable = sorted(code for code, rule in RULES.items() if rule.scope != "dataset")
        for code in severities.keys() - changeable:
            reason = (
                "always stops the pipeline, so its severity cannot be changed"
                if code in RULES
                else "is not a finding code"
            )
            raise ValueError(f"{code} {reason}. Codes whose severity can be changed: {', '.join(changeable)}")
        return severities
