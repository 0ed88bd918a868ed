"""Recomputes and compares the results that need no model: selected epochs, metrics, tables, pictures and pages."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Collection, Iterator, Mapping
from importlib import metadata
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfdetr_core.audit.history import EVALUATION
from rfdetr_core.base import files, provenance
from rfdetr_core.base.code import FOLDER as DIGESTS
from rfdetr_core.base.code import Code
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.manifest import read_classes
from rfdetr_core.base.params import parse
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.checkpoint.schema import Evaluation
from rfdetr_core.config.preflight import is_version, locked_versions
from rfdetr_core.evaluation.config import EvaluateConfig
from rfdetr_core.lineage.lock import LOCK
from rfdetr_core.metrics.names import column_of
from rfdetr_core.model.config import VARIANTS, ModelConfig
from rfdetr_core.observers.history import read_history
from rfdetr_core.report.config import ReportConfig
from rfdetr_core.training.config import TrainConfig
from rfdetr_core.training.ranking import recommended_threshold, scores_of
from rfdetr_core.verification.claims import SCORES, read_json
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.lock import Pipeline
from rfdetr_core.verification.report import Report

if TYPE_CHECKING:
    from rfdetr_core.checkpoint.files import Checkpoint

HISTORY = "output/history.csv"
FOLDER = Path("reports/evaluate")
METRICS, ABOUT = ((FOLDER / f"{name}.json").as_posix() for name in ("metrics", "about"))
PAGE = "reports/dataset/index.html"
# The packages that draw the pictures of an evaluation, and those that compute the numbers on its page.
_DRAW = {"numpy", "pillow", "pycocotools", "supervision", "matplotlib", "opencv-python", "opencv-python-headless"}
_COUNT = {"numpy", "pandas", "scipy", "pillow", "pycocotools", "hotcoco"}
_MISSING = "missing: detections or annotations are not in this clone"


def paths_of(contents: Contents, data: str) -> ProjectPaths:
    """The paths of the project's files, independent of the current folder. data: the dataset folder."""
    root = contents.root
    return ProjectPaths(root / data, root / "annotations", root / "manifest", root / "weights", root / "metadata")


def training_configs(pipeline: Pipeline) -> tuple[ModelConfig, TrainConfig]:
    """The params of train in dvc.lock. Raises UserError if they are not valid."""
    params = pipeline.lock.params_of("train")
    model = parse(ModelConfig, params.get("model") or {}, f"model of {LOCK}")
    return model, parse(TrainConfig, params.get("train") or {}, f"train of {LOCK}")


def check_scores(report: Report, contents: Contents, pipeline: Pipeline) -> None:
    """Select the best epochs again from history.csv and compare them with scores.json.

    Args:
        report: Receives the mismatches.
        contents: The working tree.
        pipeline: dvc.yaml and dvc.lock.
    """
    stored = read_json(report, contents, SCORES)
    if stored is None or not _is_stage_train(pipeline):
        return
    if not (contents.root / HISTORY).is_file():
        report.skip(HISTORY, "missing: not in this clone")
        return
    try:
        model, config = training_configs(pipeline)
    except UserError as error:
        report.wrong(SCORES, "valid params of train", f"an error: {error}", LOCK)
        return
    history = read_history(contents.root / HISTORY)
    complete = "a row for each epoch, from 1 on"
    in_order = [*history] == [*range(1, len(history) + 1)]
    report.equal(f"epochs of {HISTORY}", complete, complete if in_order else ", ".join(map(str, history)), "train")
    if not config.early_stopping:
        report.equal(f"number of epochs in {HISTORY}", config.epochs, len(history), f"train.epochs of {LOCK}")
    key = column_of(config.best_model_metric, masks=VARIANTS[model.variant].segmentation)
    recomputed = scores_of(
        [*history.values()], key, ema=config.use_ema, skip=config.skip_best_epochs, smooth=config.smooth_alpha
    )
    compare(report, SCORES, recomputed, stored, f"selected again from {HISTORY}")


def _is_stage_train(pipeline: Pipeline) -> bool:
    """Whether stage train is the one of this project. A custom stage may select its best epochs differently."""
    entry = pipeline.lock.stages.get("train")
    return entry is not None and "stages.train" in entry.cmd


