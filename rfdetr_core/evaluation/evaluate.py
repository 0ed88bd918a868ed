"""A checkpoint scored on a split it was not trained on, and the report of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from rfdetr_core import files, images
from rfdetr_core.data.samples import Sample, read_samples
from rfdetr_core.errors import UserError
from rfdetr_core.evaluation import tables
from rfdetr_core.evaluation.config import EvaluateConfig
from rfdetr_core.evaluation.pictures import compare, pick, write_png
from rfdetr_core.evaluation.scoring import Scored
from rfdetr_core.inference import Predictor
from rfdetr_core.manifest import read_classes
from rfdetr_core.metrics.coco import coco_results


@dataclass(frozen=True)
class EvaluationFiles:
    """Where an evaluation reads: the dataset folder and the folders of the stages before."""

    dataset: Path
    annotations: Path = Path("annotations")
    manifests: Path = Path("manifest")


def evaluate(predictor: Predictor, where: EvaluationFiles, config: EvaluateConfig, output: Path) -> dict[str, Any]:
    """Score a detector; the result is the content of metrics.json.

    Into `output` go metrics.json, per_class.csv, per_image.csv, pr_curve.csv, confusion.csv, detections.json,
    masks.json and pictures/. Every number is pycocotools' of detections.json or masks.json. Without an image in the
    test split, valid is used, and metrics.json says so.

    Raises:
        UserError: an input is missing, an image is not the one of the manifest, or the classes are not the model's.
    """
    split, samples = _split(where, config)
    names = tuple(entry.name for entry in read_classes(where.annotations / "classes.json"))
    if names != predictor.class_names:
        raise UserError(
            f"the model's classes ({', '.join(predictor.class_names)}) are not the dataset's ({', '.join(names)}). "
            "Evaluate it on a dataset with its own class table, or train it on this one."
        )
    annotations = files.read_json(where.annotations / f"{split}.json")
    results: list[dict[str, Any]] = []
    pictures = (_picture(where.dataset, sample) for sample in samples)
    for sample, found in zip(samples, predictor.detect(pictures), strict=True):
        # The head has one row more than there are classes; COCO has no name for it.
        results += [one for one in coco_results(sample.image_id, found) if one["category_id"] < len(names)]
    segments = predictor.architecture.segmentation
    scored = Scored.of(annotations, results, segmentation=segments, threshold=config.threshold)
    metrics: dict[str, Any] = {
        "split": split,
        **({"note": "the test split has no image"} if split != config.split else {}),
        **scored.numbers(),
    }
    table = dict(enumerate(names))
    tables.write_results(output / "detections.json", results, "bbox")
    tables.write_results(output / "masks.json", results, "segmentation")
    scored.write(output, table)
    folder = output / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    by_id = {sample.image_id: sample for sample in samples}
    for name, one in pick(scored.judgements, config.pictures).items():
        picture = _picture(where.dataset, by_id[one.image["id"]])
        write_png(folder / f"{name}.png", compare(picture, one, table, scored.threshold, masks=segments))
    files.write_json(output / "metrics.json", metrics)
    return metrics


def _split(where: EvaluationFiles, config: EvaluateConfig) -> tuple[str, list[Sample]]:
    for split in dict.fromkeys((config.split, "valid")):
        samples = read_samples(where.annotations / f"{split}.json", where.manifests / f"{split}.json")
        if samples:
            return split, samples
    raise UserError(f"neither {config.split} nor valid has an image to evaluate on. Add images, then: dvc repro")


def _picture(root: Path, sample: Sample) -> Image.Image:
    return images.decode(images.read_verified(root / sample.path, sample.sha256), sample.path, max_pixels=None)
