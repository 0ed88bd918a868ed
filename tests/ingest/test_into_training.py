"""Training and evaluation can use everything that validation accepts: masks, crowds, and randomly damaged datasets."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as rle

from rfdetr_core.base import images
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.manifest import SPLITS
from rfdetr_core.base.params import parse
from rfdetr_core.data.augmentation import AugmentConfig
from rfdetr_core.data.batching import collate
from rfdetr_core.data.dataset import DetectionDataset, SampleKey
from rfdetr_core.data.preprocess import resize
from rfdetr_core.data.samples import Sample, read_samples
from rfdetr_core.inference.conversion import to_rgb
from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.ingest.convert import convert_dataset
from rfdetr_core.ingest.geometry import mask_area, mask_bounds, mask_problem, run_lengths
from rfdetr_core.ingest.validate import validate_dataset
from rfdetr_core.loss.criterion import Criterion
from rfdetr_core.metrics.coco import score
from tests.ingest.samples import SIZE, edit_coco, ingest, make_coco, make_masks, make_yolo, picture, validate
from tests.loss.synthetic import GROUPS, make_output

WIDTH, HEIGHT = SIZE


def samples_of(out: Path, split: str) -> list[Sample]:
    return read_samples(out / "annotations" / f"{split}.json", out / "manifest" / f"{split}.json")


def rectangle(box: list[int]) -> np.ndarray:
    x, y, width, height = box
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y : y + height, x : x + width] = 1
    return mask


def plain_runs(mask: np.ndarray) -> list[int]:
    """The run lengths down the columns. The first run is of zeros."""
    ends = np.flatnonzero(np.diff(np.concatenate([[0], mask.T.ravel(), [2]])))
    runs: list[int] = np.diff(ends, prepend=0).tolist()
    return runs


def test_every_spelling_of_a_mask_means_the_same_to_training(tmp_path: Path) -> None:
    """A rectangle as polygon, as two polygons, as compressed and as uncompressed run lengths."""
    mask = rectangle([4, 6, 16, 12])
    compressed = rle.encode(np.asfortranarray(mask))["counts"].decode()
    spellings: list[Any] = [
        [[4, 6, 20, 6, 20, 18, 4, 18]],
        [[4, 6, 12, 6, 12, 18, 4, 18], [12, 6, 20, 6, 20, 18, 12, 18]],
        {"size": [HEIGHT, WIDTH], "counts": compressed},
        {"size": [HEIGHT, WIDTH], "counts": plain_runs(mask)},
    ]
    targets = []
    for number, segmentation in enumerate(spellings):
        root = make_masks(tmp_path / str(number))
        edit_coco(root, "train", partial(_redraw, segmentation))
        assert validate(root, tmp_path) == ([], None)
        ingest(root, tmp_path / f"out{number}")
        dataset = DetectionDataset(samples_of(tmp_path / f"out{number}", "train"), root, 64, masks=True)
        targets.append(dataset[0].target)
    expected = Image.fromarray(mask * 255).resize((64, 64), Image.Resampling.NEAREST)
    for target in targets:
        assert target.masks is not None
        assert torch.equal(target.boxes, targets[0].boxes)
        assert (target.masks[0].numpy() == (np.asarray(expected) > 0)).mean() > 0.99


def _redraw(segmentation: Any, content: Any) -> None:
    content["annotations"][0]["segmentation"] = segmentation


@pytest.mark.parametrize("kind", ["box", "polygon", "compressed", "uncompressed"])
def test_a_crowd_is_not_trained_on_and_hides_detections_from_the_score(tmp_path: Path, kind: str) -> None:
    root = make_coco(tmp_path / "data") if kind == "box" else make_masks(tmp_path / "data")
    mask = rectangle([30, 2, 30, 20])
    shapes: dict[str, Any] = {
        "box": None,
        "polygon": [[30, 2, 60, 2, 60, 22, 30, 22]],
        "compressed": {"size": [HEIGHT, WIDTH], "counts": rle.encode(np.asfortranarray(mask))["counts"].decode()},
        "uncompressed": {"size": [HEIGHT, WIDTH], "counts": plain_runs(mask)},
    }
    crowd = {"id": 900, "image_id": 1, "category_id": 3, "bbox": [30, 2, 30, 20], "iscrowd": 1}
    for split in ("train", "valid"):
        edit_coco(root, split, lambda content: content["annotations"].append(crowd | {"segmentation": shapes[kind]}))
    before = ingest(make_coco(tmp_path / "without"), tmp_path / "without_out")
    files = ingest(root, tmp_path)
    content, content_without = (json.loads(outputs["annotations/valid.json"]) for outputs in (files, before))
    assert [annotation["area"] for annotation in content["annotations"] if annotation["iscrowd"]] == [600]

    sample = samples_of(tmp_path, "train")[0]
    assert sample.crowd.sum() == 1
    dataset = DetectionDataset([sample], root, 64, masks=kind != "box")
    assert len(dataset[0].target.labels) == (~sample.crowd).sum() == 2

    # All objects are detected. Two more detections are inside the crowd: they count as wrong only without the crowd.
    objects = [annotation for annotation in content["annotations"] if not annotation["iscrowd"]]
    results = [
        {key: annotation[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.5} for annotation in objects
    ]
    results += [{"image_id": 1, "category_id": 0, "bbox": [x, 4, 9, 9], "score": 0.9} for x in (31, 45)]
    assert score(content, results).map == pytest.approx(1)
    assert score(content_without, results).map < 1
    if kind != "box":
        for result in results:
            x, y, width, height = map(int, result["bbox"])
            coded = rle.encode(np.asfortranarray(rectangle([x, y, width, height])))
            result["segmentation"] = coded | {"counts": coded["counts"].decode()}
        assert score(content, results, "segm").map == pytest.approx(1)


@pytest.mark.parametrize("orientation", [3, 6])
def test_orientation_is_one_rule_for_validation_training_and_prediction(tmp_path: Path, orientation: int) -> None:
    root, path = make_coco(tmp_path / "data"), Path("train/train_1.png")
    exif = Image.Exif()
    exif[0x0112] = orientation
    size = SIZE[::-1] if orientation >= 5 else SIZE
    picture(77, size).save(root / path, exif=exif)
    assert validate(root, tmp_path) == ([], None)
    ingest(root, tmp_path)
    sample = samples_of(tmp_path, "train")[0]
    upright = images.decode((root / path).read_bytes(), "x")
    assert (sample.width, sample.height) == upright.size == images.upright_size(root / path) == SIZE
    item = DetectionDataset([sample], root, 32)[0]
    assert np.array_equal(item.image.permute(1, 2, 0).numpy(), np.asarray(resize(upright, 32)))
    for given_as in (root / path, Image.open(root / path)):
        assert np.array_equal(np.asarray(to_rgb(given_as)), np.asarray(upright))


def test_training_reads_what_a_raised_limit_let_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_coco(tmp_path / "data")
    ingest(root, tmp_path)
    monkeypatch.setattr(images, "MAX_PIXELS", 1)
    assert len(DetectionDataset(samples_of(tmp_path, "train"), root, 32)[0].target.labels) == 2


@settings(max_examples=200, derandomize=True)
@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_run_lengths_are_read_as_pycocotools_reads_them(height: int, width: int, data: st.DataObject) -> None:
    bits = data.draw(st.lists(st.integers(0, 1), min_size=height * width, max_size=height * width))
    mask = np.array(bits, dtype=np.uint8).reshape(height, width)
    coded = rle.encode(np.asfortranarray(mask))
    for counts in (coded["counts"].decode(), plain_runs(mask)):
        shape = {"size": [height, width], "counts": counts}
        if not mask.any():
            assert mask_problem(shape, height, width)
            continue
        assert mask_problem(shape, height, width) is None
        assert mask_area(shape) == mask.sum()
        rows, columns = np.nonzero(mask)
        x, y = columns.min(), rows.min()
        assert mask_bounds(shape) == (x, y, columns.max() + 1 - x, rows.max() + 1 - y)


@settings(max_examples=300, derandomize=True)
@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=12) | st.lists(st.integers(-3, 99)))
def test_any_counts_are_runs_or_refused(counts: object) -> None:
    runs = run_lengths(counts)
    assert runs is None or (runs >= 0).all()
    problem = mask_problem({"size": [5, 6], "counts": counts}, 5, 6)
    if problem is None:
        shape: Any = {"size": [5, 6], "counts": counts}
        coded = rle.frPyObjects(shape, 5, 6) if isinstance(counts, list) else shape
        assert rle.decode(coded).sum() == mask_area(shape) > 0


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 80), st.integers(), st.floats(), st.text(max_size=6),
    st.lists(st.floats(-10, 90), max_size=8), st.lists(st.lists(st.integers(-9, 99), max_size=9), max_size=2),
    st.sampled_from([[], {}, {"size": [48, 64], "counts": [3000, 72]}, "../x", 1e308, -0.0, "\0", [0, 0, 64, 48]]),
)  # fmt: skip
HARM = st.tuples(
    st.sampled_from(["bytes", "cut", "remove", "rename", "copy", "value", "key", "swap"]),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    ODD,
)


def harm(root: Path, how: str, which: int, where: int, value: Any) -> None:
    """Damage one file of a dataset, chosen by a number, or one value in it."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    if not files:
        return
    path = files[which % len(files)]
    data = bytearray(path.read_bytes())
    if how == "bytes" and data:
        for k in range(3):
            data[where * (k + 1) % len(data)] ^= 1 << (where + k) % 8
        path.write_bytes(data)
    elif how == "cut":
        path.write_bytes(data[: where % (len(data) + 1)])
    elif how == "remove":
        path.unlink()
    elif how == "rename":
        path.rename(path.with_name(("e\u0301" + path.name, path.stem, path.name.upper())[where % 3]))
    elif how in ("copy", "swap"):
        other_file = files[where % len(files)]
        if other_file != path:
            shutil.copyfile(other_file, path if how == "swap" else path.with_stem(f"{path.stem}_2"))
    elif path.suffix == ".txt":
        words = path.read_text(errors="replace").split(" ")
        words[where % len(words)] = str(value)
        path.write_text(" ".join(words), errors="replace")
    elif path.suffix == ".json":
        try:
            content = json.loads(data)
        except ValueError:  # an earlier change made it unreadable
            return
        nodes = [node for node in _nodes(content) if len(node)]
        node = nodes[where % len(nodes)] if nodes else content
        key = sorted(node, key=str)[where % len(node)] if isinstance(node, dict) and node else where % max(len(node), 1)
        if how == "key" and node:
            del node[key]
        elif node:
            node[key] = value
        path.write_text(json.dumps(content))


