"""Scores of slices of a split.

Each slice dimension divides the split into slices: by size, shape, place and crowding of the objects, or by brightness
and metadata of the images.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rfdetr_core.evaluation.analysis import Analysis, Results, load
from rfdetr_core.metrics.coco import Floats, Row
from rfdetr_core.metrics.matching import evaluate

COLUMNS = ["slice", "value", "images", "objects", "map", "map_50", "precision", "recall", "f1"]
_MOST_VALUES = 20  # metadata values with a slice each; all other values of a column are one slice
_SIZES = (32.0**2, 96.0**2)  # COCO's borders between small, medium and large, in square pixels
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Dimension:
    """A slice dimension that divides the objects, such as their size.

    name: of the dimension. values: the names of its slices. objects, detections: for each object, and for each row of
    the results, the index of its slice.
    """

    name: str
    values: list[str]
    objects: Codes
    detections: Codes


def slices(
    analysis: Analysis,
    annotations: Row,
    results: Results,
    threshold: Floats,
    brightness: Floats,
    metadata: Mapping[str, Mapping[str, str]],
) -> pd.DataFrame:
    """A row (COLUMNS) for each slice of each dimension. A number that cannot be measured is NaN.

    Precision, recall and F1 count the objects and detections of all classes together.

    Args:
        analysis: The matched detections.
        annotations: The canonical annotations.
        results: All detections.
        threshold: The score threshold of each class for precision, recall and F1, (K,).
        brightness: The mean brightness of each image, 0 to 255, (I,).
        metadata: Path of an image -> metadata column -> value.
    """
    scorer = _SliceScorer(analysis, annotations, results, threshold)
    detections = _all_detections(analysis, annotations, results)
    dimensions = _object_dimensions(analysis, detections)
    rows = [row for dimension in dimensions for row in scorer.object_slices(dimension)]
    for name, values, codes in _image_dimensions(analysis, brightness, metadata):
        rows += scorer.image_slices(name, values, codes)
    return pd.DataFrame(rows, columns=COLUMNS)


def _all_detections(analysis: Analysis, annotations: Row, results: Results) -> pd.DataFrame:
    """All detections, including those that do not count at IoU 0.5: they may count at a higher IoU."""
    table = pd.DataFrame(results.box, columns=["x", "y", "width", "height"])
    table["image"] = np.searchsorted(analysis.images.image_id.to_numpy(), results.image_id)
    loaded = load(annotations, results, analysis.kind)[1]
    table["area"] = [row["area"] for row in loaded.load_anns(list(range(1, len(table) + 1)))] if len(table) else []
    table["near"] = -1
    table.loc[analysis.detections.row, "near"] = analysis.detections.near.to_numpy()
    return table


def _object_dimensions(analysis: Analysis, detections: pd.DataFrame) -> list[Dimension]:
    objects, images = analysis.objects, analysis.images
    names = [f"small (below {_name(_SIZES[0])})", "medium", f"large ({_name(_SIZES[1])} and more)"]
    dimensions = [
        Dimension(
            "size, COCO's",
            names,
            *(np.searchsorted(_SIZES, table.area, side="right") for table in (objects, detections)),
        )
    ]
    if borders := _quartiles(objects.area.to_numpy()):
        values = _between([_name(border) for border in borders])
        dimensions.append(
            Dimension(
                "size, quarters of this split", values, *(_part(borders, table.area) for table in (objects, detections))
            )
        )
    shapes = ["tall (height at least twice the width)", "neither", "wide (width at least twice the height)"]
    dimensions.append(Dimension("shape", shapes, *(_shape(table) for table in (objects, detections))))
    edge = ["at the border of the image", "inside"]
    dimensions.append(Dimension("place", edge, *(_inside(table, images) for table in (objects, detections))))
    crowding = np.digitize(objects.crowding, [1e-9, 0.1, 0.3])
    values = ["touches no other object", "overlaps another, IoU below 0.1", "IoU 0.1 to 0.3", "IoU above 0.3"]
    near = detections.near.to_numpy()
    of_near = np.where(near >= 0, crowding[near] if len(crowding) else 0, 0)
    dimensions.append(Dimension("crowding", values, crowding, of_near))
    return dimensions


def _image_dimensions(
    analysis: Analysis, brightness: Floats, metadata: Mapping[str, Mapping[str, str]]
) -> list[tuple[str, list[str], Codes]]:
    dimensions = []
    if borders := _quartiles(brightness):
        names = [f"{border:.0f}" for border in borders]
        dimensions.append(
            ("brightness, quarters of this split (0 to 255)", _between(names), _part(borders, brightness))
        )
    rows = [metadata.get(path, {}) for path in analysis.images.path]
    for column in sorted({name for row in rows for name in row}):
        counts = pd.Series([row[column] for row in rows if column in row]).value_counts()
        ordered = sorted(counts.index, key=lambda value: (-int(counts[value]), str(value)))
        values = [str(value) for value in ordered[:_MOST_VALUES]]
        index_of = {value: number for number, value in enumerate(values)}
        other_index = len(values)
        codes = [index_of.get(row[column], other_index) if column in row else other_index + 1 for row in rows]
        values += [f"{len(ordered) - other_index} other values", "no value"]
        dimensions.append((f"metadata: {column}", values, np.array(codes, dtype=np.int64)))
    return dimensions


@dataclass(frozen=True)
class _SliceScorer:
    """Scores slices of objects and slices of images. threshold: one per class, (K,)."""

    analysis: Analysis
    annotations: Row
    results: Results
    threshold: Floats

    def object_slices(self, dimension: Dimension) -> list[list[Any]]:
        """Rows for the slices of objects.

        As in COCO's rule for sizes, objects and detections of other slices count neither as right nor as wrong.
        """
        analysis, parts = self.analysis, range(len(dimension.values))
        truth, predictions = load(self.annotations, self.results, analysis.kind)
        # hotcoco can divide objects only by area. So the area is replaced by the number of the slice.
        ids = self.analysis.objects.annotation.to_numpy()
        if len(ids):
            truth.update_anns(ids=ids, area=dimension.objects + 0.5)
        if count := len(dimension.detections):
            predictions.update_anns(ids=np.arange(1, count + 1), area=dimension.detections + 0.5)
        ranges = [[0.0, 1e10], *([float(part), part + 1.0] for part in parts)]
        labels = ["all", *(str(part) for part in parts)]
        evaluator = evaluate(truth, predictions, analysis.kind, area_rng=ranges, area_rng_lbl=labels)
        precision = (evaluator.eval or {})["precision"]
        rows, rows_counted = [], analysis.detections.row.to_numpy()
        for part in parts:
            objects, detections = dimension.objects == part, dimension.detections[rows_counted] == part
            if objects.any() or detections.any():
                scores = precision[..., part + 1, -1]
                rows.append(
                    [
                        dimension.name,
                        dimension.values[part],
                        *self._counts(objects, detections, _mean(scores), _mean(scores[0])),
                    ]
                )
        return rows

    def image_slices(self, name: str, values: Sequence[str], codes: Codes) -> list[list[Any]]:
        """Rows for the slices of images. codes: the index of each image's slice in `values`."""
        images = self.analysis.images.image_id.to_numpy()
        parts = {str(part): images[codes == part].tolist() for part in range(len(values)) if (codes == part).any()}
        scores = self.analysis.evaluator.slice_by(parts)
        rows = []
        for part, part_images in parts.items():
            objects, detections = (
                codes[table.image] == int(part) for table in (self.analysis.objects, self.analysis.detections)
            )
            ap, ap_50 = (np.nan if scores[part][key] == -1 else scores[part][key] for key in ("AP", "AP50"))
            counts = self._counts(objects, detections, ap, ap_50)
            rows.append([name, values[int(part)], len(part_images), *counts[1:]])
        return rows

    def _counts(
        self, objects: npt.NDArray[np.bool_], detections: npt.NDArray[np.bool_], ap: float, ap_50: float
    ) -> list[Any]:
        """The numbers of a row: images, objects, AP, AP50, and precision, recall and F1 above the threshold.

        objects, detections: whether each of them is in the slice.
        """
        analysis = self.analysis
        above, unmatched = analysis.detections_above(self.threshold).index, analysis.unmatched(self.threshold).index
        count = int(objects.sum())
        missing = int(objects[unmatched].sum())
        matched = analysis.detections.object.to_numpy()[above] >= 0
        # A right detection belongs to the slice of its object, as in COCO's rule for sizes.
        wrong = int((detections[above] & ~matched).sum())
        hits = count - missing
        images = analysis.objects.image[objects].nunique()
        precision = hits / (hits + wrong) if hits + wrong else np.nan
        recall = hits / count if count else np.nan
        f1 = 2 * hits / (2 * hits + wrong + missing) if count else np.nan
        return [images, count, ap, ap_50, precision, recall, f1]


