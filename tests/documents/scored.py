"""A repository whose model has an evaluation: three images of the split test, one object and one detection on each."""

from __future__ import annotations

from pathlib import Path

from rfdetr_core.base import files, provenance
from rfdetr_core.checkpoint.files import read_checkpoint, tensor_digest
from rfdetr_core.evaluation.config import EvaluateConfig
from rfdetr_core.evaluation.evaluate import about_of
from rfdetr_core.evaluation.scoring import Scored, write_results
from tests.audit.repository import Images, Metadata, Repository

IMAGES: Images = {
    "train": {"train/a.jpg": "a"},
    "valid": {"valid/b.jpg": "b"},
    "test": {f"test/{name}.jpg": name for name in "cde"},
}
LICENCES: Metadata = {
    path: {"licence": "CC0-1.0" if path.endswith(("a.jpg", "c.jpg")) else "CC-BY-4.0"}
    for images in IMAGES.values()
    for path in images
}
NAMES = ["class 0", "class 1", "class 2"]
ENDS = {"map": [0.1, 0.9], "map_50": [0.2, 1.0]}


def scored_repository(folder: Path, metadata: Metadata = LICENCES) -> Repository:
    """A clone with one committed result, its evaluation included."""
    repository = Repository(folder)
    model = repository.train(1, IMAGES, parent="0" * 64, metadata=metadata)
    evaluate(repository, model)
    repository.lock()
    repository.git("add", "reports")
    repository.commit("Train")
    return repository


def evaluate(repository: Repository, model: Path) -> None:
    """Write the files of an evaluation as the stages evaluate and report do."""
    for split in ("train", "valid", "test"):
        rows = files.read_json(repository.manifest(split))
        images = [
            {"id": number, "file_name": image["path"], "width": 64, "height": 48}
            for number, image in enumerate(rows, 1)
        ]
        objects = [
            {
                **{"id": image["id"], "image_id": image["id"], "category_id": image["id"] % 2, "iscrowd": 0},
                **{"bbox": [8.0, 8.0, 20.0, 20.0], "area": 400.0},
            }
            for image in images
        ]
        categories = [{"id": number, "name": name} for number, name in enumerate(NAMES)]
        content = {"images": images, "annotations": objects, "categories": categories}
        files.write_json(repository.folder / "annotations" / f"{split}.json", content)
    truth, folder = files.read_json(repository.folder / "annotations" / "test.json"), reports(repository)
    shifts = {1: 0.0, 2: 2.0, 3: 30.0}  # right, nearly right, wrong
    results = [
        {
            **{"image_id": number, "category_id": number % 2, "score": 1 - number / 10},
            "bbox": [8.0 + shift, 8.0, 20.0, 20.0],
        }
        for number, shift in shifts.items()
    ]
    scored = Scored.from_results(truth, results, segmentation=False, threshold=None)
    write_results(folder / "detections.json", results, "bbox")
    scored.write(folder, dict(enumerate(NAMES)))
    metrics, tensors = scored.numbers(), tensor_digest(read_checkpoint(model).weights)
    inputs = provenance.identities([repository.folder / "annotations" / "test.json", repository.manifest("test")])
    files.write_json(folder / "metrics.json", metrics)
    files.write_json(folder / "about.json", about_of("test", EvaluateConfig(), metrics))
    files.write_json(folder / "intervals.json", {"schema": 1, "images": 3, "resamples": 200, "boxes": ENDS})
    model_of = provenance.identity(model) | {"tensors": tensors}
    files.write_json(folder / "lineage.json", {"schema": 2, "model": model_of, "split": "test", "inputs": inputs})


def reports(repository: Repository) -> Path:
    """The folder of the evaluation."""
    return repository.folder / "reports" / "evaluate"