def check_best(report: Report, contents: Contents, pipeline: Pipeline, track: str, best: Checkpoint, name: str) -> None:
    """Compare epoch and threshold in the best file of a track with scores.json and history.csv.

    Args:
        report: Receives the mismatches.
        contents: The working tree.
        pipeline: dvc.yaml and dvc.lock.
        track: `regular` or `ema`.
        best: The content of the best file.
        name: The path of the best file.
    """
    try:
        model, config = training_configs(pipeline)
    except UserError:
        return  # check_scores reports this
    if best.training_record is None or best.training_record.get("custom") or not _is_stage_train(pipeline):
        return
    key = column_of(config.best_model_metric, masks=VARIANTS[model.variant].segmentation)
    scores = files.read_json(contents.root / SCORES) if (contents.root / SCORES).is_file() else {}
    epoch = None if best.epoch is None else best.epoch + 1
    if f"val/{key}" in scores:
        report.equal(f"epoch of {name}", scores[f"val/{key}"][track]["epoch"], epoch, SCORES)
    row = read_history(contents.root / HISTORY).get(epoch or 0)
    if row is not None:
        scored_track = track if config.use_ema else "regular"
        report.equal(f"threshold of {name}", recommended_threshold(row, scored_track, key), best.threshold, HISTORY)


def check_metrics(report: Report, contents: Contents, pipeline: Pipeline, data: str) -> None:
    """Recompute the results of stage evaluate from the detections, if these are local: metrics, tables and pictures.

    Args:
        report: Receives the mismatches.
        contents: The working tree.
        pipeline: dvc.yaml and dvc.lock.
        data: The dataset folder, relative to the root. The pictures show its images.
    """
    from rfdetr_core.data.samples import read_samples
    from rfdetr_core.evaluation.evaluate import about_of
    from rfdetr_core.evaluation.scoring import TABLES, Scored

    folder, project = contents.root / FOLDER, paths_of(contents, data)
    stored, about = (read_json(report, contents, name) for name in (METRICS, ABOUT))
    if stored is None or about is None:
        return
    config = parse(EvaluateConfig, pipeline.lock.params_of("evaluate").get("evaluate") or {}, f"evaluate of {LOCK}")
    split = _scored_split(project, config)
    detections, masks = folder / "detections.json", folder / "masks.json"
    if split is None or not all(path.is_file() for path in (project.classes, detections, masks)):
        report.skip(f"numbers of {METRICS}", _MISSING)
        return
    results, segmentation = files.read_json(detections), "masks" in stored
    if segmentation:
        results = [box | mask for box, mask in zip(results, files.read_json(masks), strict=True)]
    annotations = files.read_json(project.split(split)[0])
    names = {index: entry.name for index, entry in enumerate(read_classes(project.classes))}
    scored = Scored.from_results(annotations, results, segmentation=segmentation, threshold=config.threshold)
    compare(report, METRICS, scored.numbers(), stored, "scored again")
    compare(report, ABOUT, about_of(split, config, scored.numbers()), about, "scored again")
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary)
        check_layout(report, contents, results, output)
        scored.write(output, names)
        for name in TABLES:
            compare_lines(report, FOLDER / name, output / name, folder / name, "scored again")
        manifest = project.split(split)[1]
        if manifest.is_file() and project.dataset.is_dir():
            samples = read_samples(project.split(split)[0], manifest)
            arguments = (scored, samples, project.dataset, names, config.pictures)
            _check_pictures(report, contents, output / "pictures", arguments)
        elif (folder / "pictures").is_dir():
            report.skip((FOLDER / "pictures").as_posix(), "missing: the images are not in this clone")


def _scored_split(project: ProjectPaths, config: EvaluateConfig) -> str | None:
    """The split that evaluate uses; None if its annotations are not local."""
    for split in dict.fromkeys((config.split, "valid")):
        path = project.split(split)[0]
        if not path.is_file() or files.read_json(path)["images"]:
            return split if path.is_file() else None
    return None


def check_layout(report: Report, contents: Contents, results: list[dict[str, Any]], output: Path) -> None:
    """Check that detections.json and masks.json have only the keys that evaluate writes.

    Args:
        report, contents: See `check_metrics`.
        results: The content of both files, one entry per detection.
        output: An empty folder. Both files are written there again.
    """
    from rfdetr_core.evaluation.scoring import write_results

    write_results(output / "detections.json", results, "bbox")
    write_results(output / "masks.json", results, "segmentation")
    for name in ("detections.json", "masks.json"):
        compare_lines(report, FOLDER / name, output / name, contents.root / FOLDER / name, "written again")


