"""Equal content gives equal bytes, in whatever way its files are written. Different content gives different bytes."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.manifest import read_classes, read_manifest
from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.ingest.convert import convert_dataset
from rfdetr_core.ingest.geometry import clip_polygon, polygon_area
from tests.ingest.samples import SPLITS, edit_coco, ingest, make_coco, make_yolo, validate

TRAIN = "train/_annotations.coco.json"


def rewrite(root: Path, **options: Any) -> None:
    path = root / TRAIN
    path.write_text(json.dumps(json.loads(path.read_text()), **options))


def shuffle(root: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        for key in ("images", "annotations", "categories"):
            random.Random(3).shuffle(content[key])

    edit_coco(root, "train", change)


def renumber(root: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        for image in content["images"]:
            image["id"] = 500 - image["id"]
        for annotation in content["annotations"]:
            annotation.update(id=900 - annotation["id"], image_id=500 - annotation["image_id"])

    edit_coco(root, "train", change)


def as_floats(root: Path) -> None:
    edit_coco(
        root,
        "train",
        lambda c: [annotation.update(bbox=[float(v) for v in annotation["bbox"]]) for annotation in c["annotations"]],
    )


def ids_as(write: Callable[[int], object], *, classes: bool = False) -> Callable[[Path], object]:
    """Write the ids of images and annotations, or of classes, in another way."""
    keys = {"categories": ["id"], "annotations": ["category_id"]}
    keys = keys if classes else {"images": ["id"], "annotations": ["id", "image_id"]}

    def respell(root: Path) -> None:
        def change(content: dict[str, Any]) -> None:
            for kind, names in keys.items():
                for entry in content[kind]:
                    entry.update({name: write(entry[name]) for name in names})

        edit_coco(root, "train", change)

    return respell


def without_sizes(root: Path) -> None:
    edit_coco(root, "train", lambda content: [image.update(width=0, height=0) for image in content["images"]])


def with_crlf(root: Path) -> None:
    text = json.dumps(json.loads((root / TRAIN).read_text()), indent=1)
    (root / TRAIN).write_bytes(text.replace("\n", "\r\n").encode())


def with_more_keys(root: Path) -> None:
    edit_coco(root, "train", lambda content: content.update(info={"date": "now"}, licenses=[], more=1))


def hide_files(root: Path) -> None:
    for name in ("._train_1.png", ".DS_Store", "Thumbs.db"):
        (root / "train" / name).write_text("x")


def change_class_id(content: dict[str, Any]) -> None:
    content["categories"][0]["id"] = 4
    for annotation in content["annotations"]:
        annotation["category_id"] = max(annotation["category_id"], 4)


RESPELLINGS: dict[str, Callable[[Path], object]] = {
    "ids as text": ids_as(str),
    "ids as floats": ids_as(float),
    "ids as names": ids_as("2007_{:06}".format),
    "ids of six digits": ids_as("{:06}".format),
    "class ids as text": ids_as(str, classes=True),
    "class ids as floats": ids_as(float, classes=True),
    "sizes of 0": without_sizes,
    "white space": lambda root: rewrite(root, indent=4),
    "key order": lambda root: rewrite(root, sort_keys=True),
    "line ends": with_crlf,
    "order": shuffle,
    "ids": renumber,
    "integers as floats": as_floats,
    "info and unknown keys": with_more_keys,
    "times of files": lambda root: [os.utime(path, (1, 1)) for path in root.rglob("*.*")],
    "name of the folder": lambda root: root.rename(root.with_name("other")),
    "files that hide": hide_files,
}


def assert_equal_bytes(root: Path, respell: Callable[[Path], object], out: Path) -> None:
    before = ingest(root, out / "before")
    respell(root)
    assert ingest(root if root.exists() else root.with_name("other"), out / "after") == before


@pytest.mark.parametrize("respell", RESPELLINGS.values(), ids=RESPELLINGS.keys())
def test_equal_content_gives_equal_bytes(tmp_path: Path, respell: Callable[[Path], object]) -> None:
    assert_equal_bytes(make_coco(tmp_path / "data"), respell, tmp_path)


def rewrite_labels(change: Callable[[list[str]], list[str]], end: str = "\n") -> Callable[[Path], object]:
    def respell(root: Path) -> None:
        for path in (root / "labels").rglob("*.txt"):
            path.write_bytes(end.join([*change(path.read_text().splitlines()), ""]).encode())

    return respell


def reorder_definition(root: Path) -> None:
    lines = (root / "data.yaml").read_text().replace("[cat, dog]", "{1: dog, 0: cat}").splitlines()
    (root / "data.yaml").write_text("# exported again\n" + "\n".join(reversed(lines)))


YOLO_RESPELLINGS: dict[str, Callable[[Path], object]] = {
    "line ends": rewrite_labels(lambda lines: lines, "\r\n"),
    "white space": rewrite_labels(lambda lines: ["", *(line.replace(" ", " \t ") + "  " for line in lines)]),
    "order": rewrite_labels(lambda lines: lines[::-1]),
    "digits": rewrite_labels(lambda lines: [line + "00" for line in lines]),
    "definition": reorder_definition,
    "times of files": lambda root: [os.utime(path, (1, 1)) for path in root.rglob("*.*")],
    "name of the folder": lambda root: root.rename(root.with_name("other")),
    "a label file without objects": lambda root: (root / "labels" / "train" / "train_3.txt").touch(),
}


@pytest.mark.parametrize("respell", YOLO_RESPELLINGS.values(), ids=YOLO_RESPELLINGS.keys())
def test_equal_yolo_gives_equal_bytes(tmp_path: Path, respell: Callable[[Path], object]) -> None:
    assert_equal_bytes(make_yolo(tmp_path / "data"), respell, tmp_path)


@pytest.mark.parametrize("make", [make_coco, make_yolo])
def test_the_order_of_a_folder_does_not_matter(
    tmp_path: Path, make: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, walk = make(tmp_path / "data"), os.walk
    before = ingest(root, tmp_path / "before")

    def backwards(top: Path, **options: Any) -> Iterator[tuple[str, list[str], list[str]]]:
        for parent, folders, names in walk(top, **options):
            folders.sort(reverse=True)
            yield parent, folders, sorted(names, reverse=True)

    monkeypatch.setattr(os, "walk", backwards)
    assert ingest(root, tmp_path / "after") == before


def repaint(root: Path) -> None:
    with Image.open(root / "train" / "train_1.png") as image:
        image.putpixel((0, 0), (1, 2, 3))
        image.save(root / "train" / "train_1.png")


CHANGES: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "a pixel": (repaint, {"manifest/train.json"}),
    "a box": (
        lambda root: edit_coco(root, "train", lambda c: c["annotations"][0].update(bbox=[5, 6, 16, 12])),
        {"manifest/train.json", "annotations/train.json"},
    ),
    "a box of test": (
        lambda root: edit_coco(root, "test", lambda c: c["annotations"][0].update(bbox=[5, 6, 8, 6])),
        {"manifest/test.json", "annotations/test.json"},
    ),
    "a crowd": (
        lambda root: edit_coco(root, "train", lambda c: c["annotations"][0].update(iscrowd=1)),
        {"manifest/train.json", "annotations/train.json"},
    ),
    "a class id of train": (
        lambda root: edit_coco(root, "train", change_class_id),
        {"annotations/classes.json", "manifest/classes.json"},
    ),
}


@pytest.mark.parametrize(("change", "changed"), CHANGES.values(), ids=CHANGES.keys())
def test_other_content_changes_the_files_of_its_split_alone(
    tmp_path: Path, change: Callable[[Path], object], changed: set[str]
) -> None:
    root = make_coco(tmp_path / "data")
    before = ingest(root, tmp_path / "before")
    change(root)
    after = ingest(root, tmp_path / "after")
    assert {name for name in before if before[name] != after[name]} == changed


def test_a_new_class_name_changes_the_class_table_and_all_annotations(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data")
    before = ingest(root, tmp_path / "before")
    for split in SPLITS:
        edit_coco(root, split, lambda content: content["categories"][0].update(name="lion"))
    after = ingest(root, tmp_path / "after")
    assert {name for name in before if before[name] != after[name]} == before.keys()


def test_yolo_and_coco_of_the_same_data_are_the_same(tmp_path: Path) -> None:
    coco = ingest(make_coco(tmp_path / "coco"), tmp_path / "from_coco")
    yolo = ingest(make_yolo(tmp_path / "yolo"), tmp_path / "from_yolo")
    for split in SPLITS:
        name = f"annotations/{split}.json"
        assert yolo[name].replace(b"images/", b"") == coco[name]


def test_the_canonical_form_says_what_the_dataset_says(tmp_path: Path) -> None:
    files = ingest(make_coco(tmp_path / "data"), tmp_path)
    for split, images in SPLITS.items():
        content = json.loads(files[f"annotations/{split}.json"])
        assert content["categories"] == [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
        assert [image["id"] for image in content["images"]] == list(range(1, len(images) + 1))
        assert [annotation["id"] for annotation in content["annotations"]] == list(range(1, sum(map(len, images)) + 1))
        for number, objects in enumerate(images, start=1):
            assert content["images"][number - 1]["file_name"] == f"{split}/{split}_{number}.png"
            written = [
                (annotation["category_id"], annotation["bbox"])
                for annotation in content["annotations"]
                if annotation["image_id"] == number
            ]
            assert written == sorted(objects)
    classes = read_classes(tmp_path / "annotations" / "classes.json")
    assert [(entry.id, entry.index, entry.name) for entry in classes] == [(3, 0, "cat"), (7, 1, "dog")]


def test_no_file_names_the_folder_it_was_made_in(tmp_path: Path) -> None:
    files = ingest(make_coco(tmp_path / "data"), tmp_path)
    reports = {path.name: path.read_bytes() for path in (tmp_path / "reports").iterdir()}
    assert not [name for name, data in (files | reports).items() if str(tmp_path).encode() in data]


def test_a_missing_test_split_gives_empty_files(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data")
    (root / "test").rename(tmp_path / "away")
    files = ingest(root, tmp_path)
    assert json.loads(files["annotations/test.json"]) | {"categories": []} == {
        "categories": [],
        "images": [],
        "annotations": [],
    }
    assert read_manifest(tmp_path / "manifest" / "test.json") == []


def test_roboflows_parent_without_annotations_is_not_a_class(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data")
    before = ingest(root, tmp_path / "before")
    for split in SPLITS:
        edit_coco(
            root, split, lambda c: c["categories"].insert(0, {"id": 0, "name": "animal", "supercategory": "none"})
        )
    assert validate(root, tmp_path) == ([], None)
    assert ingest(root, tmp_path / "after") == before
    edit_coco(root, "train", lambda content: content["annotations"][0].update(category_id=0))
    ingest(root, tmp_path / "used")
    assert [entry.name for entry in read_classes(tmp_path / "used" / "annotations" / "classes.json")] == [
        "animal",
        "cat",
        "dog",
    ]


def test_classes_of_other_splits_are_matched_by_name(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data")
    before = ingest(root, tmp_path / "before")

    def swap(content: dict[str, Any]) -> None:
        for category in content["categories"]:
            category["id"] = 10 - category["id"]
        for category in content["annotations"]:
            category["category_id"] = 10 - category["category_id"]

    edit_coco(root, "valid", swap)
    findings, _ = validate(root, tmp_path)
    assert [finding["code"] for finding in findings] == ["class-ids-differ"] * 2
    assert ingest(root, tmp_path / "after") == before


def test_segmentations_are_kept_and_polygons_give_the_area(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data")
    encoded = rle.encode(np.asfortranarray(np.eye(48, 64, dtype=np.uint8)))
    compressed = {"size": [48, 64], "counts": encoded["counts"].decode()}
    polygon = [4, 6, 20, 6, 20, 18]

    def change(content: dict[str, Any]) -> None:
        content["annotations"][0].update(segmentation=[polygon])
        del content["annotations"][0]["area"]
        content["annotations"][1].update(segmentation=compressed, iscrowd=1)

    edit_coco(root, "train", change)
    first, second, third = json.loads(ingest(root, tmp_path)["annotations/train.json"])["annotations"]
    assert first["segmentation"] == [polygon]
    assert first["area"] == 16 * 12 / 2
    assert (second["segmentation"], second["iscrowd"]) == (compressed, 1)
    assert "segmentation" not in third


def test_what_is_over_the_edge_is_clipped(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data")
    square = {"bbox": [-8, 40, 16, 16], "area": 256, "segmentation": [[-8, 40, 8, 40, 8, 56, -8, 56]]}
    edit_coco(root, "train", lambda content: content["annotations"][0].update(square))
    annotation = json.loads(ingest(root, tmp_path)["annotations/train.json"])["annotations"][0]
    assert (annotation["bbox"], annotation["area"]) == ([0, 40, 8, 8], 64)
    assert {tuple(annotation["segmentation"][0][k : k + 2]) for k in (0, 2, 4, 6)} == {
        (0, 40),
        (8, 40),
        (8, 48),
        (0, 48),
    }


def test_half_a_pixel_over_the_edge_is_clipped_without_a_finding(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data")
    edit_coco(root, "valid", lambda content: content["annotations"][1].update(bbox=[0, 24, 64, 24], area=1536))
    before = ingest(root, tmp_path / "before")
    edit_coco(root, "valid", lambda content: content["annotations"][1].update(bbox=[-0.5, 24, 65, 24.25]))
    assert validate(root, tmp_path) == ([], None)
    assert ingest(root, tmp_path / "after") == before


def test_the_parts_of_a_polygon_add_up_to_it() -> None:
    random = np.random.default_rng(0)
    for _ in range(100):
        angles, middle = np.sort(random.uniform(0, 2 * np.pi, 7)), random.uniform(20, 44, 2)
        points = middle + 20 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        mirrored = [64, 0] + [-1, 1] * points
        left, right = (clip_polygon(half.ravel().tolist(), 32, 64) for half in (points, mirrored))
        assert max(left[0::2], default=0) <= 32
        assert polygon_area(left) + polygon_area(right) == pytest.approx(polygon_area(points.ravel().tolist()))


def test_converting_what_was_not_validated_is_refused(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data")
    ingest(root, tmp_path)
    edit_coco(root, "valid", lambda content: content["annotations"][0].update(bbox=[1, 1, 9, 9]))
    with pytest.raises(UserError, match=r"valid/valid_1\.png of valid"):
        convert_dataset(root, ValidateConfig(), tmp_path / "manifest", tmp_path / "annotations")


def test_converting_opens_no_image(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data")
    before = ingest(root, tmp_path)
    for path in root.rglob("*.png"):
        path.write_bytes(b"")
    convert_dataset(root, ValidateConfig(), tmp_path / "manifest", tmp_path / "annotations")
    assert (tmp_path / "annotations" / "train.json").read_bytes() == before["annotations/train.json"]


@pytest.mark.parametrize("value", [1, True])
def test_an_ignored_annotation_is_a_crowd(tmp_path: Path, value: object) -> None:
    root = make_coco(tmp_path / "data")
    edit_coco(root, "train", lambda content: content["annotations"][1].update(iscrowd=1, ignore=0))
    crowd = ingest(root, tmp_path / "crowd")
    edit_coco(root, "train", lambda content: content["annotations"][1].update(iscrowd=0, ignore=value))
    assert ingest(root, tmp_path / "ignored") == crowd
    edit_coco(root, "train", lambda content: content["annotations"][1].update(ignore=0))
    assert ingest(root, tmp_path / "plain") != crowd


@pytest.mark.parametrize("empty", [[[]], [[], []], None])
def test_an_empty_polygon_is_not_a_mask(tmp_path: Path, empty: object) -> None:
    def files_with(segmentation: object, name: str) -> dict[str, bytes]:
        root = make_coco(tmp_path / name)
        for split in ("train", "valid", "test"):
            edit_coco(
                root,
                split,
                lambda content: [annotation.update(segmentation=segmentation) for annotation in content["annotations"]],
            )
        assert validate(root, tmp_path / "found") == ([], None)
        return ingest(root, tmp_path / f"{name} out")

    assert files_with(empty, "as it is") == files_with([], "as none")
