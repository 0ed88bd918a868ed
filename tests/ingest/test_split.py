from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rfdetr_core.base.manifest import read_manifest
from rfdetr_core.ingest.config import SplitConfig
from rfdetr_core.ingest.records import Annotation, Category, FileFacts, ImageRecord, Place, Split
from rfdetr_core.ingest.split import cut_splits
from tests.ingest.samples import ingest, make_coco, picture, places, validate, write_coco


def images(count: int, rare: int = 10) -> list[ImageRecord]:
    """Every image has class 0, every `rare`-th class 1 as well, and every fifth nothing."""
    records = []
    for number in range(count):
        classes = [] if number % 5 == 4 else [0, 1] if number % rare == 0 else [0]
        place = Place(f"train/{number}.jpg")
        records.append(
            ImageRecord(
                place.file, place, annotations=[Annotation(place, class_id, [0, 0, 1, 1]) for class_id in classes]
            )
        )
    return records


def cut(records: list[ImageRecord], digests: dict[str, str] | None = None, **config: Any) -> dict[str, set[str]]:
    facts = {record.path: FileFacts((digests or {}).get(record.path, record.path), 1, 1) for record in records}
    train = Split(Place("x.json"), records, [Category(0, "a"), Category(1, "b")])
    splits = cut_splits({"train": train}, facts, SplitConfig(**config))
    return {name: {record.path for record in split.images} for name, split in splits.items()}


def test_each_split_gets_its_part_of_every_class_and_of_the_background() -> None:
    records = images(200)
    kinds = {record.path: tuple(a.category for a in record.annotations) for record in records}
    splits = cut(records, valid=0.2, test=0.1)
    assert set.union(*splits.values()) == kinds.keys()
    assert sum(map(len, splits.values())) == 200
    for name, part in (("valid", 0.2), ("test", 0.1)):
        counts = Counter(kinds[path] for path in splits[name])
        for kind, total in Counter(kinds.values()).items():
            assert abs(counts[kind] - part * total) <= 1, (name, kind)


def test_the_cut_depends_on_the_seed_and_on_nothing_else() -> None:
    first = cut(images(60), valid=0.25, seed=1)
    assert cut(images(60)[::-1], valid=0.25, seed=1) == first
    assert cut(images(60), valid=0.25, seed=2) != first


def test_a_few_new_images_move_few_others() -> None:
    before, after = cut(images(400), valid=0.2)["valid"], cut(images(404), valid=0.2)["valid"]
    assert len(before ^ after) <= 12


def test_augmented_copies_and_equal_bytes_stay_together() -> None:
    records = images(40)
    for number, record in enumerate(records):
        record.path = f"train/picture{number // 4}_jpg.rf.{number:032x}.jpg"
    twins = {records[0].path: "same", records[20].path: "same"}
    splits = cut(records, twins, valid=0.3)
    home = {path: name for name, paths in splits.items() for path in paths}
    for start in range(0, 40, 4):
        assert len({home[record.path] for record in records[start : start + 4]}) == 1
    assert home[records[3].path] == home[records[23].path]


def film(root: Path, scenes: int, frames: int, step: float = 0.0) -> Path:
    """A dataset without valid. It has several frames of each scene that look alike. step: the change between frames."""
    random = np.random.default_rng(0)
    content: Any = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    (root / "train").mkdir(parents=True)
    for scene in range(scenes):
        cells, direction = random.integers(40, 215, (2, 16, 16, 3)).astype(float)
        for frame in range(frames):
            picture = np.cos(frame * step) * (cells - 128) + np.sin(frame * step) * (direction - 128) + 128
            noisy = picture.repeat(4, 0).repeat(4, 1) + random.normal(0, 3, (64, 64, 3))
            name, number = (
                f"{random.integers(2**60)}.png",
                scene * frames + frame + 1,
            )  # the name does not reveal the scene
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(root / "train" / name)
            content["images"].append({"id": number, "file_name": name, "width": 64, "height": 64})
            content["annotations"].append({"id": number, "image_id": number, "category_id": 1, "bbox": [8, 8, 30, 20]})
    write_coco(root, "train", content)
    return root


@pytest.mark.parametrize("step", [0.0, 0.1])
def test_near_images_are_never_in_two_splits_of_a_cut(tmp_path: Path, step: float) -> None:
    """This holds, too, if each frame is like the next few, but the first is not like the last."""
    root, split = film(tmp_path / "data", 12, 9, step), {"valid": 0.25, "test": 0.25}
    findings, error = validate(root, tmp_path, split=split)
    assert ({finding["code"] for finding in findings}, error) == ({"near-doubled"}, None)
    sizes = [len(read_manifest(tmp_path / "manifest" / f"{name}.json")) for name in ("train", "valid", "test")]
    assert sizes == [54, 27, 27]
    cut_anew = validate(root, tmp_path, split=split, severities={"near-leakage": "ignore"})
    assert cut_anew[1] is None
    assert [len(read_manifest(tmp_path / "manifest" / f"{name}.json")) for name in ("train", "valid")] == [54, 27]


def test_images_that_all_look_alike_are_cut_only_if_near_leakage_is_ignored(tmp_path: Path) -> None:
    root = film(tmp_path / "data", 1, 10)
    _, error = validate(root, tmp_path, split={"valid": 0.2})
    assert error is not None
    assert "10 of 10 images of train are copies or look alike" in error
    _, error = validate(root, tmp_path, split={"valid": 0.2}, severities={"near-leakage": "ignore"})
    assert error is None
    assert len(read_manifest(tmp_path / "manifest" / "valid.json")) == 2


def test_a_split_is_cut_only_on_request_and_conversion_keeps_it(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data")
    shutil.rmtree(root / "valid")
    findings, _ = validate(root, tmp_path)
    assert places(findings) == [("split-missing", "error", "valid", None)]
    picture(99).save(root / "train" / "stray.png")
    files = ingest(root, tmp_path, split={"valid": 0.4, "seed": 3})
    findings, _ = validate(root, tmp_path, split={"valid": 0.4, "seed": 3})
    assert [place for place in places(findings) if place[0] != "class-untrained"] == [
        ("image-not-listed", "warning", "train/stray.png", None)
    ]
    paths = {
        name: [row.path for row in read_manifest(tmp_path / "manifest" / f"{name}.json")] for name in ("train", "valid")
    }
    assert sorted(paths["train"] + paths["valid"]) == [f"train/train_{k}.png" for k in (1, 2, 3)]
    assert paths["valid"]
    assert all(path.encode() in files["annotations/valid.json"] for path in paths["valid"])


def test_a_split_that_exists_is_never_cut_again(tmp_path: Path) -> None:
    _, error = validate(make_coco(tmp_path / "data"), tmp_path, split={"valid": 0.5})
    assert error is not None
    assert error.startswith(
        "validate.split.valid asks for a valid split, but valid/_annotations.coco.json already has one"
    )


@pytest.mark.parametrize("split", [{"valid": 0.0}, {"valid": 0.7, "test": 0.3}, {"valid": 1.0}, {"part": 0.1}])
def test_fractions_that_leave_nothing_are_refused(tmp_path: Path, split: dict[str, float]) -> None:
    _, error = validate(make_coco(tmp_path / "data"), tmp_path, split=split)
    assert error is not None
    assert error.startswith("validate.split")
