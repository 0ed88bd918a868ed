from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.manifest import (
    ClassEntry,
    ManifestRow,
    read_classes,
    read_manifest,
    roots,
    row_of,
    write_classes,
    write_manifest,
)
from rfdetr_core.base.merkle import Tree

ROWS = [ManifestRow(f"train/é {k}.png", f"{k:064x}", 10 + k, 20, "0" * 64) for k in range(3)]
CLASSES = [ClassEntry(id=3, index=0, name="cat"), ClassEntry(id=1, index=1, name="dög")]


def test_a_written_manifest_is_read_back(tmp_path: Path) -> None:
    write_manifest(tmp_path / "a.json", ROWS)
    assert read_manifest(tmp_path / "a.json") == ROWS
    write_classes(tmp_path / "classes.json", CLASSES)
    assert read_classes(tmp_path / "classes.json") == CLASSES
    write_manifest(tmp_path / "none.json", [])
    assert read_manifest(tmp_path / "none.json") == []


def test_a_manifest_is_sorted(tmp_path: Path) -> None:
    write_manifest(tmp_path / "a.json", ROWS)
    write_manifest(tmp_path / "b.json", ROWS[::-1])
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    write_classes(tmp_path / "c.json", CLASSES)
    write_classes(tmp_path / "d.json", CLASSES[::-1])
    assert (tmp_path / "c.json").read_bytes() == (tmp_path / "d.json").read_bytes()


def test_every_image_has_a_line_of_its_own(tmp_path: Path) -> None:
    write_manifest(tmp_path / "a.json", ROWS)
    lines = (tmp_path / "a.json").read_text(encoding="utf-8").splitlines()
    for row in ROWS:
        assert len([line for line in lines if row.path in line and row.sha256 in line]) == 1


def test_a_manifest_that_is_older_than_digests_of_pixels_is_read_and_written_as_it_was(tmp_path: Path) -> None:
    """The bytes are those that earlier releases wrote."""
    old = f'[\n{{"height":20,"labels":"{"0" * 64}","path":"a.png","sha256":"{"1" * 64}","width":10}}\n]\n'
    (tmp_path / "a.json").write_text(old)
    rows = read_manifest(tmp_path / "a.json")
    assert rows == [ManifestRow("a.png", "1" * 64, 10, 20, "0" * 64)]
    write_manifest(tmp_path / "b.json", rows)
    assert (tmp_path / "b.json").read_text() == old
    assert row_of(files.read_json(tmp_path / "a.json")[0]) == rows[0]


def test_the_roots_of_a_split_depend_only_on_its_images_and_labels() -> None:
    rows = [replace(row, pixels=f"{k:064x}") for k, row in enumerate(ROWS)]
    tree_roots = roots(rows)
    assert tree_roots.keys() == {"images", "labelled", "pixels"}
    assert roots([replace(row, path=f"other/{row.path}") for row in rows[::-1]]) == tree_roots
    relabelled = roots([replace(rows[0], labels="1" * 64), *rows[1:]])
    assert {name for name in tree_roots if tree_roots[name] != relabelled[name]} == {"labelled"}
    resaved = roots([replace(rows[0], sha256="1" * 64), *rows[1:]])
    assert {name for name in tree_roots if tree_roots[name] != resaved[name]} == {"images", "labelled"}
    assert roots([rows[0], ROWS[1]]).keys() == {"images", "labelled"}
    assert roots(rows)["images"] == {"size": 3, "root": Tree(row.sha256 for row in rows).root}


@pytest.mark.parametrize("text", ["{", "3", '[{"path": "a"}]', "[[1]]", "null"])
def test_anything_else_is_refused_with_the_name_of_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    for read in (read_manifest, read_classes):
        with pytest.raises(UserError, match=r"a\.json.*dvc"):
            read(tmp_path / "a.json")


def test_a_missing_file_names_the_command_that_writes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.json does not exist.*dvc repro"):
        read_manifest(tmp_path / "a.json")
