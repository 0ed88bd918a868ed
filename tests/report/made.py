"""The files that the stage report reads, made from annotations and detections, without a model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rfdetr_core.base.manifest import ClassEntry, write_classes
from rfdetr_core.base.metadata import write_metadata
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.evaluation.pictures import compare, pick, write_png
from rfdetr_core.evaluation.scoring import Scored, write_results
from tests.data.canonical import write_split
from tests.evaluation.scenes import Rows

TENSORS = "5" * 64


@dataclass(frozen=True)
class EvaluationFolders:
    """The folders of the data, of the evaluation and of the training."""

    where: ProjectPaths
    reports: Path
    run: Path

    def json(self, name: str) -> Any:
        return json.loads((self.reports / name).read_text())


def where_of(folder: Path) -> ProjectPaths:
    """The folders in which `make_evaluation` puts the data."""
    return ProjectPaths(folder / "dataset", folder / "annotations", folder / "manifest", metadata=folder / "metadata")


def make_evaluation(
    folder: Path,
    annotations: dict[str, Any],
    rows: Rows,
    *,
    masks: bool = False,
    threshold: float | None = None,
    metadata: dict[str, dict[str, str]] | None = None,
) -> EvaluationFolders:
    """Write the files that the stage report reads. The images are noise with the names and sizes of the annotations."""
    where = where_of(folder)
    reports, run = folder / "reports", folder / "run"
    for path in (reports / "pictures", run):
        path.mkdir(parents=True)
    rows_of_image: dict[int, Rows] = {image["id"]: [] for image in annotations["images"]}
    for row in annotations["annotations"]:
        rows_of_image[row["image_id"]].append(row)
    listed = annotations["images"]
    write_split(
        folder,
        [(image["file_name"], (image["width"], image["height"]), rows_of_image[image["id"]]) for image in listed],
        "test",
    )
    _write(where.split("test")[0], annotations)
    names = {category["id"]: category["name"] for category in annotations["categories"]}
    write_classes(where.classes, [ClassEntry(id=number, index=number, name=name) for number, name in names.items()])
    write_metadata(where.metadata_of("test"), metadata or {})
    scored = Scored.from_results(annotations, rows, segmentation=masks, threshold=threshold)
    scored.write(reports, names)
    write_results(reports / "detections.json", rows, "bbox")
    write_results(reports / "masks.json", rows if masks else [], "segmentation")
    for name, judgement in pick(scored.judgements, 3).items():
        grey = Image.new("RGB", (judgement.image["width"], judgement.image["height"]), "grey")
        write_png(reports / "pictures" / f"{name}.png", compare(grey, judgement, names, scored.threshold, masks=masks))
    _write(reports / "about.json", {"split": "test"})
    _write(reports / "metrics.json", scored.numbers())
    model = {"sha256": "6" * 64, "tensors": TENSORS}
    _write(reports / "lineage.json", {"model": model, "params": {"evaluate": {"threshold": threshold}}})
    counts = {name: {"images": 3, "objects": 5} for name in ("train", "valid")}
    lineage = {"variant": "RFDETRPico", "tensors": TENSORS, "training": {"counts": counts}}
    _write(run / "record.json", {"lineage": lineage})
    key = "val/segm_mAP_50" if masks else "val/mAP_50"
    tracks = {"regular": {"score": 0.4, "epoch": 2}, "ema": {"score": 0.3, "epoch": 3}}
    _write(run / "selection.json", {"winner": "regular", "key": key, "epochs": 3, **tracks})
    columns = ["epoch", "train/loss", "train/loss_ce", "train/loss_ce_aux", "train/lr"]
    columns += [key, key.replace("val/", "val/ema_")]
    random = np.random.default_rng(0)
    epochs = [[epoch, *random.uniform(0.1, 1, len(columns) - 1).round(3).tolist()] for epoch in (1, 2, 3)]
    (run / "history.csv").write_text("\n".join(",".join(map(str, row)) for row in [columns, *epochs]) + "\n")
    return EvaluationFolders(where, reports, run)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))