def _check_pictures(report: Report, contents: Contents, output: Path, arguments: tuple[Any, ...]) -> None:
    """Draw the pictures again and compare pixels. Other pixels are not a mismatch if drawing packages differ."""
    from rfdetr_core.evaluation.evaluate import write_pictures

    name, folder = (FOLDER / "pictures").as_posix(), contents.root / FOLDER / "pictures"
    if not folder.is_dir():
        report.skip(name, "missing: not in this clone")
        return
    try:
        write_pictures(output, *arguments)
    except UserError as error:
        report.skip(name, f"an image is missing or changed: {error}")
        return
    has_lineage = (contents.root / EVALUATION).is_file()
    lineage = (has_lineage and read_json(report, contents, EVALUATION, Evaluation)) or {}
    differences = [*_other_versions(lineage.get("packages") or {}, _DRAW), *_unlocked(contents, "runtime", _DRAW)]
    for file in sorted({path.name for directory in (output, folder) for path in directory.iterdir()}):
        redrawn, stored = output / file, folder / file
        if not redrawn.is_file() or not stored.is_file():
            expected, actual = ("a picture" if path.is_file() else None for path in (redrawn, stored))
            report.wrong(f"{name}/{file}", expected, actual, "drawn again")
        elif files.read_bytes(redrawn) == files.read_bytes(stored) or _pixels(redrawn) == _pixels(stored):
            report.checked += 1
        elif differences:
            report.skip(f"{name}/{file}", f"other package versions are installed: {'; '.join(differences)}")
        else:
            report.wrong(f"{name}/{file}", "the pixels that evaluate draws", "other pixels", "drawn again")


def _pixels(path: Path) -> tuple[Any, ...] | None:
    from PIL import Image

    try:
        with files.open_regular(path) as file, Image.open(file, formats=("PNG",)) as picture:
            return picture.mode, picture.size, picture.tobytes()
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def check_report(report: Report, contents: Contents, pipeline: Pipeline, data: str) -> None:
    """Recompute the results of stage report: the page by bytes, thresholds and intervals by their numbers.

    Args:
        report, contents, pipeline, data: See `check_metrics`.
    """
    page, folder = FOLDER / "index.html", contents.root / FOLDER
    if "report" not in pipeline.lock.stages:
        return
    if difference := reason_for_other_bytes(contents, pipeline, "report", {"numeric": _COUNT, "report": None}):
        report.skip(page.as_posix(), difference)
        return
    from rfdetr_core.report.evaluation import write_report

    config = parse(ReportConfig, pipeline.lock.params_of("report").get("report") or {}, f"report of {LOCK}")
    inputs = ("detections.json", "masks.json", "metrics.json", "about.json", "per_class.csv", "lineage.json")
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary)
        for name in (*inputs, "pictures"):
            (output / name).symlink_to(folder / name)
        try:
            with contextlib.chdir(contents.root):  # the page names paths below it
                write_report(ProjectPaths(dataset=Path(data)), config, output, Path("output"))
        except UserError as error:
            report.skip(page.as_posix(), f"a file that the page is made from is missing or changed: {error}")
            return
        source = "recomputed"
        page_md5 = files.md5_file(output / page.name)
        report.equal(f"{page.as_posix()}, {source}", pipeline.lock.out(page.as_posix()), page_md5, LOCK)
        compare_lines(report, FOLDER / "suspects.csv", output / "suspects.csv", folder / "suspects.csv", source)
        for name in ("thresholds.json", "intervals.json"):
            stored = read_json(report, contents, (FOLDER / name).as_posix())
            if stored is not None:
                compare(report, (FOLDER / name).as_posix(), files.read_json(output / name), stored, source)


def reason_for_other_bytes(
    contents: Contents, pipeline: Pipeline, stage: str, locks: Mapping[str, Collection[str] | None]
) -> str | None:
    """Why a stage may give other bytes here than in dvc.lock: other code or other packages. None: no reason.

    Args:
        contents: The working tree.
        pipeline: dvc.yaml and dvc.lock.
        stage: The stage.
        locks: The names of locks in requirements/, each with the packages that matter; None means all packages.
    """
    if is_other_code(pipeline, stage):
        return f"the code here differs from the code of {stage} in {LOCK}"
    differences = [line for lock, names in locks.items() for line in _unlocked(contents, lock, names)]
    return f"other package versions are installed: {'; '.join(differences)}" if differences else None


def is_other_code(pipeline: Pipeline, stage: str) -> bool:
    """Whether the code of a stage here differs from the code in dvc.lock."""
    digest = files.md5_bytes(files.json_text(Code().digests_of(stage)).encode())
    return pipeline.lock.dep(stage, (DIGESTS / f"{stage}.json").as_posix()) != digest


