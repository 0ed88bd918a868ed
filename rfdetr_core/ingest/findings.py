"""Findings, and the collection that decides the effect of each: stop, leave out or keep."""

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
    """One problem at one place: its code, severity and message, and the effect on the named image, object or class.

    box: the box of the named annotation, in pixels; None if it cannot be drawn.
    """

    code: str
    severity: Severity
    place: Place
    message: str
    effect: Effect
    box: Box | None = None


@dataclass
class Findings:
    """Collects findings. The rules and the config decide the effect of a finding on the named image, object or class.

    broken: the labels cannot be read well enough to check them.
    """

    config: ValidateConfig
    all: list[Finding] = field(default_factory=list)
    broken: bool = False

    def add(self, code: str, place: Place, message: str, box: Any = None) -> bool:
        """Add a finding. Returns True if the image, annotation or class that it names must be left out.

        Args:
            code: a code of `RULES`.
            place: where it is.
            message: the problem at this place.
            box: the box of an annotation in pixels, unchecked.
        """
        rule = RULES[code]
        severity = self.config.severities.get(code, rule.severity)
        concerns_all = rule.scope == "dataset" or (rule.scope == "split" and severity == "error")
        self.broken |= rule.scope == "dataset"
        stop = severity == "error" and (concerns_all or self.config.on_error == "stop")
        leaves_out = concerns_all or rule.scope == "unusable" or severity == "error"
        if severity != "ignore":
            place = replace(place, file=_encodable(place.file), image=_encodable(place.image or "") or None)
            message = _encodable(message)
            effect: Effect = "stop" if stop else "left out" if leaves_out else "kept"
            self.all.append(Finding(code, severity, place, message, effect, drawable(box)))
        return leaves_out

    def by_place(self) -> list[Finding]:
        """All findings, sorted by file, line or annotation, and code."""
        return sorted(
            self.all,
            key=lambda finding: (
                finding.place.file,
                finding.place.line or 0,
                finding.place.annotation or 0,
                finding.code,
                finding.message,
            ),
        )

    @property
    def stopping(self) -> list[Finding]:
        """The findings that stop the run."""
        return [finding for finding in self.all if finding.effect == "stop"]


def _encodable(text: str) -> str:
    """Escape the characters of a text that UTF-8 cannot encode: a file name may be any bytes."""
    return text.encode(errors="backslashreplace").decode()
