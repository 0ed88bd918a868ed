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


def image_of(found: int, wrong: int, number: int, missed: int = 0) -> ImageJudgement:
    box = {"category_id": 0, "bbox": [10.0, 10.0, 20.0, 10.0]}
    pair = (box | {"score": 0.8}, box)
    image = {"id": number, "file_name": f"{number:02}.png", "width": 60, "height": 40}
    return ImageJudgement(image, [pair] * found, [pair[0]] * wrong, [box] * missed)


@pytest.mark.parametrize("count", range(14))
@pytest.mark.parametrize("images", [1, 2, 3, 5, 10])
def test_the_best_the_middle_and_the_worst_are_a_third_each_and_none_twice(count: int, images: int) -> None:
    judgements = [image_of(number, images - number, number) for number in range(images)]  # F1 grows with the number
    picked = pick(judgements, count)
    assert len(picked) == min(count, images)
    assert len({one.image["id"] for one in picked.values()}) == len(picked)
    parts = {
        part: [one.f1 for name, one in picked.items() if name.startswith(part)] for part in ("best", "middle", "worst")
    }
    assert max(map(len, parts.values())) - min(map(len, parts.values())) <= 1
    assert parts["best"] == sorted(parts["best"], reverse=True)
    assert parts["worst"] == sorted(parts["worst"])
    assert min(parts["best"], default=1) >= max(parts["middle"], default=0) >= max(parts["worst"], default=0)
    if parts["best"]:
        assert parts["best"][0] == max(one.f1 for one in judgements)
    if parts["worst"]:
        assert parts["worst"][0] == min(one.f1 for one in judgements)


def test_images_with_nothing_on_them_are_shown_only_when_others_lack() -> None:
    judgements = [image_of(0, 0, 0), image_of(1, 1, 1), image_of(0, 2, 2), image_of(2, 0, 3)]
    assert {one.image["id"] for one in pick(judgements, 3).values()} == {1, 2, 3}
    assert {one.image["id"] for one in pick(judgements, 4).values()} == {0, 1, 2, 3}


def test_a_drawn_box_is_where_it_is_in_the_image_at_every_scale() -> None:
    grey = Image.new("RGB", (100, 50), (128, 128, 128))
    found = supervision.Detections(xyxy=np.array([[20.0, 20.0, 60.0, 40.0]]), class_id=np.array([0]))
    for side in (100, 640, 1000):
        drawn = np.asarray(draw(grey, found, [""], side=side, palette=["#FF0000"])).astype(int)
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
    found = supervision.Detections(xyxy=np.array([[20.0, 30.0, 80.0, 80.0]]), mask=mask, class_id=np.array([0]))
    drawn = np.asarray(draw(grey, found, [""], side=200, palette=["#FF0000"]))
    assert (drawn[84:116, 84:116, 0] > 140).all()
    assert (drawn[64:76, 90:110] == 128).all()


def test_drawing_leaves_the_image_alone() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))
    before = picture.tobytes()
    compare(picture, image_of(2, 1, 7, missed=1), {0: "tree"}, 0.5, masks=False)
    assert picture.tobytes() == before


def test_side_by_side_fits_tall_wide_and_tiny_images() -> None:
    for size in ((60, 40), (4, 400), (400, 4), (1, 1)):
        one = image_of(1, 1, 1, missed=1)
        one.image.update(width=size[0], height=size[1])
        picture = compare(Image.new("RGB", size), one, {0: "tree"}, 0.25, masks=False)
        assert picture.width >= 2 * PANEL


def test_equal_pixels_give_equal_bytes_and_nothing_but_pixels(tmp_path: Path) -> None:
    picture = Image.new("RGB", (20, 10), "red")
    picture.info["comment"] = "made today"
    write_png(tmp_path / "a.png", picture)
    write_png(tmp_path / "b.png", Image.new("RGB", (20, 10), "red"))
    data = (tmp_path / "a.png").read_bytes()
    assert data == (tmp_path / "b.png").read_bytes()
    kinds, place = set(), 8
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        kinds.add(data[place + 4 : place + 8])
        place += 12 + length
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
def test_a_name_whose_letters_the_font_has_is_drawn_as_it_is(name: str) -> None:
    assert label_of(name, 3, 0.5) == f"{name} 0.50"
    cmap = TTFont(FONT).getBestCmap()
    assert all(ord(letter) in cmap for letter in name)


@pytest.mark.parametrize("name", ["\u732b", "cat \u732b", "\uace0\uc591\uc774", "\U0001f408"])
def test_a_name_that_no_font_here_has_is_drawn_as_the_number_of_its_class(name: str) -> None:
    assert label_of(name, 3) == "class 3"
    assert label_of(name, 3, 0.5) == "class 3 0.50"


def test_other_letters_make_another_picture() -> None:
    """Of a letter that the font lacks, all pictures are alike: the same empty box."""
    grey = Image.new("RGB", (100, 50), (128, 128, 128))
    found = supervision.Detections(xyxy=np.array([[20.0, 20.0, 60.0, 40.0]]), class_id=np.array([0]))
    drawn = [draw(grey, found, [label_of(name, 0)], side=640).tobytes() for name in ("\u043a", "\u0436", "\u0434")]
    assert len(set(drawn)) == 3
    titles = []
    for name in ("\u043a.png", "\u0436.png", "\u732b.png", "\u3042.png"):
        one = image_of(0, 0, 0)
        one.image["file_name"] = name
        titles.append(compare(Image.new("RGB", (60, 40)), one, {}, 0.5, masks=False).tobytes())
    assert len(set(titles)) == 4
