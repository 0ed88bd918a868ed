"""A checkpoint scored on a split it was not trained on, and the report of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from rfdetr_core.base import environment, files, images, provenance
from rfdetr_core.base.code import Code
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.manifest import read_classes
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.checkpoint.files import read_checkpoint, tensor_digest
from rfdetr_core.data.samples import Sample, read_samples
from rfdetr_core.evaluation.config import EvaluateConfig
from rfdetr_core.evaluation.pictures import compare, pick, write_png
from rfdetr_core.evaluation.scoring import Scored, not_measured, write_results
from rfdetr_core.inference.predictor import BasePredictor
from rfdetr_core.metrics.coco import Row, coco_results


def evaluate(predictor: BasePredictor, where: ProjectPaths, config: EvaluateConfig, output: Path) -> dict[str, Any]:
    """Score a detector; the result is the content of about.json and of metrics.json.

    Into `output` go metrics.json, about.json (the split, and why a number is null), per_class.csv, per_image.csv,
    pr_curve.csv, confusion.csv, detections.json, masks.json and pictures/. Every number is pycocotools' of
    detections.json or masks.json. Without an image in the test split, valid is used, and about.json says so.

    Raises:
        UserError: an input is missing, an image is not the one of the manifest, or the classes are not the model's.
    """
    split, samples = split_to_score(where, config)
    names = tuple(entry.name for entry in read_classes(where.classes))
    require_classes(predictor, names)
    results = detect(predictor, where.dataset, samples, names)
    segments, annotations = predictor.architecture.segmentation, files.read_json(where.split(split)[0])
    scored = Scored.of(annotations, results, segmentation=segments, threshold=config.threshold)
    metrics, table = scored.numbers(), dict(enumerate(names))
    about = about_of(split, config, metrics)
    write_results(output / "detections.json", results, "bbox")
    write_results(output / "masks.json", results, "segmentation")
    scored.write(output, table)
    write_pictures(output / "pictures", scored, samples, where.dataset, table, config.pictures)
    files.write_json(output / "about.json", about)
    files.write_json(output / "metrics.json", metrics)
    return about | metrics


def about_of(split: str, config: EvaluateConfig, metrics: dict[str, Any]) -> dict[str, str]:
    """The content of about.json: the split that was scored, and why it is that one and some numbers are null."""
    about = {"split": split}
    if split != config.split:
        about["note"] = "the test split has no image"
    if missing := not_measured(metrics):
        about["not_measured"] = missing
    return about


def write_pictures(
    folder: Path, scored: Scored, samples: Sequence[Sample], dataset: Path, names: dict[int, str], count: int
) -> None:
    """Draw `count` images of a split into a folder, in place of the PNG files there. names: of the classes, by id.

    Raises:
        UserError: an image is missing or not the one of the manifest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    by_id = {sample.image_id: sample for sample in samples}
    for name, judgement in pick(scored.judgements, count).items():
        picture = _picture(dataset, by_id[judgement.image["id"]])
        drawn = compare(picture, judgement, names, scored.threshold, masks=scored.masks is not None)
        write_png(folder / f"{name}.png", drawn)


def require_classes(predictor: BasePredictor, names: tuple[str, ...]) -> None:
    """Raise a UserError where the classes of a dataset are not the model's."""
    if names != predictor.class_names:
        raise UserError(
            f"the model's classes ({', '.join(predictor.class_names)}) are not the dataset's ({', '.join(names)}). "
            "Evaluate it on a dataset with its own class table, or train it on this one."
        )


def detect(predictor: BasePredictor, dataset: Path, samples: Sequence[Sample], names: Sequence[str]) -> list[Row]:
    """Detections in COCO's results format, the predictor's classes found by name among `names`; others are left out.

    So is the row of the class head that has no class.

    Raises:
        UserError: an image is missing or not the one of the manifest.
    """
    index = {name: place for place, name in enumerate(names)}
    labels = {place: index[name] for place, name in enumerate(predictor.class_names) if name in index}
    results = []
    found_in = predictor.detect(samples, load=partial(_picture, dataset))
    for sample, detections in zip(samples, found_in, strict=True):
        rows = coco_results(sample.image_id, detections)
        results += [row | {"category_id": labels[row["category_id"]]} for row in rows if row["category_id"] in labels]
    return results


def split_to_score(where: ProjectPaths, config: EvaluateConfig) -> tuple[str, list[Sample]]:
    """The split that is asked for, or valid where it has no image. Raises a UserError where neither has one."""
    for split in dict.fromkeys((config.split, "valid")):
        samples = read_samples(*where.split(split))
        if samples:
            return split, samples
    raise UserError(f"neither {config.split} nor valid has an image to evaluate on. Add images, then: dvc repro")


def _picture(root: Path, sample: Sample) -> Image.Image:
    return images.decode(images.read_verified(root / sample.path, sample.sha256), sample.path, max_pixels=None)


def machine_of(predictor: BasePredictor) -> dict[str, Any]:
    """What decides the bits of the detections, beside code and packages."""
    settings = {"settings": environment.settings()}
    if "cuda" in predictor.device:
        return {"device": torch.cuda.get_device_name(predictor.device), **settings}
    return {
        "device": predictor.device,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "processor": environment.processor(),
        "threads": torch.get_num_threads(),
        **settings,
    }


def write_lineage(
    path: Path, model: Path, where: ProjectPaths, config: EvaluateConfig, split: str, machine: Mapping[str, Any]
) -> None:
    """Write the digests of the model file, its tensors and the inputs, the params, the code, packages and machine."""
    content = {
        "schema": 2,  # 1: the digests of code are of the bytes, comments and all
        "model": provenance.identity(model) | {"tensors": tensor_digest(read_checkpoint(model).weights)},
        "split": split,
        "inputs": provenance.identities([*where.split(split), where.classes]),
        "params": {"evaluate": config.model_dump(mode="json")},
        "code": Code().digests("stages.evaluate", __name__),
        "machine": {**machine},
        **provenance.environment(),
    }
    files.write_json(path, content)
