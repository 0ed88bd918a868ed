"""A page with all parts of the kit and with hostile names: HTML, scripts, expressions, right-to-left text."""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path

from PIL import Image

from rfdetr_core.report import charts, page
from rfdetr_core.report.gallery import Card, Gallery, Group, Picture, Shape
from rfdetr_core.report.specs import Axis, Chart, Choose, Tip
from rfdetr_core.report.tables import Cell, Column, Link, Name, Parts, Pill, Setter, Table

NAMES = (
    "<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>", "datum.x", "__proto__", "constructor",
    "\u202egpj.exe", "a.b[c]", "\u05e9\u05dc\u05d5\u05dd", "{{ 7 * 7 }}", "alert(3)",
)  # fmt: skip
TEMPLATE = """{% extends "page.html" %}
{% block header %}<h1>Kit</h1>{{ kit.tiles([[1234, "images"], ["0.5", "AP", "0.4 to 0.6"]]) }}{% endblock %}
{% block main %}
{% call kit.section("charts", "Charts", "About them.") %}
<div class="grid charts">{% for chart in charts %}{{ kit.chart(chart) }}{% endfor %}</div>
<details><summary>more</summary>{{ kit.chart(closed) }}</details>
{% endcall %}
{% call kit.section("table", "Table") %}{{ kit.table(table) }}{{ kit.setter(setter) }}{% endcall %}
{% call kit.section("pictures", "Pictures") %}{{ kit.gallery(gallery) }}{% endcall %}
{% endblock %}
"""
ACTUAL, PREDICTED = "all actual", "all predicted"


def make_charts() -> dict[str, Chart]:
    """A chart from each builder."""
    epochs = [
        {"a.b": epoch, "y[0]": 1 / (epoch + 1) + k, "s": name, "lo": k, "hi": k + 1}
        for k, name in enumerate(NAMES)
        for epoch in range(4)
    ]
    counts = [{"c": name, "v": k, "s": part} for k, name in enumerate(NAMES) for part in NAMES[:2]]
    cells = [{"r": r, "c": c, "v": (r + c) / 20, "n": r} for r in range(10) for c in range(10)]
    score, share = Axis("score", (0, 1), ".2f"), Axis("share", (0, 1), ".0%")
    bins = [{"score": k / 10, "right": k / 12, "n": k} for k in range(1, 10)]
    return {
        "line": charts.line(
            epochs, "a.b", "y[0]", "s", title="Line", x_axis=Axis("epoch"), y_axis=Axis("loss", format=".2f"), low="lo",
            high="hi", marks=[(2, NAMES[1])],
        ),
        "points": charts.points(
            bins, "score", "right", "n", title="Points", x_axis=score, y_axis=share, diagonal=True, joined=True,
            tips=[Tip("n", "detections", ",d")],
        ),
        "bars": charts.bars(
            counts, "c", "v", "s", title="Bars", x_axis=Axis("objects", format=",d"),
            choose=Choose("gallery", {ACTUAL: "row"}),
        ),
        "intervals": charts.intervals(
            [{"n": name, "v": 0.5, "l": 0.4, "h": 0.6} for name in NAMES], "n", "v", "l", "h", title="Intervals",
            x_axis=score, marks=[(0.5, "half")],
        ),
        "heatmap": charts.heatmap(
            cells, "r", "c", "v", title="Heat map", rows=NAMES, columns=NAMES, row_title="actual",
            column_title="predicted", value_title="share", value_format=".0%", text=True, muted_diagonal=True,
            tips=[Tip("n", "how many", ",d")], choose=Choose("gallery", {ACTUAL: "row", PREDICTED: "column"}),
        ),
        "histogram": charts.histogram(
            [1, 2, 4, 8], [[1, 2, 3], [0, 5, 1], [0, 0, 0]], [*NAMES[:2], "empty"], title="Histogram",
            axis=Axis("pixels", scale="log", values=[1, 2, 4, 8]), ranges=["1 to 2", "2 to 4", NAMES[0]],
            marks=[(4, "four")],
        ),
        "density": charts.density(
            [1, 2, 4, 8], [(0, 1, 3), (2, 2, 9)], title="Density", x_title="width", y_title="height", noun="box"
        ),
    }  # fmt: skip


def make_table() -> Table:
    columns = [
        Column("class", names=True),
        Column("AP", numeric=True, format=".3f"),
        Column("kind"),
        Column("size", numeric=True),
        Column("parts", numeric=True),
        Column("to", help="help"),
    ]
    rows = [
        [
            NAMES[k % 10] if k % 2 else Name(NAMES[k % 10], "red"),
            None if k == 3 else (7 * k % 40) / 40,
            Pill("error", "error") if k % 3 == 0 else "fine",
            Cell(f"{k} by {k}", k * k, "px"),
            Parts([k, 1, 2], NAMES[:3]),
            Link(NAMES[k % 10], "pictures"),
        ]
        for k in range(40)
    ]
    return Table(columns, rows, anchor="the-table", noun="class", choices={"kind": "all kinds", "class": "all classes"})


def make_gallery() -> Gallery:
    data = io.BytesIO()
    Image.new("RGB", (200, 140), (90, 120, 90)).save(data, "JPEG")
    source = "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
    cards = [
        Card(
            Picture(source, 200, 140, [Shape(k % 10, 20, 30, 60, 40, outline="M20 30h60v40h-60Z", text="0.93"),
                                       Shape((k + 1) % 10, 90, 10, 60, 40, "dashed")]),
            [Name(f"{k}.jpg"), f"picture {k}"],
            {"actual": [NAMES[k % 10], NAMES[(k + 1) % 10]], "predicted": [NAMES[k // 3]]},
        )
        for k in range(30)
    ]  # fmt: skip
    groups = [Group(name, f"hsl({k * 36} 90% 55%)") for k, name in enumerate(NAMES)]
    filters = {"actual": ACTUAL, "predicted": PREDICTED}
    return Gallery(cards, groups, filters, of_groups="actual", anchor="gallery", size=12)


def write(folder: Path) -> Path:
    """Write the page and its template into a folder. Returns the path of the page."""
    (folder / "kit_page.html").write_text(TEMPLATE)
    charts_made = make_charts()
    empty = charts.line([], "x", "y", title="Empty", x_axis=Axis("x"), y_axis=Axis("y"))
    page.write_page(
        folder / "index.html",
        folder / "kit_page.html",
        "Kit",
        charts=[*charts_made.values(), empty],
        closed=charts_made["bars"],
        table=make_table(),
        gallery=make_gallery(),
        setter=Setter("choose", "the-table", {"all classes": NAMES[3]}),
    )
    return folder / "index.html"


if __name__ == "__main__":
    write(Path(sys.argv[1]))