def _unlocked(contents: Contents, lock: str, names: Collection[str] | None) -> Iterator[str]:
    """The packages whose installed version differs from requirements/<lock>.lock. names: the packages to compare."""
    for name, locked in locked_versions(contents.root / "requirements" / f"{lock}.lock").items():
        if names is None or name in names:
            installed = _version(name)
            if installed is None or not is_version(installed, locked):
                yield f"{name} {installed or 'not installed'}, locked {locked}"


def _other_versions(packages: Mapping[str, str], names: Collection[str]) -> Iterator[str]:
    installed = provenance.environment()["packages"]
    for name in sorted(packages.keys() & names):
        if packages[name] != installed.get(name):
            yield f"{name} {installed.get(name)}, drawn with {packages[name]}"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def compare(report: Report, file_name: str, recomputed: Any, stored: Any, source: str, key: str = "") -> None:
    """Compare recomputed values with those of a JSON file, key by key. Both must have the same keys.

    The last digits of numbers may differ, as on another processor.

    Args:
        report: Receives the mismatches.
        file_name: The path of the file.
        recomputed: The expected value.
        stored: The value in the file.
        source: How the expected value was computed.
        key: The key of these values in the file; "" for the whole file.
    """
    subject = f"{key} of {file_name}" if key else file_name
    if isinstance(recomputed, Mapping) and isinstance(stored, Mapping):
        for name in sorted(recomputed.keys() | stored.keys()):
            inner = f"{key}.{name}" if key else name
            if name in recomputed and name in stored:
                compare(report, file_name, recomputed[name], stored[name], source, inner)
            else:
                expected_and_actual = (
                    ("the key", "no such key") if name in recomputed else ("no such key", str(stored[name]))
                )
                report.wrong(f"{inner} of {file_name}", *expected_and_actual, source)
    elif isinstance(recomputed, list) and isinstance(stored, list) and len(recomputed) == len(stored):
        for index, pair in enumerate(zip(recomputed, stored, strict=True)):
            compare(report, file_name, *pair, source, f"{key}[{index}]")
    else:
        report.equal(subject, stored if _nearly_equal(recomputed, stored) else recomputed, stored, source)


def _nearly_equal(first: Any, second: Any) -> bool:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (first, second))
    return numbers and math.isclose(first, second, rel_tol=1e-9, abs_tol=1e-12)


def compare_lines(report: Report, label: Path, recomputed: Path, path: Path, source: str) -> None:
    """Report the first line in which a file differs from the recomputed one.

    Args:
        report: Receives the mismatch.
        label: The path of the file for the message.
        recomputed: The recomputed file.
        path: The stored file.
        source: How the file was recomputed.
    """
    if not path.is_file():
        report.skip(label.as_posix(), "missing: not in this clone")
        return
    pairs = enumerate(zip_longest(*(files.read_text(file).splitlines() for file in (recomputed, path))), 1)
    line, value, stored = next(((line, *pair) for line, pair in pairs if pair[0] != pair[1]), (0, None, None))
    report.equal(f"{label.as_posix()}{f' line {line}' if line else ''}", value, stored, source)


def check_lineage_keys(report: Report, contents: Contents, data: str) -> None:
    """Check that the lineage of the evaluation has only the keys that evaluate writes; compare sizes and blob ids.

    Args:
        report, contents, data: See `check_metrics`.
    """
    stored = read_json(report, contents, EVALUATION, Evaluation)
    if stored is None:
        return
    project, evaluation_keys = paths_of(contents, data), {"schema", *Evaluation.model_fields}
    identity = {"sha256", "size", "git"}
    values_by_prefix = {"": (stored, evaluation_keys), "model.": (stored["model"], identity | {"tensors"})}
    input_paths = {
        f"{path.parent.name}/{path.name}": path for path in (*project.split(stored["split"]), project.classes)
    }
    values_by_prefix["inputs."] = (stored["inputs"], {*input_paths})
    values_by_prefix |= {f"inputs.{name}.": (values, identity) for name, values in stored["inputs"].items()}
    for prefix, (values, expected) in values_by_prefix.items():
        for name in sorted(values.keys() - expected):
            report.wrong(f"{prefix}{name} of {EVALUATION}", "no such key", values[name], "evaluate writes no such key")
        report.checked += 1
    for name in sorted(input_paths.keys() & stored["inputs"].keys()):
        if input_paths[name].is_file():
            actual = provenance.identity(input_paths[name])
            for key in sorted(stored["inputs"][name].keys() & actual.keys()):
                report.equal(f"{key} of {name}", stored["inputs"][name][key], actual[key], EVALUATION)
