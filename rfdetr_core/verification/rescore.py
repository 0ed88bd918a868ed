"""Models run again without training: the best weights on valid against the history, the result against detections."""

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
from rfdetr_core.inference.predictor import Predictor
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

LEAST_OVERLAP = 0.9  # IoU of a box and the one made again on another machine
LEAST_SCORE = 0.1  # of the detections whose boxes are compared on another machine
_AMP = {"32-true": None, "bf16-mixed": "bf16", "16-mixed": "fp16"}
_VALID = "scores on valid"
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def check_valid(report: Report, contents: Contents, pipeline: Pipeline, data: str) -> None:
    """Run the best weights of both tracks on valid, as training did, and compare the scores of their epochs.

    On the machine and with the packages that the training names, each number must be equal; elsewhere the scores may
    differ by TOLERANCE.
    """
    best = {track: one for track, one in _best_files(contents).items() if not one[1].get("custom")}
    if not best:
        report.skip(_VALID, "gone: no best file and no result of stage train is here")
        return
    where, (_, record, _) = paths_of(contents, data), next(iter(best.values()))
    model, config = training_configs(pipeline)
    machine, settings = record.get("machine") or {}, environment.settings()
    with _threads(machine.get("threads")) as threads:
        runtime = RuntimeConfig(num_workers=0, mlflow=False, threads=threads)
        try:
            inputs = read_inputs(where, model, _on_one_device(config, machine), runtime, contents.root / "output")
            values = _validated(inputs, {track: one[0] for track, one in best.items()})
        except UserError as error:
            report.skip(_VALID, str(error))
            return
        other = [*_differing(record, inputs, settings), *_other_code(pipeline, "train")]
    if other:
        report.note(f"scored again on another kind of machine than the training's ({'; '.join(other)}): "
                    f"scores within {TOLERANCE} count as equal")  # fmt: skip
    history = read_history(contents.root / HISTORY)
    for track, (_, _, epoch) in best.items():
        row = history.get(epoch or 0)
        if row is None:
            report.skip(f"{_VALID} of track {track}", f"{HISTORY} has no epoch {epoch}")
            continue
        for key in _names_of(track, row.keys() & values.keys()):
            if other and key.endswith("loss"):
                continue
            again, told = values[key], row[key]
            same = abs(again - told) <= TOLERANCE if other else again == told
            report.equal(f"{key} of epoch {epoch} in {HISTORY}", told if same else again, told,
                         f"weights of track {track} on valid")  # fmt: skip


def _best_files(contents: Contents) -> dict[str, tuple[Loaded, Mapping[str, Any], int | None]]:
    """By track, the best weights at hand with their training record and their epoch, from 1. Without the best file of
    the winner, the stripped result stands for it; without averaging, both files are the regular weights."""
    found: dict[str, tuple[Loaded, Mapping[str, Any], int | None]] = {}
    for track in PREFIX:
        path = contents.root / "output" / f"checkpoint_best_{track}.pth"
        if path.is_file():
            loaded = build_from_checkpoint(path)
            epoch, record = loaded.checkpoint.epoch, loaded.checkpoint.training_record or {}
            averaged = (record.get("params") or {}).get("train", {}).get("use_ema", True)
            if averaged or track == "regular":
                found[track] = loaded, record, None if epoch is None else epoch + 1
    path = contents.root / MODEL
    if path.is_file() and not found:
        loaded = build_from_checkpoint(path)
        lineage = loaded.checkpoint.lineage or {}
        selection = lineage.get("selection") or {}
        if (winner := selection.get("winner")) in PREFIX:
            found[winner] = loaded, lineage.get("training") or {}, selection[winner]["epoch"]
    return found


def _on_one_device(config: TrainConfig, machine: Mapping[str, Any]) -> TrainConfig:
    """The params with the batches and the precision of the training, on whichever device is here."""
    here = {"accelerator": "auto", "devices": 1, "num_nodes": 1, "strategy": "auto", "compile": "off"}
    amp = _AMP.get(str(machine.get("precision")), config.amp_dtype)
    if amp == "fp16" and device_kind(config.model_copy(update=here)) == "cpu":
        amp = None
    sizes = {key: machine.get(key) or 1 for key in ("batch_size", "grad_accum_steps")}
    return config.model_copy(update=here | sizes | {"amp_dtype": amp})


