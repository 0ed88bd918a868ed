"""The tables and charts of the dataset report, made from the counts of counts.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from rfdetr_core.report import charts
from rfdetr_core.report.specs import Axis, Chart, Tip
from rfdetr_core.report.tables import Cell, Column, Name, Parts, Table
from rfdetr_core.report.text import DASH, TIMES, hue, percent, short

SCALES = ("small (below 32\N{SUPERSCRIPT TWO})", "medium", "large (96\N{SUPERSCRIPT TWO} and more)")
_BARS = 150  # the most classes in the bar chart: the most frequent ones; the table has all
_MARKS = ((32, "32"), (96, "96"))
_RATIO = "datum.value < 1 ? '1:' + format(1 / datum.value, '.2~r') : format(datum.value, '.2~r') + ':1'"


@dataclass(frozen=True)
class Overview:
    """The tables and charts that `dataset.html` places."""

    splits: Table
    classes: Table
    class_charts: Sequence[Chart]
    side: Chart
    scale_bars: Sequence[tuple[str, Parts]]
    scales: Table
    object_charts: Sequence[Chart]
    sizes: Table
    sizes_about: str | None
    image_sizes: Chart


def build_overview(counts: dict[str, Any]) -> Overview:
    """Make tables and charts from the result of `counts.count`."""
    splits = counts["splits"]
    distinct, most = counts["sizes"]["distinct"], counts["sizes"]["most"]
    class_charts = [_balance(counts)]
    return Overview(
        splits=_splits(splits, len(counts["classes"])),
        classes=_classes(counts),
        class_charts=class_charts + ([_co_occurrence(counts)] if len(counts["classes"]) > 1 else []),
        side=_side(counts),
        scale_bars=[(split["name"], Parts(split["scales"], SCALES)) for split in splits if split["objects"]],
        scales=_scales(splits),
        object_charts=[*_shapes(counts), _density(counts["width_height"], "box", "Width and height of boxes")],
        sizes=_sizes(most, sum(split["images"] for split in splits)),
        sizes_about=f"The {len(most)} most frequent of {distinct:,}." if distinct > len(most) else None,
        image_sizes=_density(counts["image_width_height"], "image", "Width and height of images"),
    )


def _splits(splits: list[dict[str, Any]], classes: int) -> Table:
    columns = [
        Column("split"),
        Column("images", numeric=True),
        Column("without objects", numeric=True, help="Background images. They help against wrong detections."),
        Column("objects", numeric=True),
        Column("crowds", numeric=True, help="Not used in training, and ignored in the evaluation."),
        Column("objects per image", numeric=True, format=".1f"),
        Column("classes", numeric=True),
        Column("small, medium, large", numeric=True, help="COCO's sizes by area. Sorted by the number of small ones."),
    ]
    rows = [
        [
            *(split[key] for key in ("name", "images", "background", "objects", "crowds")),
            split["objects"] / split["images"] if split["images"] else None,
            Cell(f"{split['classes']:,} of {classes:,}", split["classes"]),
            Parts(split["scales"], SCALES),
        ]
        for split in splits
    ]
    return Table(columns, rows, search=False, noun="split")


def _classes(counts: dict[str, Any]) -> Table:
    splits = counts["splits"]
    columns = [
        Column("class"),
        Column("id", numeric=True, format="d"),
        Column("objects", numeric=True),
        *(
            Column(split["name"], numeric=True, help=f"Objects in {split['name']}, and their share of all its objects")
            for split in splits
        ),
        Column("images", numeric=True),
        Column("median size", numeric=True, help="Median width and height in pixels. Sorted by their product."),
        Column("small, medium, large", numeric=True, help="Sorted by the number of small ones."),
    ]
    rows = [
        [
            Name(entry["name"], hue(index)),
            entry["id"],
            sum(entry["objects"]),
            *(
                Cell(number, number, percent(number, split["objects"]))
                for number, split in zip(entry["objects"], splits, strict=True)
            ),
            entry["images"],
            Cell(f" {TIMES} ".join(f"{side:g}" for side in entry["median"]) or DASH, math.prod(entry["median"] or [0])),
            Parts(entry["scales"], SCALES),
        ]
        for index, entry in enumerate(counts["classes"])
    ]
    return Table(columns, rows, anchor="class-table", noun="class")


def _balance(counts: dict[str, Any]) -> Chart:
    """A chart of the objects of each class, the most frequent class first, stacked by split."""
    ordered = sorted(counts["classes"], key=lambda entry: -sum(entry["objects"]))
    totals = [sum(entry["objects"]) for entry in ordered if sum(entry["objects"])]
    note = None
    if len(totals) > 1:
        note = f"The most frequent class has {short(totals[0] / totals[-1])} times as many objects as the rarest."
    if len(ordered) > _BARS:
        truncation = f"The {_BARS} most frequent of {len(ordered):,} classes are shown. The table above has all."
        note = f"{note or ''} {truncation}".strip()
    rows = [
        {"row": entry["name"], "value": number, "split": split["name"]}
        for entry in ordered[:_BARS]
        for split, number in zip(counts["splits"], entry["objects"], strict=True)
        if number or not sum(entry["objects"])
    ]
    return charts.bars(
        rows, "row", "value", "split", title="Balance", x_axis=Axis("objects", format=",d"), note=note,
        rows=[entry["name"] for entry in ordered[:_BARS]], names=[split["name"] for split in counts["splits"]],
    )  # fmt: skip


def _co_occurrence(counts: dict[str, Any]) -> Chart:
    classes, cells = counts["together"]["classes"], counts["together"]["cells"]
    images = {row: count for row, column, count in cells if row == column}
    both = [*cells, *((column, row, count) for row, column, count in cells if row != column)]
    rows = [
        {"row": row, "column": column, "share": round(count / images[row], 4), "count": count, "of": images[row]}
        for row, column, count in both
    ]
    note = "The share of the images with the class of the row that also have the class of the column."
    if len(classes) < len(counts["classes"]):
        note += f" The {len(classes)} most frequent classes are shown."
    names = [counts["classes"][index]["name"] for index in classes]
    return charts.heatmap(
        rows, "row", "column", "share", title="Together in an image", rows=names, columns=names, row_title="class",
        column_title="with", value_title="share", value_format=".1%", domain=(0, 1), muted_diagonal=True, note=note,
        tips=[Tip("count", "images with both", ",d"), Tip("of", "images with the class", ",d")],
    )  # fmt: skip


def _scales(splits: list[dict[str, Any]]) -> Table:
    columns = [Column("split"), *(Column(name, numeric=True) for name in SCALES)]
    rows = [
        [
            split["name"],
            *(
                Cell(count, count / (split["objects"] or 1), percent(count, split["objects"]))
                for count in split["scales"]
            ),
        ]
        for split in splits
    ]
    return Table(columns, rows, search=False, noun="split")


def _sizes(most: list[list[int]], images: int) -> Table:
    columns = [Column("size", numeric=True), Column("images", numeric=True), Column("share", numeric=True)]
    rows = [
        [Cell(f"{width} {TIMES} {height}", width * height), count, Cell(percent(count, images), count)]
        for width, height, count in most
    ]
    return Table(columns, rows, search=False, noun="size")


def _side(counts: dict[str, Any]) -> Chart:
    edges = counts["side"]["edges"]
    note = f"The side of an object is the square root of width {TIMES} height."
    marks = [mark for mark in _MARKS if edges and edges[0] < mark[0] < edges[-1]]
    return _histogram(counts, "side", "Side", Axis("pixels", scale="log", values=_powers(edges)), short, note, marks)


def _shapes(counts: dict[str, Any]) -> list[Chart]:
    ratios = Axis("width : height", scale="log", values=_powers(counts["aspect"]["edges"]), label=_RATIO)
    return [
        _histogram(
            counts, "share", "Side against the image", Axis("share of the side of the image", format=".0%"),
            lambda edge: f"{100 * edge:.0f} %", "The side of the objects, divided by the side of their image.",
        ),
        _histogram(
            counts, "aspect", "Aspect ratio", ratios,
            lambda edge: f"1:{short(1 / edge)}" if edge < 1 else f"{short(edge)}:1", "Width to height.",
        ),
        _histogram(counts, "per_image", "Objects per image", Axis("objects in an image", format=",d"), short, None),
    ]  # fmt: skip


def _histogram(
    counts: dict[str, Any],
    key: str,
    title: str,
    axis: Axis,
    text: Callable[[float], str],
    note: str | None,
    marks: Sequence[tuple[float, str]] = (),
) -> Chart:
    edges, names = counts[key]["edges"], [split["name"] for split in counts["splits"]]
    whole_numbers = key == "per_image"
    ranges = [
        text(low) if whole_numbers and high - low == 1 else f"{text(low)} to {text(high)}"
        for low, high in pairwise(edges)
    ]
    return charts.histogram(
        edges, counts[key]["counts"], names, title=title, axis=axis, ranges=ranges, marks=marks,
        note=note,
    )  # fmt: skip


def _density(counts: dict[str, Any], noun: str, title: str) -> Chart:
    return charts.density(
        counts["edges"], counts["cells"], title=title, x_title="width (pixels)", y_title="height (pixels)", noun=noun
    )


def _powers(edges: Sequence[float]) -> list[float]:
    """The edges that are powers of two."""
    return [edge for edge in edges if math.log2(edge).is_integer()]
