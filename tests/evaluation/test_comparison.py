from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from rfdetr_core.evaluation.comparison import Comparison, NotComparableError, Side, compare_models
from rfdetr_core.evaluation.operating import FEW_IMAGES
from rfdetr_core.evaluation.resampling import SCORES, scores
from rfdetr_core.metrics.coco import Kind, score
from tests.evaluation.pairs import compared, model, random_subset
from tests.evaluation.scene import Scene, write_tiny_checkpoint
from tests.evaluation.scenes import random_scene, repeated


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(4))
def test_counting_images_several_times_gives_the_scores_of_repeated_images(seed: int, kind: Kind) -> None:
    content, results = random_scene(seed, images=8, crowds=0.2, masks=kind == "segm")
    times = np.random.default_rng(seed).integers(0, 3, len(content["images"]))
    expected = score(*repeated(content, results, times.tolist()), kind)
    computed = scores(Side.from_model(model(content, results), content, kind).matched, times, expected.threshold)
    assert computed == pytest.approx({name: getattr(expected, name) for name in SCORES}, abs=1e-12)


@pytest.mark.parametrize("masks", [False, True])
def test_scores_equal_pycocotools_and_each_interval_contains_its_difference(masks: bool) -> None:
    content, results = random_scene(1, images=30, crowds=0.1, masks=masks)
    kind: Kind = "segm" if masks else "bbox"
    both = compared(content, worse := random_subset(results, 0.6, 0), results)
    assert both.measure == ("masks" if masks else "boxes")
    old, new = (score(content, rows, kind) for rows in (worse, results))
    for name in SCORES:
        difference = 100 * (getattr(new, name) - getattr(old, name))
        assert both.differences[name] == difference
        low, high = both.intervals[name] or (math.nan, math.nan)
        assert low < difference < high, name
    mirrored = compared(content, results, worse)
    for name, (low, high) in ((name, ends) for name, ends in both.intervals.items() if ends):
        assert mirrored.intervals[name] == pytest.approx((-high, -low), abs=1e-9)


def test_the_difference_is_0_to_itself_and_the_whole_score_to_a_model_without_detections() -> None:
    content, results = random_scene(1)
    assert set(compared(content, results, results).intervals.values()) == {(0, 0)}
    blind = compared(content, [], results)
    low, high = blind.intervals["map"] or (math.nan, math.nan)
    assert 0 < low <= 100 * score(content, results).map <= high
    assert compared(content, [], results).intervals == blind.intervals


def test_class_intervals_are_wider_with_several_classes_and_equal_the_mean_with_one() -> None:
    content, results = random_scene(5, images=30, classes=1)
    only = compared(content, random_subset(results, 0.6, 0), results)
    assert only.class_intervals == [pytest.approx(only.intervals["map"])]
    content, results = random_scene(5, images=30, classes=4)
    several = compared(content, random_subset(results, 0.6, 0), results, resamples=200)
    rows = several.to_dict()["per_class"]
    for index, row in enumerate(rows):
        low, high = np.nanpercentile(several._drawn[:, index, 0], [2.5, 97.5])
        assert row["interval"][0] < low < 100 * (row["new"] - row["old"]) < high < row["interval"][1]


def test_without_an_object_there_is_no_interval_and_no_verdict() -> None:
    content, results = random_scene(1)
    both = compared({**content, "annotations": []}, results, random_subset(results, 0.5, 0))
    assert set(both.intervals.values()) == {None}
    assert both.conclusion == "not measured"
    assert both.to_dict()["difference"] is None
    assert both.to_dict()["interval"] == [None, None]
    assert [row["interval"] for row in both.to_dict()["per_class"]] == [[None, None]] * 3


def test_the_verdict_depends_on_the_interval_of_the_difference_of_ap() -> None:
    content, results = random_scene(2, images=120, objects=3, detections=8)
    worse = random_subset(results, 0.5, 0)
    better = compared(content, worse, results)
    assert better.conclusion == "better"
    assert better.sentence().startswith("B is better than A. AP of boxes changed by +")
    assert compared(content, results, worse).conclusion == "worse"
    assert compared(content, results, worse).sentence("the base", "it").startswith("It is worse than the base. ")
    chance = compared(content, random_subset(results, 0.7, 1), random_subset(results, 0.7, 2))
    assert chance.conclusion == "may be chance"
    low, high = chance.intervals["map"] or (math.nan, math.nan)
    assert low < 0 < high
    assert "may be chance" in chance.sentence()
    same = Comparison.from_models("test", content, model(content, results), model(content, results), 10)
    assert (same.conclusion, same.sentence()) == ("same weights", "A and B have the same weights.")


@pytest.mark.parametrize(("images", "decided"), [(FEW_IMAGES - 1, False), (FEW_IMAGES, True)])
def test_below_100_images_there_is_no_verdict_even_for_very_different_models(images: int, decided: bool) -> None:
    content, results = random_scene(3, images=images, objects=2, detections=5)
    both = compared(content, [], results)
    assert (both.conclusion == "better") is decided
    assert both.conclusion == "better" or both.sentence().startswith("No verdict: 99 images are too few. AP of")


def test_a_box_model_and_a_mask_model_are_compared_by_boxes() -> None:
    content, results = random_scene(4, masks=True)
    boxes = [{key: value for key, value in row.items() if key != "segmentation"} for row in results]
    both = compared(content, boxes, results)
    assert both.measure == "boxes"
    assert both.differences["map"] == 0


def test_detections_of_real_models_are_compared_by_class_names(scene: Scene, tmp_path: Path) -> None:
    other_model = write_tiny_checkpoint(tmp_path / "other.pth", class_names=("class2", "class0", "dog"))
    both = compare_models(scene.checkpoint, other_model, scene.where, "test", 20)
    assert [side.model.path for side in (both.old, both.new)] == [str(scene.checkpoint), str(other_model)]
    assert both.unknown_to(both.old) == []
    assert both.unknown_to(both.new) == ["class1"]
    assert both.to_dict()["no_longer_known"] == ["class1"]
    # The same weights under other names: what was class0 is class2 now.
    swapped = [row for row in both.old.model.results if row["category_id"] == 0]
    assert swapped == [row | {"category_id": 0} for row in both.new.model.results if row["category_id"] == 2]
    assert {row["category_id"] for row in both.new.model.results} <= {0, 2}


def test_models_without_a_common_class_or_image_are_refused(scene: Scene, tmp_path: Path) -> None:
    cats = write_tiny_checkpoint(tmp_path / "cats.pth", class_names=("cat", "dog", "mouse"))
    with pytest.raises(
        NotComparableError,
        match=r"cats\.pth have no class in common\. The first has class0.*; the second has cat, dog, mouse\. ",
    ):
        compare_models(scene.checkpoint, cats, scene.where, "test", 20)
    with pytest.raises(
        NotComparableError, match=r"cats\.pth and the dataset .* have no class in common\. The first has cat, dog"
    ):
        compare_models(cats, cats, scene.where, "test", 20)