def _validated(inputs: Inputs, tracks: Mapping[str, Loaded]) -> dict[str, float]:
    """The values of an epoch on valid, by the names of history.csv, for the weights of these tracks."""
    quiet_lightning()
    scoring = CocoScoring(inputs.annotations("valid"), inputs.architecture.segmentation, **inputs.scoring_options())
    trainer = build_trainer(inputs.config, callbacks=[scoring])
    detectors = {track: one.detector.eval().to(trainer.strategy.root_device) for track, one in tracks.items()}
    module = TrainingModule(next(iter(detectors.values())), inputs.architecture, inputs.config)
    module.tracks = {**detectors}
    trainer.validate(module, TrainingData(**inputs.data), verbose=False)
    return module.epoch_metrics


def _differing(record: Mapping[str, Any], inputs: Inputs, settings: Mapping[str, str]) -> Iterator[str]:
    """How the machine and the packages differ from those of a training; nothing: numbers must be equal."""
    told, config = record.get("machine") or {}, inputs.config
    kind = device_kind(config)
    here: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if kind == "cuda" else kind,
        "cpu": cpu_kind(portable=config.portable),
        "processor": environment.processor(),
        "settings": {**settings},
        "threads": torch.get_num_threads(),
        "precision": resolved_precision(config),
        "effective_batch_size": int(config.batch_size) * config.grad_accum_steps,
    }
    for key, value in here.items():
        if key in told and told[key] != value:
            yield f"{key} {told[key]}, here {value}"
    if kind != "cpu":
        yield "on a GPU equal bits are not promised"
    yield from _other_packages(record)


def _other_packages(made: Mapping[str, Any]) -> Iterator[str]:
    packages, here = made.get("packages") or {}, provenance.environment()["packages"]
    for key in sorted(packages.keys() | here.keys()):
        if packages.get(key) != here.get(key):
            yield f"{key} {packages.get(key)}, here {here.get(key)}"


def _other_code(pipeline: Pipeline, stage: str) -> Iterator[str]:
    if is_other_code(pipeline, stage):
        yield f"other code than that of {stage} in {LOCK}"


def _names_of(track: str, names: set[str]) -> Iterator[str]:
    """Those of the values of an epoch that are of a track."""
    for name in sorted(names):
        if name.startswith(PREFIX[track]) and (track == "ema") == name.startswith(PREFIX["ema"]):
            yield name


@contextmanager
def _threads(number: Any) -> Iterator[int]:
    """Compute with so many threads, which decide bits on a CPU; what is no number: with those that there are.

    What Lightning's Trainer sets for the whole process (deterministic algorithms) is as before afterwards.
    """
    before, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    workspace = os.environ.get(_WORKSPACE)
    try:
        torch.set_num_threads(number if isinstance(number, int) and 0 < number <= 1024 else before)
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(deterministic)
        os.environ.pop(_WORKSPACE, None)
        if workspace is not None:
            os.environ[_WORKSPACE] = workspace


