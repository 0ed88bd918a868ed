"""The `validate` section of params.yaml."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from rfdetr_core.ingest.checks import Severity
from rfdetr_core.ingest.rules import RULES
from rfdetr_core.params import Config


class ValidateConfig(Config):
    """on_error: stop at errors, or drop (leave out) what they name. severities: another severity for a code."""

    on_error: Literal["stop", "drop"] = "stop"
    severities: dict[str, Severity] = Field(default_factory=dict)

    @field_validator("severities")
    @classmethod
    def _changeable(cls, severities: dict[str, Severity]) -> dict[str, Severity]:
        known = sorted(code for code, rule in RULES.items() if rule.scope != "dataset")
        for code in severities.keys() - known:
            fixed = "always stops: nothing can be left out to mend it" if code in RULES else "is no code"
            raise ValueError(f"{code} {fixed}. Codes that can be set: {', '.join(known)}")
        return severities
