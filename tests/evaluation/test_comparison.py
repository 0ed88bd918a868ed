from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest

from rfdetr_core.evaluation.comparison import interval, matches, mean_precision
from rfdetr_core.metrics.coco import score


def scene(seed: int, images: int = 6) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Objects of two classes, a crowd among them, and detections near some of them, with scores all different."""
    random = np.random.default_rng(seed)
    truth, found = [], []
    for image in range(images):
        for number in range(int(random.integers(0, 5))):
            box = [*random.uniform(0, 60, 2), *random.uniform(8, 30, 2)]
            kind, crowd = int(random.integers(0, 2)), int(number == 3)
            truth.append(
                {"id": len(truth) + 1, "image_id": image, "category_id": kind, "bbox": box, "iscrowd": crowd}
                | {"area": box[2] * box[3]}
            )
            for _ in range(int(random.integers(0, 3))):
                near = [value + random.normal(0, 2) for value in box]
                found.append({"image_id": image, "category_id": kind, "bbox": near, "score": float(random.uniform())})
    content = {
        "images": [{"id": image, "width": 100, "height": 100, "file_name": f"{image}.png"} for image in range(images)],
        "categories": [{"id": 0, "name": "red"}, {"id": 1, "name": "green"}],
        "annotations": truth,
    }
    return content, found


def repeated(content: dict[str, Any], found: list[dict[str, Any]], times: list[int]) -> tuple[Any, Any]:
    """The dataset with image i there times[i] times, under new ids; scores a hair apart, so that none are equal."""
    images, truth, more = [], [], []
    for image, count in enumerate(times):
        for number in range(count):
            new = len(images)
            images.append({**content["images"][image], "id": new})
            truth += [
                {**copy.deepcopy(one), "image_id": new, "id": 0}
                for one in content["annotations"]
                if one["image_id"] == image
            ]
            more += [
                {**one, "image_id": new, "score": one["score"] - number * 1e-9}
                for one in found
                if one["image_id"] == image
            ]
    for number, one in enumerate(truth, start=1):
        one["id"] = number
    return {**content, "images": images, "annotations": truth}, more


@pytest.mark.parametrize("seed", range(4))
def test_images_counted_several_times_score_as_images_that_are_there_several_times(seed: int) -> None:
    content, found = scene(seed)
    times = np.random.default_rng(seed).integers(0, 3, len(content["images"]))
    expected = score(*repeated(content, found, times.tolist())).map
    assert mean_precision(matches(content, found, "bbox"), times) == pytest.approx(expected, abs=1e-12)


def test_a_model_compared_with_itself_differs_by_nothing_and_with_a_blind_one_by_its_score() -> None:
    content, found = scene(1)
    assert interval(content, found, found, "bbox", 20) == (0, 0)
    low, high = interval(content, [], found, "bbox", 50)
    assert 0 < low <= 100 * score(content, found).map <= high
    assert interval(content, [], found, "bbox", 50) == (low, high)


def test_without_an_object_there_is_no_interval() -> None:
    content, found = scene(1)
    low, high = interval({**content, "annotations": []}, found, found, "bbox", 5)
    assert math.isnan(low)
    assert math.isnan(high)
