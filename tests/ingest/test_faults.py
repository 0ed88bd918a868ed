"""Each fault of the catalogue, planted in a good dataset, gives exactly its finding at exactly its place."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest

from rfdetr_core.base import images
from rfdetr_core.base.code import ROOT
from rfdetr_core.base.manifest import SPLITS, read_manifest
from rfdetr_core.ingest import geometry
from rfdetr_core.ingest.formats import coco, yolo
from rfdetr_core.ingest.meanings import markdown
from rfdetr_core.ingest.rules import RULES
from tests.ingest.faults import FAULTS, LABEL, PNG, TRAIN, Fault, add, entry
from tests.ingest.samples import MAKERS, make_coco, make_yolo, picture, places, validate

Point = tuple[int, int]


@pytest.mark.parametrize("make", MAKERS)
def test_a_good_dataset_has_no_finding(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    assert validate(make(tmp_path / "data"), tmp_path) == ([], None)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_found_where_it_is_and_nothing_else(tmp_path: Path, fault: Fault) -> None:
    root = fault.make(tmp_path / "data")
    fault.plant(root)
    findings, error = validate(root, tmp_path, **fault.config)
    rule = RULES[fault.code]
    assert places(findings) == [(fault.code, rule.severity, fault.file, fault.where)]
    assert findings[0]["advice"] == rule.advice
    assert findings[0]["what"]
    assert (error is not None) == (rule.severity == "error")
    assert (tmp_path / "manifest").exists() == (error is None)


def test_every_code_has_a_fault_in_the_catalogue_and_a_line_in_the_documentation() -> None:
    assert {fault.code for fault in FAULTS.values()} == RULES.keys()
    page = (ROOT / "docs" / "findings.md").read_text()
    assert page == markdown(), "python -m rfdetr_core.ingest.meanings > docs/findings.md"


def test_messages_name_the_likely_cause(tmp_path: Path) -> None:
    """If a message guesses the cause, it contains the guess."""
    for name, hint in {
        "JPEG named PNG": "JPEG",
        "a confidence": "confidence",
        "a track": "id of a track",
        "file of the characters of an address": r"'train/\xe9 2.png'",
        "decimal comma": "decimal points",
        "names that are numbers": "is 0, not text. Write it in quotes",
        "path of another machine": "remove the key",
        "polygon not nested": "put [ and ] around it",
        "RLE too short": "sum up to 3062",
        "copy in another split": "test/test_1.png",
        "class of another spelling": "'dog'",
        "image missing": TRAIN,
        "image too large": "64 x 49 pixels are more than the 3,072 allowed",
    }.items():
        fault = FAULTS[name]
        root = fault.make(tmp_path / name)
        fault.plant(root)
        (finding,), _ = validate(root, tmp_path / f"{name} found", **fault.config)
        assert hint in finding["what"], name


def test_a_file_is_not_read_beyond_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_BYTES_OF_METADATA", 0)
    root = make_coco(tmp_path / "coco")
    with (root / PNG).open("ab") as file:
        file.truncate(2**33)  # a sparse file: it takes no space on the disk
    findings, _ = validate(root, tmp_path, max_pixels=64 * 48)
    assert places(findings) == [("image-too-large", "error", PNG, None)]
    monkeypatch.setattr(coco, "MOST_BYTES", (root / TRAIN).stat().st_size - 1)
    findings, _ = validate(root, tmp_path, max_pixels=64 * 48)
    assert places(findings) == [("labels-unreadable", "error", TRAIN, None)]
    root = make_yolo(tmp_path / "yolo")
    monkeypatch.setattr(yolo, "_MOST_BYTES", (root / LABEL).stat().st_size - 1)
    findings, _ = validate(root, tmp_path)
    assert ("label-unreadable", "error", LABEL, None) in places(findings)


def test_a_file_that_may_not_be_read_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, read = make_coco(tmp_path / "data"), images.read_limited

    def refuse(path: Path, max_pixels: int) -> bytes:
        if path == root / PNG:
            raise PermissionError(13, "Permission denied")
        return read(path, max_pixels)

    monkeypatch.setattr(images, "read_limited", refuse)
    findings, _ = validate(root, tmp_path)
    assert places(findings) == [("image-unreadable", "error", PNG, None)]


def test_the_size_is_that_of_the_upright_picture(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data")
    exif = picture(0).getexif()
    exif[0x0112] = 6
    picture(77, (48, 64)).save(root / PNG, exif=exif)
    assert validate(root, tmp_path) == ([], None)


@pytest.mark.parametrize("below", ["files/md5", "."])
def test_files_that_dvc_links_to_its_cache_are_inside(tmp_path: Path, below: str) -> None:
    """This holds for the caches of DVC 3 and DVC 2."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[cache]\ndir = ../cache\n")
    root = make_coco(tmp_path / "data")
    cached = tmp_path / "cache" / below / "0a" / ("b" * 30)
    cached.parent.mkdir(parents=True)
    (root / PNG).rename(cached)
    (root / PNG).symlink_to(cached)
    assert validate(root, tmp_path) == ([], None)


