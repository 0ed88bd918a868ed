"""Conditions on metadata: what a comparison of dates and numbers decides, and reading only the lines that changed."""

from __future__ import annotations

import random
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from rfdetr_core.audit.conditions import Condition
from rfdetr_core.audit.metadata import Selection, _Table
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.metadata import write_metadata

DAYS = [date(2023, 11, 1) + timedelta(days=number) for number in range(0, 200, 7)]
SIGNS = {"<": date.__lt__, "<=": date.__le__, ">": date.__gt__, ">=": date.__ge__}


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("form", ["%Y-%m-%d", "%Y/%m/%d", "%Y-%m-%d 17:02:52", "%Y-%m-%dT00:00:00+00:00"])
def test_days_are_ordered_as_days(sign: str, form: str) -> None:
    for limit in DAYS:
        condition = Condition.parse(f"date_captured{sign}{limit}")
        for day in DAYS:
            assert condition.holds({"date": day.strftime(form)}) == SIGNS[sign](day, limit), (day, limit)


@pytest.mark.parametrize(
    ("condition", "value", "holds"),
    [
        ("date<2024", "2023-12-31T23:59:59Z", True),
        ("date<2024", "2023-12-31T23:30:00-05:00", False),
        ("date<=2024", "2024-12-31", True),
        ("date>2024", "2024-12-31", False),
        ("date>=2024", "2024-02", True),
        ("date<2024-06", "2024", None),
        ("date<2024-06-15", "2024-06", None),
        ("date<2024-01-01", "spring 2023", None),
        ("date<2024-01-01", "13/11/2023", None),
        ("taken>2024-01-01", "2024-01-02", True),
        ("height<2.5", "2.25", True),
        ("height<2.5", "2.5", False),
        ("height<=2.5", "2.50", True),
        ("height>10", "9", False),
        ("height>10", "high", None),
        ("site=a<b", "a<b", True),
    ],
)
def test_what_a_value_may_mean_decides_or_is_not_certain(condition: str, value: str, holds: bool | None) -> None:
    parsed = Condition.parse(condition)
    assert parsed.holds({parsed.column: value}) is holds
    assert parsed.holds({"another": value}) is False


@pytest.mark.parametrize("text", ["site<roof", "date<spring", "date>31.12.2023", "<3", "height>", "height", "x>nan"])
def test_a_condition_that_compares_with_neither_date_nor_number_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--where .* is "):
        Condition.parse(text)


def test_versions_of_a_table_answer_as_if_each_was_read_alone(tmp_path: Path) -> None:
    """Rows come, go and change anywhere; values with commas, quotes and line ends, and other columns, among them."""
    drawn = random.Random(0)
    conditions: Any = ["source=a, b", "date<2024"]
    values = {"source": ["a, b", 'say "b"', "line\nend", "c"], "date": ["2023", "2024-05-01", "2022-01-01"]}
    rows: dict[str, dict[str, str]] = {}
    kept = _Table(Selection(conditions, None))  # type: ignore[arg-type]
    for version in range(120):
        for _ in range(drawn.choice([0, 1, 4])):
            path = f"train/{drawn.randrange(40):02}.jpg"
            if drawn.random() < 0.3:
                rows.pop(path, None)
            else:
                rows[path] = {column: drawn.choice(values[column][: 2 + version // 30]) for column in values}
                rows[path] |= {"site": "roof"} if version > 80 else {}
        write_metadata(tmp_path / "train.csv", rows)
        content = (tmp_path / "train.csv").read_bytes()
        alone = _Table(Selection(conditions, None)).select(content, "it")  # type: ignore[arg-type]
        expected = {path for path, row in rows.items() if row["source"] == "a, b" and row["date"] < "2024"}
        assert kept.select(content, "it") == alone == expected
