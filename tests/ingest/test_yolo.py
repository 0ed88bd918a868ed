from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rfdetr_core.ingest.formats.yolo import label_path
from tests.ingest.samples import SIZE, ingest, make_yolo, places, validate

LABEL = "labels/train/train_1.txt"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_yolo(tmp_path / "data")


def test_a_good_dataset_has_no_finding(root: Path, tmp_path: Path) -> None:
    assert validate(root, tmp_path) == ([], None)


ROWS = {
    "three columns": ("0 0.5 0.5", "annotation-malformed"),
    "six columns": ("0 0.5 0.5 0.1 0.1 0.9", "annotation-malformed"),
    "decimal comma": ("0 0,5 0,5 0,1 0,1", "annotation-malformed"),
    "class as text": ("cat 0.5 0.5 0.1 0.1", "annotation-malformed"),
    "class as float": ("1.0 0.5 0.5 0.1 0.1", "annotation-malformed"),
    "polygon of odd length": ("0 0.1 0.1 0.2 0.1 0.2 0.2 0.3", "annotation-malformed"),
    "class too large": ("2 0.5 0.5 0.1 0.1", "class-unknown"),
    "class negative": ("-1 0.5 0.5 0.1 0.1", "class-unknown"),
    "NaN": ("0 nan 0.5 0.1 0.1", "box-not-finite"),
    "infinite polygon": ("0 0.1 0.1 inf 0.1 0.2 0.2", "box-not-finite"),
    "no width": ("0 0.5 0.5 0 0.1", "box-without-area"),
    "in pixels": ("0 32 24 10 10", "box-outside"),
}


@pytest.mark.parametrize(("row", "code"), ROWS.values(), ids=ROWS.keys())
def test_a_bad_row_is_found_with_its_line(root: Path, tmp_path: Path, row: str, code: str) -> None:
    path = root / LABEL
    path.write_text(path.read_text() + "\r\n" + row + "\r\n")
    findings, error = validate(root, tmp_path)
    assert places(findings) == [(code, "error", LABEL, 4)]
    assert findings[0]["image"] == "images/train/train_1.png"
    assert error


def test_a_box_over_the_edge_is_clipped_with_a_warning(root: Path, tmp_path: Path) -> None:
    (root / "labels/train/train_2.txt").write_text("1 1.0 0.5 0.5 0.25\n")
    findings, error = validate(root, tmp_path)
    assert (places(findings), error) == ([("partly-outside", "warning", "labels/train/train_2.txt", 1)], None)
    content = json.loads(ingest(root, tmp_path)["annotations/train.json"])
    assert [one["bbox"] for one in content["annotations"] if one["image_id"] == 2] == [[48.0, 18.0, 16.0, 12.0]]


def test_boxes_and_polygons_stand_in_one_file(root: Path, tmp_path: Path) -> None:
    (root / LABEL).write_text("0 0.25 0.25 0.5 0.25\n1 0.25 0.25 0.75 0.25 0.75 0.75\n")
    content = json.loads(ingest(root, tmp_path)["annotations/train.json"])
    box, polygon = (one for one in content["annotations"] if one["image_id"] == 1)
    assert "segmentation" not in box
    assert polygon["segmentation"] == [[16.0, 12.0, 48.0, 12.0, 48.0, 36.0]]
    assert polygon["bbox"] == [16.0, 12.0, 32.0, 24.0]
    assert polygon["area"] == 32 * 24 / 2


@pytest.mark.parametrize("spelling", ["\ufeff{}", "\n\n{}\n\n", "{}  \t", "{}"])
def test_white_space_and_line_ends_do_not_matter(root: Path, tmp_path: Path, spelling: str) -> None:
    before = ingest(root, tmp_path / "before")
    rows = (root / LABEL).read_text().strip().replace(" ", "\t").replace("\n", "\r\n")
    (root / LABEL).write_bytes(spelling.format(rows).encode())
    assert ingest(root, tmp_path / "after") == before


def test_an_image_without_a_label_file_is_a_negative(root: Path, tmp_path: Path) -> None:
    assert not (root / "labels/train/train_3.txt").exists()
    before = ingest(root, tmp_path / "before")
    assert b"train_3.png" in before["annotations/train.json"]
    (root / "labels/train/train_3.txt").write_text("")
    assert ingest(root, tmp_path / "after") == before


