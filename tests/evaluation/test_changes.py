"""Changes between two models: a written example, and laws that hold in random scenes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rfdetr_core.evaluation.changes import (
    ADDED,
    CHANGES,
    FOUND,
    GONE,
    LOST,
    Changes,
    error_counts,
    slice_changes,
)
from rfdetr_core.evaluation.comparison import Comparison
from rfdetr_core.evaluation.slices import slices
from tests.evaluation.pairs import compared, random_subset
from tests.evaluation.scenes import Rows, random_scene

MIRRORED = {FOUND: LOST, LOST: FOUND, GONE: ADDED, ADDED: GONE}


def box(x: float, score: float | None = None, *, image: int = 1, label: int = 0, width: float = 10) -> dict[str, Any]:
    """A label at x, or a detection if there is a score."""
    row: dict[str, Any] = {"image_id": image, "category_id": label, "bbox": [x, 10.0, width, 10.0]}
    return row | ({"area": width * 10, "iscrowd": 0} if score is None else {"score": score})


def scene(*labels: dict[str, Any]) -> dict[str, Any]:
    names = [{"id": number, "file_name": f"{number}.png", "width": 96, "height": 80} for number in (1, 2)]
    return {
        "images": names,
        "annotations": [row | {"id": number} for number, row in enumerate(labels, start=1)],
        "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
    }


def test_changed_objects_and_wrong_detections_of_a_written_example() -> None:
    content = scene(box(0), box(20), box(40), box(0, image=2, label=1))
    both_find, both_wrong = box(0, 0.9), box(60, 0.9)
    old: Rows = [both_find, both_wrong, box(20, 0.8), box(80, 0.9, label=1)]
    # The wrong detection at 62 has an IoU of 8 / 12 with the one at 60, so it is the same error. The one at 80 has
    # another class, so it is another error.
    new: Rows = [both_find, box(62, 0.85), box(40, 0.7), box(0, 0.9, image=2, label=1), box(80, 0.9)]
    both = compared(content, old, new)
    changes = Changes.from_comparison(both)
    assert changes.counts() == {FOUND: 2, LOST: 1, GONE: 1, ADDED: 1}
    labels = both.new.analysis.objects
    where = [
        (row.change, labels.x[row.object], labels.image[row.object], row.score) for row in changes.objects.itertuples()
    ]
    assert where == [(FOUND, 0, 1, 0.9), (LOST, 20, 0, 0.8), (FOUND, 40, 0, 0.7)]
    sides = {GONE: both.old, ADDED: both.new}
    wrong = {
        row.change: sides[row.change].analysis.detections.loc[row.detection] for row in changes.detections.itertuples()
    }
    assert {change: (detection.x, detection.label) for change, detection in wrong.items()} == {
        GONE: (80, 1),
        ADDED: (80, 0),
    }
    f1 = [(row.path, row.old, row.new) for row in changes.images.itertuples()]
    assert f1 == [("2.png", 0, 1)]  # the numbers of the other image did not change
    assert changes.sentence("the base") == (
        "Objects found that the base misses: 2; missed that the base finds: 1. Wrong detections added: 1; gone: 1."
    )


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_changes_add_up_and_are_mirrored_if_the_models_are_swapped(seed: int, masks: bool) -> None:
    content, results = random_scene(seed, crowds=0.1, masks=masks)
    first, second = random_subset(results, 0.6, seed), random_subset(results, 0.6, seed + 1)
    forward, back = compared(content, first, second), compared(content, second, first)
    changes, mirrored = Changes.from_comparison(forward), Changes.from_comparison(back)
    assert all(changes.counts()[name] for name in CHANGES)
    assert mirrored.counts() == {MIRRORED[name]: count for name, count in changes.counts().items()}
    for table in ("objects", "detections"):
        rows, mirrored_rows = getattr(changes, table), getattr(mirrored, table)
        expected = sorted((MIRRORED[row.change], row.detection, row.score) for row in rows.itertuples())
        assert sorted((row.change, row.detection, row.score) for row in mirrored_rows.itertuples()) == expected
    counts = changes.counts()
    found_by = [int(_per_image(side).found.sum()) for side in (forward.old, forward.new)]
    assert found_by[1] - found_by[0] == counts[FOUND] - counts[LOST]
    gains = {row.path: row.change for row in changes.images.itertuples()}
    assert {row.path: -row.change for row in mirrored.images.itertuples()} == gains


def _per_image(side: Any) -> Any:
    return side.analysis.per_image(side.thresholds)


def test_a_model_compared_with_itself_has_no_changes() -> None:
    content, results = random_scene(0)
    changes = Changes.from_comparison(compared(content, results, results))
    assert not any(changes.counts().values())
    assert not len(changes.images)


def test_errors_and_slices_are_those_of_each_model_alone() -> None:
    content, results = random_scene(5, images=20)
    both = compared(content, random_subset(results, 0.5, 0), results)
    errors = error_counts(both)
    for name, side in (("old", both.old), ("new", both.new)):
        above = side.analysis.detections_above(side.thresholds)
        wrong = errors[errors.kind != "missed"][name].sum()
        assert wrong == (above.object < 0).sum()
    assert (errors.change == errors.new - errors.old).all()
    # Metadata values with the names of the slices for other and missing values.
    metadata = {
        f"{number:03}.png": {"site": ("no value", "1 other values", "b")[number % 3]} for number in range(1, 15)
    }
    brightness = np.arange(20.0)
    table = slice_changes(both, brightness, metadata)
    for name, side in (("old", both.old), ("new", both.new)):
        alone = _sliced(both, side, brightness, metadata)
        assert table["slice"].tolist() == alone["slice"].tolist()
        assert table["value"].tolist() == alone["value"].tolist()
        np.testing.assert_array_equal(table[f"{name}_map"], alone["map"])
        np.testing.assert_array_equal(table[f"{name}_f1"], alone["f1"])
        assert table["objects"].tolist() == alone["objects"].tolist()
    assert (table["value"] == "no value").sum() == 2


def test_a_slice_in_which_only_one_model_has_a_detection_keeps_its_position() -> None:
    content = scene(box(0, width=10), box(0, image=2, width=10))
    large = box(0, 0.9) | {"bbox": [0.0, 0.0, 96.0, 80.0]}  # a medium detection without a label
    for old, new in (([box(0, 0.9)], [box(0, 0.9), large]), ([box(0, 0.9), large], [box(0, 0.9)])):
        both = compared(content, old, new)
        table = slice_changes(both, np.arange(2.0), {})
        sizes = table[table["slice"] == "size, COCO's"]
        assert [value.split()[0] for value in sizes["value"]] == ["small", "medium"]
        assert sizes["objects"].tolist() == [2, 0]


def _sliced(both: Comparison, side: Any, brightness: Any, metadata: Any) -> Any:
    return slices(side.analysis, both.annotations, side.results, side.thresholds, brightness, metadata)
