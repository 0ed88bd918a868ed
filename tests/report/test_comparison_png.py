"""The PNG files of a comparison of two models."""

from __future__ import annotations

import base64
import io
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.data.samples import read_samples
from rfdetr_core.evaluation.changes import ADDED, FOUND, GONE, LOST, Changes
from rfdetr_core.evaluation.comparison import Comparison
from rfdetr_core.report.comparison import FileComparison, png
from rfdetr_core.report.comparison.png import CLASSES, CURVES, FIXED, MOST_BYTES, NEW, write_pictures
from rfdetr_core.report.evaluation.overlays import GROUPS
from rfdetr_core.report.gallery import Picture, Shape, as_jpeg
from tests.evaluation.pairs import model, random_subset
from tests.evaluation.scenes import Rows, random_scene
from tests.report.kit import NAMES
from tests.report.made import make_evaluation, where_of
from tests.report.test_comparison import UNSEEN


def compare(folder: Path, annotations: dict[str, Any], old: Rows, new: Rows) -> FileComparison:
    """Compare two models with these detections on images of noise, which PNG hardly compresses."""
    make_evaluation(folder, annotations, old, masks="segmentation" in (*old, {})[0])
    where = where_of(folder)
    scores = Comparison.from_models("test", annotations, model(annotations, old), model(annotations, new, "b"), 50)
    samples = sorted(read_samples(*where.split("test")), key=lambda sample: sample.image_id)
    return FileComparison(scores, (UNSEEN, UNSEEN), where, samples, Changes.from_comparison(scores))


def history(path: Path, columns: dict[str, list[float]]) -> Path:
    """Write a history.csv with these values for each epoch."""
    rows = enumerate(zip(*columns.values(), strict=True), start=1)
    files.write_table(path, [dict(zip(["epoch", *columns], [epoch, *values], strict=True)) for epoch, values in rows])
    return path


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("histories")
    base = {"train/loss": [9.0, 8.0], "val/mAP_50_95": [0.1, 0.2], "val/segm_mAP_50_95": [0.3, 0.1]}
    new = {"train/loss": [9.0, 7.0, 6.0], "val/mAP_50_95": [0.1, 0.2, 0.4], "val/ema_mAP_50_95": [0.1, 0.3, 0.5]}
    return {"base": history(folder / "base.csv", base), "new": history(folder / "new.csv", new)}


@pytest.mark.parametrize("masks", [False, True])
def test_pictures_are_small_reproducible_and_described(masks: bool, histories: dict[str, Path], tmp_path: Path) -> None:
    content, results = random_scene(3, images=6, masks=masks)
    compared = compare(tmp_path, content, random_subset(results, 0.5, 0), random_subset(results, 0.5, 1))
    descriptions = write_pictures(tmp_path / "first", compared, histories)
    assert list(descriptions) == [CURVES, CLASSES, FIXED, NEW]
    counts = compared.changes.counts()
    assert descriptions[FIXED].startswith(f"4 of {counts[FOUND] + counts[GONE]} fixed errors, ")
    assert descriptions[NEW].startswith(f"4 of {counts[LOST] + counts[ADDED]} new errors, ")
    pairs = zip(compared.scores.old.scores.per_class, compared.scores.new.scores.per_class, strict=True)
    rose = sum(new.ap > old.ap for old, new in pairs)
    assert f"of 3 classes {rose} rose, {3 - rose} fell, 0 stayed" in descriptions[CLASSES]
    assert ("masks" if masks else "boxes") in descriptions[CLASSES]
    assert write_pictures(tmp_path / "second", compared, histories) == descriptions
    assert {path.name for path in (tmp_path / "first").iterdir()} == set(descriptions)
    for name in descriptions:
        data = (tmp_path / "first" / name).read_bytes()
        assert data == (tmp_path / "second" / name).read_bytes()
        assert len(data) <= MOST_BYTES
        picture = Image.open(io.BytesIO(data))
        assert (picture.format, picture.info) == ("PNG", {})