DEFINITIONS: dict[str, Callable[[Path], object]] = {
    "data.yml": lambda root: (root / "data.yaml").rename(root / "data.yml"),
    "names as a table": lambda root: rewrite(root, "names: [cat, dog]", "names: {1: dog, 0: cat}"),
    "no path, no nc": lambda root: rewrite(root, "path: .\n", "", "nc: 2\n", ""),
    "path to a folder": lambda root: rewrite(root, "path: .", "path: images", ": images/", ": "),
    "absolute path": lambda root: rewrite(root, "path: .", f"path: {root.resolve()}"),
    "as Roboflow writes it": lambda root: rewrite(root, ": images/", ": ../images/"),
    "with a slash at the end": lambda root: rewrite(root, ": images/train", ": ./images/train/"),
    "list of folders": lambda root: rewrite(root, "train: images/train", "train: [images/train]"),
    "val called valid": lambda root: rewrite(root, "val:", "valid:"),
    "text file from its folder": lambda root: list_images(root, "lists/train.txt", "./../images/train/"),
    "text file from the root": lambda root: list_images(root, "lists/train.txt", "images/train/"),
    "text file of absolute paths": lambda root: list_images(root, "train.txt", f"{root.resolve()}/images/train/"),
    "Windows lines": lambda root: (root / "data.yaml").write_bytes(
        (root / "data.yaml").read_bytes().replace(b"\n", b"\r\n")
    ),
}


def rewrite(root: Path, *pairs: str) -> None:
    text = (root / "data.yaml").read_text()
    for old, new in zip(pairs[::2], pairs[1::2], strict=True):
        assert old in text
        text = text.replace(old, new)
    (root / "data.yaml").write_text(text)


def list_images(root: Path, name: str, prefix: str) -> None:
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text("".join(f"{prefix}train_{k}.png\r\n" for k in (3, 1, 2)))
    rewrite(root, "train: images/train", f"train: {name}")


@pytest.mark.parametrize("respell", DEFINITIONS.values(), ids=DEFINITIONS.keys())
def test_every_spelling_of_the_definition_means_the_same(
    root: Path, tmp_path: Path, respell: Callable[[Path], object]
) -> None:
    before = ingest(root, tmp_path / "before")
    respell(root)
    assert ingest(root, tmp_path / "after") == before


def test_a_split_may_have_several_folders(root: Path, tmp_path: Path) -> None:
    rewrite(root, "train: images/train", "train:\n- images/train\n- images/test", "test: images/test\n", "")
    after = ingest(root, tmp_path)
    assert [one["file_name"] for one in json.loads(after["annotations/train.json"])["images"]] == [
        "images/test/test_1.png", "images/train/train_1.png", "images/train/train_2.png", "images/train/train_3.png",
    ]  # fmt: skip


BAD: dict[str, tuple[tuple[str, ...], str]] = {
    "no YAML": (("names:", "names: [:"), "labels-unreadable"),
    "doubled key": (("nc: 2", "nc: 2\nnc: 2"), "labels-unreadable"),
    "names missing": (("names: [cat, dog]", ""), "class-malformed"),
    "names with a gap": (("names: [cat, dog]", "names: {0: cat, 2: dog}"), "class-malformed"),
    "names numbers": (("names: [cat, dog]", "names: [1, 2]"), "class-malformed"),
    "names doubled": (("names: [cat, dog]", "names: [cat, cat]"), "class-malformed"),
    "nc differs": (("nc: 2", "nc: 3"), "class-malformed"),
    "folder missing": (("images/train", "images/trian"), "labels-missing"),
    "folder outside": (("path: .", "path: /usr"), "labels-outside"),
    "path too long": (("images/train", "x" * 300), "labels-malformed"),
    "path with NUL": (("images/train", '"a\\0b"'), "labels-malformed"),
    "path a number": (("path: .", "path: 3"), "labels-malformed"),
    "no train": (("train: images/train", ""), "split-missing"),
    "no val": (("val: images/valid", ""), "split-missing"),
}


@pytest.mark.parametrize(("pairs", "code"), BAD.values(), ids=BAD.keys())
def test_a_bad_definition_is_found(root: Path, tmp_path: Path, pairs: tuple[str, ...], code: str) -> None:
    rewrite(root, *pairs)
    findings, error = validate(root, tmp_path)
    assert {one["code"] for one in findings} - {"label-without-image"} == {code}
    assert error