def _nodes(tree: Any) -> list[Any]:
    inside = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return [tree] * isinstance(tree, dict | list) + [node for child in inside for node in _nodes(child)]


def feed(out: Path, root: Path) -> int:
    """Read everything as training and evaluation do, up to loss and score. Returns the number of objects."""
    count = 0
    for split in SPLITS:
        samples = samples_of(out, split)
        for masks in (False, True):
            usable = [
                sample
                for sample in samples
                if not masks
                or all(shape or crowd for shape, crowd in zip(sample.segmentations, sample.crowd, strict=True))
            ]
            augmented = DetectionDataset(usable, root, 32, masks, AugmentConfig(), seed=1)
            plain = DetectionDataset(usable, root, 32, masks)
            items = [augmented[SampleKey(0, k)] for k in range(len(usable))] + [plain[k] for k in range(len(usable))]
            targets = collate(items).targets
            output = make_output(len(targets), queries=8, classes=3, masks=masks) if targets else None
            if output is not None:
                loss = Criterion()(output, targets, groups=GROUPS, point_seed=0).total
                loss.backward()
                assert torch.isfinite(loss)
            for target in targets:
                assert torch.isfinite(target.boxes).all()
                assert (target.boxes >= 0).all()
                assert (target.boxes <= 1).all()
                assert (target.boxes[:, 2:] > 0).all()
                count += len(target.labels)
        content = json.loads((out / "annotations" / f"{split}.json").read_text())
        results = [
            {key: annotation[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.5}
            for annotation in content["annotations"]
        ]
        if results:
            score(content, results)
    return count


@pytest.mark.slow
@pytest.mark.parametrize("make", [make_masks, make_yolo])
@settings(max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(harms=st.lists(HARM, min_size=1, max_size=4))
def test_no_damage_crashes_validation_and_accepted_data_can_be_trained_on(
    make: Any, tmp_path: Path, harms: list[tuple[str, int, int, Any]]
) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    for folder in (root, out):
        shutil.rmtree(folder, ignore_errors=True)
    make(root)
    for change in harms:
        harm(root, *change)
    config = parse(ValidateConfig, {"on_error": "drop"}, "validate")
    errors = []
    for _ in range(2):
        try:
            validate_dataset(root, config, out / "reports", out / "manifest")
            errors.append("")
        except UserError as error:
            errors.append(str(error))
    assert errors[0] == errors[1]
    if not errors[0]:
        convert_dataset(root, config, out / "manifest", out / "annotations")
        assert feed(out, root)
