"""What validation found."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from rfdetr_core.ingest.checks import Severity
from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.ingest.records import Place
from rfdetr_core.ingest.rules import RULES


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault at one place: what is wrong, and what becomes of the thing that is named."""

    code: str
    severity: Severity
    place: Place
    what: str
    effect: Literal["stop", "left out", "kept"]


@dataclass
class Findings:
    """Collects findings and decides, by the rules and the config, what becomes of what they name.

    broken: the labels cannot be understood well enough to check what they say.
    """

    config: ValidateConfig
    all: list[Finding] = field(default_factory=list)
    broken: bool = False

    def add(self, code: str, place: Place, what: str) -> bool:
        """Note a finding; True when the image, annotation or class that it names must be left out."""
        rule = RULES[code]
        severity = self.config.severities.get(code, rule.severity)
        self.broken |= rule.scope == "dataset"
        stop = severity == "error" and (rule.scope == "dataset" or self.config.on_error == "stop")
        out = rule.scope != "usable" or severity == "error"
        if severity != "ignore":
            place = replace(place, file=_encodable(place.file), image=_encodable(place.image or "") or None)
            what = _encodable(what)
            self.all.append(Finding(code, severity, place, what, "stop" if stop else "left out" if out else "kept"))
        return out

    @property
    def stopping(self) -> list[Finding]:
        """Those that end the run."""
        return [finding for finding in self.all if finding.effect == "stop"]


def _encodable(text: str) -> str:
    """Names of files need be no Unicode."""
    return text.encode(errors="backslashreplace").decode()
