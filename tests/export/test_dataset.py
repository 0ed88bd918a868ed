from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfdetr_core.base.errors import UserError
from rfdetr_core.cli import main
from rfdetr_core.export.dataset import IDS_FILE, export_dataset
from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.ingest.findings import Findings
from rfdetr_core.ingest.formats import read_dataset
from tests.ingest.samples import SIZE, coco_content, edit_coco, make_coco, make_yolo, picture, write_coco

CATEGORIES = st.lists(st.integers(0, 90), min_size=1, max_size=5, unique=True)
FRACTION = st.floats(0, 1)


def rows_of(root: Path, split: str) -> dict[str, Any]:
    return json.loads((root / split / "_annotations.coco.json").read_text())


def contents(root: Path, split: str) -> dict[str, Any]:
    """Images and categories by id; objects by id, as (image, category, box)."""
    read = rows_of(root, split)
    return {
        "images": {row["id"]: (row["file_name"], row["width"], row["height"]) for row in read["images"]},
        "categories": {row["id"]: row["name"] for row in read["categories"]},
        "objects": {row["id"]: (row["image_id"], row["category_id"]) for row in read["annotations"]},
    }


def boxes(root: Path, split: str) -> dict[int, list[float]]:
    return {row["id"]: row["bbox"] for row in rows_of(root, split)["annotations"]}


def there_and_back(source: Path, folder: Path, first: str, second: str) -> Path:
    export_dataset(source, folder / "there", first, "copy")  # type: ignore[arg-type]
    export_dataset(folder / "there", folder / "back", second, "copy")  # type: ignore[arg-type]
    return folder / "back"


@st.composite
def coco_rows(draw: st.DrawFn) -> dict[str, Any]:
    """Annotations of four pictures with any ids and boxes. Half of the datasets have polygons."""
    ids = draw(CATEGORIES)
    images = draw(st.lists(st.integers(0, 10**6), min_size=4, max_size=4, unique=True))
    shaped, annotations = draw(st.booleans()), []
    for identity in draw(st.lists(st.integers(0, 10**6), max_size=8, unique=True)):
        x, y = draw(FRACTION) * (SIZE[0] - 1), draw(FRACTION) * (SIZE[1] - 1)
        w, h = 0.01 + draw(FRACTION) * (SIZE[0] - x - 0.01), 0.01 + draw(FRACTION) * (SIZE[1] - y - 0.01)
        owner, category = draw(st.sampled_from(images)), draw(st.sampled_from(ids))
        row = {"id": identity, "image_id": owner, "category_id": category, "bbox": [x, y, w, h], "area": w * h}
        polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        annotations.append(row | ({"segmentation": polygon, "iscrowd": 0} if shaped else {}))
    return {
        "categories": [{"id": class_id, "name": f"class {class_id}"} for class_id in ids],
        "images": [
            {"id": image_id, "file_name": f"{k}.png", "width": SIZE[0], "height": SIZE[1]}
            for k, image_id in enumerate(images)
        ],
        "annotations": annotations,
    }


