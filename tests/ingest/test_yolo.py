from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rfdetr_core.ingest.formats.yolo import label_path
from tests.ingest.samples import SIZE, ingest, make_coco, make_yolo, picture, places, validate

LABEL = "labels/train/train_1.txt"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_yolo(tmp_path / "data")


def test_a_box_over_the_edge_is_clipped_with_a_warning(root: Path, tmp_path: Path) -> None:
    (root / "labels/train/train_2.txt").write_text("1 1.0 0.5 0.5 0.25\n")
    findings, error = validate(root, tmp_path)
    assert (places(findings), error) == ([("partly-outside", "warning", "labels/train/train_2.txt", 1)], None)
    content = json.loads(ingest(root, tmp_path)["annotations/train.json"])
    assert [annotation["bbox"] for annotation in content["annotations"] if annotation["image_id"] == 2] == [
        [48.0, 18.0, 16.0, 12.0]
    ]


def test_boxes_and_polygons_may_be_in_one_file(root: Path, tmp_path: Path) -> None:
    (root / LABEL).write_text("0 0.25 0.25 0.5 0.25\n1 0.25 0.25 0.75 0.25 0.75 0.75\n")
    content = json.loads(ingest(root, tmp_path)["annotations/train.json"])
    box, polygon = (annotation for annotation in content["annotations"] if annotation["image_id"] == 1)
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
    assert (root / "labels/train/train_3.txt").read_text() == ""
    before = ingest(root, tmp_path / "before")
    assert b"train_3.png" in before["annotations/train.json"]
    (root / "labels/train/train_3.txt").unlink()
    assert ingest(root, tmp_path / "after") == before


@pytest.mark.parametrize("place", ["images/train/train_2.txt", "labels/nite/train_2.txt"])
def test_a_lost_label_file_is_named_with_its_expected_place(root: Path, tmp_path: Path, place: str) -> None:
    (root / place).parent.mkdir(exist_ok=True)
    (root / "labels/train/train_2.txt").rename(root / place)
    findings, error = validate(root, tmp_path)
    assert error is None
    assert places(findings) == [
        ("image-without-labels", "warning", "data.yaml", None),
        ("label-without-image", "warning", place, None),
    ]
    assert "1 of 3 images of train" in findings[0]["what"]
    for finding in findings:
        assert "images/train/train_2.png" in finding["what"]
        assert "labels/train/train_2.txt" in finding["what"]


def test_label_files_that_are_all_lost_are_named_with_their_expected_place(root: Path, tmp_path: Path) -> None:
    (root / "images").rename(root / "Images")
    (root / "labels").rename(root / "Labels")
    rewrite(
        root, ": images/train", ": Images/train", ": images/valid", ": Images/valid", ": images/test", ": Images/test"
    )
    findings, error = validate(root, tmp_path)
    assert error is not None
    messages = [finding["what"] for finding in findings if finding["code"] == "image-without-labels"]
    assert len(messages) == 3
    assert "3 of 3 images of train" in messages[2]
    assert "Images/train/train_1.txt" in messages[2]
    assert sum(finding["code"] == "label-without-image" for finding in findings) == 6


def test_text_files_without_labels_are_not_label_files(root: Path, tmp_path: Path) -> None:
    (root / "README.roboflow.txt").write_text("1 dataset of cats.\n")
    (root / "images/train/notes.txt").write_text("")
    assert validate(root, tmp_path) == ([], None)


@pytest.mark.parametrize("suffix", [".jfif", ".JFIF", ".jpe", ".JPG", ".Jpeg"])
def test_every_ending_of_jpeg_is_read(root: Path, tmp_path: Path, suffix: str) -> None:
    picture(99).save(root / f"images/train/a{suffix}", "JPEG")
    (root / "labels/train/a.txt").write_text("0 0.5 0.5 0.25 0.25\n")
    after = ingest(root, tmp_path)
    assert f"images/train/a{suffix}" in [
        image["file_name"] for image in json.loads(after["annotations/train.json"])["images"]
    ]
    assert validate(root, tmp_path) == ([], None)


