"""Checks that run models again: the best weights of each track on valid, and the model file on the evaluated split."""

from __future__ import annotations

import math
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hotcoco import mask as overlaps

from rfdetr_core.audit.history import EVALUATION, MODEL
from rfdetr_core.base import environment, files, provenance
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.manifest import read_classes
from rfdetr_core.base.params import parse
from rfdetr_core.checkpoint.loading import Loaded, build_from_checkpoint
from rfdetr_core.checkpoint.schema import Evaluation
from rfdetr_core.data.datamodule import TrainingData
from rfdetr_core.evaluation.config import EvaluateConfig
from rfdetr_core.evaluation.evaluate import detect, machine_of, split_to_score
from rfdetr_core.evaluation.scoring import Scored, write_results
from rfdetr_core.inference.predictor import Predictor, torch_threads
from rfdetr_core.lineage.lock import LOCK
from rfdetr_core.metrics.names import PREFIX
from rfdetr_core.observers.history import read_history
from rfdetr_core.training.callbacks import CocoScoring
from rfdetr_core.training.config import RuntimeConfig, TrainConfig
from rfdetr_core.training.inputs import Inputs, read_inputs
from rfdetr_core.training.module import TrainingModule
from rfdetr_core.training.run import quiet_lightning
from rfdetr_core.training.trainer import build_trainer, cpu_kind, device_kind, resolved_precision
from rfdetr_core.verification.claims import read_json
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.lock import Pipeline
from rfdetr_core.verification.recomputed import (
    FOLDER,
    HISTORY,
    METRICS,
    compare_lines,
    is_other_code,
    paths_of,
    training_configs,
)
from rfdetr_core.verification.report import Report
from rfdetr_core.verification.reproduce import TOLERANCE

LEAST_OVERLAP = 0.9  # IoU of a stored box and the box found again on another machine
LEAST_SCORE = 0.1  # on another machine, boxes with a lower score are not compared
_AMP = {"32-true": None, "bf16-mixed": "bf16", "16-mixed": "fp16"}
_VALID = "scores on valid"
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def check_valid(report: Report, contents: Contents, pipeline: Pipeline, data: str) -> None:
    """Run the best weights of both tracks on valid, as the training did, and compare the scores with history.csv.

    With the machine and packages of the training record, each number must be equal. Elsewhere, scores may differ by
    TOLERANCE.

    Args:
        report: Receives the mismatches.
        contents: The working tree.
        pipeline: dvc.yaml and dvc.lock.
        data: The dataset folder, relative to the root.
    """
    best = {track: entry for track, entry in _best_files(contents).items() if not entry[1].get("custom")}
    if not best:
        report.skip(_VALID, "missing: this clone has no best weights of stage train")
        return
    project, (_, record, _) = paths_of(contents, data), next(iter(best.values()))
    model, config = training_configs(pipeline)
    machine, settings = record.get("machine") or {}, environment.settings()
    with _threads(machine.get("threads")) as threads:
        runtime = RuntimeConfig(num_workers=0, mlflow=False, threads=threads)
        try:
            inputs = read_inputs(
                project, model, _params_for_one_device(config, machine), runtime, contents.root / "output"
            )
            values = _validated(inputs, {track: entry[0] for track, entry in best.items()})
        except UserError as error:
            report.skip(_VALID, str(error))
            return
        differences = [*_differing(record, inputs, settings), *_other_code(pipeline, "train")]
    if differences:
        report.note(f"valid was scored again on another kind of machine ({'; '.join(differences)}), so scores within "
                    f"{TOLERANCE} count as equal")  # fmt: skip
    history = read_history(contents.root / HISTORY)
    for track, (_, _, epoch) in best.items():
        row = history.get(epoch or 0)
        if row is None:
            report.skip(f"{_VALID} of track {track}", f"{HISTORY} has no epoch {epoch}")
            continue
        for key in _names_of(track, row.keys() & values.keys()):
            if differences and key.endswith("loss"):
                continue
            recomputed, stored = values[key], row[key]
            same = abs(recomputed - stored) <= TOLERANCE if differences else recomputed == stored
            report.equal(f"{key} of epoch {epoch} in {HISTORY}", stored if same else recomputed, stored,
                         f"weights of track {track} on valid")  # fmt: skip


def _best_files(contents: Contents) -> dict[str, tuple[Loaded, Mapping[str, Any], int | None]]:
    """The local best weights by track, with their training record and their epoch (from 1).

    If no best file is local, the stripped model file is used for the winner. Without weight averaging, both best files
    have the regular weights, so only `regular` is returned.
    """
    best: dict[str, tuple[Loaded, Mapping[str, Any], int | None]] = {}
    for track in PREFIX:
        path = contents.root / "output" / f"checkpoint_best_{track}.pth"
        if path.is_file():
            loaded = build_from_checkpoint(path)
            epoch, record = loaded.checkpoint.epoch, loaded.checkpoint.training_record or {}
            averaged = (record.get("params") or {}).get("train", {}).get("use_ema", True)
            if averaged or track == "regular":
                best[track] = loaded, record, None if epoch is None else epoch + 1
    path = contents.root / MODEL
    if path.is_file() and not best:
        loaded = build_from_checkpoint(path)
        lineage = loaded.checkpoint.lineage or {}
        selection = lineage.get("selection") or {}
        if (winner := selection.get("winner")) in PREFIX:
            best[winner] = loaded, lineage.get("training") or {}, selection[winner]["epoch"]
    return best


