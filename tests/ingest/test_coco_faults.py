"""Each fault, planted in a good dataset, gives exactly one finding at exactly its place."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.ingest.samples import coco_content, edit_coco, make_coco, picture, places, validate

JSON = {split: f"{split}/_annotations.coco.json" for split in ("train", "valid", "test")}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_coco(tmp_path / "data")


def test_a_good_dataset_has_no_finding(root: Path, tmp_path: Path) -> None:
    assert validate(root, tmp_path) == ([], None)


def annotation(key: str, value: Any, index: int = 1) -> Callable[[Any], object]:
    return lambda content: content["annotations"][index].update({key: value})


def image(key: str, value: Any, index: int = 1) -> Callable[[Any], object]:
    return lambda content: content["images"][index].update({key: value})


def add(kind: str, index: int = 1, **changes: Any) -> Callable[[Any], object]:
    return lambda content: content[kind].append(content[kind][index] | changes)


TRIANGLE = [33.0, 25.0, 50.0, 25.0, 40.0, 35.0]
PLANTED = {
    "class unknown": (annotation("category_id", 4), "class-unknown", 11),
    "class id text": (annotation("category_id", "3"), "class-unknown", 11),
    "class id true": (annotation("category_id", True), "class-unknown", 11),
    "class id list": (annotation("category_id", [3]), "class-unknown", 11),
    "crowd two": (annotation("iscrowd", 2), "crowd-malformed", 11),
    "box of three": (annotation("bbox", [1, 2, 3]), "box-malformed", 11),
    "box of five": (annotation("bbox", [1, 2, 3, 4, 5]), "box-malformed", 11),
    "box missing": (annotation("bbox", None), "box-malformed", 11),
    "box of text": (annotation("bbox", ["1", 2, 3, 4]), "box-malformed", 11),
    "box of booleans": (annotation("bbox", [True, 2, 3, 4]), "box-malformed", 11),
    "box NaN": (annotation("bbox", [float("nan"), 2, 3, 4]), "box-not-finite", 11),
    "box infinite": (annotation("bbox", [1, 2, float("inf"), 4]), "box-not-finite", 11),
    "box beyond floats": (annotation("bbox", [1, 2, 10**400, 4]), "box-not-finite", 11),
    "box beyond all images": (annotation("bbox", [1, 2, 1e200, 1e200]), "box-not-finite", 11),
    "box of no width": (annotation("bbox", [1, 2, 0, 4]), "box-without-area", 11),
    "box of negative height": (annotation("bbox", [1, 20, 3, -4]), "box-without-area", 11),
    "box outside": (annotation("bbox", [70, 2, 3, 4]), "box-outside", 11),
    "box at the edge, outside": (annotation("bbox", [-3, 2, 3, 4]), "box-outside", 11),
    "polygon of two points": (annotation("segmentation", [[1, 2, 3, 4]]), "segmentation-malformed", 11),
    "polygon of odd length": (annotation("segmentation", [[*TRIANGLE, 1]]), "segmentation-malformed", 11),
    "polygon on a line": (annotation("segmentation", [[1, 1, 2, 2, 3, 3]]), "segmentation-malformed", 11),
    "polygon with NaN": (annotation("segmentation", [[float("nan"), *TRIANGLE[1:]]]), "segmentation-malformed", 11),
    "polygon beyond all images": (annotation("segmentation", [[1e200, *TRIANGLE[1:]]]), "segmentation-malformed", 11),
    "polygon not nested": (annotation("segmentation", TRIANGLE), "segmentation-malformed", 11),
    "segmentation text": (annotation("segmentation", "no"), "segmentation-malformed", 11),
    "RLE of another size": (annotation("segmentation", {"size": [9, 9], "counts": [81]}), "segmentation-malformed", 11),
    "annotation id doubled": (add("annotations", id=10, bbox=[1, 1, 5, 5]), "annotation-id-doubled", 10),
    "annotation of no image": (annotation("image_id", 99), "annotation-without-image", 11),
    "annotation of image id text": (annotation("image_id", "1"), "annotation-without-image", 11),
    "annotation without id": (annotation("id", None), "annotation-malformed", None),
    "annotation of negative id": (annotation("id", -5), "annotation-malformed", None),
    "annotation id beyond doubles": (annotation("id", 2**60), "annotation-malformed", None),
    "annotation that is text": (lambda content: content["annotations"].append("x"), "annotation-malformed", None),
    "image without id": (image("id", None, 2), "image-malformed", None),
    "image id true": (image("id", True, 2), "image-malformed", None),
    "image that is a list": (lambda content: content["images"].append([]), "image-malformed", None),
    "image id doubled": (add("images", 2, file_name="train_3.png"), "image-id-doubled", None),
    "image listed twice": (add("images", 2, id=8), "image-listed-twice", None),
    "path with ..": (add("images", 2, id=8, file_name="../train/x.png"), "path-outside", None),
    "path absolute": (add("images", 2, id=8, file_name="/etc/passwd"), "path-outside", None),
    "path with a drive": (add("images", 2, id=8, file_name="C:\\x.png"), "path-outside", None),
    "path with a backslash": (add("images", 2, id=8, file_name="a\\x.png"), "path-malformed", None),
    "path with a line break": (add("images", 2, id=8, file_name="a\nb.png"), "path-malformed", None),
    "path with NUL": (add("images", 2, id=8, file_name="a\0.png"), "path-malformed", None),
    "path of half a character": (add("images", 2, id=8, file_name="\ud800.png"), "path-malformed", None),
    "path too long": (add("images", 2, id=8, file_name="x" * 300), "path-malformed", None),
    "path empty": (add("images", 2, id=8, file_name=""), "path-malformed", None),
    "path missing": (add("images", 2, id=8, file_name=None), "path-malformed", None),
    "class id doubled": (add("categories", id=7, name="cow"), "class-malformed", None),
    "class name doubled": (add("categories", id=8), "class-malformed", None),
    "class name a number": (add("categories", id=8, name=1.5), "class-malformed", None),
    "class name blank": (add("categories", id=8, name=" "), "class-malformed", None),
    "class id text as id": (add("categories", id="8", name="cow"), "class-malformed", None),
    "no class": (lambda content: content.update(categories=[]), "class-malformed", None),
    "no list of images": (lambda content: content.pop("images"), "labels-malformed", None),
    "annotations an object": (lambda content: content.update(annotations={}), "labels-malformed", None),
}


@pytest.mark.parametrize(("change", "code", "where"), PLANTED.values(), ids=PLANTED.keys())
def test_a_fault_of_the_annotations_is_found_where_it_is(
    root: Path, tmp_path: Path, change: Callable[[Any], object], code: str, where: int | None
) -> None:
    edit_coco(root, "train", change)
    findings, error = validate(root, tmp_path)
    assert places(findings) == [(code, "error", JSON["train"], where)]
    assert findings[0]["advice"]
    assert error
    assert "has 1 error," in error
    assert not (tmp_path / "manifest").exists()


WARNINGS = {
    "box partly outside": (annotation("bbox", [60, 40, 10, 4]), "partly-outside", JSON["train"], 11),
    "polygon partly outside": (
        annotation("segmentation", [[60, 40, 80, 40, 60, 46]]),
        "partly-outside",
        JSON["train"],
        11,
    ),
    "area too large": (annotation("area", 4000), "area-unlike-box", JSON["train"], 11),
    "area NaN": (annotation("area", float("nan")), "area-unlike-box", JSON["train"], 11),
    "annotation doubled": (add("annotations", id=99), "annotation-doubled", JSON["train"], 99),
    "class unused": (add("categories", id=8, name="cow"), "class-unused", JSON["train"], None),
    "image not listed": (lambda content: content["images"].pop(2), "image-not-listed", "train/train_3.png", None),
}


@pytest.mark.parametrize(("change", "code", "file", "where"), WARNINGS.values(), ids=WARNINGS.keys())
def test_what_can_be_used_all_the_same_is_a_warning(
    root: Path, tmp_path: Path, change: Callable[[Any], object], code: str, file: str, where: int | None
) -> None:
    edit_coco(root, "train", change)
    findings, error = validate(root, tmp_path)
    assert places(findings) == [(code, "warning", file, where)]
    assert error is None


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"images": [],\n "annotations": [}', 2),
        ("", 1),
        ("[" * 100_000, None),
        ('{"images": ' + "1" * 5000 + "}", None),
        (b"\xff\xfe{", None),
    ],
    ids=["syntax", "empty", "nesting", "digits", "encoding"],
)
def test_a_file_that_is_no_json_is_named_with_the_line(
    root: Path, tmp_path: Path, text: str | bytes, where: int | None
) -> None:
    (root / JSON["valid"]).write_bytes(text if isinstance(text, bytes) else text.encode())
    findings, error = validate(root, tmp_path, on_error="drop")
    assert places(findings) == [("labels-unreadable", "error", JSON["valid"], where)]
    assert error


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ('"info"', '"images": [], "info"', None),
        ('"image_id"', '"bbox": [], "image_id"', 10),
        ('"year"', '"year": 1, "year"', None),
    ],
)
def test_a_doubled_key_is_an_error(root: Path, tmp_path: Path, old: str, new: str, where: int | None) -> None:
    path = root / JSON["train"]
    path.write_text(path.read_text().replace(old, new, 1))
    findings, _ = validate(root, tmp_path)
    assert places(findings) == [("key-doubled", "error", JSON["train"], where)]


def test_a_byte_order_mark_is_passed_over_with_a_warning(root: Path, tmp_path: Path) -> None:
    path = root / JSON["train"]
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    findings, error = validate(root, tmp_path)
    assert (places(findings), error) == ([("byte-order-mark", "warning", JSON["train"], None)], None)


def break_image(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def link_outside(path: Path) -> None:
    path.rename(path.parent.parent.parent / "outside.png")
    path.symlink_to(path.parent.parent.parent / "outside.png")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("harm", "code"),
    [
        (Path.unlink, "image-missing"),
        (break_image, "image-unreadable"),
        (lambda path: path.write_bytes(b""), "image-unreadable"),
        (lambda path: path.write_text("<svg/>"), "image-unreadable"),
        (pipe, "image-unreadable"),
        (link_outside, "path-outside"),
        (lambda path: picture(5, (48, 64)).save(path), "image-size-differs"),
    ],
    ids=["missing", "truncated", "empty", "text", "pipe", "link", "size"],
)
def test_a_bad_image_file_is_found(root: Path, tmp_path: Path, harm: Callable[[Path], object], code: str) -> None:
    harm(root / "train" / "train_2.png")
    findings, error = validate(root, tmp_path)
    assert places(findings) == [(code, "error", "train/train_2.png", None)]
    assert JSON["train"] in findings[0]["what"]
    assert error


def test_the_size_is_that_of_the_upright_picture(root: Path, tmp_path: Path) -> None:
    path = root / "train" / "train_2.png"
    exif = picture(0).getexif()
    exif[0x0112] = 6
    picture(77, (48, 64)).save(path, exif=exif)
    assert validate(root, tmp_path) == ([], None)


def test_annotations_that_are_a_link_out_of_the_folder_are_not_read(root: Path, tmp_path: Path) -> None:
    (root / JSON["test"]).rename(tmp_path / "outside.json")
    (root / JSON["test"]).symlink_to(tmp_path / "outside.json")
    findings, _ = validate(root, tmp_path)
    assert places(findings) == [("labels-outside", "error", JSON["test"], None)]


def test_names_that_are_no_unicode_can_be_reported(root: Path, tmp_path: Path) -> None:
    (root / "train" / os.fsdecode(b"\xff.png")).write_bytes(b"")
    findings, error = validate(root, tmp_path)
    assert (places(findings), error) == ([("image-not-listed", "warning", "train/\\udcff.png", None)], None)


def test_files_that_dvc_links_to_its_cache_are_inside(root: Path, tmp_path: Path) -> None:
    path = root / "train" / "train_2.png"
    cached = tmp_path / "cache" / "files" / "md5" / "0a" / ("b" * 30)
    cached.parent.mkdir(parents=True)
    path.rename(cached)
    path.symlink_to(cached)
    assert validate(root, tmp_path) == ([], None)


def test_copies_across_splits_leak(root: Path, tmp_path: Path) -> None:
    (root / "train" / "train_2.png").write_bytes((root / "test" / "test_1.png").read_bytes())
    findings, error = validate(root, tmp_path)
    assert places(findings) == [("leakage", "warning", "train/train_2.png", None)]
    assert "test/test_1.png" in findings[0]["what"]
    assert error is None


def test_copies_within_a_split_are_doubled(root: Path, tmp_path: Path) -> None:
    (root / "train" / "train_2.png").write_bytes((root / "train" / "train_1.png").read_bytes())
    findings, _ = validate(root, tmp_path)
    assert places(findings) == [("image-doubled", "warning", "train/train_2.png", None)]


def test_a_class_of_other_splits_alone_is_an_error_where_it_has_objects(root: Path, tmp_path: Path) -> None:
    edit_coco(root, "valid", add("categories", id=8, name="cow"))
    assert validate(root, tmp_path) == ([], None)
    edit_coco(root, "valid", annotation("category_id", 8))
    findings, _ = validate(root, tmp_path)
    assert places(findings) == [("class-not-in-train", "error", JSON["valid"], None)]


def test_a_class_without_objects_in_train_cannot_be_learnt(root: Path, tmp_path: Path) -> None:
    edit_coco(root, "train", annotation("category_id", 7, index=0))
    findings, _ = validate(root, tmp_path)
    assert places(findings) == [("class-untrained", "warning", JSON["train"], None)]
    assert "valid and test" in findings[0]["what"]


@pytest.mark.parametrize("split", ["train", "valid"])
@pytest.mark.parametrize("emptied", ["images", "annotations"])
def test_train_and_valid_must_have_objects(root: Path, tmp_path: Path, split: str, emptied: str) -> None:
    for path in root.glob(f"{split}/*.png") if emptied == "images" else ():
        path.unlink()
    edit_coco(root, split, lambda content: content.update({"annotations": [], emptied: []}))
    findings, _ = validate(root, tmp_path)
    assert places(findings) == [("split-empty", "error", JSON[split], None)]


def test_a_test_split_without_objects_is_a_warning(root: Path, tmp_path: Path) -> None:
    edit_coco(root, "test", lambda content: content.update(annotations=[]))
    findings, error = validate(root, tmp_path)
    assert (places(findings), error) == ([("test-empty", "warning", JSON["test"], None)], None)


@pytest.mark.parametrize("split", ["train", "valid"])
def test_training_needs_both_splits(root: Path, tmp_path: Path, split: str) -> None:
    (root / split).rename(tmp_path / "away")
    findings, error = validate(root, tmp_path)
    assert places(findings) == [("split-missing", "error", split, None)]
    assert error


def test_a_folder_without_its_annotations_is_an_error(root: Path, tmp_path: Path) -> None:
    (root / JSON["test"]).unlink()
    findings, _ = validate(root, tmp_path)
    assert places(findings) == [("labels-missing", "error", "test", None)]


def test_valid_may_be_called_val_but_not_both(root: Path, tmp_path: Path) -> None:
    (root / "valid").rename(root / "val")
    assert validate(root, tmp_path) == ([], None)
    (root / "valid").mkdir()
    (root / "valid" / "_annotations.coco.json").write_text(json.dumps(coco_content("valid")))
    findings, _ = validate(root, tmp_path)
    assert places(findings) == [("labels-malformed", "error", "val", None)]
