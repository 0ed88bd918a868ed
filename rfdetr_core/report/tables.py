"""Tables that `kit.table` places: columns, and cells that are more than a text or a number."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rfdetr_core.report.specs import Rows, frame
from rfdetr_core.report.text import DASH


class Column(NamedTuple):
    """A column: its title, Python format of its numbers ("," or ".3f"), and what a pointer on the title shows.

    numeric: sorts by number, aligned to the right. A text cell of a column of `names` is a name from the dataset: any
    text, and it cannot turn the direction of the text around it. style: "nowrap", or how wide it is at least: "file",
    "wide".
    """

    title: str
    numeric: bool = False
    format: str = ","
    names: bool = False
    help: str | None = None
    style: str = ""

    @property
    def kind(self) -> str:
        """The class of its cells in the style sheet."""
        return "number" if self.numeric else self.style


class Cell(NamedTuple):
    """A cell whose value to sort and filter by is not what it shows.

    text: a text or Markup. value: a number or text. note: further text, less prominent.
    """

    text: Any
    value: float | str | None = None
    note: str = ""


class Name(NamedTuple):
    """A name from the dataset, with a swatch of `color` (a CSS colour) if there is one."""

    text: str
    color: str | None = None


class Link(NamedTuple):
    """A text that leads to an anchor of the page."""

    text: str
    anchor: str


class Pill(NamedTuple):
    """A short text on a ground: of kind "error", "warning" or "good"."""

    text: str
    kind: str


class Setter(NamedTuple):
    """A button that sets filters of a table or gallery of the page, and goes there. filters: label -> value."""

    text: str
    target: str
    filters: dict[str, str]


class Parts(NamedTuple):
    """Parts of a whole as one bar. names: for the tooltips. colors: classes of the style sheet, such as "c0"."""

    counts: Sequence[int]
    names: Sequence[str]
    colors: Sequence[str] = ("c0", "c1", "c2")


@dataclass(frozen=True)
class Table:
    """A table that sorts by its columns, is filtered by a text and by values of columns, and shows a page at a time.

    rows: cells in the order of the columns: texts, numbers, None (nothing), or the types of this module. choices: title
    of a column to filter by a list of its values -> the text for all of them ("all codes"), which is also the label
    that `Setter` and `Choose` name. anchor: the id. size: rows of a page. stacked: on a narrow screen a row
    is a block of its cells.
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
        """Whether anything stands above the table."""
        return self.search or bool(self.choices) or len(self.rows) > self.size

    def filters(self) -> list[tuple[int, str, list[str]]]:
        """Of each filter: the place of its column, its label and the values, sorted."""
        titles = [column.title for column in self.columns]
        places = [(titles.index(title), label) for title, label in (self.choices or {}).items()]
        return [(k, label, sorted({_text(row[k], self.columns[k]) for row in self.rows})) for k, label in places]


def table_from_frame(table: Rows, columns: dict[str, Column], **options: Any) -> Table:
    """A table of a DataFrame or mappings. columns: how each of its columns is shown, in this order."""
    data = frame(table)
    rows = zip(*(data[name].tolist() if len(data) else () for name in columns), strict=True)
    return Table(list(columns.values()), list(rows), **options)


def _text(cell: Any, column: Column) -> str:
    """What a cell shows, and is filtered by."""
    inner = getattr(cell, "text", cell)
    return formatted(inner, column.format) if inner is cell else _text(inner, column)


def sort_value(cell: Any) -> Any:
    """What a cell is sorted by where that is not its text: a number; nothing where there is none."""
    value: Any = cell
    if isinstance(cell, Cell):
        value = cell.value
    if isinstance(cell, Parts):
        value = cell.counts[0]
    if isinstance(value, bool) or value is None or isinstance(value, str | tuple):
        return value if isinstance(cell, Cell) else None
    return value if math.isfinite(value) else None


def formatted(value: Any, form: str) -> str:
    """A number in a format, a text as it is, a dash for nothing."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return DASH
    return value if isinstance(value, str) else format(value, form)


def shares(parts: Parts) -> Iterable[tuple[float, float, str, str]]:
    """Of each part: where it begins and how wide it is, in per cent, its colour and its tooltip."""
    whole, start = sum(parts.counts), 0.0
    for count, name, color in zip(parts.counts, parts.names, parts.colors, strict=False):
        if count:
            width = 100 * count / whole
            yield round(start, 3), round(width, 3), color, f"{name}: {count:,} ({width:.1f} %)"
            start += width
