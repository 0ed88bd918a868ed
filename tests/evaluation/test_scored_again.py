"""verify recomputes the files of an evaluation from its detections, and names each file that was changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rfdetr_core.base import files
from rfdetr_core.evaluation.config import EvaluateConfig
from rfdetr_core.evaluation.evaluate import evaluate
from rfdetr_core.evaluation.scoring import TABLES
from rfdetr_core.lineage.lock import Entry, Lock
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.lock import Pipeline
from rfdetr_core.verification.recomputed import FOLDER, check_metrics
from rfdetr_core.verification.report import Report
from tests.evaluation.scene import Scene


def check(root: Path, data: Path, **params: Any) -> Report:
    report = Report()
    entry = Entry.of({"cmd": "", "params": {"params.yaml": {"evaluate": params}}})
    with report.reading("reports"):
        check_metrics(report, Contents(root), Pipeline({}, Lock({"evaluate": entry})), str(data))
    assert report.checked > len(TABLES)
    return report


def mismatches(root: Path, data: Path, **params: Any) -> list[str]:
    return [place for place, *_ in check(root, data, **params).mismatches]


def evaluated(scene: Scene, root: Path, **params: Any) -> Path:
    """Write a project and its evaluation. Returns the folder of the evaluation."""
    evaluate(scene.predictor(), scene.where, EvaluateConfig(**params), root / FOLDER)
    for folder in (scene.where.annotations, scene.where.manifests):
        shutil.copytree(folder, root / folder.name)
    (root / "dvc.yaml").touch()
    return root / FOLDER


@pytest.mark.parametrize("threshold", [None, 0.3])
@pytest.mark.parametrize("name", ["scene", "mask_scene"])
def test_every_table_is_scored_again(
    name: str, threshold: float | None, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene: Scene = request.getfixturevalue(name)
    folder, data = evaluated(scene, tmp_path, threshold=threshold), scene.where.dataset
    assert mismatches(tmp_path, data, threshold=threshold) == []
    for table in TABLES:
        path = folder / table
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines[:-1], lines[-1] + "1"]) + "\n")
    expected = [f"{FOLDER.as_posix()}/{table} line " for table in TABLES]
    places = mismatches(tmp_path, data, threshold=threshold)
    assert [place.rstrip("0123456789") for place in places] == expected


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def a_pixel(path: Path) -> None:
    with Image.open(path) as picture:
        changed = picture.copy()
    changed.putpixel((5, 5), (1, 2, 3))
    changed.save(path)


# All of these changes are made in the same folder, and each must be named.
FORGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a number more": (
        lambda folder: edit(folder / "metrics.json", lambda metrics: metrics.update(clinical_sensitivity=0.999)),
        "clinical_sensitivity of reports/evaluate/metrics.json",
    ),
    "a number": (
        lambda folder: edit(folder / "metrics.json", lambda metrics: metrics.update(map=metrics["map"] + 1e-6)),
        "map of reports/evaluate/metrics.json",
    ),
    "a note on what was scored": (
        lambda folder: edit(folder / "about.json", lambda about: about.update(note="reviewed")),
        "note of reports/evaluate/about.json",
    ),
    "a key more of a detection": (
        lambda folder: edit(folder / "detections.json", lambda detections: detections[0].update(reviewed=True)),
        "reports/evaluate/detections.json line 1",
    ),
    "a mask where there are boxes only": (
        lambda folder: (folder / "masks.json").write_text('[{"image_id": 1}]'),
        "reports/evaluate/masks.json line 1",
    ),
    "a pixel of a picture": (
        lambda folder: a_pixel(folder / "pictures" / "best_1.png"),
        "reports/evaluate/pictures/best_1.png",
    ),
    "a picture more": (
        lambda folder: shutil.copy(folder / "pictures" / "best_1.png", folder / "pictures" / "best_7.png"),
        "reports/evaluate/pictures/best_7.png",
    ),
    "a picture less": (
        lambda folder: (folder / "pictures" / "worst_1.png").unlink(),
        "reports/evaluate/pictures/worst_1.png",
    ),
}


@pytest.fixture(scope="module")
def forged(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("forged")
    folder = evaluated(scene, root)
    for forge, _ in FORGED.values():
        forge(folder)
    return mismatches(root, scene.where.dataset)


@pytest.mark.parametrize("case", FORGED)
def test_what_was_changed_is_named(forged: list[str], case: str) -> None:
    assert FORGED[case][1] in forged
    assert len(forged) == len(FORGED)


def test_a_key_twice_is_named(scene: Scene, tmp_path: Path) -> None:
    folder = evaluated(scene, tmp_path, pictures=0)
    for name in ("metrics.json", "about.json"):
        path = folder / name
        path.write_text(path.read_text().replace("{", '{"images": 5, "images": 6,', 1))
    report = Report()
    entry = Entry.of({"cmd": "", "params": {"params.yaml": {"evaluate": {}}}})
    check_metrics(report, Contents(tmp_path), Pipeline({}, Lock({"evaluate": entry})), str(scene.where.dataset))
    assert [place for place, *_ in report.mismatches] == [
        f"{FOLDER.as_posix()}/{name}.json" for name in ("metrics", "about")
    ]


def test_a_picture_that_was_compressed_differently_is_accepted(scene: Scene, tmp_path: Path) -> None:
    folder = evaluated(scene, tmp_path)
    for path in (folder / "pictures").iterdir():
        before = path.read_bytes()
        with Image.open(path) as picture:
            picture.load()
        picture.save(path, compress_level=1)
        assert path.read_bytes() != before
    assert check(tmp_path, scene.where.dataset).lines()[:-1] == []


def test_other_pixels_under_other_packages_are_not_checked(scene: Scene, tmp_path: Path) -> None:
    folder = evaluated(scene, tmp_path)
    identity = {"sha256": "1" * 64, "size": 4, "git": "2" * 40}
    lineage = {"model": identity | {"tensors": "3" * 64}, "split": "test", "inputs": {}, "packages": {"pillow": "1.0"}}
    files.write_json(folder / "lineage.json", lineage)
    a_pixel(folder / "pictures" / "best_1.png")
    report = check(tmp_path, scene.where.dataset)
    assert not report.mismatches
    assert [*report.unchecked] == ["reports/evaluate/pictures/best_1.png"]


def test_pictures_of_images_that_are_gone_are_not_checked(scene: Scene, tmp_path: Path) -> None:
    evaluated(scene, tmp_path)
    report = check(tmp_path, tmp_path / "no dataset")
    assert not report.mismatches
    assert [*report.unchecked] == ["reports/evaluate/pictures"]


def test_valid_serves_where_test_has_no_image(scene: Scene, tmp_path: Path) -> None:
    where = scene.where
    folder = evaluated(scene, tmp_path, split="valid")
    edit(tmp_path / "annotations" / "test.json", lambda annotations: annotations.update(images=[], annotations=[]))
    about = json.loads((folder / "about.json").read_text())
    (folder / "about.json").write_text(json.dumps(about | {"note": "the test split has no image"}))
    assert check(tmp_path, where.dataset).lines()[:-1] == []
    (folder / "about.json").write_text(json.dumps(about))
    assert mismatches(tmp_path, where.dataset) == ["note of reports/evaluate/about.json"]
