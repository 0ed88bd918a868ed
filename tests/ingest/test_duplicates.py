"""Copies are found in whatever way they were made, different pictures are not, and N copies give N findings at most."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from rfdetr_core.base import images
from rfdetr_core.base.code import ROOT
from rfdetr_core.ingest import duplicates
from rfdetr_core.ingest.duplicates import find_near, thumbnail
from tests.ingest.samples import ingest, make_coco, places, validate

Change = Callable[[Image.Image], Image.Image]


def photos() -> list[Image.Image]:
    paths = sorted([*ROOT.glob("data/sample/*/*.jpg"), *ROOT.glob("data/nuclei/*/*.png")])
    return [images.decode(path.read_bytes(), path.name) for path in paths]


def encoded(image: Image.Image, kind: str, **options: int) -> Image.Image:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return images.decode(data.getvalue(), kind)


def resized(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


COPIES: dict[str, Change] = {
    "JPEG": lambda image: encoded(image, "JPEG", quality=70),
    "WebP": lambda image: encoded(image, "WEBP", quality=70),
    "PNG": lambda image: encoded(image, "PNG"),
    "half": lambda image: resized(image, 0.5),
    "double": lambda image: resized(image, 2),
    "odd size": lambda image: encoded(resized(image, 0.73), "JPEG", quality=70),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.08),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.85),
    "contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.1),
    "grey": ImageOps.grayscale,
    "mirrored": ImageOps.mirror,
    "all": lambda image: encoded(ImageOps.mirror(resized(image, 0.6)), "JPEG", quality=75),
}


def test_the_photographs_of_the_samples_are_all_different() -> None:
    assert find_near([thumbnail(photo) for photo in photos()], [0] * len(photos())) == []


@pytest.mark.parametrize("change", COPIES.values(), ids=COPIES.keys())
def test_each_copy_is_found_with_its_original(change: Change) -> None:
    originals = photos()[::4]
    count = len(originals)
    both = [thumbnail(photo) for photo in originals] + [thumbnail(change(photo)) for photo in originals]
    pairs = find_near(both, [0] * count + [1] * count)
    assert [(near.number, near.earlier) for near in pairs] == [(count + k, k) for k in range(count)]


def test_one_more_object_makes_another_picture() -> None:
    photo = photos()[0]
    changed = photo.copy()
    ImageDraw.Draw(changed).rectangle([60, 60, 100, 100], fill="white")
    assert find_near([thumbnail(photo), thumbnail(changed)], [0, 0]) == []


def test_flat_pictures_are_not_copies_of_each_other() -> None:
    greys = [Image.new("RGB", (50, 50), (level, level, level)) for level in (0, 1, 90, 255)]
    noise = [Image.fromarray(np.random.default_rng(k).integers(100, 104, (64, 64), np.uint8)) for k in range(4)]
    assert find_near([thumbnail(image) for image in greys + noise], [0] * 8) == []


@pytest.mark.slow
def test_many_pictures_that_are_alike_give_one_finding_each_at_most() -> None:
    count, random = 20_000, np.random.default_rng(0)
    base = random.integers(60, 200, 256)
    similar = [row.tobytes() for row in (base + random.integers(-2, 3, (count, 256))).astype(np.uint8)]
    for thumbnails in ([bytes(256)] * count, [bytes(range(256))] * count, similar):
        pairs = find_near(thumbnails, [0] * 100 + [1] * (count - 100))
        assert len({near.number for near in pairs}) == len(pairs) <= count
    assert len(pairs) > 0.98 * count
    # A pair across splits has priority over a pair within one.
    assert all(near.earlier < 100 for near in pairs if near.number >= 100)


def test_the_distance_is_1_less_numpys_correlation() -> None:
    photo = photos()[5]
    a, b = thumbnail(photo), thumbnail(encoded(photo, "JPEG", quality=60))
    expected = np.corrcoef(*(np.frombuffer(thumbnail, dtype=np.uint8) for thumbnail in (a, b)))[0, 1]
    (near,) = find_near([a, b], [0, 1])
    assert near.distance == pytest.approx(1 - expected, abs=1e-6)
    assert 0 < near.distance < 1 - duplicates.CORRELATION


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The good dataset, where train_2 is test_1 mirrored and brighter, and train_3 a JPEG of train_1."""
    folder = make_coco(tmp_path / "data")
    for number, name in enumerate(("test/test_1", "train/train_1")):
        smooth = resized(Image.fromarray(np.random.default_rng(number).integers(20, 200, (6, 8, 3), np.uint8)), 8)
        smooth.save(folder / f"{name}.png")
    with Image.open(folder / "test" / "test_1.png") as image:
        ImageOps.mirror(ImageEnhance.Brightness(image).enhance(1.1)).save(folder / "train" / "train_2.png")
    with Image.open(folder / "train" / "train_1.png") as image:
        encoded(image, "JPEG", quality=80).save(folder / "train" / "train_3.png")
    return folder


def test_near_copies_are_findings_at_the_one_that_should_go(root: Path, tmp_path: Path) -> None:
    findings, error = validate(root, tmp_path)
    assert error is None
    assert places(findings) == [
        ("near-leakage", "warning", "train/train_2.png", None),
        ("near-doubled", "warning", "train/train_3.png", None),
    ]
    assert "test/test_1.png, which is in test" in findings[0]["what"]


def test_a_copy_of_a_near_copy_leaks_too(root: Path, tmp_path: Path) -> None:
    (root / "train" / "train_3.png").write_bytes((root / "train" / "train_2.png").read_bytes())
    findings, _ = validate(root, tmp_path, severities={"image-doubled": "ignore"})
    assert places(findings) == [("near-leakage", "warning", f"train/train_{k}.png", None) for k in (2, 3)]


def test_a_near_leak_as_an_error_is_dropped_from_train(root: Path, tmp_path: Path) -> None:
    files = ingest(root, tmp_path, on_error="drop", severities={"near-leakage": "error"})
    file_names = [image["file_name"] for image in json.loads(files["annotations/train.json"])["images"]]
    assert file_names == ["train/train_1.png", "train/train_3.png"]
    assert json.loads(files["annotations/test.json"])["images"]
