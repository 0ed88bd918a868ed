"""The evaluation page in a real browser, and the files beside it, also from almost empty inputs."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from rfdetr_core.base.errors import UserError
from rfdetr_core.evaluation.analysis import ERRORS
from rfdetr_core.inference.thresholds import Thresholds
from rfdetr_core.metrics.coco import score
from rfdetr_core.report.config import ReportConfig
from rfdetr_core.report.evaluation import write_report
from tests.browser import Browser, Page, opened_whole, require_clean
from tests.evaluation.scenes import random_scene
from tests.report.kit import NAMES
from tests.report.made import TENSORS, EvaluationFolders, make_evaluation

FILES = ("index.html", "thresholds.json", "intervals.json", "suspects.csv")
SECTIONS = (
    "about", "scores", "thresholds", "classes", "confusion", "errors", "slices", "calibration", "pictures", "suspects",
    "training",
)  # fmt: skip


def write(folders: EvaluationFolders, **config: Any) -> EvaluationFolders:
    write_report(folders.where, ReportConfig(resamples=100, **config), folders.reports, folders.run)
    return folders


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> EvaluationFolders:
    return write(make_evaluation(tmp_path_factory.mktemp("boxes"), *random_scene(0, crowds=0.1)))


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> EvaluationFolders:
    folder = tmp_path_factory.mktemp("masks")
    return write(make_evaluation(folder, *random_scene(1, images=5, masks=True), masks=True))


def opened(browser: Browser, folders: EvaluationFolders, **size: int) -> Page:
    return opened_whole(browser, folders.reports / "index.html", **size)


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("which", ["boxes", "masks"])
def test_the_page_opens_without_errors_and_requests_and_draws_all_charts(
    browser: Browser, request: pytest.FixtureRequest, which: str, width: int
) -> None:
    folders: EvaluationFolders = request.getfixturevalue(which)
    page = opened(browser, folders, width=width)
    require_clean(page, folders.reports / "index.html", width)
    assert page.value("[...document.querySelectorAll('main > section')].map((one) => one.id)") == list(SECTIONS)
    counts = page.value("['.vega', '.vega svg'].map((one) => document.querySelectorAll(one).length)")
    assert counts[0] == counts[1] >= 9


def test_a_segmenter_has_boxes_and_masks_in_every_section(browser: Browser, masks: EvaluationFolders) -> None:
    page = opened(browser, masks)
    for section in ("scores", "thresholds", "classes", "confusion", "errors", "slices", "calibration"):
        assert page.texts(f"#{section} .kind") == ["Boxes", "Masks"]
    assert page.value("document.querySelectorAll('#pictures .mask').length") > 0


def test_a_cell_of_the_confusion_matrix_opens_its_pictures(browser: Browser, boxes: EvaluationFolders) -> None:
    page = opened(browser, boxes)
    total = page.value("document.querySelectorAll('#boxes-errors figure').length")
    page.click("#confusion .table tbody button.link")
    cells = page.texts("#confusion .table tbody tr:first-child td")
    chosen = page.value("[...document.querySelectorAll('#boxes-errors select')].map((one) => one.value)")
    assert chosen[1:] == cells[:2]
    visible = "[...document.querySelectorAll('#boxes-errors figure')].filter((one) => !one.hidden).length"
    assert 0 < page.value(visible) < total


def test_tables_sort_and_pictures_are_filtered_by_the_kind_of_error(browser: Browser, boxes: EvaluationFolders) -> None:
    page = opened(browser, boxes)
    page.click("#classes thead th:nth-child(3) button")
    values = [float(text) for text in page.texts("#classes tbody td:nth-child(3)")]
    assert values == sorted(values, reverse=True)
    page.choose("#boxes-images select", "duplicate")
    visible = "[...document.querySelectorAll('#boxes-images figure')].filter((one) => !one.hidden).length"
    assert 0 < page.value(visible) < 12


def test_names_are_never_interpreted(browser: Browser, tmp_path: Path) -> None:
    annotations, rows = random_scene(2, classes=len(NAMES))
    for row, name in zip(annotations["categories"], NAMES, strict=True):
        row["name"] = name
    for row, name in zip(annotations["images"], ("<b id=injected>.png", "a&amp;b.png", "{{ 1 }}.png"), strict=False):
        row["file_name"] = name
    annotations["images"].sort(key=lambda row: row["file_name"])
    ids = {row["id"]: number for number, row in enumerate(annotations["images"], start=1)}
    for row in (*annotations["annotations"], *rows):
        row["image_id"] = ids[row["image_id"]]
    for row in annotations["images"]:
        row["id"] = ids[row["id"]]
    folders = write(make_evaluation(tmp_path, annotations, rows))
    page = opened(browser, folders)
    assert page.complaints() == []
    assert page.value("document.getElementById('injected')") is None
    assert set(NAMES) <= set(page.texts("#classes tbody td:first-child"))


@pytest.mark.parametrize("which", ["boxes", "masks"])
def test_equal_inputs_give_equal_bytes(request: pytest.FixtureRequest, which: str) -> None:
    folders: EvaluationFolders = request.getfixturevalue(which)
    before = {name: (folders.reports / name).read_bytes() for name in FILES}
    write(folders)
    assert {name: (folders.reports / name).read_bytes() for name in FILES} == before


def test_the_thresholds_are_of_the_model_and_belong_to_the_scores(boxes: EvaluationFolders) -> None:
    thresholds, metrics = Thresholds.read(boxes.reports / "thresholds.json"), boxes.json("metrics.json")
    assert (thresholds.model.tensors, thresholds.split, thresholds.images, thresholds.of) == (
        TENSORS,
        "test",
        12,
        "boxes",
    )
    assert thresholds.all.threshold == metrics["threshold"]
    assert thresholds.all.f1 == pytest.approx(metrics["f1"], abs=1e-12)
    annotations, rows = random_scene(0, crowds=0.1)
    expected = {
        scores.name: (scores.best_threshold, pytest.approx(scores.best_f1))
        for scores in score(annotations, rows).per_class
    }
    assert {name: (point.threshold, point.f1) for name, point in thresholds.classes.items()} == expected


def test_the_page_says_if_a_target_cannot_be_reached(browser: Browser, boxes: EvaluationFolders) -> None:
    write(boxes, target={"recall": 0.99})
    thresholds = Thresholds.read(boxes.reports / "thresholds.json")
    assert not thresholds.all.reached
    assert thresholds.target == {"recall": 0.99}
    page = opened(browser, boxes)
    assert "not reached; at most" in page.texts("#thresholds tbody tr")[0]
    write(boxes)


def test_intervals_contain_the_scores_and_few_images_have_a_warning(
    browser: Browser, boxes: EvaluationFolders, tmp_path: Path
) -> None:
    intervals, metrics = boxes.json("intervals.json"), boxes.json("metrics.json")
    assert (intervals["images"], intervals["resamples"]) == (12, 100)
    for name, (low, high) in intervals["boxes"].items():
        assert low <= metrics[name] <= high, name
    assert "12 images are too few" in opened(browser, boxes).texts("header")[0]
    many_images = write(make_evaluation(tmp_path, *random_scene(3, images=100, objects=1, detections=2)))
    assert "are too few" not in opened(browser, many_images).texts("header")[0]


def test_suspects_are_listed_with_image_and_annotation(boxes: EvaluationFolders) -> None:
    with (boxes.reports / "suspects.csv").open() as file:
        rows = list(csv.DictReader(file))
    annotations = json.loads(boxes.where.split("test")[0].read_text())
    ids = {row["id"]: row["image_id"] for row in annotations["annotations"]}
    paths = {row["id"]: row["file_name"] for row in annotations["images"]}
    assert {row["suspicion"] for row in rows} >= {"no label", "no detection"}
    for row in rows:
        assert not row["annotation"] or paths[ids[int(row["annotation"])]] == row["image"]


@pytest.mark.parametrize(
    ("settings", "rows_kept"),
    [
        ({"objects": 0}, True),  # no objects, but detections
        ({"objects": 0}, False),
        ({"images": 1, "classes": 1}, True),
        ({}, False),  # no detections
        ({"images": 2, "classes": 300}, True),
    ],
)
def test_almost_empty_inputs_have_a_page_that_shows_what_is_not_measured(
    browser: Browser, tmp_path: Path, settings: dict[str, Any], rows_kept: bool
) -> None:
    annotations, rows = random_scene(4, **settings)
    folders = write(make_evaluation(tmp_path, annotations, rows if rows_kept else []))
    page = opened(browser, folders)
    assert page.complaints() == []
    assert page.value("[...document.querySelectorAll('main > section')].map((one) => one.id)") == list(SECTIONS)
    thresholds = Thresholds.read(folders.reports / "thresholds.json")
    assert all(point.f1 or point.threshold == thresholds.all.threshold for point in thresholds.classes.values())
    if not annotations["annotations"]:
        assert folders.json("intervals.json")["boxes"] == dict.fromkeys(["map", "map_50", "map_75", "mar_100", "f1"])
        assert "\u2013" in page.texts("#scores tbody td")  # a dash
    assert (folders.reports / "index.html").stat().st_size < 5_000_000


def test_the_page_says_how_many_images_it_leaves_out(browser: Browser, boxes: EvaluationFolders) -> None:
    write(boxes, images=4, crops=1)
    page = opened(browser, boxes)
    assert page.value("document.querySelectorAll('#boxes-images figure').length") == 4
    assert "8 images with a higher F1 are not shown" in page.texts("#pictures")[0]
    f1 = [float(text.split("F1 ")[1].split(":")[0]) for text in page.texts("#boxes-images figcaption")]
    with (boxes.reports / "per_image.csv").open() as file:
        assert f1 == pytest.approx(sorted(float(row["f1"]) for row in csv.DictReader(file))[:4], abs=0.006)
    write(boxes)


def test_every_kind_of_error_has_its_pictures(boxes: EvaluationFolders, browser: Browser) -> None:
    page = opened(browser, boxes)
    kinds = page.value("[...document.querySelector('#boxes-errors select').options].slice(1).map((one) => one.value)")
    assert set(kinds) <= set(ERRORS)
    assert len(kinds) >= 5


def test_the_interval_of_f1_belongs_to_the_highest_f1_at_any_configured_threshold(tmp_path: Path) -> None:
    folders = write(make_evaluation(tmp_path, *random_scene(0), threshold=0.9))
    low, high = folders.json("intervals.json")["boxes"]["f1"]
    assert low <= folders.json("metrics.json")["f1"] <= high


def test_a_class_without_right_detections_gets_the_threshold_for_all_classes(browser: Browser, tmp_path: Path) -> None:
    annotations, rows = random_scene(6)
    annotations["categories"][0]["name"] = "all classes"
    folders = write(make_evaluation(tmp_path, annotations, [row for row in rows if row["category_id"] != 1]))
    thresholds = Thresholds.read(folders.reports / "thresholds.json")
    assert thresholds.classes["class1"].threshold == thresholds.all.threshold
    cells = opened(browser, folders).texts("#thresholds tbody tr")
    assert [row.split("\t")[:2] for row in cells] == [
        [name, f"{point.threshold:.3f}"]
        for name, point in [("all classes", thresholds.all), *thresholds.classes.items()]
    ]


def test_every_button_of_a_confusion_shows_only_its_pictures(browser: Browser, tmp_path: Path) -> None:
    folders = write(make_evaluation(tmp_path, *random_scene(7, classes=12, images=8, objects=8)), crops=1)
    page = opened(browser, folders)
    wrong = page.value(
        """[...document.querySelectorAll('#confusion .table tbody tr, #classes tbody tr')].filter((row) => {
          const button = row.querySelector('.link');
          if (!button) return false;
          button.click();
          const wanted = Object.values(JSON.parse(button.dataset.filters));
          const chosen = [...document.querySelectorAll('#boxes-errors select')].map((one) => one.value).slice(1);
          const shown = document.querySelectorAll('#boxes-errors figure:not([hidden])').length;
          return !shown || wanted.some((one) => !chosen.includes(one));
        }).length"""
    )
    assert wrong == 0
    assert page.value("document.querySelectorAll('#confusion .table .link').length") > 5


def test_a_narrow_image_is_shown(tmp_path: Path) -> None:
    annotations, rows = random_scene(8, images=1)
    annotations["images"][0] |= {"file_name": "001.jpg", "width": 3000, "height": 3}
    write(make_evaluation(tmp_path, annotations, rows), crops=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("detections.json", "{}", "detections.json"),
        ("detections.json", '[\n{"image_id": 1}\n]\n', "detections.json"),
        ("per_class.csv", "class,instances\nother,1\n", "per_class.csv does not have the classes"),
        ("pictures/best_1.png", "no picture", "best_1.png is not a picture"),
    ],
)
def test_a_damaged_input_gives_one_message_and_nothing_is_written(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    folders = make_evaluation(tmp_path, *random_scene(0))
    (folders.reports / name).write_text(content)
    with pytest.raises(UserError, match=message):
        write(folders)
    assert not [file for file in FILES if (folders.reports / file).exists()]
