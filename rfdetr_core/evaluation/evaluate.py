"""The evaluation of a model on a split: detections, scores, tables and pictures as files."""

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
    """Evaluate a detector and write the results.

    It writes metrics.json, about.json (the split, and why a number is null), per_class.csv, per_image.csv,
    pr_curve.csv, confusion.csv, detections.json, masks.json and pictures/. Every number is computed by pycocotools
    from detections.json or masks.json. If the test split has no image, valid is used and about.json says so.

    Args:
        predictor: The detector.
        where: The folders of the project's data.
        config: The section `evaluate` of params.yaml.
        output: The folder for the results.

    Returns:
        The content of about.json and metrics.json in one dict.

    Raises:
        UserError: an input is missing, an image differs from the manifest, or the dataset has other classes than the
            model.
    """
    split, samples = split_to_score(where, config)
    names = tuple(entry.name for entry in read_classes(where.classes))
    require_classes(predictor, names)
    results = detect(predictor, where.dataset, samples, names)
    segments, annotations = predictor.architecture.segmentation, files.read_json(where.split(split)[0])
    scored = Scored.from_results(annotations, results, segmentation=segments, threshold=config.threshold)
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
    """The content of about.json: the split, why it differs from the configured one, and why numbers are null.

    Args:
        split: The split that was scored.
        config: The section `evaluate`; its `split` is the configured one.
        metrics: The numbers of metrics.json. None: a number could not be measured.
    """
    about = {"split": split}
    if split != config.split:
        about["note"] = "the test split has no image"
    if missing := not_measured(metrics):
        about["not_measured"] = missing
    return about


def write_pictures(
    folder: Path, scored: Scored, samples: Sequence[Sample], dataset: Path, names: dict[int, str], count: int
) -> None:
    """Draw images of a split into a folder. PNG files that are already in the folder are deleted.

    Args:
        folder: Where the pictures are written.
        scored: The evaluation.
        samples: The images of the split.
        dataset: The folder of the images.
        names: The names of the classes by id.
        count: How many images to draw; see `pick`.

    Raises:
        UserError: an image is missing or differs from the manifest.
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
    """Raise a UserError if the classes of the dataset differ from those of the model."""
    if names != predictor.class_names:
        raise UserError(
            f"the model has the classes {', '.join(predictor.class_names)}; the dataset has {', '.join(names)}. "
            "Evaluate the model on a dataset with the same classes, or train a model on this dataset."
        )


def detect(predictor: BasePredictor, dataset: Path, samples: Sequence[Sample], names: Sequence[str]) -> list[Row]:
    """Run the predictor on images. The detections are in COCO's results format.

    The classes of the predictor are matched with `names` by name. Detections of other classes are left out.
    The last row of the class head stands for no class, so its detections are left out too.

    Args:
        predictor: The detector.
        dataset: The folder of the images.
        samples: The images.
        names: The classes of the dataset. A detection's category_id is an index in this list.

    Raises:
        UserError: an image is missing or differs from the manifest.
    """
    index = {name: position for position, name in enumerate(names)}
    labels = {position: index[name] for position, name in enumerate(predictor.class_names) if name in index}
    results = []
    found_in = predictor.detect(samples, load=partial(_picture, dataset))
    for sample, detections in zip(samples, found_in, strict=True):
        rows = coco_results(sample.image_id, detections)
        results += [row | {"category_id": labels[row["category_id"]]} for row in rows if row["category_id"] in labels]
    return results


def split_to_score(where: ProjectPaths, config: EvaluateConfig) -> tuple[str, list[Sample]]:
    """The configured split with its images, or valid if that split has no image.

    Raises:
        UserError: neither split has an image.
    """
    for split in dict.fromkeys((config.split, "valid")):
        samples = read_samples(*where.split(split))
        if samples:
            return split, samples
    raise UserError(f"neither {config.split} nor valid has an image to evaluate on. Add images, then: dvc repro")


def _picture(root: Path, sample: Sample) -> Image.Image:
    return images.decode(images.read_verified(root / sample.path, sample.sha256), sample.path, max_pixels=None)


def machine_of(predictor: BasePredictor) -> dict[str, Any]:
    """Hardware and settings that can change the last bits of the detections, beside code and packages."""
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
    """Write lineage.json of an evaluation: digests of model and inputs, params, code, packages and machine.

    Args:
        path: The file to write.
        model: The model file that was evaluated.
        where: The folders of the project's data.
        config: The section `evaluate` of params.yaml.
        split: The split that was evaluated.
        machine: See `machine_of`.
    """
    content = {
        "schema": 2,  # In schema 1, a code digest covered all bytes of a file, its comments too.
        "model": provenance.identity(model) | {"tensors": tensor_digest(read_checkpoint(model).weights)},
        "split": split,
        "inputs": provenance.identities([*where.split(split), where.classes]),
        "params": {"evaluate": config.model_dump(mode="json")},
        "code": Code().digests("stages.evaluate", __name__),
        "machine": {**machine},
        **provenance.environment(),
    }
    files.write_json(path, content)