def test_an_empty_picture_is_left_out_and_its_earlier_file_removed(histories: dict[str, Path], tmp_path: Path) -> None:
    content, results = random_scene(0, images=3)
    empty = compare(tmp_path / "empty", {**content, "annotations": []}, [], [])
    fixed_alone = compare(tmp_path / "fixed", content, [], [row for row in results if row["score"] > 0.99])
    out = tmp_path / "out"
    assert write_pictures(out, empty, histories).keys() == {CURVES}
    assert write_pictures(out, fixed_alone, {}).keys() == {CLASSES}
    assert {path.name for path in out.iterdir()} == {CLASSES}


def test_an_unreadable_history_csv_is_named(tmp_path: Path) -> None:
    content, results = random_scene(0, images=2)
    compared = compare(tmp_path, content, results, results)
    files.write_text(tmp_path / "history.csv", "words\nalone\n")
    with pytest.raises(UserError, match=r"history\.csv is not a history\.csv of a training"):
        write_pictures(tmp_path / "out", compared, {"new": tmp_path / "history.csv"})


def test_names_from_the_data_are_drawn_but_not_in_the_descriptions(tmp_path: Path) -> None:
    names = [*NAMES, r"$\frac{$", "x" * 500, "木"]
    content, results = random_scene(4, images=6, classes=len(names))
    content["categories"] = [{"id": number, "name": name} for number, name in enumerate(names)]
    compared = compare(tmp_path, content, random_subset(results, 0.5, 0), random_subset(results, 0.5, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns about a glyph that is missing in its font
        descriptions = write_pictures(tmp_path / "out", compared, {})
    assert not re.search(r"[^\w ,.:]", " ".join(descriptions.values()))


def test_a_crop_is_drawn_with_its_boxes_and_masks_in_the_colours_of_the_legend() -> None:
    grey = as_jpeg(Image.new("RGB", (40, 40), "grey"), 90)
    shape = Shape(0, 5, 6, 20, 10, "bold", "M6 20h10v4h-10z")
    drawn = np.asarray(png._outlined(Picture(grey.source, 40, 40, [shape])))
    color = tuple(bytes.fromhex(GROUPS[0].color[1:]))
    assert (drawn[6, 5:26] == color).all()
    assert (drawn[6:17, 25] == color).all()
    plain = np.asarray(Image.open(io.BytesIO(base64.b64decode(grey.source.partition(",")[2]))))
    thin = np.asarray(png._outlined(Picture(grey.source, 40, 40, [shape._replace(style="")])))
    assert (thin[20:24, 6:16] == plain[20:24, 6:16]).all()
    assert (thin[6, 5:26] == color).all()
    differs = (drawn != plain).any(axis=2)
    assert differs[20:24, 6:16].all()
    differs[6:17, 5:26] = differs[20:24, 6:16] = False
    assert not differs.any()


def test_chosen_errors_are_of_different_images_and_the_kinds_take_turns(tmp_path: Path) -> None:
    content, results = random_scene(3, images=8)
    compared = compare(tmp_path, content, random_subset(results, 0.5, 0), random_subset(results, 0.5, 1))
    sides = (compared.scores.old, compared.scores.new)
    old, new = (png.Overlays(side.analysis, side.thresholds, side.results, content) for side in sides)
    objects = [change for change in png.changed_objects(compared.changes, old, new, 9) if change.change == FOUND]
    detections = [change for change in png.changed_detections(compared.changes, old, new, 9) if change.change == GONE]
    assert len({change.image for change in (*objects, *detections)}) >= 4
    chosen = png._chosen(objects, detections)
    assert len({change.image for change in chosen}) == len(chosen) == 4
    assert chosen[0] is objects[0]
    assert png._chosen(objects[:1], []) == objects[:1]
