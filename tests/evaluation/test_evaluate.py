from __future__ import annotations

import contextlib
import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rfdetr_core.base.code import ROOT
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.manifest import ClassEntry, write_classes, write_manifest
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.evaluation.config import EvaluateConfig
from rfdetr_core.evaluation.evaluate import evaluate
from tests.evaluation.scene import NAMES, Scene, make_scene, write_tiny_checkpoint

TWELVE = (
    *("map", "map_50", "map_75", "map_small", "map_medium", "map_large"),
    *("mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large"),
)


def run(scene: Scene, output: Path, **settings: Any) -> dict[str, Any]:
    return evaluate(scene.predictor(), scene.where, EvaluateConfig(**settings), output)


def pycocotools_numbers(annotations: Path, detections: list[dict[str, Any]] | str, kind: str) -> list[float | None]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(detections), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [None if value == -1 else float(value) for value in evaluation.stats]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["scene", "mask_scene"])
def test_the_numbers_equal_pycocotools_on_the_written_detections(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene: Scene = request.getfixturevalue(name)
    returned = run(scene, tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert returned == json.loads((tmp_path / "about.json").read_text()) | metrics
    annotations = scene.where.annotations / "test.json"
    detections, masks = str(tmp_path / "detections.json"), str(tmp_path / "masks.json")
    assert [metrics[key] for key in TWELVE] == pycocotools_numbers(annotations, detections, "bbox")
    assert 0 < metrics["map"] < 1
    if name == "mask_scene":
        assert [metrics["masks"][key] for key in TWELVE] == pycocotools_numbers(annotations, masks, "segm")
        assert 0 < metrics["masks"]["map"] < 1


@pytest.mark.parametrize("name", ["scene", "mask_scene"])
def test_the_detections_of_predict_have_exactly_the_scores_of_evaluate(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene: Scene = request.getfixturevalue(name)
    metrics, predictor = run(scene, tmp_path), scene.predictor()
    boxes, masks = [], []
    for image in scene.annotations()["images"]:
        detections = predictor.predict(scene.image(image), threshold=0.0)
        for n, (x1, y1, x2, y2) in enumerate(detections.xyxy.tolist()):
            row = {
                "image_id": image["id"],
                "category_id": int(detections.class_id[n]),
                "score": float(detections.confidence[n]),
            }
            boxes.append(row | {"bbox": [x1, y1, x2 - x1, y2 - y1]})
            if detections.mask is not None:
                masks.append(row | {"segmentation": rle.encode(np.asfortranarray(detections.mask[n].astype(np.uint8)))})
    annotations = scene.where.annotations / "test.json"
    assert [metrics[key] for key in TWELVE] == pycocotools_numbers(annotations, boxes, "bbox")
    if name == "mask_scene":
        assert [metrics["masks"][key] for key in TWELVE] == pycocotools_numbers(annotations, masks, "segm")


@pytest.mark.parametrize("name", ["scene", "mask_scene"])
def test_evaluating_twice_gives_equal_bytes_without_paths(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene: Scene = request.getfixturevalue(name)
    run(scene, tmp_path / "first")
    run(scene, tmp_path / "second" / "folder")
    first = files_of(tmp_path / "first")
    assert first == files_of(tmp_path / "second" / "folder")
    assert len(first) == 8 + 5  # tables and JSON files; no more pictures than there are images
    assert not [name for name, data in first.items() if str(scene.where.dataset).encode() in data]


def test_valid_is_used_if_test_has_no_image_and_the_result_says_so(scene: Scene, tmp_path: Path) -> None:
    bare = make_scene(tmp_path, splits=("valid",))
    metrics = json.loads(json.dumps(run(bare, tmp_path / "report")))
    assert metrics["split"] == "valid"
    assert "test" in metrics["note"]
    configured = run(bare, tmp_path / "asked", split="valid")
    assert {key: value for key, value in metrics.items() if key != "note"} == configured


def test_without_any_image_evaluate_raises(tmp_path: Path) -> None:
    bare = make_scene(tmp_path, splits=())
    with pytest.raises(UserError, match="neither test nor valid"):
        run(bare, tmp_path / "report")


def test_numbers_that_cannot_be_measured_are_null_with_a_reason(scene: Scene, tmp_path: Path) -> None:
    metrics = run(scene, tmp_path)
    unknown = {key for key in (*TWELVE, "f1", "threshold", "precision", "recall") if metrics[key] is None}
    assert unknown == {"map_medium", "map_large", "mar_medium", "mar_large"}
    assert all(row["area"] < 32**2 for row in scene.annotations()["annotations"])
    expected = [f"map_{size}, mar_{size}: the split has no {size} object" for size in ("medium", "large")]
    assert metrics["not_measured"] == "; ".join(expected)


def test_a_split_without_objects_is_evaluated(scene: Scene, tmp_path: Path) -> None:
    bare = make_scene(tmp_path)
    path = bare.where.annotations / "test.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    metrics = run(bare, tmp_path / "report")
    assert metrics["objects"] == 0
    assert metrics["map"] is None
    assert metrics["f1"] is None


def test_the_per_class_table_averages_to_the_totals(scene: Scene, tmp_path: Path) -> None:
    metrics = run(scene, tmp_path)
    with (tmp_path / "per_class.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert [row["class"] for row in rows] == list(NAMES)
    assert sum(int(row["instances"]) for row in rows) == metrics["objects"]
    for column, key in (("ap", "map"), ("ap_50", "map_50"), ("f1", "f1"), ("recall", "recall")):
        values = [float(row[column]) for row in rows if int(row["instances"])]
        assert np.mean(values) == pytest.approx(metrics[key], abs=1e-6)


def test_the_curve_is_the_mean_precision_over_recall(scene: Scene, tmp_path: Path) -> None:
    metrics = run(scene, tmp_path)
    with (tmp_path / "pr_curve.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert [float(row["recall"]) for row in rows] == pytest.approx(np.linspace(0, 1, 101))
    assert np.mean([float(row["precision"]) for row in rows]) == pytest.approx(metrics["map_50"], abs=1e-6)


def test_classes_of_another_dataset_are_refused(scene: Scene, tmp_path: Path) -> None:
    write_classes(tmp_path / "classes.json", [ClassEntry(1, 0, "cat"), ClassEntry(2, 1, "dog")])
    for split in ("test.json", "valid.json"):
        (tmp_path / split).write_bytes((scene.where.annotations / split).read_bytes())
    where = ProjectPaths(scene.where.dataset, tmp_path, scene.where.manifests)
    with pytest.raises(UserError, match=r"class0.*cat, dog"):
        evaluate(scene.predictor(), where, EvaluateConfig(), tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_an_image_that_differs_from_the_manifest_is_refused(tmp_path: Path) -> None:
    scene = make_scene(tmp_path)
    image = scene.image(scene.annotations()["images"][0])
    Image.new("RGB", (48, 40)).save(image)
    with pytest.raises(UserError, match=image.name):
        run(scene, tmp_path / "report")
    image.unlink()
    with pytest.raises(UserError, match=image.name):
        run(scene, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_pictures_of_an_earlier_report_are_replaced(scene: Scene, tmp_path: Path) -> None:
    run(scene, tmp_path, pictures=3)
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {"best_1.png", "middle_1.png", "worst_1.png"}
    run(scene, tmp_path, pictures=0)
    assert not list((tmp_path / "pictures").iterdir())


def test_every_file_of_the_report_is_an_out_of_the_stage(scene: Scene, tmp_path: Path) -> None:
    run(scene, tmp_path)
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["evaluate"]
    entries = [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]
    declared = {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}
    written = {f"reports/evaluate/{path.name}" for path in tmp_path.iterdir()}
    assert declared == written | {"reports/evaluate/lineage.json"}  # by write_lineage


def test_detections_of_the_class_head_row_without_a_class_are_left_out(tmp_path: Path) -> None:
    scene = make_scene(tmp_path)
    (detections,) = scene.predictor().detect([Image.open(scene.image(scene.annotations()["images"][0])).convert("RGB")])
    assert 3 in detections.labels
    run(scene, tmp_path / "report")
    results = json.loads((tmp_path / "report" / "detections.json").read_text())
    assert {row["category_id"] for row in results} == {0, 1, 2}


def test_masks_need_masks_in_the_ground_truth(tmp_path: Path) -> None:
    scene = make_scene(tmp_path)
    path = scene.where.annotations / "test.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segmentation"] = []
    path.write_text(json.dumps(content))
    segmenter = Scene(write_tiny_checkpoint(tmp_path / "segmenter.pth", segmentation=True), scene.where)
    with pytest.raises(UserError, match="segmentation"):
        run(segmenter, tmp_path / "report")


def test_the_manifest_and_the_annotations_must_agree(tmp_path: Path) -> None:
    scene = make_scene(tmp_path)
    write_manifest(scene.where.manifests / "test.json", [])
    with pytest.raises(UserError, match=r"test/0\.png"):
        run(scene, tmp_path / "report")