DEFINITIONS: dict[str, Callable[[Path], object]] = {
    "data.yml": lambda root: (root / "data.yaml").rename(root / "data.yml"),
    "dataset.yaml of FiftyOne": lambda root: (root / "data.yaml").rename(root / "dataset.yaml"),
    "text file of CVAT": lambda root: list_images(root, "train.txt", "data/images/train/"),
    "names as a table": lambda root: rewrite(root, "names: [cat, dog]", "names: {1: dog, 0: cat}"),
    "no path, no nc": lambda root: rewrite(root, "path: .\n", "", "nc: 2\n", ""),
    "path to a folder": lambda root: rewrite(root, "path: .", "path: images", ": images/", ": "),
    "path that is not here": lambda root: rewrite(root, "path: .", "path: ../datasets/coco8"),
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


def test_a_folder_data_is_not_a_prefix_of_cvat(tmp_path: Path) -> None:
    root = make_yolo(tmp_path / "data")
    list_images(root, "train.txt", "data/images/train/")
    (root / "data").mkdir()
    findings, _ = validate(root, tmp_path)
    missing = [finding["image"] for finding in findings if finding["code"] == "image-missing"]
    assert sorted(missing) == [f"data/images/train/train_{number}.png" for number in (1, 2, 3)]


def test_a_dataset_yaml_of_another_tool_is_ignored(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data")
    before = validate(root, tmp_path)
    (root / "dataset.yaml").write_text("owner: me\nversion: 3\n")
    assert validate(root, tmp_path) == before


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


@pytest.mark.parametrize("entry", ["images/none", "../test/images", "[a, b/c]", "test-dev.txt", "./none.txt"])
def test_a_test_split_that_does_not_exist_is_a_warning(root: Path, tmp_path: Path, entry: str) -> None:
    for kind in ("images", "labels"):
        shutil.rmtree(root / kind / "test")
    rewrite(root, "test: images/test\n", "")
    before = ingest(root, tmp_path / "before")
    rewrite(root, "nc: 2", f"nc: 2\ntest: {entry}")
    assert ingest(root, tmp_path / "after") == before


def test_a_split_may_have_several_folders(root: Path, tmp_path: Path) -> None:
    rewrite(root, "train: images/train", "train:\n- images/train\n- images/test", "test: images/test\n", "")
    after = ingest(root, tmp_path)
    assert [image["file_name"] for image in json.loads(after["annotations/train.json"])["images"]] == [
        "images/test/test_1.png", "images/train/train_1.png", "images/train/train_2.png", "images/train/train_3.png",
    ]  # fmt: skip


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


def test_a_list_of_classes_among_the_labels_is_not_a_label_file(root: Path, tmp_path: Path) -> None:
    (root / "labels/train/classes.txt").write_text("cat\ndog\n")
    assert validate(root, tmp_path) == ([], None)


@pytest.mark.parametrize("line", ["{:.6f}", "+{}", "{}.0", "0{}"])
def test_a_class_may_be_written_as_tools_write_it(root: Path, tmp_path: Path, line: str) -> None:
    before = ingest(root, tmp_path / "before")
    rows = [row.split(" ", 1) for row in (root / LABEL).read_text().splitlines()]
    (root / LABEL).write_text("\n".join(f"{line.format(int(label))} {rest}" for label, rest in rows))
    assert validate(root, tmp_path) == ([], None)
    assert ingest(root, tmp_path / "after") == before


def test_of_a_pose_dataset_the_boxes_are_used(root: Path, tmp_path: Path) -> None:
    before = ingest(root, tmp_path / "before")
    rewrite(root, "nc: 2", "nc: 2\nkpt_shape: [4, 2]")
    for path in (root / "labels").rglob("*.txt"):
        path.write_text("".join(f"{row} 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2\n" for row in path.read_text().splitlines()))
    assert ingest(root, tmp_path / "after") == before


def test_one_folder_in_two_splits_is_leakage(root: Path, tmp_path: Path) -> None:
    rewrite(root, "val: images/valid", "val: images/train")
    findings, _ = validate(root, tmp_path)
    assert [(finding["code"], finding["file"]) for finding in findings if finding["code"] == "leakage"] == [
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
def test_labels_replaces_the_last_folder_images_or_the_label_file_is_beside(image: str, label: str) -> None:
    assert label_path(image) == label


def test_sizes_are_those_of_the_pictures(root: Path, tmp_path: Path) -> None:
    content = json.loads(ingest(root, tmp_path)["annotations/valid.json"])
    assert {(image["width"], image["height"]) for image in content["images"]} == {SIZE}


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


@pytest.mark.slow
@settings(max_examples=100, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    assert (error is not None) == any(finding["effect"] == "stop" for finding in findings)
    if error is None:
        ingest(root, tmp_path, on_error=on_error)
