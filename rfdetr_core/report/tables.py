"""Tables, their columns, and the types of their cells. The macro `kit.table` places a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rfdetr_core.report.specs import Rows, frame
from rfdetr_core.report.text import DASH


class Column(NamedTuple):
    """A column.

    numeric: sorted by number, and aligned to the right. format: the Python format of its numbers, such as ".3f". names:
    its text cells are names from the dataset; right-to-left text in them does not change the text around. help: the
    tooltip of the title. style: "nowrap", or the least width: "file" or "wide".
    """

    title: str
    numeric: bool = False
    format: str = ","
    names: bool = False
    help: str | None = None
    style: str = ""

    @property
    def kind(self) -> str:
        """The CSS class of its cells."""
        return "number" if self.numeric else self.style


class Cell(NamedTuple):
    """A cell with a text and a separate value for sorting.

    text: a text or Markup. value: a number or text. note: more text, less prominent.
    """

    text: Any
    value: float | str | None = None
    note: str = ""


class Name(NamedTuple):
    """A name from the dataset. color: a CSS colour that is shown beside it; None: no colour."""

    text: str
    color: str | None = None


class Link(NamedTuple):
    """A link to an anchor of the page."""

    text: str
    anchor: str


class Pill(NamedTuple):
    """A short text with a coloured background. kind: "error", "warning" or "good"."""

    text: str
    kind: str


class Setter(NamedTuple):
    """A button that sets filters of a table or gallery and scrolls to it.

    target: the HTML id of the table or gallery. filters: label of a filter -> value.
    """

    text: str
    target: str
    filters: dict[str, str]


class Parts(NamedTuple):
    """A bar that is divided into parts. counts: of the parts. names: for the tooltips. colors: CSS classes."""

    counts: Sequence[int]
    names: Sequence[str]
    colors: Sequence[str] = ("c0", "c1", "c2")


@dataclass(frozen=True)
class Table:
    """A table with sorting, a text filter, filters by values of columns, and pages.

    rows: cells in the order of the columns: texts, numbers, None (shown as a dash), or the types of this module.
    anchor: the HTML id. noun: the noun for a row. search: whether there is a text filter. size: rows per page.
    choices: title of a column -> the text of the option that shows all values ("all codes"). `Setter` and `Choose` use
        the same text to say which filter they set.
    stacked: on a narrow screen, the cells of a row are below each other.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    anchor: str | None = None
    noun: str = "row"
    search: bool = True
    choices: dict[str, str] | None = None
    size: int = 25
    stacked: bool = False

    @property
    def has_bar(self) -> bool:
        """Whether the table has a bar with filters or page buttons above it."""
        return self.search or bool(self.choices) or len(self.rows) > self.size

    def filters(self) -> list[tuple[int, str, list[str]]]:
        """For each filter the index of its column, its label, and its values, sorted."""
        titles = [column.title for column in self.columns]
        labels = [(titles.index(title), label) for title, label in (self.choices or {}).items()]
        return [(k, label, sorted({_text(row[k], self.columns[k]) for row in self.rows})) for k, label in labels]


def table_from_frame(table: Rows, columns: dict[str, Column], **options: Any) -> Table:
    """Make a table of a DataFrame or of mappings.

    Args:
        table: The rows.
        columns: Name of a column -> its `Column`, in the order in which they are shown.
        options: More arguments of `Table`.
    """
    data = frame(table)
    rows = zip(*(data[name].tolist() if len(data) else () for name in columns), strict=True)
    return Table(list(columns.values()), list(rows), **options)


def _text(cell: Any, column: Column) -> str:
    """The text of a cell. Filters compare it."""
    inner = getattr(cell, "text", cell)
    return formatted(inner, column.format) if inner is cell else _text(inner, column)


def sort_value(cell: Any) -> Any:
    """The value that a cell is sorted by. None: last in a column of numbers; in other columns, its text is used."""
    value: Any = cell
    if isinstance(cell, Cell):
        value = cell.value
    if isinstance(cell, Parts):
        value = cell.counts[0]
    if isinstance(value, bool) or value is None or isinstance(value, str | tuple):
        return value if isinstance(cell, Cell) else None
    return value if math.isfinite(value) else None


def formatted(value: Any, form: str) -> str:
    """A number in a format; a text unchanged; a dash for None and NaN."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return DASH
    return value if isinstance(value, str) else format(value, form)


def shares(parts: Parts) -> Iterable[tuple[float, float, str, str]]:
    """For each part that is not empty its start and width in per cent, its CSS class and its tooltip."""
    total, start = sum(parts.counts), 0.0
    for count, name, color in zip(parts.counts, parts.names, parts.colors, strict=False):
        if count:
            width = 100 * count / total
            yield round(start, 3), round(width, 3), color, f"{name}: {count:,} ({width:.1f} %)"
            start += width
