from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from rfdetr_core.base.images import decode
from rfdetr_core.evaluation.scoring import ImageJudgement, background_name, confusions, judge
from rfdetr_core.metrics.coco import coco_results, score
from tests.evaluation.scene import NAMES, Scene

TABLE = dict(enumerate(NAMES))
BACKGROUND = background_name(NAMES)


@pytest.fixture(scope="module")
def results(scene: Scene) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for image in scene.annotations()["images"]:
        (detections,) = scene.predictor().detect([decode(scene.image(image).read_bytes(), "")])
        rows += [row for row in coco_results(image["id"], detections) if row["category_id"] < len(NAMES)]
    return rows


def judged(scene: Scene, results: list[dict[str, Any]], threshold: float) -> list[ImageJudgement]:
    annotations = scene.annotations()
    return judge(annotations, results, score(annotations, results).matches, threshold)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.45, 0.6, 1.0])
def test_every_object_and_every_detection_above_the_threshold_is_counted_once(
    scene: Scene, results: list[dict[str, Any]], threshold: float
) -> None:
    annotations = scene.annotations()
    for judgement in judged(scene, results, threshold):
        number = judgement.image["id"]
        truth = [row["id"] for row in annotations["annotations"] if row["image_id"] == number]
        assert sorted([row["id"] for _, row in judgement.correct] + [row["id"] for row in judgement.missed]) == truth
        detections = [row for row, _ in judgement.correct] + judgement.wrong
        expected = [row for row in results if row["image_id"] == number and row["score"] > threshold]
        assert sorted(map(repr, detections)) == sorted(map(repr, expected))
        assert all(row["category_id"] == annotation["category_id"] for row, annotation in judgement.correct)


@pytest.mark.parametrize("threshold", [0.3, 0.45, 0.5, 0.6])
def test_judging_only_detections_above_the_threshold_gives_the_same_judgement(
    scene: Scene, results: list[dict[str, Any]], threshold: float
) -> None:
    above = [row for row in results if row["score"] > threshold]
    assert judged(scene, results, threshold) == judged(scene, above, 0.0)


def test_at_the_best_threshold_the_counts_give_the_scores(scene: Scene, results: list[dict[str, Any]]) -> None:
    scores = score(scene.annotations(), results)
    judgements = judged(scene, results, scores.threshold)
    for class_scores in scores.per_class:
        hits = sum(row["category_id"] == class_scores.index for j in judgements for row, _ in j.correct)
        wrong = sum(row["category_id"] == class_scores.index for j in judgements for row in j.wrong)
        assert hits == pytest.approx(class_scores.recall * class_scores.instances)
        assert hits == pytest.approx(class_scores.precision * (hits + wrong))


def test_confusions_count_every_object_in_its_row_and_every_detection_in_its_column(
    scene: Scene, results: list[dict[str, Any]]
) -> None:
    judgements = judged(scene, results, 0.45)
    pairs = confusions(judgements, TABLE)
    objects = Counter(TABLE[row["category_id"]] for row in scene.annotations()["annotations"])
    detections = Counter(TABLE[row["category_id"]] for row in results if row["score"] > 0.45)
    assert Counter(actual for actual, _ in pairs if actual != BACKGROUND) == objects
    assert Counter(predicted for _, predicted in pairs if predicted != BACKGROUND) == detections
    assert sum(actual == predicted for actual, predicted in pairs) == sum(
        len(judgement.correct) for judgement in judgements
    )
    assert any(BACKGROUND not in pair and pair[0] != pair[1] for pair in pairs)


NAMINGS: dict[str, list[str]] = {
    "as the background": ["background", "b", "c"],
    "as the background and its other name": ["(background)", "background", "((background))"],
    "as the background in another case": ["Back ground", "(BACKGROUND)", "c"],
    "as nothing": ["nothing", "", "(none)"],
    "as a number": ["0", "nan", "-1"],
}


@pytest.mark.parametrize("names", NAMINGS.values(), ids=NAMINGS.keys())
def test_a_class_is_never_mixed_with_the_background_for_any_name(
    scene: Scene, results: list[dict[str, Any]], names: list[str]
) -> None:
    judgements = judged(scene, results, 0.45)
    plain = [f"class of another name {number}" for number in range(len(names))]
    expected = Counter(confusions(judgements, dict(enumerate(plain))))
    renamed = dict(zip([*plain, background_name(plain)], [*names, background_name(names)], strict=True))
    assert len({name.casefold() for name in renamed.values()}) == len(names) + 1
    assert Counter(confusions(judgements, dict(enumerate(names)))) == Counter(
        {(renamed[actual], renamed[predicted]): count for (actual, predicted), count in expected.items()}
    )


def row(label: int, box: list[float], **more: Any) -> dict[str, Any]:
    return {"image_id": 1, "category_id": label, "bbox": box} | more


def test_a_detection_of_another_class_over_an_object_is_a_confusion() -> None:
    missed = [row(0, [0, 0, 10, 10]), row(1, [50, 50, 10, 10])]
    wrong = [row(2, [0, 0, 10, 9], score=0.9), row(2, [0, 0, 10, 10], score=0.8), row(1, [50, 56, 10, 10], score=0.7)]
    pairs = confusions([ImageJudgement({"id": 1}, [], wrong, missed)], TABLE)
    assert Counter(pairs) == Counter(
        [("class0", "class2"), (BACKGROUND, "class2"), (BACKGROUND, "class1"), ("class1", BACKGROUND)]
    )


def test_a_crowd_region_is_not_missed_and_makes_no_detection_wrong() -> None:
    annotations: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "a.png", "width": 99, "height": 99}],
        "categories": [{"id": 0, "name": "class0"}],
        "annotations": [row(0, [0, 0, 50, 50], id=1, area=2500, iscrowd=1)],
    }
    detections = [row(0, [5, 5, 10, 10], score=0.9)]
    (judgement,) = judge(annotations, detections, score(annotations, detections).matches, 0.5)
    assert judgement.empty
    assert judgement.f1 == 1