@settings(max_examples=40)
@given(coco_rows())
def test_coco_to_yolo_and_back_keeps_boxes_and_every_id(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("export")
    for k in range(4):
        (folder / "source" / "train").mkdir(parents=True, exist_ok=True)
        picture(k).save(folder / "source" / "train" / f"{k}.png")
    write_coco(folder / "source", "train", content)
    back = there_and_back(folder / "source", folder, "yolo", "coco")
    assert contents(back, "train") == contents(folder / "source", "train")
    expected = boxes(folder / "source", "train")
    for identity, box in boxes(back, "train").items():
        assert box == pytest.approx(expected[identity], abs=1e-6)
    polygons = {row["id"]: row.get("segmentation") for row in content["annotations"]}
    for row in rows_of(back, "train")["annotations"]:
        if polygons[row["id"]] is None:
            assert "segmentation" not in row
        else:
            assert row["segmentation"][0] == pytest.approx(polygons[row["id"]][0], abs=1e-6)


def test_yolo_to_coco_and_back_keeps_boxes_and_classes(tmp_path: Path) -> None:
    source = make_yolo(tmp_path / "source")
    back = there_and_back(source, tmp_path, "coco", "yolo")
    names = sorted(path.relative_to(source).as_posix() for path in source.rglob("*.png"))
    assert sorted(path.relative_to(back).as_posix() for path in back.rglob("*.png")) == names
    for path in sorted(source.rglob("*.txt")):
        before, after = (
            [[float(word) for word in line.split()] for line in file.read_text().splitlines()]
            for file in (path, back / path.relative_to(source))
        )
        assert len(before) == len(after)
        for line_before, line_after in zip(before, after, strict=True):
            assert line_before == pytest.approx(line_after, abs=1e-9)
    assert "category_ids" not in (back / "data.yaml").read_text()  # the ids are 0, 1, ..., so the names are enough


@pytest.mark.parametrize("make", [make_coco, make_yolo])
def test_the_pipeline_reads_an_export_as_it_reads_the_source(tmp_path: Path, make: Any) -> None:
    source = make(tmp_path / "source")
    for to in ("coco", "yolo"):
        export_dataset(source, tmp_path / to, to, "copy")  # type: ignore[arg-type]
        read = []
        for root in (source, tmp_path / to):
            findings = Findings(ValidateConfig())
            dataset = read_dataset(root, findings)
            assert not findings.stopping
            read.append(
                {
                    name: (
                        {category.id: category.name for category in split.categories},
                        sorted((Path(image.path).name, [annotation.category for annotation in image.annotations])
                               for image in split.images),
                    )
                    for name, split in dataset.items()
                }
            )  # fmt: skip
        assert read[0] == read[1]


def test_a_root_with_the_name_of_a_class_is_left_out(tmp_path: Path) -> None:
    source = make_coco(tmp_path / "source")
    table = [
        {"id": 0, "name": "cat", "supercategory": "none"},
        {"id": 3, "name": "cat", "supercategory": "cat"},
        {"id": 7, "name": "dog", "supercategory": "cat"},
    ]
    for split in ("train", "valid", "test"):
        edit_coco(source, split, lambda content: content.update(categories=table))
    summary = export_dataset(source, tmp_path / "coco", "coco", "copy")
    assert "class 'cat' is the parent of others and has no objects, so it is left out" in summary
    assert rows_of(tmp_path / "coco", "train")["categories"] == [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]


def test_what_yolo_cannot_hold_is_named(tmp_path: Path) -> None:
    source = make_coco(tmp_path / "source")

    def change(content: Any) -> None:
        crowd, box = content["annotations"][:2]
        crowd |= {"iscrowd": 1, "segmentation": {"size": [48, 64], "counts": [0, 5, 3067]}}
        box |= {"segmentation": [[32, 24, 52, 24, 52, 36]], "area": 120}
        content["annotations"][2]["area"] = 7.0
        content["categories"].append({"id": 0, "name": "animal"})

    edit_coco(source, "train", change)
    edit_coco(source, "valid", lambda content: content["annotations"][0].update(bbox=[-0.25, 12, 12, 24], area=288))
    summary = export_dataset(source, tmp_path / "yolo", "yolo", "none")
    lost = dict(line.strip().rsplit(": ", 1) for line in summary.splitlines()[1:] if line[-1].isdigit())
    assert {description.split()[0]: count for description, count in lost.items()} == {
        "crowds": "1",
        "boxes": "1",
        "masks": "1",
        "areas": "2",
    }
    assert "'animal'" in summary
    assert "animal" not in (tmp_path / "yolo" / "data.yaml").read_text()
    assert "category_ids: [3, 7]" in (tmp_path / "yolo" / "data.yaml").read_text()
    assert len(export_dataset(make_coco(tmp_path / "good"), tmp_path / "other", "yolo", "none").splitlines()) == 1


def test_ids_are_kept_only_for_unchanged_label_files(tmp_path: Path) -> None:
    source = make_coco(tmp_path / "source")
    export_dataset(source, tmp_path / "yolo", "yolo", "copy")
    labels = tmp_path / "yolo" / "labels" / "train"
    (labels / "train_1.txt").write_text((labels / "train_1.txt").read_text() + "0 0.5 0.5 0.1 0.1\n")
    export_dataset(tmp_path / "yolo", tmp_path / "back", "coco", "none")
    objects = contents(tmp_path / "back", "train")["objects"]
    assert len(objects) == 4
    assert objects[12] == (2, 7)  # the ids of the file that was not edited
    assert sorted(objects) == [12, 13, 14, 15]
    (tmp_path / "yolo" / IDS_FILE).write_text('{"images/train/train_1.png": [1.5, []]}')
    with pytest.raises(UserError, match=IDS_FILE):
        export_dataset(tmp_path / "yolo", tmp_path / "again", "coco", "none")


@pytest.mark.parametrize("ids", ["[3]", "[3, 3]", "[3, -7]", "3", "[3, x]"])
def test_category_ids_that_fit_no_names_are_an_error(tmp_path: Path, ids: str) -> None:
    source = make_yolo(tmp_path / "source")
    definition = source / "data.yaml"
    definition.write_text(definition.read_text() + f"\ncategory_ids: {ids}\n")
    with pytest.raises(UserError, match="category_ids"):
        export_dataset(source, tmp_path / "coco", "coco", "none")


def test_a_class_number_beyond_names_is_unknown_also_with_category_ids(tmp_path: Path) -> None:
    source = make_yolo(tmp_path / "source")
    definition, label = source / "data.yaml", source / "labels" / "train" / "train_1.txt"
    definition.write_text(definition.read_text() + "\ncategory_ids: [3, 7]\n")
    label.write_text("7 0.5 0.5 0.25 0.25\n")
    with pytest.raises(UserError, match=r"train_1.txt:1.*class 7"):
        export_dataset(source, tmp_path / "coco", "coco", "none")


FAULTS = {
    "box": lambda content: content["annotations"][0].update(bbox=[4, 6, 0, 12]),
    "class": lambda content: content["annotations"][0].update(category_id=5),
    "outside": lambda content: content["images"][0].update(file_name="../../secret.png"),
    "missing": lambda content: content["images"][0].update(file_name="none.png"),
    "size": lambda content: content["images"][0].update(width=65),
    "names": lambda content: content["categories"][0].update(name="dog"),
    "other": lambda content: content["categories"][0].update(name="bird"),
    "shared": lambda content: content["images"][0].update(file_name="train_2.bmp"),
}


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_source_with_errors_is_refused_and_nothing_is_written(tmp_path: Path, fault: str) -> None:
    source = make_coco(tmp_path / "source")
    picture(5).save(source / "train" / "train_2.bmp")
    edit_coco(source, "train", FAULTS[fault])
    with pytest.raises(UserError):
        export_dataset(source, tmp_path / "made" / "yolo", "yolo", "copy")
    assert not list((tmp_path / "made").iterdir() if (tmp_path / "made").exists() else [])


def test_the_destination_is_new_or_empty_and_not_in_the_source(tmp_path: Path) -> None:
    source = make_coco(tmp_path / "source")
    full, empty = tmp_path / "full", tmp_path / "empty"
    full.mkdir()
    (full / "mine").write_text("kept")
    empty.mkdir()
    for place in (full, full / "mine", source / "inside"):
        with pytest.raises(UserError, match=place.name):
            export_dataset(source, place, "yolo", "copy")
    export_dataset(source, empty, "yolo", "copy")
    assert (empty / "data.yaml").is_file()
    assert [path.name for path in full.iterdir()] == ["mine"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "full", "source"]


@pytest.mark.parametrize(("name", "problem"), [("none", "does not exist"), ("a.zip", "is not a folder")])
def test_the_source_is_a_folder(tmp_path: Path, name: str, problem: str) -> None:
    (tmp_path / "a.zip").write_bytes(b"")
    with pytest.raises(UserError, match=f"{name} {problem}"):
        export_dataset(tmp_path / name, tmp_path / "made", "yolo", "copy")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("linking", ["copy", "hardlink", "symlink", "none"])
def test_images_are_copied_or_linked_as_requested(
    tmp_path: Path, linking: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_coco(tmp_path / "source")
    main(["export", str(source), str(tmp_path / "made"), "--format", "yolo", "--images", linking])
    assert "6 images, 7 objects of 2 classes" in capsys.readouterr().out
    before, after = source / "train" / "train_1.png", tmp_path / "made" / "images" / "train" / "train_1.png"
    assert after.exists() is (linking != "none")
    if linking != "none":
        assert after.read_bytes() == before.read_bytes()
        assert after.is_symlink() is (linking == "symlink")
        assert (after.stat().st_ino == before.stat().st_ino) is (linking in ("hardlink", "symlink"))
    assert coco_content("train")["images"][0]["file_name"] == "train_1.png"


def test_metadata_comes_along_under_the_new_paths(tmp_path: Path) -> None:
    source = make_coco(tmp_path / "source")
    edit_coco(source, "train", lambda content: content["images"][1].update(date_captured="2024"))
    (source / "metadata.csv").write_text("file_name,site\ntrain_1.png,a\ntest/test_1.png,b\n")
    export_dataset(source, tmp_path / "there", "yolo", "copy")
    rows = "images/train/train_1.png,,a\nimages/train/train_2.png,2024,\nimages/test/test_1.png,,b\n"
    assert (tmp_path / "there" / "metadata.csv").read_text() == f"file_name,date,site\n{rows}"
    export_dataset(tmp_path / "there", tmp_path / "back", "coco", "copy")
    assert (tmp_path / "back" / "metadata.csv").read_text() == f"file_name,date,site\n{rows}".replace("images/", "")
    (source / "metadata.csv").unlink()
    edit_coco(source, "train", lambda content: content["images"][1].pop("date_captured"))
    export_dataset(source, tmp_path / "without", "yolo", "copy")
    assert not (tmp_path / "without" / "metadata.csv").exists()
    (source / "metadata.csv").write_text("file_name,site,site\ntrain_1.png,a,b\n")
    with pytest.raises(UserError, match=r"metadata\.csv:1: .*metadata-column"):
        export_dataset(source, tmp_path / "faulty", "yolo", "copy")
