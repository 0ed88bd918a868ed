"""The tables and charts on the evaluation page, for boxes or for masks."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from rfdetr_core.evaluation.analysis import ERRORS, MISSED, Analysis, Results, costs
from rfdetr_core.evaluation.operating import BINS, FEW_IMAGES, Calibration, Goal, Point, best_f1
from rfdetr_core.evaluation.resampling import SCORES, Interval
from rfdetr_core.evaluation.scoring import background_name
from rfdetr_core.evaluation.slices import slices
from rfdetr_core.metrics.coco import RECALLS, THRESHOLDS, Floats, Row
from rfdetr_core.report import charts
from rfdetr_core.report.specs import Axis, Chart, Choose, Tip
from rfdetr_core.report.tables import Column, Name, Setter, Table, table_from_frame
from rfdetr_core.report.text import isolated

_MEANS = {
    "localisation": "right class, but the box overlaps the object too little (IoU 0.1 to 0.5)",
    "classification": "right box (IoU 0.5 or more), but wrong class",
    "duplicate": "a detection with a higher score has already found the object",
    "background": "there is no object (IoU below 0.1)",
    "both": "wrong class, and the box overlaps the object too little",
    MISSED: "an object without any detection near it",
}
ERROR_FILTERS = {  # Facet of the gallery of errors -> label of its filter.
    "kind": "all kinds",
    "label": "all labels",
    "detection": "all detections",
}
_CURVES = 8  # the most classes with a curve each: those with the most objects
_LISTED = 2000  # the most confusions in the list: the most frequent ones
_MATRIX = 30  # the most classes in the confusion matrix: those with the most confusions


@dataclass(frozen=True)
class Kind:
    """The boxes or the masks of an evaluation with all that was computed for them.

    title: "Boxes" or "Masks". scores: as in metrics.json. intervals: the interval of each score by its name. per_class:
    AP and AP50 by class, as in per_class.csv. threshold: detections with a higher score count on this page. overall:
    the recommended threshold for all classes. points: the recommended threshold of each class.
    """

    title: str
    analysis: Analysis
    scores: Mapping[str, float | None]
    intervals: Mapping[str, Interval | None]
    per_class: pd.DataFrame
    threshold: float
    overall: Point
    points: Mapping[str, Point]

    @property
    def anchor(self) -> str:
        """The prefix of the HTML ids of this part of the page."""
        return self.title.lower()

    @property
    def names(self) -> dict[int, str]:
        """The names of the classes by label. -1 is the background."""
        classes = self.analysis.classes
        return classes | {-1: background_name(classes.values())}

    @property
    def thresholds(self) -> Floats:
        """The threshold of each class, (K,): the same for all."""
        return np.full(len(self.analysis.classes), self.threshold)


def scores(kind: Kind) -> tuple[Table, Chart]:
    """The main scores with their intervals, as a table and as a chart."""
    rows = []
    for name, title in SCORES.items():
        low, high = kind.intervals.get(name) or (math.nan, math.nan)
        rows.append({"score": title, "value": _number(kind.scores.get(name)), "low": low, "high": high})
    columns = {"score": Column("score")} | {key: _share(key) for key in ("value", "low", "high")}
    images = len(kind.analysis.images)
    note = f"95 % bootstrap intervals, from draws of the {images:,} images with replacement."
    measured = [row for row in rows if not math.isnan(float(str(row["value"])))]
    axis = Axis("score", (0, 1), ".1f")
    chart = charts.intervals(measured, "score", "value", "low", "high", title=kind.title, x_axis=axis, note=note)
    return table_from_frame(rows, columns, noun="score", search=False), chart


def thresholds(kind: Kind) -> list[Chart]:
    """Charts of precision, recall and F1 over the score threshold, of F1 by class, and of precision over recall."""
    names = ("precision", "recall", "F1")
    curve = kind.analysis.mean_curve
    rows = [
        {"threshold": float(threshold), "value": float(value), "curve": name}
        for name, values in zip(names, curve, strict=True)
        for threshold, value in zip(THRESHOLDS, values, strict=True)
    ]
    marks = [] if math.isnan(kind.overall.threshold) else [(kind.overall.threshold, "recommended")]
    x_axis = Axis("score threshold", (0, 1), ".1f")
    y_axis = Axis("share", (0, 1), ".1f")
    figures = [
        charts.line(rows, "threshold", "value", "curve", title="All classes", x_axis=x_axis, y_axis=y_axis, marks=marks,
                    note="Means over the classes that have objects, at IoU 0.5."),
    ]  # fmt: skip
    classes = kind.analysis.classes
    instances = kind.analysis.objects.groupby("label").size().sort_values(ascending=False, kind="stable")
    chosen = [label for label in instances.index.tolist()[:_CURVES] if len(classes) > 1]
    row_of = {label: number for number, label in enumerate(classes)}
    rows = [
        {"threshold": float(threshold), "value": float(value), "curve": classes[label]}
        for label in chosen
        for threshold, value in zip(THRESHOLDS, kind.analysis.curves[row_of[label], 2], strict=True)
    ]
    if chosen:
        note = f"The {len(chosen)} classes with the most objects." if len(chosen) < len(classes) else None
        figures.append(
            charts.line(rows, "threshold", "value", "curve", title="F1 by class", x_axis=x_axis,
                        y_axis=Axis("F1", (0, 1), ".1f"), note=note)
        )  # fmt: skip
    figures.append(_precision_recall(kind))
    return figures


def _precision_recall(kind: Kind) -> Chart:
    precision = (kind.analysis.evaluator.eval or {})["precision"][0, :, :, 0, -1]
    present = precision[:, precision[0] > -1] if precision.size else precision
    rows = [
        {"recall": float(recall), "precision": float(value)}
        for recall, value in zip(RECALLS, present.mean(axis=1), strict=True)
    ] if present.size else []  # fmt: skip
    return charts.line(
        rows, "recall", "precision", title="Precision over recall", x_axis=Axis("recall", (0, 1), ".1f"),
        y_axis=Axis("precision", (0, 1), ".1f"), note="The mean over the classes that have objects, at IoU 0.5.",
    )  # fmt: skip


def recommended(kind: Kind, target: Mapping[Goal, float] | None) -> Table:
    """The recommended thresholds with precision, recall and F1, and whether they reach the target."""
    columns = [Column("class", names=True), *(_share(name) for name in ("threshold", "precision", "recall", "F1"))]
    if target:
        columns += [_share("highest F1"), Column(" ".join(f"{goal} {value:g}" for goal, value in target.items()))]
    rows: list[list[Any]] = []
    curves = [kind.analysis.mean_curve, *kind.analysis.curves]
    for (name, point), curve in zip([("all classes", kind.overall), *kind.points.items()], curves, strict=True):
        row: list[Any] = [name, point.threshold, point.precision, point.recall, point.f1]
        if target:
            reached = "reached" if point.reached else f"not reached; at most {point.best:.3f}"
            row += [best_f1(curve).f1, "not measured" if math.isnan(point.precision) else reached]
        rows.append(row)
    return Table(columns, rows, noun="class")


def per_class(kind: Kind, confusions: pd.DataFrame, pictured: Container[tuple[int, int]]) -> Table:
    """A row for each class.

    Args:
        kind: The boxes or the masks of the evaluation.
        confusions: See `Analysis.confusions`.
        pictured: The confusions with pictures, as labels (actual, predicted).
    """
    names = kind.analysis.classes
    wrong = confusions[(confusions.actual != confusions.predicted) & (confusions.actual >= 0)]
    wrong = wrong[wrong.predicted >= 0]
    counts = wrong.groupby(["actual", "predicted"]).size()
    rows = []
    instances = kind.analysis.objects.groupby("label").size()
    for label, name in names.items():
        row, point = kind.per_class.loc[name], kind.points[name]
        most = counts[label].sort_values(ascending=False, kind="stable") if label in counts else None
        pair: Any = None
        if most is not None:
            predicted = int(most.index[0])
            text = f"{isolated(names[predicted])} ({int(most.iloc[0])})"
            filters = _filters(label=name, detection=names[predicted])
            pair = Setter(text, f"{kind.anchor}-errors", filters) if (label, predicted) in pictured else text
        values = (_number(value) for value in (row.ap, row.ap_50, point.f1, point.threshold))
        rows.append([Name(name), int(instances.get(label, 0)), *values, pair])
    columns = [Column("class"), Column("objects", numeric=True)]
    columns += [_share(name) for name in ("AP", "AP50", "F1", "threshold")]
    return Table([*columns, Column("most confused with")], rows, noun="class")


def confusion(kind: Kind, confusions: pd.DataFrame, pictured: Container[tuple[int, int]]) -> tuple[Chart, Table]:
    """The confusion matrix with the shares of each row, and the confusions as a list.

    Args:
        kind: The boxes or the masks of the evaluation.
        confusions: See `Analysis.confusions`.
        pictured: The confusions with pictures, as labels (actual, predicted).
    """
    names = kind.names
    counts = confusions.groupby(["actual", "predicted"]).size().rename("count").reset_index()
    row_totals = counts.groupby("actual")["count"].transform("sum")
    counts["share"] = counts["count"] / row_totals
    wrong = counts[counts.actual != counts.predicted].sort_values("count", ascending=False, kind="stable")
    busy = pd.concat([wrong.groupby(side)["count"].sum() for side in ("actual", "predicted")]).groupby(level=0).sum()
    order = sorted(kind.analysis.classes, key=lambda label: (-int(busy.get(label, 0)), label))
    labels = [*sorted(order[:_MATRIX]), -1]
    position = {label: number for number, label in enumerate(labels)}
    cells = counts[counts.actual.isin(labels) & counts.predicted.isin(labels)]
    cells = cells.assign(row=cells.actual.map(position), column=cells.predicted.map(position))
    titles = [names[label] for label in labels]
    target = f"{kind.anchor}-errors"
    note = "A row shows how the labels of a class were detected. A click on a cell shows its pictures."
    if len(order) > _MATRIX:
        note += (
            f" Only the {_MATRIX} classes with the most confusions are shown. The list has the {_LISTED:,} most "
            "frequent confusions."
        )
    chart = charts.heatmap(
        cells, "row", "column", "share", title="Confusion matrix", rows=titles, columns=titles, row_title="label",
        column_title="detection", value_title="share of the row", value_format=".2f", domain=(0, 1), text=True,
        tips=[Tip("count", "count", ",d")], choose=Choose(target, _filters(label="row", detection="column")), note=note,
    )  # fmt: skip
    listed = wrong.head(_LISTED)
    rows: list[list[Any]] = []
    for actual, predicted, count, share in zip(
        listed.actual.tolist(), listed.predicted.tolist(), listed["count"].tolist(), listed.share, strict=True
    ):
        label, detection = names[actual], names[predicted]
        link = Setter("pictures", target, _filters(label=label, detection=detection))
        rows.append([label, detection, count, share, link if (actual, predicted) in pictured else None])
    columns = [Column("label", names=True), Column("detection", names=True), Column("count", numeric=True)]
    return chart, Table([*columns, _share("share of the label's"), Column("")], rows, noun="confusion", size=10)


def errors(kind: Kind) -> tuple[Chart, Table]:
    """For each kind of error the AP50 that it costs, and the number of errors."""
    lost = costs(kind.analysis)
    counts = kind.analysis.error_counts(kind.thresholds)
    target = f"{kind.anchor}-errors"
    rows: list[dict[str, Any]] = [
        {"kind": name, "cost": lost[name], "count": counts[name], "meaning": _MEANS[name]} for name in ERRORS
    ]
    note = "The AP50 that would be gained if all errors of one kind were corrected (TIDE)."
    chart = charts.bars(
        rows, "kind", "cost", title="Cost in AP50", x_axis=Axis("AP50", None, ".2f"),
        tips=[Tip("count", "errors", ",d")], choose=Choose(target, _filters(kind="row")), note=note,
    )  # fmt: skip
    cells = [
        [Setter(row["kind"], target, _filters(kind=row["kind"])), _number(row["cost"]), row["count"], row["meaning"]]
        for row in rows
    ]
    columns = [Column("kind"), _share("cost in AP50"), Column("errors", numeric=True), Column("what it means")]
    return chart, Table(columns, cells, noun="kind", search=False)


def slice_table(
    kind: Kind, annotations: Row, results: Results, brightness: Floats, metadata: Mapping[str, Mapping[str, str]]
) -> Table:
    """The scores on each slice of the split.

    Args:
        kind: The boxes or the masks of the evaluation.
        annotations: The canonical annotations.
        results: All detections.
        brightness: The mean brightness of each image, 0 to 255, (I,).
        metadata: Path of an image -> metadata column -> value.
    """
    table = slices(kind.analysis, annotations, results, kind.thresholds, brightness, metadata)
    columns = {
        "slice": Column("slice", names=True, style="file"),
        "value": Column("part", names=True, style="file"),
        "images": Column("images", numeric=True),
        "objects": Column("objects", numeric=True),
        **{name: _share(title) for name, title in {"map": "AP", "map_50": "AP50"}.items()},
        **{name: _share(title) for name, title in {"precision": "precision", "recall": "recall", "f1": "F1"}.items()},
    }
    return table_from_frame(table, columns, noun="part", size=50, choices={"slice": "all slices"})


def calibration(kind: Kind) -> tuple[Chart, Table | None, tuple[float, float]]:
    """The calibration of the scores.

    Returns the reliability diagram, a table of the D-ECE by class (None: there is only one class), and the D-ECE of all
    detections and of those above the threshold.
    """
    reliability = Calibration.measure(kind.analysis, kind.threshold)
    note = f"Detections in {BINS} bins by score. On the diagonal, the score equals the share of right detections."
    chart = charts.points(
        reliability.bins, "score", "right", "count", title="Reliability", x_axis=Axis("mean score", (0, 1), ".1f"),
        y_axis=Axis("share that is right", (0, 1), ".1f"), diagonal=True, joined=True, note=note,
        tips=[Tip("count", "detections", ",d")],
    )  # fmt: skip
    table = None
    if len(reliability.by_class) > 1:
        rows = [[Name(name), _number(error)] for name, error in reliability.by_class.items()]
        table = Table([Column("class"), _share("D-ECE")], rows, noun="class", size=10)
    return chart, table, (reliability.error, reliability.error_above)


def suspect_table(table: pd.DataFrame) -> Table:
    """The table of suspected label errors."""
    columns = {
        "certainty": Column("certainty", numeric=True, format=".2f"),
        "suspicion": Column("suspicion"),
        "image": Column("image", names=True),
        "annotation": Column("annotation", numeric=True, format=".0f"),
        "label": Column("label", names=True),
        "detected": Column("detected", names=True),
        "score": Column("score", numeric=True, format=".2f"),
    }
    table = table.assign(annotation=[None if pd.isna(number) else int(number) for number in table.annotation])
    return table_from_frame(
        table.astype({"annotation": object}), columns, noun="label", choices={"suspicion": "all suspicions"}
    )


def few_images_warning(images: int) -> str | None:
    """A warning if there are too few images to decide anything by an interval."""
    if images >= FEW_IMAGES:
        return None
    return (
        f"{images:,} images are too few. The intervals are wide, and a difference between two models may well be "
        f"chance. Compare models on {FEW_IMAGES} images or more."
    )


def _filters(**chosen: str) -> dict[str, str]:
    """The filters of the gallery of errors, by label, that a click sets. chosen: values by facet."""
    return {ERROR_FILTERS[facet]: value for facet, value in chosen.items()}


def _share(title: str) -> Column:
    return Column(title, numeric=True, format=".3f")


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
