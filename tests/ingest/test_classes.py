"""All splits get one class table, with any ids, order and parents of their categories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.ingest.samples import SPLITS, edit_coco, ingest, make_coco, validate

Rows = list[tuple[Any, ...]]  # id, name and, if given, supercategory


def with_classes(root: Path, tables: dict[str, Rows]) -> None:
    """Give the splits these classes; cat and dog keep their objects."""

    def change(content: Any, rows: Rows) -> None:
        ids = {name: identity for identity, name, *_ in rows}  # if a name occurs twice, the last entry is the class
        names = {category["id"]: category["name"] for category in content["categories"]}
        for annotation in content["annotations"]:
            annotation["category_id"] = ids[names[annotation["category_id"]]]
        content["categories"] = [dict(zip(("id", "name", "supercategory"), row, strict=False)) for row in rows]

    for split in SPLITS:
        rows = tables.get(split, tables["train"])
        edit_coco(root, split, lambda content, rows=rows: change(content, rows))


# Name -> the tables of the splits, the resulting class table as (id, name) ordered by index, and the finding codes.
TABLES: dict[str, tuple[dict[str, Rows], Rows, set[str]]] = {
    "from 0": ({"train": [(0, "cat"), (1, "dog")]}, [(0, "cat"), (1, "dog")], set()),
    "from 1": ({"train": [(1, "cat"), (2, "dog")]}, [(1, "cat"), (2, "dog")], set()),
    "with gaps, as COCO's 90": ({"train": [(17, "cat"), (90, "dog")]}, [(17, "cat"), (90, "dog")], set()),
    "in another order": ({"train": [(90, "dog"), (17, "cat")]}, [(17, "cat"), (90, "dog")], set()),
    "dog before cat": ({"train": [(1, "dog"), (2, "cat")]}, [(1, "dog"), (2, "cat")], set()),
    "another order in valid": (
        {"train": [(1, "cat"), (2, "dog")], "valid": [(2, "dog"), (1, "cat")]}, [(1, "cat"), (2, "dog")], set(),
    ),
    "other ids in valid": (
        {"train": [(1, "cat"), (2, "dog")], "valid": [(0, "cat"), (1, "dog")]},
        [(1, "cat"), (2, "dog")],
        {"class-ids-differ"},
    ),
    "more classes in test": (
        {"train": [(1, "cat"), (2, "dog")], "test": [(1, "cat"), (2, "dog"), (3, "cow")]},
        [(1, "cat"), (2, "dog")],
        set(),
    ),
    "a class without objects": (
        {"train": [(1, "cat"), (2, "cow"), (3, "dog")]}, [(1, "cat"), (2, "cow"), (3, "dog")], {"class-unused"},
    ),
    "parent at 0": (
        {"train": [(0, "pets", "none"), (1, "cat", "pets"), (2, "dog", "pets")]}, [(1, "cat"), (2, "dog")], set(),
    ),
    "parent in between": (
        {"train": [(1, "cat", "pets"), (5, "pets", "none"), (7, "dog", "pets")]}, [(1, "cat"), (7, "dog")], set(),
    ),
    "parent in train alone": (
        {"train": [(0, "pets"), (1, "cat", "pets"), (2, "dog", "pets")], "valid": [(1, "cat"), (2, "dog")]},
        [(1, "cat"), (2, "dog")],
        set(),
    ),
    "parent in valid alone": (
        {"train": [(1, "cat"), (2, "dog")], "valid": [(0, "pets"), (1, "cat", "pets"), (2, "dog", "pets")]},
        [(1, "cat"), (2, "dog")],
        set(),
    ),
    "parent that has objects": ({"train": [(1, "cat", "none"), (2, "dog", "cat")]}, [(1, "cat"), (2, "dog")], set()),
    "their own parents": ({"train": [(1, "cat", "cat"), (2, "dog", "dog")]}, [(1, "cat"), (2, "dog")], set()),
    "parents that are not classes": ({"train": [(1, "cat", "a"), (2, "dog", "b")]}, [(1, "cat"), (2, "dog")], set()),
    "parents in a circle": ({"train": [(1, "cat", "dog"), (2, "dog", "cat")]}, [(1, "cat"), (2, "dog")], set()),
    "parents of other types": ({"train": [(1, "cat", None), (2, "dog", [3])]}, [(1, "cat"), (2, "dog")], set()),
    "parent with the name of a class": (
        {"train": [(0, "cat", "none"), (1, "cat", "cat"), (2, "dog", "cat")]}, [(1, "cat"), (2, "dog")], set(),
    ),
    "parent with the name of a class, which has no object": (
        {"train": [(0, "cow", "none"), (1, "cow", "cow"), (2, "cat", "cow"), (3, "dog", "cow")]},
        [(1, "cow"), (2, "cat"), (3, "dog")],
        {"class-unused"},
    ),
    "parent with the name of a class in valid alone": (
        {"train": [(1, "cat"), (2, "dog")], "valid": [(0, "dog", "none"), (1, "cat", "dog"), (2, "dog", "dog")]},
        [(1, "cat"), (2, "dog")],
        set(),
    ),
    "parent that differs from a class by case": (
        {"train": [(0, "Cat", "none"), (1, "cat", "Cat"), (2, "dog", "Cat")]}, [(1, "cat"), (2, "dog")], set(),
    ),
    "parents of parents": (
        {"train": [(0, "all"), (1, "pets", "all"), (2, "cat", "pets"), (3, "dog", "pets")]}, [(2, "cat"), (3, "dog")],
        set(),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("tables", "expected", "codes"), TABLES.values(), ids=TABLES.keys())
def test_all_splits_use_one_table(tmp_path: Path, tables: dict[str, Rows], expected: Rows, codes: set[str]) -> None:
    root = make_coco(tmp_path / "data")
    with_classes(root, tables)
    findings, error = validate(root, tmp_path)
    assert ({finding["code"] for finding in findings}, error) == (codes, None)
    files = ingest(root, tmp_path)
    table = json.loads(files["annotations/classes.json"])
    assert [(category["id"], category["name"]) for category in table] == expected
    assert [category["index"] for category in table] == list(range(len(expected)))
    names = [name for _, name in expected]
    for split, images in SPLITS.items():
        content = json.loads(files[f"annotations/{split}.json"])
        objects = [(names[annotation["category_id"]], annotation["bbox"]) for annotation in content["annotations"]]
        assert sorted(objects) == sorted((("cat", "dog")[label], box) for image in images for label, box in image)


@pytest.mark.parametrize("used", [(0, 1), (0,)])
def test_a_root_that_has_objects_is_a_class_of_the_same_name(tmp_path: Path, used: tuple[int, ...]) -> None:
    """It is unknown which of the two classes with this name the objects have."""
    root = make_coco(tmp_path / "data")

    def change(content: Any) -> None:
        for number, annotation in enumerate(content["annotations"]):
            annotation["category_id"] = used[number % len(used)]
        content["categories"] = [
            {"id": 0, "name": "cat", "supercategory": "none"}, {"id": 1, "name": "cat", "supercategory": "cat"},
        ]  # fmt: skip

    edit_coco(root, "train", change)
    findings, error = validate(root, tmp_path)
    assert error is not None
    assert "2 classes have the name 'cat'" in {
        finding["what"] for finding in findings if finding["file"].startswith("train")
    }


def test_a_root_with_the_name_of_the_only_class_is_left_out(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data")

    def change(content: Any) -> None:
        for annotation in content["annotations"]:
            annotation["category_id"] = 1
        content["categories"] = [
            {"id": 0, "name": "cat", "supercategory": "none"}, {"id": 1, "name": "cat", "supercategory": "cat"},
        ]  # fmt: skip

    for split in SPLITS:
        edit_coco(root, split, change)
    assert validate(root, tmp_path) == ([], None)
    assert json.loads(ingest(root, tmp_path)["annotations/classes.json"]) == [{"id": 1, "index": 0, "name": "cat"}]
