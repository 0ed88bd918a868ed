"""The decision of the gate, from given scores and intervals, and from detections of known quality."""

from __future__ import annotations

from typing import Any

import pytest

from ci.compare import verdict
from rfdetr_core.config.settings import GateConfig
from rfdetr_core.evaluation.comparison import DRAWS, fewest_images
from tests.evaluation.pairs import compared, random_subset
from tests.evaluation.scenes import Rows, random_scene

Interval = tuple[float | None, float | None]


def comparison(
    change: float | None, interval: Interval, *classes: dict[str, Any], unknown: tuple[str, ...] = ()
) -> Any:
    """The part of a comparison that the gate reads.

    Args:
        change: of mAP, in points.
        interval: of that change, in points.
        *classes: their rows.
        unknown: classes of the base that the new model does not know.
    """
    return {
        "split": "test",
        "images_with_objects": 3 if interval[0] is None else 40,
        "difference": change,
        "interval": list(interval),
        "per_class": list(classes),
        "no_longer_known": list(unknown),
    }


def of_class(
    name: str, change: float, interval: Interval, *, lost: bool = False, instances: int = 40
) -> dict[str, Any]:
    ap = {"old": 0.5, "new": 0.5 + change / 100}
    images = 3 if interval[0] is None else instances
    return ap | {"class": name, "instances": instances, "images": images, "interval": list(interval), "lost": lost}


@pytest.mark.parametrize(
    ("limit", "change", "interval", "expected"),
    [
        (0.5, -0.4, (-0.6, -0.2), "passed"),  # a real fall, within the limit
        (0.5, -0.6, (-0.8, -0.4), "failed"),
        (0.5, -6.0, (-14.0, 2.0), "passed"),  # a large one that may be chance
        (0.5, -6.0, (-14.0, 0.0), "passed"),
        (0.5, 3.0, (1.0, 5.0), "passed"),
        (None, -50.0, (-60.0, -40.0), "passed"),
        (0.0, -0.1, (-0.2, -0.05), "failed"),
        (0.5, -6.0, (None, None), "undecided"),  # too few images for an interval
        (0.5, 6.0, (None, None), "passed"),
        (0.5, None, (None, None), "failed"),  # no object
        (None, None, (None, None), "passed"),
    ],
)
def test_the_gate_fails_if_a_fall_is_beyond_the_limit_and_not_chance(
    limit: float | None, change: float | None, interval: Interval, expected: str
) -> None:
    result, why = verdict(comparison(change, interval), GateConfig(max_drop=limit))
    assert result == expected
    assert ("may be chance" in why) == (interval[0] == -14)
    if limit is not None and interval[0] is None:
        assert ("the test split has no object" if change is None else "in 3 images: too few for an interval") in why


@pytest.mark.parametrize(
    ("limit", "row", "expected", "reason"),
    [
        (5.0, of_class("green", -4.0, (-5, -3)), "passed", None),
        (5.0, of_class("green", -40.0, (-80, 1)), "passed", None),
        (5.0, of_class("green", -4.0, (None, None)), "passed", None),
        (
            5.0,
            of_class("green", -40.0, (None, None)),
            "undecided",
            "AP of these classes fell by more than gate.max_drop_class (5.0 points), but this may be chance",
        ),
        (
            5.0,
            of_class("green", -6.0, (-8, -4)),
            "failed",
            "AP of these classes fell by more than gate.max_drop_class (5.0 points)",
        ),
        (None, of_class("green", -40.0, (-50, -30)), "passed", None),
        (
            None,
            of_class("green", -40.0, (-50, -30), lost=True),
            "failed",
            "the base finds objects of these classes at its best threshold, the new model finds none",
        ),
        (
            5.0,
            of_class("green", -4.0, (-5, -3), lost=True),
            "failed",
            "the base finds objects of these classes at its best threshold, the new model finds none",
        ),
        *(
            (
                limit,
                of_class("green", -50.0, interval, lost=True),
                "undecided",
                "at its best threshold, the new model finds none, but this may be chance",
            )
            for limit in (5.0, None)
            for interval in ((-50, 0), (None, None))
        ),
        (5.0, of_class("green", float("nan"), (None, None), instances=0), "passed", None),
    ],
)
def test_a_class_that_fell_or_is_lost_does_not_pass_even_if_map_rose(
    limit: float | None, row: dict[str, Any], expected: str, reason: str | None
) -> None:
    other = of_class("red", 9.0, (5.0, 12.0))
    result, why = verdict(comparison(2.0, (1.0, 3.0), other, row), GateConfig(max_drop_class=limit))
    assert result == expected
    assert (reason or "") in why
    assert ("`green` (" in why) == (reason is not None)
    assert "red" not in why
    assert verdict(comparison(2.0, (1.0, 3.0), row), GateConfig(max_drop=None, max_drop_class=limit))[0] == "passed"


