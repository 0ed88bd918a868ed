"""The conditions of `audit --where`: a column of the metadata, a comparison sign and a value."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Literal, cast

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.metadata import column_name

Sign = Literal["=", "<", "<=", ">", ">="]
# (start, end): all values from start up to, but not including, end. A date without a day covers a month or a year.
# For a number or a moment, end is the next float.
Span = tuple[float, float]

_FORM = re.compile(r"([^<>=]+)(<=|>=|<|>|=)(.+)", re.S)
_DATE = re.compile(r"(\d{4})(?:[-/:](\d\d?)(?:[-/:](\d\d?)(?:[T ](.+))?)?)?")


@dataclass(frozen=True)
class Condition:
    """A comparison of an image's metadata with a value: the column, the sign, and the value as the user wrote it."""

    column: str
    sign: Sign
    value: str

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read a condition such as licence=CC0-1.0, date<2024-01-01 or height>=2.5.

        Raises:
            UserError: The text has another form, or a sign other than = has a value that is not a date or number.
        """
        match = _FORM.fullmatch(text)
        column, sign, value = (part.strip() for part in match.groups()) if match else ("", "", "")
        if not (column and value):
            raise UserError(
                f"--where {text} is not a condition. Write KEY=VALUE, such as licence=CC0-1.0, or KEY<VALUE, such as "
                "'date<2024-01-01'. The signs are = < <= > >=."
            )
        condition = cls(column_name(column), cast(Sign, sign), value)
        if sign != "=" and condition._span(value) is None:
            raise UserError(
                f"--where {text}: {value} is {'not a date' if condition.is_date else 'neither a date nor a number'}. "
                "Write a date as 2024-01-31, 2024-01 or 2024, and a time as 2024-01-31T12:00."
            )
        return condition

    def __str__(self) -> str:
        """The condition as a user writes it."""
        return f"{self.column}{self.sign}{self.value}"

    @property
    def is_date(self) -> bool:
        """Whether the condition compares dates rather than numbers."""
        return self.column == "date" or _is_day(self.value)

    def holds(self, row: Mapping[str, str]) -> bool | None:
        """Whether the condition holds for an image's metadata; None if that cannot be decided.

        If the image has no value in the column, the condition does not hold. A date without a day is compared as a
        period: an image dated 2024 may be from before or after 2024-06, so `date<2024-06` is undecided.

        Args:
            row: The image's metadata: value by column, without empty values.
        """
        value = row.get(self.column)
        if self.sign == "=" or value is None:
            return value == self.value
        limits, span = self._span(self.value), self._span(value)
        if limits is None or span is None:
            return None
        start, end = limits
        before = _is_before(span, start if self.sign in ("<", ">=") else end)
        return before if before is None or self.sign in ("<", "<=") else not before

    def _span(self, text: str) -> Span | None:
        return _date_span(text) if self.is_date else _number_span(text)


def _is_before(span: Span, limit: float) -> bool | None:
    start, end = span
    return True if end <= limit else False if start >= limit else None


def _number_span(text: str) -> Span | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return (number, math.nextafter(number, math.inf)) if math.isfinite(number) else None


def _is_day(text: str) -> bool:
    match = _DATE.fullmatch(text)
    return bool(match and match[3]) and _date_span(text) is not None


def _date_span(text: str) -> Span | None:
    """The seconds since 1970 at which a year, month, day or moment starts and ends. A time without an offset is UTC."""
    match = _DATE.fullmatch(text.strip())
    if match is None:
        return None
    year, month, day = (None if part is None else int(part) for part in match.groups()[:3])
    assert year is not None
    try:
        first = date(year, month or 1, day or 1)
        if match[4] is not None:
            moment = datetime.fromisoformat(f"{first.isoformat()}T{match[4]}")
            start = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
            return start, math.nextafter(start, math.inf)
        if day is not None:
            after = first + timedelta(days=1)
        elif month is not None:
            after = date(year + month // 12, month % 12 + 1, 1)
        else:
            after = date(year + 1, 1, 1)
    except (ValueError, OverflowError):
        return None
    start, end = (datetime(edge.year, edge.month, edge.day, tzinfo=UTC).timestamp() for edge in (first, after))
    return start, end