def _params_for_one_device(config: TrainConfig, machine: Mapping[str, Any]) -> TrainConfig:
    """The section `train` for a single local device, with the batch size and precision of the training."""
    local_settings = {"accelerator": "auto", "devices": 1, "num_nodes": 1, "strategy": "auto", "compile": "off"}
    amp = _AMP.get(str(machine.get("precision")), config.amp_dtype)
    if amp == "fp16" and device_kind(config.model_copy(update=local_settings)) == "cpu":
        amp = None
    sizes = {key: machine.get(key) or 1 for key in ("batch_size", "grad_accum_steps")}
    return config.model_copy(update=local_settings | sizes | {"amp_dtype": amp})


def _validated(inputs: Inputs, tracks: Mapping[str, Loaded]) -> dict[str, float]:
    """Validate these weights on valid. Returns the values by their column in history.csv."""
    quiet_lightning()
    scoring = CocoScoring(inputs.annotations("valid"), inputs.architecture.segmentation, **inputs.scoring_options())
    trainer = build_trainer(inputs.config, callbacks=[scoring])
    detectors = {track: loaded.detector.eval().to(trainer.strategy.root_device) for track, loaded in tracks.items()}
    module = TrainingModule(next(iter(detectors.values())), inputs.architecture, inputs.config)
    module.tracks = {**detectors}
    trainer.validate(module, TrainingData(**inputs.data), verbose=False)
    return module.epoch_metrics


def _differing(record: Mapping[str, Any], inputs: Inputs, settings: Mapping[str, str]) -> Iterator[str]:
    """How machine and packages differ from those of a training. If nothing differs, numbers must be equal."""
    recorded, config = record.get("machine") or {}, inputs.config
    kind = device_kind(config)
    own_machine: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if kind == "cuda" else kind,
        "cpu": cpu_kind(portable=config.portable),
        "processor": environment.processor(),
        "settings": {**settings},
        "threads": torch.get_num_threads(),
        "precision": resolved_precision(config),
        "effective_batch_size": int(config.batch_size) * config.grad_accum_steps,
    }
    for key, value in own_machine.items():
        if key in recorded and recorded[key] != value:
            yield f"{key} {recorded[key]}, here {value}"
    if kind != "cpu":
        yield "a GPU does not guarantee equal bits"
    yield from _other_packages(record)


def _other_packages(recorded: Mapping[str, Any]) -> Iterator[str]:
    packages, installed = recorded.get("packages") or {}, provenance.environment()["packages"]
    for key in sorted(packages.keys() | installed.keys()):
        if packages.get(key) != installed.get(key):
            yield f"{key} {packages.get(key)}, here {installed.get(key)}"


def _other_code(pipeline: Pipeline, stage: str) -> Iterator[str]:
    if is_other_code(pipeline, stage):
        yield f"the code here differs from the code of {stage} in {LOCK}"


def _names_of(track: str, names: set[str]) -> Iterator[str]:
    """The names of values that belong to a track."""
    for name in sorted(names):
        if name.startswith(PREFIX[track]) and (track == "ema") == name.startswith(PREFIX["ema"]):
            yield name


@contextmanager
def _threads(number: Any) -> Iterator[int]:
    """Compute with this number of threads; on a CPU it influences the bits of results.

    If `number` is not a positive number up to 1024, the current number is kept. Afterwards, the settings that
    Lightning's Trainer changes for the whole process (deterministic algorithms) are restored.
    """
    deterministic, workspace = torch.are_deterministic_algorithms_enabled(), os.environ.get(_WORKSPACE)
    count = number if isinstance(number, int) and 0 < number <= 1024 else torch.get_num_threads()
    try:
        with torch_threads(count):
            yield torch.get_num_threads()
    finally:
        torch.use_deterministic_algorithms(deterministic)
        os.environ.pop(_WORKSPACE, None)
        if workspace is not None:
            os.environ[_WORKSPACE] = workspace


