"""The comparison page in a real browser, and the command `compare` as a process."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from rfdetr_core.audit.seen import CHOSEN, Seen
from rfdetr_core.base import files, provenance
from rfdetr_core.base.code import ROOT
from rfdetr_core.base.manifest import read_manifest, write_manifest
from rfdetr_core.base.metadata import write_metadata
from rfdetr_core.data.samples import read_samples
from rfdetr_core.evaluation.changes import CHANGES, FOUND, Changes
from rfdetr_core.evaluation.comparison import Comparison
from rfdetr_core.report.comparison import FileComparison, write_comparison
from tests.browser import Browser, opened_whole, require_clean
from tests.checkpoint.tiny import tiny_record
from tests.evaluation.pairs import model, random_subset
from tests.evaluation.scene import SIZES, Scene, make_scene, write_tiny_checkpoint
from tests.evaluation.scenes import Rows, random_scene
from tests.pipeline.project import environment_without
from tests.report.kit import NAMES
from tests.report.made import make_evaluation, where_of

SECTIONS = ["about", "scores", "classes", "slices", "images", "errors"]
UNSEEN = Seen({}, [])
SHOWN = "[...document.querySelectorAll('#changed-errors figure')].filter((one) => !one.hidden).length"


def write(
    folder: Path, annotations: dict[str, Any], old: Rows, new: Rows, seen: tuple[Seen, Seen] = (UNSEEN, UNSEEN),
    crops: int = 3, **changes: Any,
) -> Path:  # fmt: skip
    """Write the page of two models without a network. changes: fields of the second model. Returns its path."""
    if not folder.joinpath("dataset").exists():
        make_evaluation(folder, annotations, old, masks="segmentation" in (*old, {})[0])
    where = where_of(folder)
    scores = Comparison.from_models(
        "test", annotations, model(annotations, old), model(annotations, new, "b", **changes), 50
    )
    samples = sorted(read_samples(*where.split("test")), key=lambda sample: sample.image_id)
    write_comparison(
        folder / "index.html", FileComparison(scores, seen, where, samples, Changes.from_comparison(scores)), crops
    )
    return folder / "index.html"


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    content, results = random_scene(0, images=110, objects=3, detections=8, crowds=0.1)
    return write(tmp_path_factory.mktemp("boxes"), content, random_subset(results, 0.5, 0), results)


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    content, results = random_scene(1, images=8, masks=True)
    return write(
        tmp_path_factory.mktemp("masks"), content, random_subset(results, 0.6, 0), random_subset(results, 0.6, 1)
    )


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("which", ["boxes", "masks"])
def test_the_page_opens_without_errors_and_requests_and_draws_all_charts(
    browser: Browser, request: pytest.FixtureRequest, which: str, width: int
) -> None:
    path: Path = request.getfixturevalue(which)
    page = opened_whole(browser, path, width=width)
    require_clean(page, path, width)
    assert page.value("[...document.querySelectorAll('main > section')].map((one) => one.id)") == SECTIONS
    assert page.value("['.vega', '.vega svg'].map((one) => document.querySelectorAll(one).length)") == [2, 2]
    assert (page.value("document.querySelectorAll('.mask').length") > 0) is (which == "masks")


def test_there_is_a_verdict_for_100_images_and_none_for_fewer(browser: Browser, boxes: Path, masks: Path) -> None:
    page = opened_whole(browser, boxes)
    assert page.texts("header .status.good")[0].startswith("B is better than A. AP of boxes changed by +")
    assert page.texts("header .status.warning") == []
    (warning,) = opened_whole(browser, masks).texts("header .status.warning")
    assert warning.startswith("No verdict: 8 images are too few. AP of masks changed by ")


def test_tables_sort_and_images_are_side_by_side_the_largest_change_first(browser: Browser, boxes: Path) -> None:
    page = opened_whole(browser, boxes)
    page.click("#classes thead th:nth-child(5) button")
    changes = [float(text) for text in page.texts("#classes tbody td:nth-child(5)")]
    assert changes == sorted(changes, reverse=True)
    assert len(page.texts("#images .better")) == len(page.texts("#images .worse")) == 3
    for kind, sign in (("better", 1), ("worse", -1)):
        f1_values = [float(text.split("F1 ")[1]) for text in page.texts(f"#images .{kind} figcaption")]
        gains = [sign * (new - old) for old, new in zip(f1_values[::2], f1_values[1::2], strict=True)]
        assert gains == sorted(gains, reverse=True)
        assert gains[-1] > 0
    left, right = (
        page.value(f"document.querySelectorAll('#images .better figure')[{k}].getBoundingClientRect().toJSON()")
        for k in (0, 1)
    )
    assert left["top"] == right["top"]
    assert left["right"] < right["left"]


def test_a_click_on_a_kind_of_change_shows_its_crops(browser: Browser, boxes: Path) -> None:
    page = opened_whole(browser, boxes)
    assert page.value(SHOWN) == 3 * len(CHANGES)
    page.click("#errors button.link")
    assert page.value(SHOWN) == 3
    assert page.value("document.querySelector('#changed-errors select').value") == FOUND
    assert all(FOUND in text for text in page.texts("#changed-errors figure:not([hidden]) figcaption"))


def test_names_are_never_interpreted_and_classes_of_only_one_model_are_listed(browser: Browser, tmp_path: Path) -> None:
    content, results = random_scene(2, classes=len(NAMES))
    for row, name in zip(content["categories"], NAMES, strict=True):
        row["name"] = name
    for row, name in zip(content["images"], ("<b id=injected>.png", "a&amp;b.png", "{{ 1 }}.png"), strict=False):
        row["file_name"] = name
    fields = {"classes": (*NAMES[1:], "<i id=injected>"), "path": "<b id=injected>.pth", "variant": "<b id=injected>"}
    fields["training"] = tiny_record(parents={"pretrain_weights": {"name": "<b id=injected>"}})
    metadata = {"a&amp;b.png": {"<b id=injected>": "<b id=injected>"}}
    make_evaluation(tmp_path, content, results, metadata=metadata)
    first, *_ = read_samples(*where_of(tmp_path).split("test"))
    seen = Seen({first.sha256: CHOSEN}, ["<b id=injected>"])
    page = opened_whole(
        browser, write(tmp_path, content, random_subset(results, 0.5, 0), results, (UNSEEN, seen), **fields)
    )
    assert page.complaints() == []
    assert page.value("document.getElementById('injected')") is None
    assert set(NAMES) <= set(page.texts("#classes tbody td:first-child"))
    paragraphs = page.texts("#classes p")
    assert any(text == f"Classes that only A has: {NAMES[0]}" for text in paragraphs)
    assert any(text == "Classes that only B has: <i id=injected>" for text in paragraphs)
    (panel,) = page.texts("#about .panel:nth-child(2)")
    assert "chosen by 1 image of this split" in panel
    assert "not known whether it was trained on these images: <b id=injected>." in panel


@pytest.mark.parametrize("settings", [{"objects": 0}, {"images": 1, "classes": 1}, {"images": 2, "classes": 100}])
@pytest.mark.parametrize("with_detections", [True, False])
def test_almost_empty_inputs_have_a_page(
    browser: Browser, tmp_path: Path, settings: dict[str, Any], with_detections: bool
) -> None:
    content, results = random_scene(4, **settings)
    page = opened_whole(browser, write(tmp_path, content, [], results if with_detections else []))
    assert page.complaints() == []
    assert page.value("[...document.querySelectorAll('main > section')].map((one) => one.id)") == SECTIONS
    assert page.texts("header .status")[0].startswith("No verdict: ")


@pytest.mark.parametrize("masks", [False, True])
def test_equal_inputs_give_equal_bytes(tmp_path: Path, masks: bool) -> None:
    content, results = random_scene(3, masks=masks)
    path = write(tmp_path, content, random_subset(results, 0.6, 0), results)
    before = path.read_bytes()
    write(tmp_path, content, random_subset(results, 0.6, 0), results)
    assert path.read_bytes() == before


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A project in a git repository with a dataset and two models, model.pth and other.pth."""
    folder = tmp_path_factory.mktemp("project")
    scene = make_scene(folder)
    for split in ("test", "valid"):
        write_metadata(folder / "metadata" / f"{split}.csv", {})
    (folder / "params.yaml").write_text(yaml.safe_dump({"data": {"dir": "dataset"}, "report": {"resamples": 100}}))
    write_tiny_checkpoint(folder / "other.pth", seed=8)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return scene


