from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rfdetr_core.base.errors import UserError
from rfdetr_core.data.samples import read_samples
from tests.data.canonical import rectangle, write_split


def test_samples_hold_what_was_annotated_in_the_order_of_the_paths(tmp_path: Path) -> None:
    crowd = rectangle(1, 2, 3, 4, label=2, iscrowd=1)
    images = [("b/2.png", (20, 10), [rectangle(0, 0, 5, 5), crowd]), ("a/1.png", (8, 8), [])]
    _, annotations, manifest = write_split(tmp_path, images)
    first, second = read_samples(annotations, manifest)
    assert (first.path, first.width, first.height, len(first.labels)) == ("a/1.png", 8, 8, 0)
    assert first.boxes.shape == (0, 4)
    assert second.labels.tolist() == [0, 2]
    assert second.crowd.tolist() == [False, True]
    np.testing.assert_array_equal(second.boxes, [[0, 0, 5, 5], [1, 2, 3, 4]])


def test_a_missing_split_has_no_samples(tmp_path: Path) -> None:
    _, annotations, manifest = write_split(tmp_path, [])
    assert read_samples(annotations, manifest) == []


@pytest.mark.parametrize("change", ["other path", "other size", "missing in annotations", "missing in manifest"])
def test_annotations_and_manifest_that_differ_are_an_error_that_names_the_image(tmp_path: Path, change: str) -> None:
    _, annotations, manifest = write_split(tmp_path, [("a.png", (8, 8), []), ("b.png", (8, 8), [])])
    content, rows = json.loads(annotations.read_text()), json.loads(manifest.read_text())
    if change == "other path":
        content["images"][1]["file_name"] = "c.png"
    elif change == "other size":
        content["images"][1]["width"] = 9
    elif change == "missing in annotations":
        del content["images"][1]
    else:
        del rows[1]
    annotations.write_text(json.dumps(content))
    manifest.write_text(json.dumps(rows))
    with pytest.raises(UserError, match=r"b\.png .*dvc repro"):
        read_samples(annotations, manifest)


@pytest.mark.parametrize("content", ["[]", "{}", '{"images": [], "annotations": [{}]}', "not JSON"])
def test_annotations_that_are_not_canonical_coco_are_an_error_that_names_the_file(tmp_path: Path, content: str) -> None:
    _, annotations, manifest = write_split(tmp_path, [])
    annotations.write_text(content)
    with pytest.raises(UserError, match=r"train\.json"):
        read_samples(annotations, manifest)