def check_detections(report: Report, contents: Contents, pipeline: Pipeline, data: str) -> None:
    """Run the model file on the evaluated split and compare the detections with detections.json and masks.json.

    With the machine and packages that the evaluation names, bytes must be equal. Elsewhere, scores of each image and of
    the split may differ by TOLERANCE. Each detection with a score of at least LEAST_SCORE needs a new detection of its
    class with an IoU of at least LEAST_OVERLAP.

    Args:
        report: Receives the mismatches.
        contents: The working tree.
        pipeline: dvc.yaml and dvc.lock.
        data: The dataset folder, relative to the root.
    """
    stored = read_json(report, contents, EVALUATION, Evaluation)
    if stored is None or "evaluate" not in pipeline.lock.stages:
        return
    if not (contents.root / MODEL).is_file():
        report.skip("detections, recomputed", f"missing: {MODEL} is not in this clone")
        return
    config = parse(EvaluateConfig, pipeline.lock.params_of("evaluate").get("evaluate") or {}, f"evaluate of {LOCK}")
    project, machine = paths_of(contents, data), stored.get("machine") or {}
    with _threads(machine.get("threads")), tempfile.TemporaryDirectory() as temporary:
        try:
            predictor = Predictor.from_checkpoint(contents.root / MODEL, batch_size=config.batch_size)
            split, samples = split_to_score(project, config)
            names = [entry.name for entry in read_classes(project.classes)]
            detections = detect(predictor, project.dataset, samples, names)
        except UserError as error:
            report.skip("detections, recomputed", str(error))
            return
        own_machine = machine_of(predictor)
        differences = [
            f"{key} {machine.get(key)}, here {own_machine[key]}"
            for key in own_machine
            if machine.get(key) != own_machine[key]
        ]
        differences += [*_other_packages(stored), *_other_code(pipeline, "evaluate")]
        differences += ["a GPU does not guarantee equal bits"] * (own_machine["device"] != "cpu")
        folder, differing = Path(temporary), []
        for file, kind in (("detections.json", "bbox"), ("masks.json", "segmentation")):
            write_results(folder / file, detections, kind)  # type: ignore[arg-type]
            name = (FOLDER / file).as_posix()
            if files.md5_file(folder / file) == pipeline.lock.out(name):
                report.checked += 1
            elif differences:
                differing.append(file)
            elif (contents.root / name).is_file():
                compare_lines(report, FOLDER / file, folder / file, contents.root / name, f"{MODEL} on {split}")
            else:
                report.wrong(f"{name}, recomputed", pipeline.lock.out(name), files.md5_file(folder / file), LOCK)
    if not differing:
        return
    if not all((contents.root / FOLDER / file).is_file() for file in ("detections.json", "masks.json")):
        report.skip(
            "detections, recomputed",
            "missing: detections or masks are not in this clone, so their numbers cannot be compared",
        )
        return
    report.note(
        f"detections were recomputed on another kind of machine ({'; '.join(differences)}), so scores within "
        f"{TOLERANCE} and boxes with an IoU of {LEAST_OVERLAP} count as equal"
    )
    rows, masks = (files.read_json(contents.root / FOLDER / file) for file in ("detections.json", "masks.json"))
    compare_detections(report, detections, rows, {sample.image_id: sample.path for sample in samples})
    scored = Scored.from_results(
        files.read_json(project.split(split)[0]), detections, segmentation=bool(masks), threshold=config.threshold
    )
    metrics = files.read_json(contents.root / METRICS)
    for key in ("map", "map_50", "f1"):
        recomputed, old = scored.numbers()[key], metrics.get(key)
        close = recomputed == old or (None not in (recomputed, old) and abs(recomputed - old) <= TOLERANCE)
        report.equal(f"{key} of {METRICS}", old if close else recomputed, old, f"{MODEL} on {split}")


def compare_detections(
    report: Report, recomputed: list[dict[str, Any]], stored: list[dict[str, Any]], paths: Mapping[int, str]
) -> None:
    """Compare the stored detections (COCO's results format) with recomputed detections of another machine.

    Args:
        report: Receives the mismatch.
        recomputed: The recomputed detections.
        stored: The detections in detections.json.
        paths: The path of each image, by id.
    """
    recomputed_rows, stored_rows = _by_image(recomputed), _by_image(stored)
    wrong = [
        image
        for image in sorted({*paths, *stored_rows})
        if not _detections_agree(recomputed_rows.get(image, []), stored_rows.get(image, []))
    ]
    first = f"other scores or boxes in {paths.get(wrong[0], wrong[0])}" if wrong else "the recomputed detections"
    more = f" and {len(wrong) - 1} more images" if len(wrong) > 1 else ""
    name = (FOLDER / "detections.json").as_posix()
    report.equal(f"detections of {name}", "the recomputed detections", f"{first}{more}", f"{MODEL}, run again")


def _by_image(rows: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_image[row["image_id"]].append(row)
    return by_image


def _detections_agree(recomputed: list[dict[str, Any]], stored: list[dict[str, Any]]) -> bool:
    """Whether two lists of one image's detections agree within the tolerances."""
    scores = [sorted(row["score"] for row in rows) for rows in (recomputed, stored)]
    if len(recomputed) != len(stored) or any(
        abs(first - second) > TOLERANCE for first, second in zip(*scores, strict=True)
    ):
        return False
    for row in (row for row in stored if row["score"] >= LEAST_SCORE):
        near = [detection for detection in recomputed if detection["category_id"] == row["category_id"]
                and math.isclose(detection["score"], row["score"], abs_tol=TOLERANCE)]  # fmt: skip
        boxes = np.array([detection["bbox"] for detection in near], dtype=np.float64).reshape(-1, 4)
        best = np.asarray(overlaps.iou(np.array([row["bbox"]], dtype=np.float64), boxes, [False] * len(near)))
        if not near or best.max() < LEAST_OVERLAP:
            return False
    return True
