"""The report of a verification: mismatches, unchecked parts and notes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

MISSING = "missing"
_UNREADABLE: tuple[type[Exception], ...] = (
    *(KeyError, TypeError, AttributeError, ValueError, ArithmeticError, IndexError, OSError),
)


@dataclass
class Report:
    """Collects the results of the checks.

    Attributes:
        mismatches: Each differing value as (subject, expected, actual), with the sources of the expected value.
        unchecked: What could not be checked, with the reason.
        notes: Sentences for the user that are not mismatches.
        checked: The number of comparisons.
    """

    mismatches: dict[tuple[str, str, str], list[str]] = field(default_factory=dict)
    unchecked: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    checked: int = 0

    def equal(self, subject: str, expected: Any, actual: Any, source: str) -> bool:
        """Compare two values as DVC does (1 equals 1.0), and note a mismatch if they differ.

        Args:
            subject: What is compared, such as `sha256 of FILE`.
            expected: The value that the source has.
            actual: The value that was computed or read.
            source: Where the expected value comes from.
        """
        self.checked += 1
        if expected == actual:
            return True
        self.wrong(subject, expected, actual, source)
        return False

    def wrong(self, subject: str, expected: Any, actual: Any, source: str) -> None:
        """Note a mismatch. Equal mismatches from several sources become one line.

        Args:
            subject: What is compared, such as `sha256 of FILE`.
            expected: The value that the source has.
            actual: The value that was computed or read.
            source: Where the expected value comes from.
        """
        sources = self.mismatches.setdefault((subject, _text(expected), _text(actual)), [])
        if source not in sources:
            sources.append(source)

    def skip(self, subject: str, why: str = MISSING) -> None:
        """Note that `subject` cannot be checked, and why."""
        self.unchecked.setdefault(subject, why)

    def note(self, text: str) -> None:
        """Note a fact that is not a mismatch."""
        if text not in self.notes:
            self.notes.append(text)

    @contextmanager
    def reading(self, subject: str, *errors: type[Exception]) -> Iterator[None]:
        """Turn errors while reading `subject` into a mismatch: an unexpected layout means that someone changed it.

        errors: Further exception types to catch. A UserError ends the verification unless it is one of them.
        """
        try:
            yield
        except (*_UNREADABLE, *errors) as error:
            self.wrong(subject, "valid content", f"an error: {type(error).__name__}: {error}", "reading it")

    def lines(self) -> list[str]:
        """The report as lines of text."""
        wrong = [
            f"{subject}: expected {expected}, found {actual}  ({', '.join(sources)})"
            for (subject, expected, actual), sources in self.mismatches.items()
        ]
        skipped = [f"not checked: {subject} ({why})" for subject, why in self.unchecked.items()]
        mismatches = "1 mismatch" if len(wrong) == 1 else f"{len(wrong)} mismatches"
        summary = f"{self.checked} comparisons, {mismatches}, {len(skipped)} not checked"
        return [*wrong, *skipped, *(f"note: {note}" for note in self.notes), summary]

    def to_dict(self) -> dict[str, Any]:
        """The report as values for JSON."""
        return {
            "holds": not self.mismatches,
            "mismatches": [
                {"what": subject, "expected": expected, "found": actual, "by": sources}
                for (subject, expected, actual), sources in self.mismatches.items()
            ],
            "unchecked": [{"what": subject, "why": why} for subject, why in self.unchecked.items()],
            "notes": self.notes,
            "checked": self.checked,
        }


def _text(value: Any) -> str:
    return "nothing" if value is None else str(value)