def _mean(values: Floats) -> float:
    values = values[values > -1]
    return float(values.mean()) if values.size else float("nan")


def _name(area: float) -> str:
    side = round(float(np.sqrt(area)))
    return f"{side}² px"


def _quartiles(values: Floats) -> list[float]:
    """The borders between the quarters of the values. Equal borders count once; none if all values are equal."""
    if not len(values):
        return []
    borders = np.unique(np.quantile(values, [0.25, 0.5, 0.75]))
    return [float(border) for border in borders if border > values.min()]


def _between(names: Sequence[str]) -> list[str]:
    middle = [f"{low} to {high}" for low, high in itertools.pairwise(names)]
    return [f"below {names[0]}", *middle, f"{names[-1]} and more"]


def _part(borders: Sequence[float], values: Any) -> Codes:
    return np.searchsorted(borders, np.asarray(values), side="right").astype(np.int64)


def _shape(table: pd.DataFrame) -> Codes:
    width, height = table.width.to_numpy(), table.height.to_numpy()
    return np.where(height >= 2 * width, 0, np.where(width >= 2 * height, 2, 1)).astype(np.int64)


def _inside(table: pd.DataFrame, images: pd.DataFrame) -> Codes:
    """1 if a box is at least one pixel away from all borders of its image, else 0."""
    size = images[["width", "height"]].to_numpy()[table.image.to_numpy()]
    left, top = table.x.to_numpy() >= 1, table.y.to_numpy() >= 1
    right = table.x.to_numpy() + table.width.to_numpy() <= size[:, 0] - 1
    bottom = table.y.to_numpy() + table.height.to_numpy() <= size[:, 1] - 1
    inside: Codes = (left & top & right & bottom).astype(np.int64)
    return inside