def test_files_that_dvc_ignores_give_no_finding(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data")
    lines = (ROOT / ".dvcignore").read_text().splitlines()
    ignored = [name for name in lines if name[0] not in "#/*" and "/" not in name]
    assert ".DS_Store" in ignored
    for name in ignored:
        (root / "train" / name).write_text("x")
    assert validate(root, tmp_path) == ([], None)


def test_valid_may_be_called_val(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data")
    (root / "valid").rename(root / "val")
    assert validate(root, tmp_path) == ([], None)


def test_a_class_of_valid_without_objects_gives_no_finding(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data")
    add("categories", split="valid", id=8, name="cow")(root)
    assert validate(root, tmp_path) == ([], None)


def test_an_id_and_its_text_are_equal(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data")
    entry("image-id-doubled", "images", id="3", file_name="train_3.png").plant(root)
    findings, _ = validate(root, tmp_path)
    assert {finding["code"] for finding in findings} == {"image-id-doubled", "id-not-integer"}


def test_a_guess_at_the_unit_is_overruled_by_its_severity(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data")
    FAULTS["boxes as corners"].plant(root)
    assert validate(root, tmp_path, on_error="drop")[1]
    findings, error = validate(root, tmp_path, severities={"boxes-as-corners": "warning"})
    assert ({finding["code"] for finding in findings}, error) == ({"boxes-as-corners", "partly-outside"}, None)


@pytest.mark.slow
def test_every_fault_that_can_be_left_out_is(tmp_path: Path) -> None:
    """As an error and with on_error: drop, nothing with the fault remains."""
    for number, (name, fault) in enumerate(FAULTS.items()):
        rule = RULES[fault.code]
        if rule.scope in ("dataset", "split"):
            continue
        root = fault.make(tmp_path / str(number))
        fault.plant(root)
        config = {**fault.config, "severities": {fault.code: "error"}, "on_error": "drop"}
        findings, error = validate(root, tmp_path / "found", **config)
        (finding,) = (finding for finding in findings if finding["code"] == fault.code)
        assert (finding["effect"], error) == ("left out", None), name
        remaining = {
            row.path for split in SPLITS for row in read_manifest(tmp_path / "found" / "manifest" / f"{split}.json")
        }
        assert finding["file"] not in remaining, name


def cross(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Whether a-b and c-d cross at a point inside both, in exact integers."""

    def side(p: Point, q: Point, r: Point) -> int:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0


def test_sides_that_cross_differ_from_sides_that_touch() -> None:
    random, outcomes = np.random.default_rng(0), set()
    for _ in range(500):
        points = [tuple(point) for point in random.integers(0, 7, (random.integers(4, 8), 2)).tolist()]
        sides = list(pairwise([*points, points[0]]))
        expected = any(cross(*first, *second) for first, second in combinations(sides, 2))
        for scale, shift in ((1, 0), (1 / 3, 1e4)):
            polygon = [value * scale + shift for point in points for value in point]
            assert geometry.crosses_itself(polygon) == expected, points
        outcomes.add(expected)
    assert outcomes == {True, False}


def test_a_polygon_of_very_many_sides_takes_bounded_time() -> None:
    spikes = [value for k in range(200_000) for value in ((k % 2) * 1000, k)]
    assert isinstance(geometry.crosses_itself(spikes), bool)
