"""The conditions of `audit --where`: a column of the metadata, a sign, and a value."""

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
# The first moment, or number, of a value and the first one after it: a day is 24 hours long, a year is 365 or 366 days.
Span = tuple[float, float]

_FORM = re.compile(r"([^<>=]+)(<=|>=|<|>|=)(.+)", re.S)
_DATE = re.compile(r"(\d{4})(?:[-/:](\d\d?)(?:[-/:](\d\d?)(?:[T ](.+))?)?)?")


@dataclass(frozen=True)
class Condition:
    """A comparison of what the metadata of an image has in a column. value: as it was given."""

    column: str
    sign: Sign
    value: str

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read a condition such as licence=CC0-1.0, date<2024-01-01 or height>=2.5.

        Raises:
            UserError: it has another form, or compares with what is neither a date nor a number.
        """
        found = _FORM.fullmatch(text)
        column, sign, value = (part.strip() for part in found.groups()) if found else ("", "", "")
        if not (column and value):
            raise UserError(
                f"--where {text} is not KEY=VALUE, such as --where licence=CC0-1.0, and not KEY<VALUE, such as "
                "--where 'date<2024-01-01'. The signs are = < <= > >=."
            )
        made = cls(column_name(column), cast(Sign, sign), value)
        if sign != "=" and made._span(value) is None:
            raise UserError(
                f"--where {text}: {value} is {'not a date' if made.is_date else 'neither a date nor a number'}. "
                "Give a date as 2024-01-31, 2024-01 or 2024, with a time as 2024-01-31T12:00."
            )
        return made

    def __str__(self) -> str:
        """The condition as it is written."""
        return f"{self.column}{self.sign}{self.value}"

    @property
    def is_date(self) -> bool:
        """Whether dates are compared, not numbers."""
        return self.column == "date" or _is_day(self.value)

    def holds(self, row: Mapping[str, str]) -> bool | None:
        """Whether it holds for the metadata of an image, which has no empty values; None: that cannot be decided.

        Without a value in the column it does not hold. A value is compared with all that it may mean: a picture of 2024
        may be of before 2024-06 or after it.
        """
        told = row.get(self.column)
        if self.sign == "=" or told is None:
            return told == self.value
        limits, span = self._span(self.value), self._span(told)
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
    found = _DATE.fullmatch(text)
    return bool(found and found[3]) and _date_span(text) is not None


def _date_span(text: str) -> Span | None:
    """The seconds of a year, month, day or moment since 1970. Without an offset, times are taken to be UTC."""
    found = _DATE.fullmatch(text.strip())
    if found is None:
        return None
    year, month, day = (None if part is None else int(part) for part in found.groups()[:3])
    assert year is not None
    try:
        first = date(year, month or 1, day or 1)
        if found[4] is not None:
            moment = datetime.fromisoformat(f"{first.isoformat()}T{found[4]}")
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
    start, end = (datetime(one.year, one.month, one.day, tzinfo=UTC).timestamp() for one in (first, after))
    return start, end
