"""The dataset report in a real browser: it opens without errors, shows the dataset, and text in it stays text."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco_masks

import stages.validate
from rfdetr_core.base.code import ROOT
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.manifest import ClassEntry
from rfdetr_core.ingest.canonical import CanonicalImage, Instance
from rfdetr_core.ingest.clean import CleanDataset, clean
from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.ingest.findings import Findings
from rfdetr_core.ingest.geometry import run_lengths
from rfdetr_core.ingest.records import Place
from rfdetr_core.ingest.rules import RULES
from rfdetr_core.ingest.survey import Survey
from rfdetr_core.report.dataset import counts, write_page
from rfdetr_core.report.dataset.pictures import choose
from rfdetr_core.report.gallery import Picture, Shape
from rfdetr_core.report.page import vega_script
from rfdetr_core.report.thumbnails import Thumbnails, rle_path
from tests.browser import Browser, Page, running
from tests.ingest.samples import edit_coco, make_coco, make_yolo, picture, validate

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(2)</script><b id=injected>",
    "\u202egpj.exe \"'&lt;{{ 7 * 7 }}",
)
READY = "document.documentElement.dataset.drawn === 'yes'"
LOADED = "[...document.images].every((one) => one.complete && one.naturalWidth > 0)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    vega_script()  # built once, because it takes more than a second
    with running() as running_browser:
        yield running_browser


def opened(browser: Browser, reports: Path, **size: int) -> Page:
    page = browser.open(reports / "index.html", **size)
    page.wait(READY)
    return page


def written(root: Path, out: Path, **config: Any) -> Path:
    validate(root, out, write_page, **config)
    return out / "reports"


def read(root: Path) -> CleanDataset:
    with Survey(root, None) as survey:
        dataset = clean(root, Findings(ValidateConfig()), survey.examine)
    assert dataset is not None
    return dataset


def faulty(root: Path) -> Path:
    """A dataset with hostile class names, a box over the edge, a box outside, a copy in test and a broken image."""
    make_coco(root)

    def change(content: Any) -> None:
        content["categories"] += [{"id": 20 + k, "name": name} for k, name in enumerate(HOSTILE)]
        extra = [[50, 10, 30, 20], [300, 300, 5, 5], [5, 5, 20, 20]]
        content["annotations"] += [
            {"id": 50 + k, "image_id": 1, "category_id": 20 + k, "bbox": box, "area": box[2] * box[3]}
            for k, box in enumerate(extra)
        ]

    edit_coco(root, "train", change)
    shutil.copy(root / "train" / "train_2.png", root / "test" / "test_1.png")
    (root / "train" / "train_3.png").write_bytes(b"no picture")
    return root


# The page in the browser.


@pytest.mark.parametrize("sample", ["sample", "nuclei"])
def test_a_sample_opens_without_errors_requests_and_empty_pictures(
    browser: Browser, sample: str, tmp_path: Path
) -> None:
    page = opened(browser, written(ROOT / "data" / sample, tmp_path))
    page.wait(LOADED)
    statistics = json.loads((tmp_path / "reports" / "statistics.json").read_text())
    assert page.texts("#splits td:first-child") == list(statistics)
    objects = [int(text.replace(",", "")) for text in page.texts("#splits td:nth-child(4)")]
    assert objects == [split["objects"] for split in statistics.values()]
    images = sum(split["images"] for split in statistics.values())
    assert page.value("document.querySelectorAll('#pictures img').length") == min(36, images)
    assert page.value("document.querySelectorAll('.vega svg').length") == len(page.texts(".vega")) >= 7
    assert bool(page.value("document.querySelectorAll('#pictures path.mask').length")) == (sample == "nuclei")
    assert page.requests() == [(tmp_path / "reports" / "index.html").as_uri()]
    assert page.complaints() == []


def test_findings_are_drawn_and_hostile_names_stay_text(browser: Browser, tmp_path: Path) -> None:
    page = opened(browser, written(faulty(tmp_path / "data"), tmp_path))
    page.wait(LOADED)
    assert page.texts(".status.error")
    assert page.value("document.querySelectorAll('#findings .box.bold').length") == 2
    assert page.texts("#copies .pair figcaption bdi") == ["train/train_2.png", "test/test_1.png"]
    names = page.value("[...document.querySelectorAll('#class-table bdi')].map((one) => one.textContent)")
    assert set(HOSTILE) < set(names)
    assert page.value("document.getElementById('injected')") is None
    scripts = "[...document.scripts].filter((one) => one.type !== 'application/json').length"
    assert page.value(scripts) == 2, "the script of Vega and the script of the page"
    assert "49" not in "".join(names)
    assert page.complaints() == []


def test_the_policy_blocks_scripts_and_images_from_outside(browser: Browser, tmp_path: Path) -> None:
    page = opened(browser, written(make_coco(tmp_path / "data"), tmp_path))
    page.value(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}),"
        "Object.assign(new Image(), {src: 'https://example.invalid/a.png'}))"
    )
    assert page.value("window.ran") is None
    assert ["Content Security Policy" in text for text in page.complaints()] == [True, True]


def test_tables_sort_and_filter_by_mouse_and_keyboard(browser: Browser, tmp_path: Path) -> None:
    page = opened(browser, written(make_coco(tmp_path / "data"), tmp_path))
    objects = "#class-table td:nth-child(3)"
    assert page.texts("#class-table tbody bdi") == ["cat", "dog"]
    page.click("#class-table th:nth-child(3) button")
    assert page.texts(objects) == sorted(page.texts(objects), key=int, reverse=True)
    page.click("#class-table th:nth-child(3) button")
    assert page.texts(objects) == sorted(page.texts(objects), key=int)
    page.click("#class-table th:nth-child(1) button")
    assert page.texts("#class-table tbody bdi") == ["cat", "dog"]
    page.click("#class-table th:nth-child(1) button")
    assert page.texts("#class-table tbody bdi") == ["dog", "cat"]
    page.type("#class-table input", "CA")
    assert page.texts("#class-table tbody bdi") == ["cat"]
    assert page.complaints() == []


def test_a_picture_opens_large_and_its_boxes_can_be_hidden(browser: Browser, tmp_path: Path) -> None:
    page = opened(browser, written(make_coco(tmp_path / "data"), tmp_path))
    page.click("#pictures figure:nth-child(1) button")
    page.wait("document.querySelector('#large').open && document.querySelector('#large img').naturalWidth > 0")
    assert page.value("document.querySelectorAll('#large rect').length") == 2
    page.press("Escape")
    page.wait("!document.querySelector('#large').open")
    stroke = "getComputedStyle(document.querySelector('#pictures .box')).stroke"
    before = page.value(stroke)
    page.click("#pictures input[type=checkbox]")
    assert page.value(stroke) != before
    page.choose("#pictures select[aria-label='all splits']", "test")
    assert page.texts("#pictures figcaption bdi") == ["test/test_1.png"]
    assert page.complaints() == []


def test_the_findings_of_a_code_are_listed_from_its_group(browser: Browser, tmp_path: Path) -> None:
    page = opened(browser, written(faulty(tmp_path / "data"), tmp_path))
    codes = page.texts("#findings h3")
    page.click("#findings .group:nth-child(2) .link")
    listed_codes = set(page.texts("#all-findings td:nth-child(2)"))
    assert len(listed_codes) == 1
    assert listed_codes.pop() in codes[1]
    assert page.complaints() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_telephone_screen(browser: Browser, scheme: str, tmp_path: Path) -> None:
    page = opened(browser, written(faulty(tmp_path / "data"), tmp_path), width=360)
    page.emulate(prefers_color_scheme=scheme)
    assert page.value("document.documentElement.scrollWidth") == 360
    lightness = page.value("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(lightness) < 60) == (scheme == "dark")


@pytest.mark.slow
def test_a_hundred_classes_and_ten_thousand_findings_stay_usable(browser: Browser, tmp_path: Path) -> None:
    classes = [ClassEntry(k, k, f"class {k}") for k in range(100)]
    draw = np.random.default_rng(0)
    splits = {
        name: [imagined(f"{name}/{k}.jpg", classes, draw) for k in range(400)] for name in ("train", "valid", "test")
    }
    findings = Findings(ValidateConfig())
    codes = sorted(code for code, rule in RULES.items() if rule.scope != "dataset")
    for k in range(10_000):
        findings.add(codes[k % len(codes)], Place("train.json", annotation=k, image="train/1.jpg"), f"fault number {k}")
    write_page(tmp_path, tmp_path, CleanDataset(classes, splits, []), findings)
    assert (tmp_path / "index.html").stat().st_size < 4_000_000
    page = opened(browser, tmp_path)
    assert page.value("document.querySelectorAll('#all-findings tbody tr').length") == 25
    page.type("#all-findings input", "number 777")
    numbers = [text.split()[-1] for text in page.texts("#all-findings td:nth-child(6)")]
    assert numbers == [str(k) for k in sorted([777, *range(7770, 7780)])]
    page.choose("#all-findings select[aria-label='all codes']", codes[777 % len(codes)])
    assert [text.split()[-1] for text in page.texts("#all-findings td:nth-child(6)")] == ["777"]
    page.type("#class-table input", "class 99")
    assert page.texts("#class-table tbody bdi") == ["class 99"]
    grey = "[...document.querySelectorAll('.vega path')].filter((one) => one.getAttribute('fill-opacity') === '0.35')"
    assert page.value(f"{grey}.length") == 100
    assert page.complaints() == []


def test_unreadable_labels_have_a_page_too(browser: Browser, tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data")
    (root / "valid" / "_annotations.coco.json").write_text("[")
    page = opened(browser, written(root, tmp_path))
    assert page.texts("#all-findings td:nth-child(3)") == ["valid/_annotations.coco.json"]
    assert page.complaints() == []


# The written files.


def test_the_stage_writes_the_page_also_if_findings_stop_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faulty(tmp_path / "data")
    (tmp_path / "params.yaml").write_text("data: {dir: data}\nmodel: {variant: pico}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"findings\.csv and shown in reports/dataset/index\.html"):
        stages.validate.main()
    assert "Validation stopped: 2 errors, 3 warnings." in Path("reports/dataset/index.html").read_text()
    assert not Path("manifest").exists()


def test_the_error_of_a_validation_without_a_page_names_no_page(tmp_path: Path) -> None:
    _, error = validate(faulty(tmp_path / "data"), tmp_path)
    assert "index.html" not in str(error)
    assert not (tmp_path / "reports" / "index.html").exists()


def imagined(path: str, classes: list[ClassEntry], draw: np.random.Generator) -> CanonicalImage:
    """An image without a file, with up to seven objects."""
    numbers = draw.integers(0, len(classes), draw.integers(0, 8))
    boxes = [tuple(map(float, draw.uniform(1, 150, 4))) for _ in numbers]
    instances = [
        Instance(classes[number], box, box[2] * box[3], 0, None)  # type: ignore[arg-type]
        for number, box in zip(numbers, boxes, strict=True)
    ]
    return CanonicalImage(path, draw.bytes(32).hex(), 400, 300, instances)


def test_equal_content_gives_equal_bytes_in_any_folder_and_order(tmp_path: Path) -> None:
    first, second = make_coco(tmp_path / "one"), make_coco(tmp_path / "elsewhere" / "two")

    def rearrange(content: Any) -> None:
        content["annotations"].reverse()
        content["images"].reverse()
        content["categories"].reverse()

    for split in ("train", "valid", "test"):
        edit_coco(second, split, rearrange)
    pages = [
        (written(root, tmp_path / f"out{k}") / "index.html").read_bytes() for k, root in enumerate((first, second))
    ]
    assert pages[0] == pages[1]
    assert str(tmp_path).encode() not in pages[0]
    Image.new("RGB", (64, 48)).save(second / "test" / "test_1.png")
    assert (written(second, tmp_path / "out2") / "index.html").read_bytes() != pages[0]


def test_counts_equal_plain_counting() -> None:
    classes = [ClassEntry(k, k, f"class {k}") for k in range(7)]
    draw = np.random.default_rng(1)
    splits = {name: [imagined(f"{name}/{k}", classes, draw) for k in range(30)] for name in ("train", "valid", "test")}
    result = counts.count(CleanDataset(classes, splits, []))
    images_with_split = [(name, image) for name, images in splits.items() for image in images]
    for k, (name, images) in enumerate(splits.items()):
        ones = [instance for image in images for instance in image.instances]
        small, large = sum(instance.area < 32**2 for instance in ones), sum(instance.area >= 96**2 for instance in ones)
        split = result["splits"][k]
        assert (split["images"], split["objects"], split["name"]) == (30, len(ones), name)
        assert split["background"] == sum(not image.instances for image in images)
        assert split["scales"] == [small, len(ones) - small - large, large]
        for key in ("side", "aspect", "share"):
            assert sum(result[key]["counts"][k]) == len(ones)
        assert sum(result["per_image"]["counts"][k]) == 30
    together = {(a, b): 0 for a in range(7) for b in range(a, 7)}
    for _, image in images_with_split:
        labels = {instance.entry.index for instance in image.instances}
        for pair in together:
            together[pair] += set(pair) <= labels
    assert {(a, b): number for a, b, number in result["together"]["cells"]} == {k: n for k, n in together.items() if n}
    for entry, row in zip(classes, result["classes"], strict=True):
        assert row["images"] == together[entry.index, entry.index]
        assert sum(row["objects"]) == sum(
            instance.entry == entry for _, image in images_with_split for instance in image.instances
        )
    assert result["sizes"] == {"distinct": 1, "most": [[400, 300, 90]]}


def test_a_histogram_counts_a_value_on_an_edge_in_the_bin_that_begins_there() -> None:
    entry = ClassEntry(1, 0, "one")
    boxes = [(0.0, 0.0, side, side) for side in (16.0, 31.9, 32.0)]
    image = CanonicalImage("a", "0" * 64, 64, 64, [Instance(entry, box, box[2] ** 2, 0, None) for box in boxes])
    result = counts.count(CleanDataset([entry], {"train": [image], "valid": [], "test": []}, []))
    of_bin = dict(zip(result["side"]["edges"], result["side"]["counts"][0], strict=False))
    assert (of_bin[16.0], of_bin[32.0]) == (1, 1)


def test_an_empty_dataset_can_be_counted() -> None:
    result = counts.count(CleanDataset([], {"train": [], "valid": [], "test": []}, []))
    assert [split["objects"] for split in result["splits"]] == [0, 0, 0]


@pytest.mark.parametrize("size", [(64, 48), (900, 700)])
@pytest.mark.parametrize(
    "box", [(20, 10, 12, 15), (50, -6, 30, 20), (0, 0, 64, 48), (52, 36, 12, 12), (-9, -4, 80, 12)]
)
def test_a_drawn_box_covers_the_object_in_the_picture(
    box: tuple[float, ...], size: tuple[int, int], tmp_path: Path
) -> None:
    scale = size[0] / 64
    left, top, width, height = (value * scale for value in box)
    picture_drawn = Image.new("RGB", size, "black")
    ImageDraw.Draw(picture_drawn).rectangle((left, top, left + width - 1, top + height - 1), fill="white")
    picture_drawn.save(tmp_path / "a.png")
    box = (left, top, width, height)
    crop = Thumbnails(tmp_path).crop("a.png", box, size, 240, [Shape(0, *box)])
    assert crop is not None
    pixels = np.asarray(decoded(crop).convert("L"), dtype=np.int64)
    (_, x, y, across, down, *_) = crop.shapes[0]
    rows, columns = np.mgrid[: pixels.shape[0], : pixels.shape[1]] + 0.5
    inside = (columns > x + 2) & (columns < x + across - 2) & (rows > y + 2) & (rows < y + down - 2)
    outside = (columns < x - 2) | (columns > x + across + 2) | (rows < y - 2) | (rows > y + down + 2)
    # The parts outside the image are grey.
    assert np.isin(pixels[inside] // 64, (1, 2, 3)).all()
    assert (pixels[inside] > 192).any()
    assert (pixels[outside] < 160).all()


def decoded(thumbnail: Picture) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(thumbnail.source.partition(",")[2])))


@pytest.mark.parametrize(
    "box", [(5000.0, -9000.0, 3.0, 3.0), (-1e8, 0.0, 1e8, 1e8), (10.0, 10.0, -5.0, -900.0), (0.0, 0.0, 0.0, 0.0)]
)
def test_a_box_far_outside_the_image_can_be_drawn(box: tuple[float, float, float, float], tmp_path: Path) -> None:
    picture(0).save(tmp_path / "a.png")
    crop = Thumbnails(tmp_path).crop("a.png", box, (64, 48), 240)
    assert crop is not None
    assert max(decoded(crop).size) <= 240
    assert np.asarray(decoded(crop)).std() > 5, "the picture shows no part of the image"


def test_run_lengths_equal_the_reference() -> None:
    draw = np.random.default_rng(0)
    for _ in range(50):
        mask = np.asfortranarray(draw.random(draw.integers(1, 60, 2)) < draw.random(), dtype=np.uint8)
        runs = run_lengths(coco_masks.encode(mask)["counts"].decode())
        assert runs is not None
        assert (np.repeat(np.arange(len(runs)) % 2, runs) == mask.ravel(order="F")).all()


def test_a_run_length_mask_is_drawn_at_its_position() -> None:
    mask = np.zeros((40, 60), dtype=np.uint8)
    mask[10:30, 20:44] = 1
    coded = coco_masks.encode(np.asfortranarray(mask))["counts"].decode()
    strips = re.findall(
        r"M(\d+) (\d+)h(\d+)v2h-(\d+)z", rle_path(coded, (60, 40), (20.0, 10.0, 24.0, 20.0), (1.0, 1.0))
    )
    assert [tuple(map(int, strip)) for strip in strips] == [(20, y, 24, 24) for y in range(10, 30, 2)]


@pytest.mark.parametrize("counts", [[5, 3], [-1, 2401], [2400.0], "\x00", "zz", "oooo", [True, 2399], None, {}])
def test_runs_that_do_not_fill_the_image_draw_nothing(counts: Any) -> None:
    assert rle_path(counts, (60, 40), (0.0, 0.0, 60.0, 40.0), (1.0, 1.0)) == ""


def test_pictures_show_every_split_and_class() -> None:
    classes = [ClassEntry(k, k, f"class {k}") for k in range(12)]
    draw = np.random.default_rng(2)
    splits = {
        name: [imagined(f"{name}/{k}", classes[:11], draw) for k in range(200)] for name in ("train", "valid", "test")
    }
    rare = imagined("train/rare", classes[11:], np.random.default_rng(3))
    splits["train"].append(rare)
    assert rare.instances
    chosen = list(choose(CleanDataset(classes, splits, []), 36))
    assert [name for name, _ in chosen] == ["train"] * 12 + ["valid"] * 12 + ["test"] * 12
    assert {instance.entry.index for _, image in chosen for instance in image.instances} == set(range(12))
    assert len({image.path for _, image in chosen}) == 36
    small_dataset = CleanDataset(classes, {"train": splits["train"][:2], "valid": [], "test": splits["test"]}, [])
    assert [name for name, _ in choose(small_dataset, 36)] == ["train"] * 2 + ["test"] * 34


def test_files_that_validation_could_not_decode_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = faulty(tmp_path / "data")
    dataset, findings = read(root), Findings(ValidateConfig())
    findings.add("image-unreadable", Place("train/train_3.png", image="train/train_3.png"), "broken", (1, 2, 3, 4))
    opened_paths = []
    monkeypatch.setattr(Thumbnails, "_open", lambda _, path, __: opened_paths.append(path))
    write_page(tmp_path, root, dataset, findings)
    assert "train/train_1.png" in opened_paths
    assert "train/train_3.png" not in opened_paths


def test_both_formats_of_a_dataset_have_the_same_counts(tmp_path: Path) -> None:
    counted = [counts.count(read(make(tmp_path / make.__name__))) for make in (make_coco, make_yolo)]
    for dataset_counts in counted:
        for entry in dataset_counts["classes"]:
            del entry["id"]
    assert counted[0] == counted[1]
