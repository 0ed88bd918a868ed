from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rfdetr_core.base.manifest import read_manifest
from tests.ingest.samples import SPLITS, coco_content, make_coco, picture, places, validate

YEARS = {"train": "train2017", "valid": "val2017", "test": "test2017"}


def make_plain(root: Path, below: str = "", names: dict[str, str] = YEARS) -> Path:
    """The good dataset in COCO's own layout."""
    (root / "annotations").mkdir(parents=True)
    for number, (split, name) in enumerate(names.items()):
        folder = root / below / name
        folder.mkdir(parents=True)
        for k in range(len(SPLITS[split])):
            picture(10 * number + k).save(folder / f"{split}_{k + 1}.png")
        (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(coco_content(split)))
    return root


@pytest.mark.parametrize(("below", "names"), [
    ("", YEARS), ("images", YEARS), ("", {"train": "train2014", "valid": "val2014"}),
    ("", {"train": "train", "valid": "valid"}), ("", {"train": "TRAIN", "valid": "VAL"}),
    ("images", {"train": "Train", "valid": "Validation", "test": "Test"}),
    ("images", {"train": "default", "valid": "val"}),
])  # fmt: skip
def test_cocos_own_layout_is_recognised_for_any_year(tmp_path: Path, below: str, names: dict[str, str]) -> None:
    root = make_plain(tmp_path / "data", below, names)
    assert validate(root, tmp_path) == ([], None)
    for split in SPLITS:
        images = len(read_manifest(tmp_path / "manifest" / f"{split}.json"))
        assert images == (len(SPLITS[split]) if split in names else 0)


def test_a_folder_of_images_may_differ_from_its_annotation_file_by_case(tmp_path: Path) -> None:
    root = make_plain(tmp_path / "data", "images", {"train": "Train", "valid": "Validation"})
    for path in (root / "images").iterdir():
        path.rename(path.with_name(path.name.lower()))
    assert validate(root, tmp_path) == ([], None)


@pytest.mark.parametrize(
    "names", [("Train", "Valid", "Test"), ("TRAIN", "Val", "test"), ("train", "validation", "Test")]
)
def test_the_folders_of_splits_may_be_in_upper_case(tmp_path: Path, names: tuple[str, ...]) -> None:
    root = make_coco(tmp_path / "data")
    for split, name in zip(SPLITS, names, strict=True):
        (root / split).rename(root / name)
    assert validate(root, tmp_path) == ([], None)
    assert read_manifest(tmp_path / "manifest" / "valid.json")[0].path == f"{names[1]}/valid_1.png"


def test_one_folder_of_images_may_serve_all_splits(tmp_path: Path) -> None:
    root = make_plain(tmp_path / "data")
    (root / "images").mkdir()
    for name in YEARS.values():
        for path in (root / name).iterdir():
            path.rename(root / "images" / path.name)
        (root / name).rmdir()
    picture(99).save(root / "images" / "stray.png")
    findings, _ = validate(root, tmp_path)
    assert places(findings) == [("image-not-listed", "warning", "images/stray.png", None)]


def test_params_must_choose_between_two_years(tmp_path: Path) -> None:
    root = make_plain(tmp_path / "data")
    shutil.copy(root / "annotations/instances_train2017.json", root / "annotations/instances_train2014.json")
    findings, _ = validate(root, tmp_path)
    assert places(findings) == [("labels-malformed", "error", "annotations/instances_train2017.json", None)]
    assert "validate.coco" in findings[0]["what"]


def test_a_list_of_test_images_without_annotations_is_not_a_test_split(tmp_path: Path) -> None:
    root = make_plain(tmp_path / "data", names={"train": "train2017", "valid": "val2017"})
    (root / "annotations" / "image_info_test2017.json").write_text(json.dumps({"images": [], "categories": []}))
    findings, error = validate(root, tmp_path)
    place = "annotations/image_info_test2017.json"
    assert (places(findings), error) == ([("test-without-labels", "warning", place, None)], None)


def test_a_missing_folder_of_images_is_a_finding(tmp_path: Path) -> None:
    root = make_plain(tmp_path / "data")
    shutil.rmtree(root / "val2017")
    findings, _ = validate(root, tmp_path)
    assert places(findings) == [("labels-missing", "error", "annotations/instances_val2017.json", None)]


def test_other_file_names_are_given_in_params(tmp_path: Path) -> None:
    root = make_plain(tmp_path / "data")
    (root / "annotations").rename(root / "labels of mine")
    coco = {
        split: {"annotations": f"labels of mine/instances_{name}.json", "images": name} for split, name in YEARS.items()
    }
    assert validate(root, tmp_path, coco=coco) == ([], None)


@pytest.mark.parametrize(("file", "code"), [("missing.json", "labels-missing"), ("../x.json", "labels-outside")])
def test_a_wrong_name_in_params_is_found(tmp_path: Path, file: str, code: str) -> None:
    root = make_plain(tmp_path / "data")
    findings, _ = validate(root, tmp_path, coco={"train": {"annotations": file, "images": "train2017"}})
    assert [finding["code"] for finding in findings] == [code]


def test_an_unknown_layout_lists_the_known_layouts_and_the_content_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "labels.xml").touch()
    _, error = validate(tmp_path / "data", tmp_path)
    assert error is not None
    for expected in ("_annotations.coco.json", "instances_train2017.json", "data.yaml", "validate.coco", "labels.xml"):
        assert expected in error
