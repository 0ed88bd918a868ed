from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from fontTools.ttLib import TTFont
from PIL import Image

from rfdetr_core.evaluation.pictures import FONT, PANEL, compare, draw, label_of, pick, write_png
from rfdetr_core.evaluation.scoring import ImageJudgement
from rfdetr_core.inference.conversion import import_supervision

supervision = import_supervision()


def image_of(correct: int, wrong: int, number: int, missed: int = 0) -> ImageJudgement:
    box = {"category_id": 0, "bbox": [10.0, 10.0, 20.0, 10.0]}
    pair = (box | {"score": 0.8}, box)
    image = {"id": number, "file_name": f"{number:02}.png", "width": 60, "height": 40}
    return ImageJudgement(image, [pair] * correct, [pair[0]] * wrong, [box] * missed)


@pytest.mark.parametrize("count", range(14))
@pytest.mark.parametrize("images", [1, 2, 3, 5, 10])
def test_best_middle_and_worst_images_are_a_third_each_without_repetition(count: int, images: int) -> None:
    judgements = [image_of(number, images - number, number) for number in range(images)]  # F1 grows with the number
    picked = pick(judgements, count)
    assert len(picked) == min(count, images)
    assert len({judgement.image["id"] for judgement in picked.values()}) == len(picked)
    parts = {
        part: [judgement.f1 for name, judgement in picked.items() if name.startswith(part)]
        for part in ("best", "middle", "worst")
    }
    assert max(map(len, parts.values())) - min(map(len, parts.values())) <= 1
    assert parts["best"] == sorted(parts["best"], reverse=True)
    assert parts["worst"] == sorted(parts["worst"])
    assert min(parts["best"], default=1) >= max(parts["middle"], default=0) >= max(parts["worst"], default=0)
    if parts["best"]:
        assert parts["best"][0] == max(judgement.f1 for judgement in judgements)
    if parts["worst"]:
        assert parts["worst"][0] == min(judgement.f1 for judgement in judgements)


def test_empty_images_are_chosen_only_if_there_are_too_few_others() -> None:
    judgements = [image_of(0, 0, 0), image_of(1, 1, 1), image_of(0, 2, 2), image_of(2, 0, 3)]
    assert {judgement.image["id"] for judgement in pick(judgements, 3).values()} == {1, 2, 3}
    assert {judgement.image["id"] for judgement in pick(judgements, 4).values()} == {0, 1, 2, 3}


def test_a_box_is_drawn_at_its_position_at_every_scale() -> None:
    grey = Image.new("RGB", (100, 50), (128, 128, 128))
    detections = supervision.Detections(xyxy=np.array([[20.0, 20.0, 60.0, 40.0]]), class_id=np.array([0]))
    for side in (100, 640, 1000):
        drawn = np.asarray(draw(grey, detections, [""], side=side, palette=["#FF0000"])).astype(int)
        assert drawn.shape == (side // 2, side, 3)
        red = (drawn[..., 0] > 200) & (drawn[..., 1] < 60)
        scale = side / 100
        rows, columns = np.nonzero(red[round(25 * scale) :])  # below the label
        assert columns.min() == pytest.approx(20 * scale, abs=0.03 * side)
        assert columns.max() == pytest.approx(60 * scale, abs=0.03 * side)
        assert rows.max() + round(25 * scale) == pytest.approx(40 * scale, abs=0.03 * side)


def test_a_drawn_mask_tints_its_pixels_and_no_others() -> None:
    grey = Image.new("RGB", (100, 100), (128, 128, 128))
    mask = np.zeros((1, 100, 100), dtype=bool)
    mask[0, 40:60, 40:60] = True
    detections = supervision.Detections(xyxy=np.array([[20.0, 30.0, 80.0, 80.0]]), mask=mask, class_id=np.array([0]))
    drawn = np.asarray(draw(grey, detections, [""], side=200, palette=["#FF0000"]))
    assert (drawn[84:116, 84:116, 0] > 140).all()
    assert (drawn[64:76, 90:110] == 128).all()


def test_drawing_does_not_change_the_image() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))
    before = picture.tobytes()
    compare(picture, image_of(2, 1, 7, missed=1), {0: "tree"}, 0.5, masks=False)
    assert picture.tobytes() == before


def test_side_by_side_fits_tall_wide_and_tiny_images() -> None:
    for size in ((60, 40), (4, 400), (400, 4), (1, 1)):
        judgement = image_of(1, 1, 1, missed=1)
        judgement.image.update(width=size[0], height=size[1])
        picture = compare(Image.new("RGB", size), judgement, {0: "tree"}, 0.25, masks=False)
        assert picture.width >= 2 * PANEL


def test_equal_pixels_give_equal_bytes_without_metadata(tmp_path: Path) -> None:
    picture = Image.new("RGB", (20, 10), "red")
    picture.info["comment"] = "made today"
    write_png(tmp_path / "a.png", picture)
    write_png(tmp_path / "b.png", Image.new("RGB", (20, 10), "red"))
    data = (tmp_path / "a.png").read_bytes()
    assert data == (tmp_path / "b.png").read_bytes()
    kinds, position = set(), 8
    while position < len(data):
        (length,) = struct.unpack(">I", data[position : position + 4])
        kinds.add(data[position + 4 : position + 8])
        position += 12 + length
    assert kinds == {b"IHDR", b"IDAT", b"IEND"}


@pytest.mark.parametrize(
    "name",
    [
        "cat",
        "\u0137a\u0137is",
        "\u043a\u043e\u0442",
        "\u0642\u0637\u0629",
        "\u03b3\u03ac\u03c4\u03b1",
        "\u05d7\u05ea\u05d5\u05dc",
    ],
)
def test_a_name_is_drawn_if_the_font_has_its_characters(name: str) -> None:
    assert label_of(name, 3, 0.5) == f"{name} 0.50"
    cmap = TTFont(FONT).getBestCmap()
    assert all(ord(letter) in cmap for letter in name)


@pytest.mark.parametrize("name", ["\u732b", "cat \u732b", "\uace0\uc591\uc774", "\U0001f408"])
def test_the_class_number_replaces_a_name_with_characters_in_no_font(name: str) -> None:
    assert label_of(name, 3) == "class 3"
    assert label_of(name, 3, 0.5) == "class 3 0.50"


def test_different_letters_give_different_pictures() -> None:
    """All letters that are missing in the font would give the same picture: an empty box."""
    grey = Image.new("RGB", (100, 50), (128, 128, 128))
    detections = supervision.Detections(xyxy=np.array([[20.0, 20.0, 60.0, 40.0]]), class_id=np.array([0]))
    drawn = [draw(grey, detections, [label_of(name, 0)], side=640).tobytes() for name in ("\u043a", "\u0436", "\u0434")]
    assert len(set(drawn)) == 3
    titles = []
    for name in ("\u043a.png", "\u0436.png", "\u732b.png", "\u3042.png"):
        judgement = image_of(0, 0, 0)
        judgement.image["file_name"] = name
        titles.append(compare(Image.new("RGB", (60, 40)), judgement, {}, 0.5, masks=False).tobytes())
    assert len(set(titles)) == 4
