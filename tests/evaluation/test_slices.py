"""The scores of a slice equal those of pycocotools on the images or objects of the slice."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rfdetr_core.evaluation.analysis import Analysis, Results
from rfdetr_core.evaluation.slices import COLUMNS, slices
from rfdetr_core.metrics.coco import Kind, score
from tests.evaluation.scenes import Rows, random_scene

THRESHOLD = 0.3


def slice_scores(annotations: dict[str, Any], rows: Rows, kind: Kind = "bbox", **arguments: Any) -> pd.DataFrame:
    results = Results.from_rows(rows, rows if kind == "segm" else None)
    analysis = Analysis.from_results(annotations, results, kind)
    brightness = arguments.get("brightness", np.arange(len(analysis.images), dtype=float))
    threshold = np.full(len(analysis.classes), THRESHOLD)
    return slices(analysis, annotations, results, threshold, brightness, arguments.get("metadata", {}))


def dimension_rows(table: pd.DataFrame, name: str) -> pd.DataFrame:
    return table[table.slice.str.startswith(name)].set_index("value")


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_coco_sizes_have_the_scores_of_pycocotools(kind: Kind) -> None:
    annotations, rows = random_scene(1, images=20, masks=kind == "segm", crowds=0.1)
    table, expected = (
        dimension_rows(slice_scores(annotations, rows, kind), "size, COCO's"),
        score(annotations, rows, kind),
    )
    assert table["map"].tolist() == pytest.approx([expected.map_small, expected.map_medium], abs=1e-12)


def test_slices_of_images_have_the_scores_of_only_these_images() -> None:
    annotations, rows = random_scene(2, images=12)
    metadata = {image["file_name"]: {"site": "ab"[image["id"] % 2]} for image in annotations["images"][:-1]}
    table = dimension_rows(slice_scores(annotations, rows, metadata=metadata), "metadata: site")
    assert table.index.tolist() == ["b", "a", "no value"]
    for value, parity in (("a", 0), ("b", 1)):
        images = [image for image in annotations["images"][:-1] if image["id"] % 2 == parity]
        ids = {image["id"] for image in images}
        labels = [label for label in annotations["annotations"] if label["image_id"] in ids]
        expected = score(
            annotations | {"images": images, "annotations": labels}, [r for r in rows if r["image_id"] in ids]
        )
        assert (table["map"][value], table.map_50[value]) == pytest.approx((expected.map, expected.map_50), abs=1e-12)
        assert (table.images[value], table.objects[value]) == (len(images), len(labels))


def test_every_dimension_has_every_object_once() -> None:
    annotations, rows = random_scene(3, crowds=0.2)
    table = slice_scores(annotations, rows)
    objects = sum(not row["iscrowd"] for row in annotations["annotations"])
    assert list(table.columns) == COLUMNS
    assert (table.groupby("slice").objects.sum() == objects).all()
    assert set(table.slice) >= {"shape", "place", "crowding", "size, quarters of this split"}


def test_counts_of_slices_add_up_to_the_total() -> None:
    annotations, rows = random_scene(4, images=20)
    table = slice_scores(annotations, rows)
    analysis = Analysis.from_results(annotations, Results.from_rows(rows))
    detections = analysis.detections_above(np.full(3, THRESHOLD))
    hits = int((detections.object >= 0).sum())
    for name, parts in table.groupby("slice"):
        assert round((parts.recall * parts.objects).sum()) == hits, name
        wrong = sum(_wrong(row) for row in parts.itertuples())
        assert wrong == len(detections) - hits, name


def _wrong(row: Any) -> int:
    hits = round(row.recall * row.objects)
    return round(hits / row.precision) - hits if row.precision else 0


def test_places_and_shapes_of_a_written_example() -> None:
    boxes = [[0, 10, 20, 20], [40, 10, 10, 30], [60, 50, 36, 10], [30, 59, 12, 20]]
    labels = [
        {
            "id": k,
            "image_id": 1,
            "category_id": 0,
            "bbox": [float(v) for v in box],
            "area": 1.0 * box[2] * box[3],
            "iscrowd": 0,
        }
        for k, box in enumerate(boxes, start=1)
    ]
    images = [{"id": 1, "file_name": "a.png", "width": 97, "height": 80}]
    annotations = {"images": images, "annotations": labels, "categories": [{"id": 0, "name": "a"}]}
    table = slice_scores(annotations, [])
    assert dimension_rows(table, "place").objects.to_dict() == {"at the border of the image": 1, "inside": 3}
    assert dimension_rows(table, "shape").objects.tolist() == [1, 2, 1]
    assert math.isnan(dimension_rows(table, "place").precision.iloc[0])


def test_a_split_without_objects_or_images_has_no_slices_with_scores() -> None:
    annotations, _ = random_scene(0, objects=0)
    assert slice_scores(annotations, [])[["map", "recall"]].isna().all(axis=None)
    empty = annotations | {"images": []}
    assert len(slice_scores(empty, [])) == 0