def check_detections(report: Report, contents: Contents, pipeline: Pipeline, data: str) -> None:
    """Run the result on the split that was evaluated, and compare detections.json and masks.json with what it finds.

    On the machine and with the packages that the evaluation names, by bytes. Elsewhere scores may differ by TOLERANCE,
    of each image as of all, and each detection from LEAST_SCORE on needs one of its class with an IoU of LEAST_OVERLAP.
    """
    told = read_json(report, contents, EVALUATION, Evaluation)
    if told is None or "evaluate" not in pipeline.lock.stages:
        return
    if not (contents.root / MODEL).is_file():
        report.skip("detections, made again", f"gone: {MODEL} is not here")
        return
    config = parse(EvaluateConfig, pipeline.lock.params_of("evaluate").get("evaluate") or {}, f"evaluate of {LOCK}")
    where, machine = paths_of(contents, data), told.get("machine") or {}
    with _threads(machine.get("threads")), tempfile.TemporaryDirectory() as temporary:
        try:
            predictor = Predictor.from_checkpoint(contents.root / MODEL, batch_size=config.batch_size)
            split, samples = split_to_score(where, config)
            names = [entry.name for entry in read_classes(where.classes)]
            found = detect(predictor, where.dataset, samples, names)
        except UserError as error:
            report.skip("detections, made again", str(error))
            return
        here = machine_of(predictor)
        other = [f"{key} {machine.get(key)}, here {here[key]}" for key in here if machine.get(key) != here[key]]
        other += [*_other_packages(told), *_other_code(pipeline, "evaluate")]
        other += ["on a GPU equal bits are not promised"] * (here["device"] != "cpu")
        made, differing = Path(temporary), []
        for file, kind in (("detections.json", "bbox"), ("masks.json", "segmentation")):
            write_results(made / file, found, kind)  # type: ignore[arg-type]
            name = (FOLDER / file).as_posix()
            if files.md5_file(made / file) == pipeline.lock.out(name):
                report.checked += 1
            elif other:
                differing.append(file)
            elif (contents.root / name).is_file():
                compare_lines(report, FOLDER / file, made / file, contents.root / name, f"{MODEL} on {split}")
            else:
                report.wrong(f"{name}, made again", pipeline.lock.out(name), files.md5_file(made / file), LOCK)
    if not differing:
        return
    if not all((contents.root / FOLDER / file).is_file() for file in ("detections.json", "masks.json")):
        report.skip("detections, made again", "gone: detections or masks are not here, to compare their numbers")
        return
    report.note(f"detections made again on another kind of machine ({'; '.join(other)}): scores within {TOLERANCE} and "
                f"boxes with an IoU of {LEAST_OVERLAP} count as equal")  # fmt: skip
    rows, masks = (files.read_json(contents.root / FOLDER / file) for file in ("detections.json", "masks.json"))
    compare_detections(report, found, rows, {one.image_id: one.path for one in samples})
    scored = Scored.from_results(
        files.read_json(where.split(split)[0]), found, segmentation=bool(masks), threshold=config.threshold
    )
    metrics = files.read_json(contents.root / METRICS)
    for key in ("map", "map_50", "f1"):
        again, old = scored.numbers()[key], metrics.get(key)
        close = again == old or (None not in (again, old) and abs(again - old) <= TOLERANCE)
        report.equal(f"{key} of {METRICS}", old if close else again, old, f"{MODEL} on {split}")


def compare_detections(
    report: Report, again: list[dict[str, Any]], told: list[dict[str, Any]], paths: Mapping[int, str]
) -> None:
    """Detections (COCO's results format) with those made again on another machine. paths: of the images, by id."""
    made, found = _by_image(again), _by_image(told)
    wrong = [image for image in sorted({*paths, *found}) if not _alike(made.get(image, []), found.get(image, []))]
    first = f"other scores or boxes in {paths.get(wrong[0], wrong[0])}" if wrong else "what is found again"
    more = f" and {len(wrong) - 1} more images" if len(wrong) > 1 else ""
    name = (FOLDER / "detections.json").as_posix()
    report.equal(f"detections of {name}", "what is found again", f"{first}{more}", f"{MODEL}, run again")


def _by_image(rows: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        found[row["image_id"]].append(row)
    return found


def _alike(made: list[dict[str, Any]], found: list[dict[str, Any]]) -> bool:
    """Whether two lists of one image's detections agree within the tolerances."""
    scores = [sorted(row["score"] for row in rows) for rows in (made, found)]
    if len(made) != len(found) or any(abs(one - other) > TOLERANCE for one, other in zip(*scores, strict=True)):
        return False
    for row in (row for row in found if row["score"] >= LEAST_SCORE):
        near = [one for one in made if one["category_id"] == row["category_id"]
                and math.isclose(one["score"], row["score"], abs_tol=TOLERANCE)]  # fmt: skip
        boxes = np.array([one["bbox"] for one in near], dtype=np.float64).reshape(-1, 4)
        best = np.asarray(overlaps.iou(np.array([row["bbox"]], dtype=np.float64), boxes, [False] * len(near)))
        if not near or best.max() < LEAST_OVERLAP:
            return False
    return True