def test_aliases_of_aliases_are_refused_before_they_are_multiplied(root: Path, tmp_path: Path) -> None:
    levels = "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]\n" for k in range(1, 12))
    (root / "data.yaml").write_text(f"a0: &a0 x\n{levels}names: *a11\n")
    findings, _ = validate(root, tmp_path)
    assert [one["code"] for one in findings] == ["labels-unreadable"]
    assert "aliases" in findings[0]["what"]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("images/train/none.png", "image-missing"),
        ("x" * 300, "path-malformed"),
        ("/etc/none.png", "path-outside"),
        ("../x.png", "path-outside"),
    ],
)
def test_a_bad_line_of_a_list_is_found(root: Path, tmp_path: Path, line: str, code: str) -> None:
    list_images(root, "train.txt", "images/train/")
    with (root / "train.txt").open("a") as file:
        file.write(f"{line}\n")
    findings, _ = validate(root, tmp_path)
    where = (line, None) if code == "image-missing" else ("train.txt", 4)
    assert places(findings) == [(code, "error", *where)]


def test_label_files_that_no_image_has_or_that_are_no_text_are_found(root: Path, tmp_path: Path) -> None:
    (root / "labels/train/other.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (root / "labels/train/classes.txt").write_text("cat\ndog\n")
    (root / "labels/train/train_2.txt").write_bytes(b"\xff\xfe\x00")
    findings, _ = validate(root, tmp_path)
    assert places(findings) == [
        ("label-without-image", "warning", "labels/train/other.txt", None),
        ("label-unreadable", "error", "labels/train/train_2.txt", None),
    ]


def test_the_same_folder_twice_leaks(root: Path, tmp_path: Path) -> None:
    rewrite(root, "val: images/valid", "val: images/train")
    findings, _ = validate(root, tmp_path)
    assert [(one["code"], one["file"]) for one in findings if one["code"] == "leakage"] == [
        ("leakage", f"images/train/train_{k}.png") for k in (1, 2, 3)
    ]


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/train/a.jpg", "labels/train/a.txt"),
        ("train/images/a.b.jpg", "train/labels/a.b.txt"),
        ("images/x/images/a.png", "images/x/labels/a.txt"),
        ("train/a.jpg", "train/a.txt"),
        ("a.jpg", "a.txt"),
    ],
)
def test_labels_lie_across_from_the_last_folder_of_images_or_beside(image: str, label: str) -> None:
    assert label_path(image) == label


def test_sizes_are_those_of_the_pictures(root: Path, tmp_path: Path) -> None:
    content = json.loads(ingest(root, tmp_path)["annotations/valid.json"])
    assert {(one["width"], one["height"]) for one in content["images"]} == {SIZE}


WORDS = st.one_of(
    st.integers(-2, 4).map(str), st.floats(-0.5, 1.5).map(str), st.sampled_from(["nan", "1e999", "x", "0,5"])
)
ROW = st.lists(WORDS, max_size=9).map(" ".join)
VALUES = st.one_of(
    st.none(), st.integers(-1, 3), st.text(max_size=5), st.sampled_from(["images", "..", "/", "data.yaml"])
)
NODES = st.one_of(
    VALUES, st.lists(VALUES, max_size=3), st.dictionaries(st.one_of(st.integers(0, 2), st.text(max_size=2)), VALUES)
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(ROW, max_size=3),
    changes=st.dictionaries(st.sampled_from(["path", "train", "val", "test", "names", "nc"]), NODES, max_size=2),
    on_error=st.sampled_from(["stop", "drop"]),
)
def test_no_labels_or_definition_crash_validation(
    root: Path, tmp_path: Path, rows: list[str], changes: dict[str, object], on_error: str
) -> None:
    (root / LABEL).write_text("\n".join(rows))
    content = {"train": "images/train", "val": "images/valid", "names": ["cat", "dog"]} | changes
    (root / "data.yaml").write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    findings, error = validate(root, tmp_path, on_error=on_error)
    assert (error is not None) == any(one["effect"] == "stop" for one in findings)
    if error is None:
        ingest(root, tmp_path, on_error=on_error)
