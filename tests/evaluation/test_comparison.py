from __future__ import annotations

import math

import numpy as np
import pytest

from rfdetr_core.evaluation.comparison import interval, matched
from rfdetr_core.evaluation.resampling import SCORES, scores
from rfdetr_core.metrics.coco import Kind, score
from tests.evaluation.scenes import random_scene, repeated


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(4))
def test_images_counted_several_times_score_as_images_that_are_there_several_times(seed: int, kind: Kind) -> None:
    content, found = random_scene(seed, images=8, crowds=0.2, masks=kind == "segm")
    times = np.random.default_rng(seed).integers(0, 3, len(content["images"]))
    expected = score(*repeated(content, found, times.tolist()), kind)
    own = scores(matched(content, found, kind), times, expected.threshold)
    assert own == pytest.approx({name: getattr(expected, name) for name in SCORES}, abs=1e-12)


def test_a_model_compared_with_itself_differs_by_nothing_and_with_a_blind_one_by_its_score() -> None:
    content, found = random_scene(1)
    assert interval(content, found, found, "bbox", 20) == (0, 0)
    low, high = interval(content, [], found, "bbox", 50)
    assert 0 < low <= 100 * score(content, found).map <= high
    assert interval(content, [], found, "bbox", 50) == (low, high)


def test_without_an_object_there_is_no_interval() -> None:
    content, found = random_scene(1)
    low, high = interval({**content, "annotations": []}, found, found, "bbox", 5)
    assert math.isnan(low)
    assert math.isnan(high)
