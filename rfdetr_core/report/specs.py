"""The parts of a Vega-Lite specification of a chart.

Fields have fixed names, and categories are indices in a list of names. So a name from the dataset is only a value; it
cannot become a field or a part of an expression. Colours are variables of the style sheet: they adapt to light and dark
mode and to print.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

Rows = Any  # a pandas DataFrame, or an iterable of mappings
# The colours of the series. With more series they repeat.
COLORS = tuple(f"var(--s{k})" for k in range(8))
FAINT, TEXT, HEAT = "var(--faint)", "var(--text)", "var(--accent)"
_LEGEND = 40


class Axis(NamedTuple):
    """An axis.

    domain: its ends; None: those of the values. format: d3 format of the labels. scale: "linear" or "log" (base 2).
    values: the positions of the labels. label: a Vega expression of `datum.value` for the labels, instead of a format.
    """

    title: str
    domain: tuple[float, float] | None = None
    format: str = ""
    scale: str = "linear"
    values: Sequence[float] | None = None
    label: str | None = None


class Tip(NamedTuple):
    """One line of a tooltip: a column of the table, its title, and its d3 format (",d", ".1%")."""

    column: str
    title: str
    format: str = ""


class Choose(NamedTuple):
    """The filters of a table or gallery that are set by a click on a mark of a chart.

    target: the HTML id of the table or gallery. filters: text of the filter's option "all" -> "row" or "column" (a heat
    map has both, bars have only rows). The filter is set to the name of the clicked row or column.
    """

    target: str
    filters: Mapping[str, str]


@dataclass(frozen=True)
class Chart:
    """A chart. The macro `kit.chart` places it.

    spec: Vega-Lite; empty if there is nothing to draw. alt: the text for screen readers. note: a sentence below the
    title. legend: name and CSS class of each series. least_width, most_width: in pixels; 0: any. If there is less room,
    the chart scrolls. tall: it scrolls up and down. choose: the filters that a click sets.
    """

    title: str
    spec: Mapping[str, Any]
    alt: str
    note: str | None = None
    legend: Sequence[tuple[str, str]] = ()
    least_width: int = 0
    most_width: int = 0
    tall: bool = False
    choose: Choose | None = None


def frame(table: Rows, *needed: str) -> Any:
    """The table as a DataFrame, without the rows that have no value in one of the columns `needed`."""
    import pandas as pd

    data = table if isinstance(table, pd.DataFrame) else pd.DataFrame(list(table))
    return data.dropna(subset=list(needed)) if len(data) else data


def names_of(table: Any, column: str | None, names: Sequence[str] | None) -> list[str]:
    """The given names, or else the values of a column in the order of the table.

    Args:
        table: A DataFrame.
        column: The column with the names; None: there are no names to find.
        names: The given names; None: use the column.
    """
    if names is not None or column is None:
        return list(names or ())
    return [str(name) for name in table[column].unique()] if len(table) else []


def records(
    table: Any,
    numbers: Mapping[str, str | None],
    positions: Mapping[str, tuple[str | None, Sequence[str]]] | None = None,
    tips: Sequence[Tip] = (),
) -> list[dict[str, Any]]:
    """The rows of a table as records with fixed field names.

    Args:
        table: A DataFrame.
        numbers: Field -> column whose values are copied; None: the field is left out.
        positions: Field -> column, and the list of names. The field gets the index of the value in this list; 0 if
            there is no column.
        tips: Lines of the tooltip. Their columns become the fields t0, t1, ...
    """
    columns: dict[str, list[Any]] = {}
    for name, column in numbers.items():
        if column is not None:
            columns[name] = [_finite(value) for value in table[column].tolist()] if len(table) else []
    for name, (column, names) in (positions or {}).items():
        places = {text: index for index, text in enumerate(names)}
        columns[name] = [places[str(text)] for text in table[column]] if column and len(table) else [0] * len(table)
    for index, tip in enumerate(tips):
        columns[f"t{index}"] = [_finite(value) for value in table[tip.column].tolist()] if len(table) else []
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def encode(channel: Any, name: str, axis: Axis, **more: Any) -> Any:
    """The encoding of a numeric field on an axis.

    Args:
        channel: alt.X or alt.Y.
        name: The field.
        axis: The axis.
        more: More arguments of the channel.
    """
    import altair as alt

    scale: dict[str, Any] = {"type": axis.scale, "nice": False}
    scale |= {"base": 2} if axis.scale == "log" else {"zero": False}
    scale |= {"domain": list(axis.domain)} if axis.domain else {}
    settings: dict[str, Any] = {"labelOverlap": True, "tickCount": 6}
    settings |= {"format": axis.format} if axis.format else {}
    settings |= {"tickMinStep": 1} if axis.format.endswith("d") else {}
    settings |= {"values": list(axis.values)} if axis.values else {}
    settings |= {"labelExpr": axis.label} if axis.label else {}
    return channel(f"{name}:Q", title=axis.title, scale=alt.Scale(**scale), axis=alt.Axis(**settings), **more)


def encode_names(channel: Any, name: str, count: int, first: int = 0, *, labels: bool = True, **axis: Any) -> Any:
    """The encoding of categories on an axis that shows their names.

    Args:
        channel: alt.X or alt.Y.
        name: The field with the indices.
        count: The number of categories.
        first: The index of the first name in the list `names` of the chart.
        labels: Draw the names.
        axis: More arguments of the axis.
    """
    import altair as alt

    settings: dict[str, Any] = {"labelExpr": f"names[{first} + datum.value]", "labelLimit": 130, "labels": labels}
    settings |= {"ticks": False, "domain": False, "labelPadding": 6, "labelOverlap": True, **axis}
    title, scale = settings.pop("title", None), alt.Scale(domain=list(range(count)))
    return channel(f"{name}:O", title=title, sort=None, scale=scale, axis=alt.Axis(**settings))


def color(names: Sequence[str]) -> Any:
    """The encoding of the series as colours."""
    import altair as alt

    count = max(1, len(names))
    scale = alt.Scale(domain=list(range(count)), range=[COLORS[k % len(COLORS)] for k in range(count)])
    return alt.Color("series:N", legend=None, scale=scale)


def legend(names: Sequence[str]) -> list[tuple[str, str]]:
    """The name and the CSS class of each series; empty if there is only one."""
    return [(name, f"s{k % len(COLORS)}") for k, name in enumerate(names[:_LEGEND])] if len(names) > 1 else []


def tip(title: str, name: str, form: str = "") -> Any:
    """A line of a tooltip.

    Args:
        title: The text before the value.
        name: The field of the record.
        form: A d3 format for numbers; "": the value is text.
    """
    import altair as alt

    return alt.Tooltip(f"{name}:Q", title=title, format=form) if form else alt.Tooltip(f"{name}:N", title=title)


def tip_lines(tips: Sequence[Tip]) -> list[Any]:
    """The lines of a tooltip from the fields t0, t1, ... of `records`."""
    return [tip(line.title, f"t{index}", line.format) for index, line in enumerate(tips)]


def rules(marks: Sequence[tuple[float, str]]) -> list[Any]:
    """Vertical rules with a text at their upper end. marks: position and text of each."""
    import altair as alt

    if not marks:
        return []
    base = alt.Chart(alt.InlineData([{"x": value, "text": text} for value, text in marks])).encode(alt.X("x:Q"))
    rule = base.mark_rule(color=FAINT, strokeDash=[3, 3])
    text = base.mark_text(align="left", baseline="top", dx=4, color=FAINT, fontSize=11)
    return [rule, text.encode(alt.Text("text:N"), y=alt.value(0))]


def series_phrase(names: Sequence[str]) -> str:
    """The names of the series as words, for the text for screen readers."""
    if len(names) < 2:
        return ""
    return f", of {', '.join(names[:8])}" + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def layered(layers: Iterable[Any], rows: Sequence[Any] | None, names: Sequence[str], height: int) -> dict[str, Any]:
    """The specification of a chart of several layers, as wide as its container.

    Args:
        layers: The layers.
        rows: The data of all layers; None: each layer has its own.
        names: The category names. Vega expressions read them as `names[...]`.
        height: The height of the chart in pixels.
    """
    import altair as alt

    data = {} if rows is None else {"data": alt.InlineData(list(rows))}
    chart = alt.layer(*layers, **data).properties(width="container", height=height)
    with alt.data_transformers.enable(consolidate_datasets=False):
        spec = chart.to_dict(validate=False)
    # Altair names views by a counter of the process. Renamed by their index, equal charts have equal specifications.
    new_names = {layer["name"]: f"layer_{index}" for index, layer in enumerate(spec["layer"]) if "name" in layer}
    for layer in spec["layer"]:
        layer |= {"name": new_names[layer["name"]]} if "name" in layer else {}
    params = [*spec.get("params", ()), {"name": "names", "value": list(names)}]
    for param in params:
        param |= {"views": [new_names[view] for view in param["views"]]} if "views" in param else {}
    settings = {key: value for key, value in spec.items() if key not in ("$schema", "config")}
    return {"data": {"values": []}, **settings, "params": params}