def run(project: Scene, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rfdetr_core", "compare", *arguments]
    environment = environment_without("GIT_") | {"PYTHONPATH": str(ROOT)}
    folder = project.checkpoint.parent
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_command_scores_both_files_and_prints_the_numbers_of_the_page(browser: Browser, project: Scene) -> None:
    done = run(project, "model.pth", "other.pth")
    assert (done.returncode, done.stderr) == (0, "")
    path = project.checkpoint.parent / "reports/compare/index.html"
    page, lines = opened_whole(browser, path), done.stdout.splitlines()
    assert page.complaints() == []
    (verdict,) = page.texts("header .status")
    assert verdict in lines
    assert verdict.startswith(f"No verdict: {len(SIZES)} images are too few")
    rows = [line.split() for line in lines if line.startswith(("AP", "AR", "F1"))]
    cells = [page.texts(f"#scores tbody tr:nth-child({k}) td") for k in range(1, 6)]
    assert [row[:4] for row in cells] == [[row[0], row[1], row[2], row[3].rstrip(",")] for row in rows]
    assert float(rows[0][1]) > float(rows[0][2]), "the labels are detections of the first model"
    assert "A: It is not known whether it was trained on these images: the file carries no lineage" in done.stdout
    assert lines[-1] == "page   reports/compare/index.html"
    before = path.read_bytes()
    assert run(project, "model.pth", "other.pth", "--out", "again").stdout.splitlines()[:-1] == lines[:-1]
    assert (project.checkpoint.parent / "again/index.html").read_bytes() == before


@pytest.mark.slow
def test_a_model_that_was_trained_on_images_of_the_split_is_refused_and_nothing_is_written(project: Scene) -> None:
    folder = project.checkpoint.parent
    (first, *_) = read_manifest(folder / "manifest" / "test.json")
    write_manifest(folder / "manifest" / "train.json", [replace(first, path="train/copy.png")])
    identity = provenance.identity(folder / "manifest" / "train.json")
    named = {"manifest/train.json": {"size": identity["size"], "git": identity["git"]}}
    write_tiny_checkpoint(folder / "trained.pth", seed=9, training_record=tiny_record(files=named))
    done = run(project, "model.pth", "trained.pth", "--out", "refused")
    assert done.returncode == 1
    message = f"error: trained.pth was trained on 1 of the {len(SIZES)} images of test ({first.path}). Scores on"
    assert done.stderr.startswith(message)
    assert not (folder / "refused").exists()


@pytest.mark.slow
def test_a_model_chosen_by_images_of_the_split_is_compared_with_a_note(project: Scene) -> None:
    folder = project.checkpoint.parent
    identity = provenance.identity(folder / "manifest" / "valid.json")  # the images of test with other names
    named = {"manifest/valid.json": {"size": identity["size"], "git": identity["git"]}}
    write_tiny_checkpoint(folder / "chosen.pth", seed=9, training_record=tiny_record(files=named))
    done = run(project, "chosen.pth", "model.pth", "--split", "valid")
    assert (done.returncode, done.stderr) == (0, "")
    assert "valid  5 images" in done.stdout
    assert "A: Its epoch was chosen by 5 images of this split" in done.stdout
    assert "A: It is not known" not in done.stdout


@pytest.mark.slow
def test_models_that_cannot_be_compared_give_one_message(project: Scene) -> None:
    folder = project.checkpoint.parent
    write_tiny_checkpoint(folder / "cats.pth", class_names=("cat", "dog", "\x1b[2Jmouse"))
    files.write_text(folder / "text.pth", "no model")
    for arguments, message in (
        (
            ("model.pth", "cats.pth"),
            "error: model.pth and cats.pth have no class in common. The first has class0, class1, class2; ",
        ),
        (("model.pth", "none.pth"), "error: none.pth does not exist"),
        (("model.pth", "text.pth"), "error: text.pth is not a checkpoint"),
        (("model.pth", "other.pth", "--split", "train"), "error: annotations/train.json"),
    ):
        done = run(project, *arguments, "--out", "refused")
        assert done.returncode == 1
        assert done.stderr.startswith(message), done.stderr
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        assert "\x1b" not in done.stderr
    assert not (folder / "refused").exists()
