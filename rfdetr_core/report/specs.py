"""The parts of a chart's Vega-Lite specification.

Fields have fixed names, and a category is its position in a list of names. So a name is a value only: neither a field
nor part of an expression. Colours are variables of the style sheet, which follow light, dark and print.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

Rows = Any  # a pandas DataFrame, or an iterable of mappings
# Of more series the colours repeat.
COLORS = tuple(f"var(--s{k})" for k in range(8))
FAINT, TEXT, HEAT = "var(--faint)", "var(--text)", "var(--accent)"
_LEGEND = 40


class Axis(NamedTuple):
    """An axis: its title, domain (by default that of the values), d3 format of its labels, and scale.

    scale: "linear" or "log" (base 2). values: where its labels are. label: a Vega expression of `datum.value`, in place
    of a format.
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
    """What a click on a mark chooses in the filters of the table or gallery `target`.

    filters: label of a filter -> "row" or "column" (of a heat map) or "row" (of bars): whose name it is set to.
    """

    target: str
    filters: Mapping[str, str]


@dataclass(frozen=True)
class Chart:
    """A chart that `kit.chart` places.

    spec: Vega-Lite; empty where there is nothing to draw. alt: what a screen reader says instead. note: a sentence
    below the title. legend: name of each series and class of its colour. least_width, most_width: in pixels, 0 for any;
    in less room the chart scrolls. tall: it scrolls up and down. choose: what a click does.
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
    """The table as a DataFrame, without the rows that lack a value of the columns `needed`."""
    import pandas as pd

    data = table if isinstance(table, pd.DataFrame) else pd.DataFrame(list(table))
    return data.dropna(subset=list(needed)) if len(data) else data


def names_of(table: Any, column: str | None, names: Sequence[str] | None) -> list[str]:
    """These names, or those of a column as they come."""
    if names is not None or column is None:
        return list(names or ())
    return [str(name) for name in table[column].unique()] if len(table) else []


def records(
    table: Any,
    numbers: Mapping[str, str | None],
    positions: Mapping[str, tuple[str | None, Sequence[str]]] | None = None,
    tips: Sequence[Tip] = (),
) -> list[dict[str, Any]]:
    """The rows under fixed field names: numbers of the columns, positions of the names in their list, further lines.

    numbers: field -> column. positions: field -> column and names; 0 where there is no column.
    """
    columns: dict[str, list[Any]] = {}
    for name, column in numbers.items():
        if column is not None:
            columns[name] = [_finite(value) for value in table[column].tolist()] if len(table) else []
    for name, (column, names) in (positions or {}).items():
        places = {text: place for place, text in enumerate(names)}
        columns[name] = [places[str(text)] for text in table[column]] if column and len(table) else [0] * len(table)
    for place, tip in enumerate(tips):
        columns[f"t{place}"] = [_finite(value) for value in table[tip.column].tolist()] if len(table) else []
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def encode(channel: Any, name: str, axis: Axis, **more: Any) -> Any:
    """The encoding of a field on an axis."""
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
    """The encoding of positions in a list of names on an axis that shows the names. first: where they begin in it."""
    import altair as alt

    settings: dict[str, Any] = {"labelExpr": f"names[{first} + datum.value]", "labelLimit": 130, "labels": labels}
    settings |= {"ticks": False, "domain": False, "labelPadding": 6, "labelOverlap": True, **axis}
    title, scale = settings.pop("title", None), alt.Scale(domain=list(range(count)))
    return channel(f"{name}:O", title=title, sort=None, scale=scale, axis=alt.Axis(**settings))


def color(names: Sequence[str]) -> Any:
    """The colour of each series."""
    import altair as alt

    count = max(1, len(names))
    scale = alt.Scale(domain=list(range(count)), range=[COLORS[k % len(COLORS)] for k in range(count)])
    return alt.Color("series:N", legend=None, scale=scale)


def legend(names: Sequence[str]) -> list[tuple[str, str]]:
    """Name and colour of each series, if there are more than one."""
    return [(name, f"s{k % len(COLORS)}") for k, name in enumerate(names[:_LEGEND])] if len(names) > 1 else []


def tip(title: str, name: str, form: str = "") -> Any:
    """A line of a tooltip of a number."""
    import altair as alt

    return alt.Tooltip(f"{name}:Q", title=title, format=form) if form else alt.Tooltip(f"{name}:N", title=title)


def tip_lines(tips: Sequence[Tip]) -> list[Any]:
    """The further lines of a tooltip, as `records` names their fields."""
    return [tip(line.title, f"t{place}", line.format) for place, line in enumerate(tips)]


def rules(marks: Sequence[tuple[float, str]]) -> list[Any]:
    """Vertical rules with a text at their upper end."""
    import altair as alt

    if not marks:
        return []
    base = alt.Chart(alt.InlineData([{"x": value, "text": text} for value, text in marks])).encode(alt.X("x:Q"))
    rule = base.mark_rule(color=FAINT, strokeDash=[3, 3])
    text = base.mark_text(align="left", baseline="top", dx=4, color=FAINT, fontSize=11)
    return [rule, text.encode(alt.Text("text:N"), y=alt.value(0))]


def series_phrase(names: Sequence[str]) -> str:
    """The series in words, for a text alternative."""
    if len(names) < 2:
        return ""
    return f", of {', '.join(names[:8])}" + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def layered(layers: Iterable[Any], rows: Sequence[Any] | None, names: Sequence[str], height: int) -> dict[str, Any]:
    """The specification of layers over the same rows, as wide as its container. names: what `names[...]` is."""
    import altair as alt

    data = {} if rows is None else {"data": alt.InlineData(list(rows))}
    whole = alt.layer(*layers, **data).properties(width="container", height=height)
    with alt.data_transformers.enable(consolidate_datasets=False):
        made = whole.to_dict(validate=False)
    # Altair counts the views of a process: named by their place, equal charts are equal.
    places = {layer["name"]: f"layer_{place}" for place, layer in enumerate(made["layer"]) if "name" in layer}
    for layer in made["layer"]:
        layer |= {"name": places[layer["name"]]} if "name" in layer else {}
    params = [*made.get("params", ()), {"name": "names", "value": list(names)}]
    for param in params:
        param |= {"views": [places[view] for view in param["views"]]} if "views" in param else {}
    kept = {key: value for key, value in made.items() if key not in ("$schema", "config")}
    return {"data": {"values": []}, **kept, "params": params}
