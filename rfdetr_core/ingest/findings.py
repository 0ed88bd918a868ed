"""What validation found."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.ingest.geometry import Box, drawable
from rfdetr_core.ingest.records import Place
from rfdetr_core.ingest.rules import RULES, Severity

Effect = Literal["stop", "left out", "kept"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault at one place: what is wrong, and what becomes of the thing that is named.

    box: of the annotation that is named, in pixels, as far as it can be drawn.
    """

    code: str
    severity: Severity
    place: Place
    what: str
    effect: Effect
    box: Box | None = None


@dataclass
class Findings:
    """Collects findings and decides, by the rules and the config, what becomes of what they name.

    broken: the labels cannot be understood well enough to check what they say.
    """

    config: ValidateConfig
    all: list[Finding] = field(default_factory=list)
    broken: bool = False

    def add(self, code: str, place: Place, what: str, box: Any = None) -> bool:
        """Note a finding; True when the image, annotation or class that it names must be left out.

        box: of an annotation, in pixels, whatever the files have there.
        """
        rule = RULES[code]
        severity = self.config.severities.get(code, rule.severity)
        whole = rule.scope == "dataset" or (rule.scope == "split" and severity == "error")
        self.broken |= rule.scope == "dataset"
        stop = severity == "error" and (whole or self.config.on_error == "stop")
        out = whole or rule.scope == "unusable" or severity == "error"
        if severity != "ignore":
            place = replace(place, file=_encodable(place.file), image=_encodable(place.image or "") or None)
            what = _encodable(what)
            effect: Effect = "stop" if stop else "left out" if out else "kept"
            self.all.append(Finding(code, severity, place, what, effect, drawable(box)))
        return out

    def by_place(self) -> list[Finding]:
        """All, sorted by file, line or annotation, and code."""
        return sorted(
            self.all,
            key=lambda one: (one.place.file, one.place.line or 0, one.place.annotation or 0, one.code, one.what),
        )

    @property
    def stopping(self) -> list[Finding]:
        """Those that end the run."""
        return [finding for finding in self.all if finding.effect == "stop"]


def _encodable(text: str) -> str:
    """Names of files need be no Unicode."""
    return text.encode(errors="backslashreplace").decode()
