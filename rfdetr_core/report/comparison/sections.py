"""The tables, charts and facts on the page of a comparison."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rfdetr_core.audit.seen import CHOSEN, Seen
from rfdetr_core.base import files
from rfdetr_core.evaluation.changes import CHANGES, Changes, error_counts, slice_changes
from rfdetr_core.evaluation.comparison import Comparison, Side
from rfdetr_core.evaluation.resampling import SCORES
from rfdetr_core.metrics.coco import Floats
from rfdetr_core.report import charts
from rfdetr_core.report.comparison.examples import ALL_CHANGES, ERRORS_ANCHOR
from rfdetr_core.report.specs import Axis, Chart
from rfdetr_core.report.tables import Column, Name, Setter, Table, table_from_frame
from rfdetr_core.report.text import plural

_MOST_IMAGES = 10_000  # the most rows of the table of images
_MOST_NAMES = 100  # the most names in a list of classes


def pair(scores: Comparison, name: str) -> tuple[float, float]:
    """A score of both models. name: one of SCORES."""
    return getattr(scores.old.scores, name), getattr(scores.new.scores, name)


def facts(name: str, side: Side, seen: Seen, images: Mapping[str, str]) -> dict[str, Any]:
    """The facts about a model and its training, for the template.

    Args:
        name: "A" or "B".
        side: The model.
        seen: The images on which it was trained, or whose scores chose its epoch.
        images: SHA-256 of the images of the split by path.
    """
    model = side.model
    rows = [
        ("model file", model.path),
        ("variant", model.variant),
        ("weights, SHA-256 of their tensors", model.tensors),
        ("model file, SHA-256", model.sha256),
        ("threshold of its best F1 here", f"{side.threshold:.2f}"),
    ]
    training = model.training
    if training is None:
        rows.append(("training", "unknown: the file has no training record"))
    else:
        counts = training["counts"].items()
        rows += [(_USES.get(split, split), _count_text(count)) for split, count in counts]
        rows += [(f"images of {split}, git blob of the manifest", blob) for split, blob in _manifests(training)]
        parents = [str(parent["name"]) for parent in training["parents"].values()]
        rows += [("started from", ", ".join(parents))] if parents else []
        rows.append(("training, fingerprint", files.digest(training)))
    return {"name": name, "facts": rows, "doubts": seen_notes(seen, images)}


_USES = {"train": "trained on", "valid": "epoch chosen on"}


def _count_text(count: Mapping[str, int]) -> str:
    return f"{plural(count['images'], 'image')}, {plural(count['objects'], 'object')}"


def _manifests(training: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """The split and the git blob of each manifest that a training read."""
    for name, identity in training["files"].items():
        if name.startswith("manifest/"):
            yield name.removeprefix("manifest/").removesuffix(".json"), str(identity["git"])


def seen_notes(seen: Seen, images: Mapping[str, str]) -> list[str]:
    """Notes for the reader about the images of the split that a model has used. images: SHA-256 by path."""
    count = len(seen.among(images, CHOSEN))
    chosen = f"Its epoch was chosen by {plural(count, 'image')} of this split, so its scores are slightly too high."
    unknown = [reason.rstrip(".") for reason in seen.unknown]
    lines = [f"It is not known whether it was trained on these images: {reason}." for reason in unknown]
    return [chosen, *lines] if count else lines


def class_differences(scores: Comparison) -> list[tuple[str, list[str]]]:
    """The classes that only one model has, and the classes of the dataset that neither model has."""
    old, new = (set(filter(None, side.model.classes)) for side in (scores.old, scores.new))
    groups = {
        "only A has": old - new,
        "only B has": new - old,
        "neither has": set(scores.names) - old - new,
    }
    return [(title, _cut(sorted(names))) for title, names in groups.items() if names]


def _cut(names: list[str]) -> list[str]:
    return names[:_MOST_NAMES] + ([f"and {len(names) - _MOST_NAMES} more"] if len(names) > _MOST_NAMES else [])


def scores(compared: Comparison) -> tuple[Table, Chart]:
    """The main scores of both models, and the interval of each difference."""
    rows = []
    for name, title in SCORES.items():
        low, high = compared.intervals[name] or (None, None)
        old, new = pair(compared, name)
        change = compared.differences[name]
        rows.append({"score": title, "old": old, "new": new, "change": change, "low": low, "high": high})
    columns = {"score": Column("score"), **_sides("")}
    columns |= {"low": _points("low"), "high": _points("high")}
    measured = [row for row in rows if row["low"] is not None]
    note = f"95 % bootstrap intervals: the {plural(compared.images, 'image')} drawn {compared.resamples:,} times."
    chart = charts.intervals(
        measured, "score", "change", "low", "high", title="B minus A, in points", x_axis=Axis("points", None, "+.1f"),
        marks=[(0, "no difference")], note=f"{note} The draws are the same for both models.",
    )  # fmt: skip
    return table_from_frame(rows, columns, noun="score", search=False), chart


def per_class(compared: Comparison) -> Table:
    """A row for each class of the dataset."""
    model_classes = [set(side.model.classes) for side in (compared.old, compared.new)]
    models = {(True, True): "both", (True, False): "only A", (False, True): "only B", (False, False): "neither"}
    rows: list[list[Any]] = []
    for old, new in zip(compared.old.scores.per_class, compared.new.scores.per_class, strict=True):
        row: list[Any] = [Name(new.name), new.instances]
        for before, after in ((old.ap, new.ap), (old.ap_50, new.ap_50)):
            row += [before, after, 100 * (after - before)]
        rows.append([*row, models[new.name in model_classes[0], new.name in model_classes[1]]])
    columns = [Column("class"), Column("objects", numeric=True)]
    columns += [*_sides("AP").values(), *_sides("AP50").values(), Column("models")]
    return Table(columns, rows, noun="class", choices={"models": "all models"})


def slice_table(compared: Comparison, brightness: Floats, metadata: Mapping[str, Mapping[str, str]]) -> Table:
    """The scores of both models on each slice of the split.

    Args:
        compared: The two models.
        brightness: The mean brightness of each image, 0 to 255, (I,).
        metadata: Path of an image -> metadata column -> value.
    """
    table = slice_changes(compared, brightness, metadata)
    for name in ("map", "f1"):
        table[f"change_{name}"] *= 100
    columns = {key: Column(title, names=True, style="file") for key, title in (("slice", "slice"), ("value", "part"))}
    columns |= {name: Column(name, numeric=True) for name in ("images", "objects")}
    for name, title in (("map", "AP"), ("f1", "F1")):
        columns |= {f"{side}_{name}": column for side, column in _sides(title).items()}
    return table_from_frame(table, columns, noun="part", size=50, choices={"slice": "all slices"})


def images(changes: Changes) -> Table:
    """The images whose F1 changed, the largest gain first."""
    table = changes.images.head(_MOST_IMAGES)
    columns = {"path": Column("image", names=True, style="file"), **_sides("F1")}
    return table_from_frame(table.assign(change=100 * table.change), columns, noun="image", size=10)


def errors(compared: Comparison) -> tuple[Chart, Table]:
    """For each kind of error the number of errors of both models, and the AP50 that they cost."""
    table = error_counts(compared)
    table["cost_change"] *= 100
    note = (
        "B minus A. Below 0, these errors cost B less. The cost of a kind of error is the AP50 that would be gained "
        "without these errors (TIDE)."
    )
    axis = Axis("points of AP50", None, "+.1f")
    chart = charts.bars(table, "kind", "cost_change", title="Change of the cost of errors", x_axis=axis, note=note)
    columns = {
        "kind": Column("kind"),
        "old": Column("A, errors", numeric=True),
        "new": Column("B, errors", numeric=True),
        "change": Column("difference", numeric=True, format="+,"),
        "old_cost": _share("A, cost in AP50"),
        "new_cost": _share("B, cost in AP50"),
        "cost_change": _points("difference, points"),
    }
    return chart, table_from_frame(table, columns, noun="kind", search=False)


def kinds(changes: Changes) -> Table:
    """The number of objects and wrong detections that changed. A click on a kind shows its crops."""
    rows = [
        [Setter(name, ERRORS_ANCHOR, {ALL_CHANGES: name}), count, CHANGES[name]]
        for name, count in changes.counts().items()
    ]
    return Table(
        [Column("change", style="nowrap"), Column("how many", numeric=True), Column("what it means")],
        rows,
        search=False,
    )


def _sides(title: str) -> dict[str, Column]:
    """The columns of a score: A, B, and the difference in points."""
    end = f", {title}" if title else ""
    return {"old": _share(f"A{end}"), "new": _share(f"B{end}"), "change": _points(f"B minus A{end}")}


def _share(title: str) -> Column:
    return Column(title, numeric=True, format=".3f")


def _points(title: str) -> Column:
    return Column(title, numeric=True, format="+.2f", help="in points: hundredths")
