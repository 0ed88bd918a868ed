"""Changes from one model to another: images, objects, wrong detections, errors and slices that got better or worse."""

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
    FOUND: "A misses the object, B finds it",
    LOST: "A finds the object, B misses it",
    GONE: "A makes the wrong detection, B does not",
    ADDED: "B makes the wrong detection, A does not",
}


@dataclass(frozen=True)
class Changes:
    """Images, objects and wrong detections that changed. Detections of each model count above its own threshold.

    images: the images whose F1 changed, the largest gain first. Columns: image (row), path, old and new (F1), change.
    objects: the objects that only one model finds, the highest score first. Columns: object (row), change (FOUND or
        LOST), detection (row in the side that finds the object), score.
    detections: the wrong detections that only one model makes, the highest score first. Columns: change (GONE or
        ADDED), detection (row in the side that makes it), score.
    Both models make a wrong detection if their wrong detections are in the same image, of the same class, and have an
    IoU of 0.5 or more.
    """

    images: pd.DataFrame
    objects: pd.DataFrame
    detections: pd.DataFrame

    @classmethod
    def from_comparison(cls, compared: Comparison) -> Changes:
        """Find the changes between the two sides."""
        return cls(_images(compared), _objects(compared), _detections(compared))

    def counts(self) -> dict[str, int]:
        """The number of changes of each kind, by CHANGES."""
        counts = {**self.objects.change.value_counts(), **self.detections.change.value_counts()}
        return {name: int(counts.get(name, 0)) for name in CHANGES}

    def sentence(self, old: str = "A") -> str:
        """The counts in words. old: the name of the first model in the sentence."""
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
    # Both sides have the objects of the same annotation file, so a row is the same object in both.
    missed = [set(side.analysis.unmatched(side.thresholds).index.tolist()) for side in (old, new)]
    rows: list[tuple[int, str, int, float]] = []
    for name, side, changed in ((FOUND, new, missed[0] - missed[1]), (LOST, old, missed[1] - missed[0])):
        detections = side.analysis.detections
        pairs = zip(detections.index, detections.object, strict=True)
        by_object = {int(object_row): row for row, object_row in pairs if object_row in changed}
        rows += [(row, name, by_object[row], float(detections.score[by_object[row]])) for row in sorted(changed)]
    table = pd.DataFrame(rows, columns=["object", "change", "detection", "score"])
    return table.sort_values(["score", "object"], ascending=[False, True], kind="stable", ignore_index=True)


def _detections(compared: Comparison) -> pd.DataFrame:
    import pandas as pd

    old, new = compared.old, compared.new
    rows: list[tuple[str, int, float]] = []
    for name, side, other_side in ((GONE, old, new), (ADDED, new, old)):
        scores = side.analysis.detections.score
        rows += [(name, row, float(scores[row])) for row in _only_of_one_side(side, other_side)]
    table = pd.DataFrame(rows, columns=["change", "detection", "score"])
    return table.sort_values(["score", "change", "detection"], ascending=[False, True, True], ignore_index=True)


def _only_of_one_side(side: Side, other_side: Side) -> Iterator[int]:
    """Rows of the wrong detections of a side that the other side does not make."""
    other_wrong = _wrong(other_side)
    for key, rows in _wrong(side).items():
        shapes, other_shapes = _shapes(side, rows), _shapes(other_side, other_wrong.get(key, []))
        if not other_shapes:
            yield from rows
            continue
        ious = np.asarray(overlaps.iou(shapes, other_shapes, [False] * len(other_shapes)))
        ious = ious.reshape(len(rows), len(other_shapes))
        yield from (row for row, best in zip(rows, ious.max(axis=1).tolist(), strict=True) if best < POSITIVE)


def _wrong(side: Side) -> dict[Any, list[int]]:
    """Rows of the wrong detections above the threshold, by image and class."""
    above = side.analysis.detections_above(side.thresholds)
    wrong = above[above.object < 0]
    return {key: rows.tolist() for key, rows in wrong.groupby(["image", "label"]).groups.items()}


def _shapes(side: Side, rows: list[int]) -> list[Any]:
    """The boxes of detections, or their masks if masks are compared."""
    detections = side.analysis.detections.loc[rows]
    if side.results.segmentation is None:
        boxes: list[Any] = detections[["x", "y", "width", "height"]].to_numpy().tolist()
        return boxes
    return [coded_bytes(side.results.segmentation[row]) for row in detections["row"].tolist()]


def error_counts(compared: Comparison) -> pd.DataFrame:
    """A row for each of TIDE's kinds of error: the number of errors of each side, and the AP50 that they cost.

    Columns: kind; old, new, change: numbers above the threshold of the side; old_cost, new_cost, cost_change: AP50
    (NaN: the split has no object).
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
    """A row for each slice of the split, with AP and F1 of both sides.

    Columns: slice, value, images, objects, and old_map, new_map, change_map, old_f1, new_f1, change_f1 (NaN: not
    measured).

    Args:
        compared: The two sides.
        brightness: See `slices`.
        metadata: See `slices`.
    """
    old, new = (
        _by_part(slices(side.analysis, compared.annotations, side.results, side.thresholds, brightness, metadata))
        for side in (compared.old, compared.new)
    )
    order = new.index.tolist()
    for before, key in zip([None, *old.index], old.index, strict=False):
        if key not in order:  # a slice without objects, in which only the old model has a detection
            order.insert(order.index(before) + 1 if before is not None else 0, key)
    old, new = old.reindex(order), new.reindex(order)
    table = new[["images", "objects"]].fillna(old[["images", "objects"]]).astype(int)
    for name in ("map", "f1"):
        table[f"old_{name}"], table[f"new_{name}"] = old[name], new[name]
        table[f"change_{name}"] = new[name] - old[name]
    return table.reset_index().drop(columns="duplicate")


def _by_part(table: pd.DataFrame) -> pd.DataFrame:
    """Index slices by `slice`, `value` and `duplicate`.

    duplicate: 0 for the first row of a slice and value, 1 for the second. There are two rows "no value" if the metadata
    has the value "no value".
    """
    keys = ["slice", "value"]
    return table.assign(duplicate=table.groupby(keys).cumcount()).set_index([*keys, "duplicate"])
