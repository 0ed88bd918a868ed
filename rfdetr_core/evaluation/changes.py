"""What became better and worse from one model to another: images, objects, detections, parts of the split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from hotcoco import mask as overlaps

from rfdetr_core.evaluation.analysis import ERRORS, POSITIVE, coded_bytes, costs
from rfdetr_core.evaluation.comparison import Comparison, Side
from rfdetr_core.evaluation.slices import slices
from rfdetr_core.metrics.coco import Floats

if TYPE_CHECKING:
    import pandas as pd

BETTER, WORSE = "better", "worse"
FOUND, LOST = "object found", "object lost"
GONE, ADDED = "wrong detection gone", "wrong detection added"
# What each change means.
CHANGES = {
    FOUND: "an object that A misses and B finds",
    LOST: "an object that A finds and B misses",
    GONE: "a wrong detection of A that B does not make",
    ADDED: "a wrong detection of B that A does not make",
}


@dataclass(frozen=True)
class Changes:
    """Changes of single images, objects and detections, each at the threshold of its model.

    images: image, path, old and new (F1), change; those with another F1, the largest gain first.
    objects: object (its row), change (FOUND or LOST), detection (its row in the side that finds it), score.
    detections: change (GONE or ADDED), detection (its row in the side that makes it), score.
    Both have the highest score first. A wrong detection is also made by the other side if that has a wrong one of the
    same class in the same image with an IoU of 0.5 or more.
    """

    images: pd.DataFrame
    objects: pd.DataFrame
    detections: pd.DataFrame

    @classmethod
    def of(cls, compared: Comparison) -> Changes:
        """Compare both sides."""
        return cls(_images(compared), _objects(compared), _detections(compared))

    def counts(self) -> dict[str, int]:
        """How many there are of each of CHANGES."""
        counts = {**self.objects.change.value_counts(), **self.detections.change.value_counts()}
        return {name: int(counts.get(name, 0)) for name in CHANGES}

    def sentence(self, old: str = "A") -> str:
        """The counts in words; old: what the first model is called."""
        counts = self.counts()
        objects = f"Objects found that {old} misses: {counts[FOUND]:,}; missed that {old} finds: {counts[LOST]:,}."
        return f"{objects} Wrong detections added: {counts[ADDED]:,}; gone: {counts[GONE]:,}."


def _images(compared: Comparison) -> pd.DataFrame:
    old, new = (side.analysis.per_image(side.thresholds) for side in (compared.old, compared.new))
    table = new[["path"]].assign(image=np.arange(len(new)), old=old.f1, new=new.f1, change=new.f1 - old.f1)
    table = table[table.change != 0].sort_values(["change", "path"], ascending=[False, True], kind="stable")
    return table.reset_index(drop=True)


def _objects(compared: Comparison) -> pd.DataFrame:
    import pandas as pd

    old, new = compared.old, compared.new
    # Both have the objects of one annotation file, so a row is the same object.
    missed = [set(side.analysis.unfound(side.thresholds).index.tolist()) for side in (old, new)]
    rows: list[tuple[int, str, int, float]] = []
    for name, side, places in ((FOUND, new, missed[0] - missed[1]), (LOST, old, missed[1] - missed[0])):
        seen = side.analysis.detections
        by_object = {
            int(object_row): row
            for row, object_row in zip(seen.index, seen.object, strict=True)
            if object_row in places
        }
        rows += [(place, name, by_object[place], float(seen.score[by_object[place]])) for place in sorted(places)]
    table = pd.DataFrame(rows, columns=["object", "change", "detection", "score"])
    return table.sort_values(["score", "object"], ascending=[False, True], kind="stable", ignore_index=True)


def _detections(compared: Comparison) -> pd.DataFrame:
    import pandas as pd

    old, new = compared.old, compared.new
    rows: list[tuple[str, int, float]] = []
    for name, own, other in ((GONE, old, new), (ADDED, new, old)):
        scores = own.analysis.detections.score
        rows += [(name, row, float(scores[row])) for row in _made_alone(own, other)]
    table = pd.DataFrame(rows, columns=["change", "detection", "score"])
    return table.sort_values(["score", "change", "detection"], ascending=[False, True, True], ignore_index=True)


def _made_alone(own: Side, other: Side) -> Iterator[int]:
    """Rows of the wrong detections of one side that the other does not make."""
    others = _wrong(other)
    for key, rows in _wrong(own).items():
        shapes, near = _shapes(own, rows), _shapes(other, others.get(key, []))
        if not near:
            yield from rows
            continue
        ious = np.asarray(overlaps.iou(shapes, near, [False] * len(near))).reshape(len(rows), len(near))
        yield from (row for row, best in zip(rows, ious.max(axis=1).tolist(), strict=True) if best < POSITIVE)


def _wrong(side: Side) -> dict[Any, list[int]]:
    """Rows of the wrong detections above the threshold, by image and class."""
    above = side.analysis.above(side.thresholds)
    wrong = above[above.object < 0]
    return {key: rows.tolist() for key, rows in wrong.groupby(["image", "label"]).groups.items()}


def _shapes(side: Side, rows: list[int]) -> list[Any]:
    """Boxes, or masks where masks are compared."""
    detections = side.analysis.detections.loc[rows]
    if side.results.segmentation is None:
        boxes: list[Any] = detections[["x", "y", "width", "height"]].to_numpy().tolist()
        return boxes
    return [coded_bytes(side.results.segmentation[row]) for row in detections["row"].tolist()]


def error_counts(compared: Comparison) -> pd.DataFrame:
    """By kind of error (TIDE's): how many each side makes above its threshold, and what they cost it in AP50.

    Columns: kind, old, new, change, old_cost, new_cost, cost_change (NaN: no object to measure with).
    """
    import pandas as pd

    columns: dict[str, Any] = {"kind": list(ERRORS)}
    for name, side in (("old", compared.old), ("new", compared.new)):
        counts, lost = side.analysis.error_counts(side.thresholds), costs(side.analysis)
        columns[name] = [counts[kind] for kind in ERRORS]
        columns[f"{name}_cost"] = [lost[kind] for kind in ERRORS]
    table = pd.DataFrame(columns)
    return table.assign(change=table.new - table.old, cost_change=table.new_cost - table.old_cost)


def slice_changes(compared: Comparison, brightness: Floats, metadata: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    """Parts of the split, with AP and F1 of both sides: slice, value, images, objects, and of map and f1 old_, new_ and
    change_ (NaN: not measured). brightness, metadata: as `slices` takes them."""
    old, new = (
        _by_part(slices(side.analysis, compared.annotations, side.results, side.thresholds, brightness, metadata))
        for side in (compared.old, compared.new)
    )
    order = new.index.tolist()
    for before, key in zip([None, *old.index], old.index, strict=False):
        if key not in order:  # no object is in this part, and only the old side has a detection there
            order.insert(order.index(before) + 1 if before is not None else 0, key)
    old, new = old.reindex(order), new.reindex(order)
    table = new[["images", "objects"]].fillna(old[["images", "objects"]]).astype(int)
    for name in ("map", "f1"):
        table[f"old_{name}"], table[f"new_{name}"] = old[name], new[name]
        table[f"change_{name}"] = new[name] - old[name]
    return table.reset_index().drop(columns="turn")


def _by_part(table: pd.DataFrame) -> pd.DataFrame:
    """Slices by cut and part; turn: a value of metadata may be called as the part of all other values is."""
    keys = ["slice", "value"]
    return table.assign(turn=table.groupby(keys).cumcount()).set_index([*keys, "turn"])
