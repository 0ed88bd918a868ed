"""Builders of charts: lines, points, bars, intervals, heat maps, histograms and densities.

The builders have these arguments in common:
    table: A DataFrame, or an iterable of mappings. `x`, `y`, `row`, `value`, `series` and so on name its columns.
    title, note: The title, and a sentence below it.
    x_axis, y_axis: The title, the ends and the number format of each axis, see `Axis`.
    alt_text: The text for screen readers; None: made from the titles.
    tips: More lines of the tooltip.
    marks: Vertical rules: position and text of each.
A table without rows gives a chart with the text "Nothing to show.".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from rfdetr_core.report import specs
from rfdetr_core.report.specs import COLORS, FAINT, HEAT, TEXT, Axis, Chart, Choose, Rows, Tip
from rfdetr_core.report.text import percent, plural

LABELLED = 30  # A heat map with more rows or columns has no labels; its tooltips have the names.
_TALL = 24  # A bar chart with more rows scrolls.


def line(
    table: Rows,
    x: str,
    y: str,
    series: str | None = None,
    *,
    title: str,
    x_axis: Axis,
    y_axis: Axis,
    names: Sequence[str] | None = None,
    low: str | None = None,
    high: str | None = None,
    marks: Sequence[tuple[float, str]] = (),
    step: bool = False,
    tips: Sequence[Tip] = (),
    note: str | None = None,
    alt_text: str | None = None,
) -> Chart:
    """A line for each series. Rows without x or y are left out.

    Args:
        series: The column with the series of each row; None: all rows are one line.
        names: The series in the order of their colours; None: in the order of the table.
        low: The column with the lower edge of a band around each line; None: no band.
        high: The column with its upper edge.
        step: Draw steps: a value holds up to the next x.
    """
    import altair as alt

    frame = specs.frame(table, x, y)
    names = specs.names_of(frame, series, names)
    rows = specs.records(frame, {"x": x, "y": y, "low": low, "high": high}, {"series": (series, names)}, tips)
    if not rows:
        return Chart(title, {}, "", note)
    shape: Any = "step-after" if step else "linear"
    base = alt.Chart().encode(specs.encode(alt.X, "x", x_axis), specs.encode(alt.Y, "y", y_axis), specs.color(names))
    layers: list[Any] = [base.mark_line(strokeWidth=1.8, interpolate=shape)]
    if low and high:
        band = base.mark_area(opacity=0.15, interpolate=shape)
        layers.insert(0, band.encode(specs.encode(alt.Y, "low", y_axis), alt.Y2("high:Q")))
    hover = alt.selection_point(name="hover", on="pointerover", clear="pointerout", nearest=True, empty=False)
    tooltip = [alt.Tooltip("of_series:N", title="series")] if len(names) > 1 else []
    tooltip += [specs.tip(x_axis.title, "x", x_axis.format), specs.tip(y_axis.title, "y", y_axis.format)]
    opacity: Any = alt.condition(hover, alt.value(1), alt.value(0))
    spot = base.mark_point(filled=True, size=70).transform_calculate(of_series="names[datum.series]")
    spot = spot.encode(opacity=opacity, tooltip=[*tooltip, *specs.tip_lines(tips)]).add_params(hover)
    alt_text = alt_text or f"Line chart of {y_axis.title} over {x_axis.title}{specs.series_phrase(names)}."
    spec = specs.layered([*layers, spot, *specs.rules(marks)], rows, names, 240)
    return Chart(title, spec, alt_text, note, specs.legend(names))


def points(
    table: Rows,
    x: str,
    y: str,
    size: str | None = None,
    *,
    title: str,
    x_axis: Axis,
    y_axis: Axis,
    diagonal: bool = False,
    joined: bool = False,
    tips: Sequence[Tip] = (),
    note: str | None = None,
    alt_text: str | None = None,
) -> Chart:
    """Points. With the diagonal and the line they are a reliability diagram.

    Args:
        size: The column that sets the areas of the points; None: all areas are equal.
        diagonal: Draw the diagonal.
        joined: Draw a line through all points.
    """
    import altair as alt

    frame = specs.frame(table, x, y)
    rows = specs.records(frame, {"x": x, "y": y, "size": size}, {}, tips)
    if not rows:
        return Chart(title, {}, "", note)
    base = alt.Chart().encode(specs.encode(alt.X, "x", x_axis), specs.encode(alt.Y, "y", y_axis))
    layers: list[Any] = []
    if diagonal:
        layers.append(_diagonal(x_axis, y_axis, x_axis.domain or (0, 1)))
    if joined:
        layers.append(base.mark_line(strokeWidth=1.8, color=COLORS[0]))
    tooltip = [specs.tip(x_axis.title, "x", x_axis.format), specs.tip(y_axis.title, "y", y_axis.format)]
    spot = base.mark_circle(color=COLORS[0], opacity=0.8, size=60).encode(tooltip=[*tooltip, *specs.tip_lines(tips)])
    if size:
        spot = spot.encode(alt.Size("size:Q", legend=None, scale=alt.Scale(range=[20, 500], zero=True)))
    alt_text = alt_text or f"Points: {y_axis.title} over {x_axis.title}."
    return Chart(title, specs.layered([*layers, spot], rows, [], 280), alt_text, note, most_width=460)


def bars(
    table: Rows,
    row: str,
    value: str,
    series: str | None = None,
    *,
    title: str,
    x_axis: Axis,
    rows: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    low: str | None = None,
    high: str | None = None,
    tips: Sequence[Tip] = (),
    choose: Choose | None = None,
    note: str | None = None,
    alt_text: str | None = None,
) -> Chart:
    """A horizontal bar for each row, stacked by series.

    Args:
        row: The column with the name of the bar.
        value: The column with the length of the bar, or of its part.
        series: The column with the series of each part; None: bars have no parts.
        rows: The names of the bars from the top; None: in the order of the table.
        names: The names of the series; None: in the order of the table.
        low: The column with the lower end of a whisker on each bar; None: no whiskers.
        high: The column with its upper end.
        choose: The filters that a click on a bar sets.
    """
    import altair as alt

    frame = specs.frame(table, value)
    rows, names = specs.names_of(frame, row, rows), specs.names_of(frame, series, names)
    positions = {"row": (row, rows), "series": (series, names)}
    values = specs.records(frame, {"value": value, "low": low, "high": high}, positions, tips)
    if not values:
        return Chart(title, {}, "", note)
    ends = dict.fromkeys(range(len(rows)), 0.0)
    for entry in values:
        entry["x"] = ends[entry["row"]]
        ends[entry["row"]] = entry["x2"] = entry["x"] + entry["value"]
    fields = {"of_row": "names[datum.row]", "of_series": f"names[{len(rows)} + datum.series]"}
    base = alt.Chart().transform_calculate(**fields).encode(specs.encode_names(alt.Y, "row", len(rows)))
    tooltip = [alt.Tooltip("of_row:N", title="row")]
    tooltip += [alt.Tooltip("of_series:N", title="of")] if len(names) > 1 else []
    tooltip += [specs.tip(x_axis.title, "value", x_axis.format), *specs.tip_lines(tips)]
    axis = x_axis._replace(domain=x_axis.domain or (min(0.0, *ends.values()), max(*ends.values(), 0.0)))
    bar = base.mark_bar().encode(specs.encode(alt.X, "x", axis), alt.X2("x2:Q"), specs.color(names), tooltip=tooltip)
    layers: list[Any] = [bar]
    if low and high:
        rule = base.mark_rule(color=TEXT, strokeWidth=1.5)
        layers.append(rule.encode(specs.encode(alt.X, "low", axis), alt.X2("high:Q")))
    alt_text = alt_text or f"Bars: {x_axis.title} of {plural(len(rows), 'row')}{specs.series_phrase(names)}."
    spec = specs.layered(layers, values, [*rows, *names], 21 * len(rows))
    return Chart(title, spec, alt_text, note, specs.legend(names), tall=len(rows) > _TALL, choose=choose)


def intervals(
    table: Rows,
    row: str,
    value: str,
    low: str,
    high: str,
    *,
    title: str,
    x_axis: Axis,
    marks: Sequence[tuple[float, str]] = (),
    tips: Sequence[Tip] = (),
    note: str | None = None,
    alt_text: str | None = None,
) -> Chart:
    """A point with its interval for each row, from the top in the order of the table.

    Args:
        row: The column with the name of the row.
        value: The column with the position of the point.
        low: The column with the lower end of the interval.
        high: The column with its upper end.
    """
    import altair as alt

    frame = specs.frame(table, value)
    rows = specs.names_of(frame, row, None)
    values = specs.records(frame, {"x": value, "low": low, "high": high}, {"row": (row, rows)}, tips)
    if not values:
        return Chart(title, {}, "", note)
    fields = (x_axis.title, "x"), ("low", "low"), ("high", "high")
    tooltip = [alt.Tooltip("of_row:N", title="row"), *(specs.tip(text, name, x_axis.format) for text, name in fields)]
    base = alt.Chart().transform_calculate(of_row="names[datum.row]")
    base = base.encode(specs.encode_names(alt.Y, "row", len(rows)), tooltip=[*tooltip, *specs.tip_lines(tips)])
    whisker = base.mark_rule(color=COLORS[0], strokeWidth=2)
    whisker = whisker.encode(specs.encode(alt.X, "low", x_axis), alt.X2("high:Q"))
    spot = base.mark_circle(color=COLORS[0], size=80, opacity=1).encode(specs.encode(alt.X, "x", x_axis))
    alt_text = alt_text or f"Intervals: {x_axis.title} of {plural(len(rows), 'row')}."
    spec = specs.layered([*specs.rules(marks), whisker, spot], values, rows, 26 * len(rows))
    return Chart(title, spec, alt_text, note)


def heatmap(
    table: Rows,
    row: str,
    column: str,
    value: str,
    *,
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    row_title: str,
    column_title: str,
    value_title: str,
    value_format: str = ",",
    domain: tuple[float, float] | None = None,
    muted_diagonal: bool = False,
    text: bool = False,
    tips: Sequence[Tip] = (),
    choose: Choose | None = None,
    note: str | None = None,
    alt_text: str | None = None,
) -> Chart:
    """A cell for each row and column, darker for a higher value. Cells that are not in the table stay empty.

    Args:
        rows: The names of the rows, in their order. In the table, the column `row` has indices in this list.
        columns: The names of the columns; the column `column` of the table has indices in this list.
        domain: The values of the lightest and the darkest cell; None: from 0, or the lowest value, to the highest.
        text: Write the value into each cell.
        muted_diagonal: Draw the cells on the diagonal grey.
        choose: The filters that a click on a cell sets.
    """
    import altair as alt

    values = specs.records(specs.frame(table, value), {"row": row, "column": column, "value": value}, {}, tips)
    if not values:
        return Chart(title, {}, "", note)
    labelled = max(len(rows), len(columns)) <= LABELLED
    side = max(5, min(34, 640 // max(len(rows), len(columns))))
    top: dict[str, Any] = {"orient": "top", "labelAngle": -55, "labelAlign": "left", "labelOverlap": False}
    x = specs.encode_names(alt.X, "column", len(columns), len(rows), labels=labelled, title=column_title, **top)
    y = specs.encode_names(alt.Y, "row", len(rows), labels=labelled, title=row_title)
    tooltip = [alt.Tooltip("of_row:N", title=row_title), alt.Tooltip("of_column:N", title=column_title)]
    tooltip += [specs.tip(value_title, "value", value_format), *specs.tip_lines(tips)]
    fields = {"of_row": "names[datum.row]", "of_column": f"names[{len(rows)} + datum.column]"}
    base = alt.Chart().transform_calculate(**fields).encode(x, y, tooltip=tooltip)
    low, high = domain or (min(0, *(cell["value"] for cell in values)), max(cell["value"] for cell in values))
    scale = alt.Scale(domain=[low, high if high > low else low + 1], range=[0.06, 1], clamp=True)
    cells = base.mark_rect(fill=HEAT).encode(fillOpacity=alt.FillOpacity("value:Q", legend=None, scale=scale))
    layers: list[Any] = [cells]
    if muted_diagonal:
        diagonal = base.transform_filter("datum.row === datum.column").mark_rect(fill=FAINT, fillOpacity=0.35)
        layers = [cells.transform_filter("datum.row !== datum.column"), diagonal]
    if text:
        is_dark = f"datum.value > {low + 0.55 * (high - low)}"
        color: Any = alt.condition(is_dark, alt.value("var(--card)"), alt.value(TEXT))
        layers.append(base.mark_text(fontSize=11).encode(alt.Text("value:Q", format=value_format), color=color))
    alt_text = alt_text or f"Heat map: {value_title} by {row_title} ({len(rows)}) and {column_title} ({len(columns)})."
    margin = 170 if labelled else 30
    spec = specs.layered(layers, values, [*rows, *columns], side * len(rows))
    # The slanted label of the last column is wider than the chart. Without the padding, Vega would cut it off.
    overhang = round(0.57 * min(130, 7 * len(columns[-1]))) if labelled else 0
    spec["padding"] = {"left": 4, "top": 4, "bottom": 4, "right": 4 + overhang}
    least = min(side, 14) * len(columns) + margin + overhang if labelled else 0
    most = side * len(columns) + margin + overhang
    return Chart(title, spec, alt_text, note, least_width=least, most_width=most, choose=choose)


def histogram(
    edges: Sequence[float],
    counts: Sequence[Sequence[int]],
    names: Sequence[str],
    *,
    title: str,
    axis: Axis,
    ranges: Sequence[str],
    marks: Sequence[tuple[float, str]] = (),
    note: str | None = None,
    alt_text: str | None = None,
) -> Chart:
    """The share of each series in each bin.

    Args:
        edges: The borders of the bins: one number more than bins.
        counts: For each series the number of values in each bin.
        names: The names of the series.
        axis: The horizontal axis.
        ranges: The text of each bin for the tooltip.
    """
    import altair as alt

    totals = [sum(bin_counts) for bin_counts in counts]
    if not any(totals):
        return Chart(title, {}, "", note)
    shares: list[dict[str, Any]] = []
    for k, bin_counts in enumerate(counts):
        steps = [*bin_counts, bin_counts[-1]] if totals[k] else []
        shares += [
            {"x": edge, "y": round(n / totals[k], 6), "series": k} for edge, n in zip(edges, steps, strict=False)
        ]
    bins = [
        {"x": low, "x2": high, "tip": "\n".join([ranges[k], *_shares(names, counts, totals, k)])}
        for k, (low, high) in enumerate(pairwise(edges))
    ]
    axis = axis._replace(domain=axis.domain or (edges[0], edges[-1]))
    x = specs.encode(alt.X, "x", axis)
    y = alt.Y("y:Q", title=None, stack=None, axis=alt.Axis(format="~%", tickCount=4))
    curve = alt.Chart(alt.InlineData(shares)).encode(x, y, specs.color(names))
    curve = curve.mark_area(interpolate="step-after", fillOpacity=0.16, line={"strokeWidth": 1.8})
    hover = alt.selection_point(name="hover", on="pointerover", clear="pointerout", empty=False)
    shade: Any = alt.condition(hover, alt.value(0.07), alt.value(0))
    touch = alt.Chart(alt.InlineData(bins)).mark_rect(fill=TEXT)
    touch = touch.encode(x, alt.X2("x2:Q"), fillOpacity=shade, tooltip=alt.Tooltip("tip:N")).add_params(hover)
    alt_text = alt_text or f"Histogram: share by {axis.title}{specs.series_phrase(names)}."
    spec = specs.layered([curve, *specs.rules(marks), touch], None, names, 220)
    return Chart(title, spec, alt_text, note, specs.legend(names))


def density(
    edges: Sequence[float],
    cells: Iterable[tuple[int, int, int]],
    *,
    title: str,
    x_title: str,
    y_title: str,
    noun: str,
    note: str | None = None,
    alt_text: str | None = None,
) -> Chart:
    """The number of items in each cell of a logarithmic grid.

    Args:
        edges: The borders of the bins, the same for both axes.
        cells: For each cell the bin of x, the bin of y and the number of items.
        noun: The noun for an item.
    """
    import altair as alt

    spans = [f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges)]
    values: list[dict[str, Any]] = [
        {"x": edges[a], "x2": edges[a + 1], "y": edges[b], "y2": edges[b + 1], "shade": round(math.sqrt(count), 3)}
        | {"tip": f"{x_title}: {spans[a]}\n{y_title}: {spans[b]}\n{plural(count, noun)}"}
        for a, b, count in cells
    ]
    if not values:
        return Chart(title, {}, "", note)
    ends = min(min(row["x"], row["y"]) for row in values) / 1.4, max(max(row["x2"], row["y2"]) for row in values) * 1.4
    x_axis, y_axis = (Axis(name, ends, "~s", "log") for name in (x_title, y_title))
    scale = alt.Scale(domain=[0, max(row["shade"] for row in values)], range=[0.1, 1])
    shade = alt.FillOpacity("shade:Q", legend=None, scale=scale)
    cell = alt.Chart().mark_rect(fill=HEAT).encode(specs.encode(alt.X, "x", x_axis), alt.X2("x2:Q"), shade)
    cell = cell.encode(specs.encode(alt.Y, "y", y_axis), alt.Y2("y2:Q"), tooltip=alt.Tooltip("tip:N"))
    alt_text = alt_text or f"Density chart: number of items ({noun}) by {x_title} and {y_title}."
    spec = specs.layered([_diagonal(x_axis, y_axis, ends), cell], values, [], 300)
    return Chart(title, spec, alt_text, note, most_width=420)


def _diagonal(x_axis: Axis, y_axis: Axis, ends: tuple[float, float]) -> Any:
    import altair as alt

    rule = alt.Chart(alt.InlineData([{"x": end} for end in ends])).mark_line(strokeDash=[4, 4], strokeWidth=1)
    return rule.encode(specs.encode(alt.X, "x", x_axis), specs.encode(alt.Y, "x", y_axis), color=alt.value(FAINT))


def _shares(names: Sequence[str], counts: Sequence[Sequence[int]], totals: Sequence[int], k: int) -> Iterable[str]:
    """For each series a line with the number of its values in bin k, and their share."""
    for name, bin_counts, total in zip(names, counts, totals, strict=True):
        if total:
            yield f"{name}: {bin_counts[k]:,} ({percent(bin_counts[k], total)})"