def test_a_class_that_the_new_model_does_not_know_fails_the_gate_at_any_score() -> None:
    row = of_class("green", -50.0, (-60, -40), lost=True)
    for rows in ((), (row,)):
        result, why = verdict(comparison(0.0, (0.0, 0.0), *rows, unknown=("green",)), GateConfig(max_drop_class=None))
        assert result == "failed"
        assert why.endswith("; the new model does not know these classes of the base: `green`")


def test_without_an_object_the_gate_fails_and_names_the_unknown_classes() -> None:
    result, why = verdict(comparison(None, (None, None), unknown=("green",)), GateConfig())
    assert result == "failed"
    assert why.startswith(
        "the test split has no object; the new model does not know these classes of the base: `green`."
    )
    assert why.endswith("gate.max_drop: null")


def test_a_failed_class_outweighs_an_undecided_class() -> None:
    rows = [of_class("green", -40.0, (-50, -30), lost=True), of_class("red", -40.0, (None, None), lost=True)]
    result, why = verdict(comparison(-9.0, (None, None), *rows), GateConfig())
    assert result == "failed"
    assert "`green` (" in why
    assert "`red` (AP -40.00 points, objects in 3 images: too few for an interval)" in why


def judged(content: dict[str, Any], old: Rows, new: Rows) -> tuple[str, str]:
    """The verdict on detections, with limits of 0: each fall that is not chance fails."""
    resamples = DRAWS * len(content["categories"])
    return verdict(compared(content, old, new, resamples).to_dict(), GateConfig(max_drop=0, max_drop_class=0))


def test_equally_good_models_seldom_fail_and_a_model_that_finds_less_fails() -> None:
    failed, fell = [], []
    for seed in range(12):
        content, detections = random_scene(seed, images=40, objects=3, detections=6)
        result, why = judged(content, random_subset(detections, 0.7, seed), random_subset(detections, 0.7, seed + 100))
        failed.append(result == "failed")
        fell.append(why.startswith("mAP changed by -"))
    # Of 300 other seeds 31 fail. At that rate more than 3 of 12 fail about once in 35 times.
    assert sum(failed) <= 3 < sum(fell)
    assert judged(content, detections, detections)[0] == "passed"
    assert judged(content, detections, random_subset(detections, 0.3, 0))[0] == "failed"


def test_only_a_class_of_which_fewer_objects_are_found_is_named() -> None:
    content, detections = random_scene(3, images=60, objects=6, detections=12)
    without = [row for row in detections if row["category_id"] != 1]
    reason = "the base finds objects of these classes at its best threshold, the new model finds none: `class1` ("
    result, why = judged(content, detections, without)
    assert (result, reason in why) == ("failed", True)
    assert "class0" not in why
    assert "class2" not in why
    fewer = without + random_subset([row for row in detections if row["category_id"] == 1], 0.4, 0)
    result, why = judged(content, detections, fewer)
    assert (result, "fell by more than gate.max_drop_class (0.0 points): `class1` (" in why) == ("failed", True)


@pytest.mark.parametrize("classes", [1, 2, 10, 80])
def test_an_interval_needs_so_many_images_that_all_seldom_fall_by_chance(classes: int) -> None:
    fewest, wrong = fewest_images(classes), 0.025 / classes
    assert 0.5**fewest <= wrong < 0.5 ** (fewest - 1)


@pytest.mark.parametrize(("images", "expected"), [(1, "undecided"), (6, "undecided"), (7, "failed"), (12, "failed")])
def test_of_two_classes_a_lost_class_fails_with_seven_images_and_is_undecided_with_fewer(
    images: int, expected: str
) -> None:
    content, detections = random_scene(0, images=40, classes=1, objects=4)
    content["categories"].append({"id": 1, "name": "rare"})
    filled = sorted({row["image_id"] for row in content["annotations"]})[:images]
    chosen = [row for row in content["annotations"] if row["image_id"] in filled]
    for row in chosen:
        row["category_id"] = 1
    rare = [{**row, "score": 0.9} for row in chosen]
    detections = [row for row in detections if row["image_id"] not in filled]
    both = compared(content, detections + rare, detections, 200).to_dict()
    assert both["per_class"][1]["lost"]
    assert both["per_class"][1]["images"] == images
    assert verdict(both, GateConfig(max_drop=100))[0] == expected


@pytest.mark.parametrize("images", range(1, 7))
def test_a_fall_of_map_is_undecided_with_fewer_than_six_images(images: int) -> None:
    content, detections = random_scene(2, images=images, classes=1, objects=8)
    assert {row["image_id"] for row in content["annotations"]} == set(range(1, images + 1))
    both = compared(content, detections, [], 200).to_dict()
    both["per_class"] = []  # only mAP
    assert verdict(both, GateConfig())[0] == ("failed" if images == 6 else "undecided")
