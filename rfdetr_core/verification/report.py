"""What a verification found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

GONE = "gone"
_UNREADABLE: tuple[type[Exception], ...] = (
    *(KeyError, TypeError, AttributeError, ValueError, ArithmeticError, IndexError, OSError),
)


@dataclass
class Report:
    """Collects findings. mismatches: what, expected and found, with who said what was expected; one line each.

    unchecked: what could not be checked, with the reason. notes: worth a line, and no fault.
    checked: comparisons.
    """

    mismatches: dict[tuple[str, str, str], list[str]] = field(default_factory=dict)
    unchecked: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    checked: int = 0

    def equal(self, what: str, expected: Any, found: Any, by: str) -> bool:
        """Compare as DVC does (1 equals 1.0); `by` says that it should be so."""
        self.checked += 1
        if expected == found:
            return True
        self.wrong(what, expected, found, by)
        return False

    def wrong(self, what: str, expected: Any, found: Any, by: str) -> None:
        """Note a mismatch; the same one told by several is one line."""
        said = self.mismatches.setdefault((what, _shown(expected), _shown(found)), [])
        if by not in said:
            said.append(by)

    def skip(self, what: str, why: str = GONE) -> None:
        """Note what cannot be checked."""
        self.unchecked.setdefault(what, why)

    def note(self, text: str) -> None:
        """Note what is no fault."""
        if text not in self.notes:
            self.notes.append(text)

    @contextmanager
    def reading(self, what: str, *more: type[Exception]) -> Iterator[None]:
        """Make a mismatch of what is not laid out as it should be, or cannot be read: someone changed it.

        more: errors that also mean so; without UserError, one of those ends the verification.
        """
        try:
            yield
        except (*_UNREADABLE, *more) as error:
            self.wrong(what, "its layout", f"{type(error).__name__}: {error}", "reading it")

    def lines(self) -> list[str]:
        """The findings for people."""
        wrong = [
            f"{what}: expected {expected}, found {found}  ({', '.join(by)})"
            for (what, expected, found), by in self.mismatches.items()
        ]
        skipped = [f"not checked: {what} ({why})" for what, why in self.unchecked.items()]
        mismatches = "1 mismatch" if len(wrong) == 1 else f"{len(wrong)} mismatches"
        told = f"{self.checked} comparisons, {mismatches}, {len(skipped)} not checked"
        return [*wrong, *skipped, *(f"note: {note}" for note in self.notes), told]

    def to_dict(self) -> dict[str, Any]:
        """The findings for programs."""
        return {
            "holds": not self.mismatches,
            "mismatches": [
                {"what": what, "expected": expected, "found": found, "by": by}
                for (what, expected, found), by in self.mismatches.items()
            ],
            "unchecked": [{"what": what, "why": why} for what, why in self.unchecked.items()],
            "notes": self.notes,
            "checked": self.checked,
        }


def _shown(value: Any) -> str:
    return "nothing" if value is None else str(value)
