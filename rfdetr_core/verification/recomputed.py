"""What the files at hand decide, made again without the model: scores, numbers, tables, pictures and pages."""

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
# The packages that draw the pictures of an evaluation, and those that compute what its page shows.
_DRAW = {"numpy", "pillow", "pycocotools", "supervision", "matplotlib", "opencv-python", "opencv-python-headless"}
_COUNT = {"numpy", "pandas", "scipy", "pillow", "pycocotools", "hotcoco"}
_GONE = "gone: detections or annotations are not here"


def paths_of(contents: Contents, data: str) -> ProjectPaths:
    """Where the project keeps its files, whichever folder is the current one. data: the dataset folder."""
    root = contents.root
    return ProjectPaths(root / data, root / "annotations", root / "manifest", root / "weights", root / "metadata")


def training_configs(pipeline: Pipeline) -> tuple[ModelConfig, TrainConfig]:
    """The params of the training that dvc.lock names. Raises a UserError where they are not valid."""
    params = pipeline.lock.params_of("train")
    model = parse(ModelConfig, params.get("model") or {}, f"model of {LOCK}")
    return model, parse(TrainConfig, params.get("train") or {}, f"train of {LOCK}")


def check_scores(report: Report, contents: Contents, pipeline: Pipeline) -> None:
    """scores.json against the history: the best epochs are chosen again."""
    told = read_json(report, contents, SCORES)
    if told is None or not _is_stage_train(pipeline):
        return
    if not (contents.root / HISTORY).is_file():
        report.skip(HISTORY, "gone: it is not here")
        return
    try:
        model, config = training_configs(pipeline)
    except UserError as error:
        report.wrong(SCORES, "params that are valid", str(error), LOCK)
        return
    history = read_history(contents.root / HISTORY)
    whole = "a row for each, from 1 on"
    in_order = [*history] == [*range(1, len(history) + 1)]
    report.equal(f"epochs of {HISTORY}", whole, whole if in_order else ", ".join(map(str, history)), "train")
    if not config.early_stopping:
        report.equal(f"number of epochs in {HISTORY}", config.epochs, len(history), f"train.epochs of {LOCK}")
    key = column_of(config.best_model_metric, masks=VARIANTS[model.variant].segmentation)
    again = scores_of(
        [*history.values()], key, ema=config.use_ema, skip=config.skip_best_epochs, smooth=config.smooth_alpha
    )
    compare(report, SCORES, again, told, f"chosen again from {HISTORY}")


def _is_stage_train(pipeline: Pipeline) -> bool:
    """Whether stage train is this project's own: that of a user may choose its best epochs as it likes."""
    entry = pipeline.lock.stages.get("train")
    return entry is not None and "stages.train" in entry.cmd


def check_best(report: Report, contents: Contents, pipeline: Pipeline, track: str, best: Checkpoint, name: str) -> None:
    """The epoch and the threshold that the best file of a track says, against scores.json and the history."""
    try:
        model, config = training_configs(pipeline)
    except UserError:
        return  # which check_scores says
    if best.training_record is None or best.training_record.get("custom") or not _is_stage_train(pipeline):
        return
    key = column_of(config.best_model_metric, masks=VARIANTS[model.variant].segmentation)
    scores = files.read_json(contents.root / SCORES) if (contents.root / SCORES).is_file() else {}
    epoch = None if best.epoch is None else best.epoch + 1
    if f"val/{key}" in scores:
        report.equal(f"epoch of {name}", scores[f"val/{key}"][track]["epoch"], epoch, SCORES)
    row = read_history(contents.root / HISTORY).get(epoch or 0)
    if row is not None:
        own = track if config.use_ema else "regular"
        report.equal(f"threshold of {name}", recommended_threshold(row, own, key), best.threshold, HISTORY)


def check_metrics(report: Report, contents: Contents, pipeline: Pipeline, data: str) -> None:
    """All that stage evaluate writes beside the detections, made again from them, where they are at hand.

    data: the dataset folder, whose images the pictures show.
    """
    from rfdetr_core.data.samples import read_samples
    from rfdetr_core.evaluation.evaluate import about_of
    from rfdetr_core.evaluation.scoring import TABLES, Scored

    folder, where = contents.root / FOLDER, paths_of(contents, data)
    told, about = (read_json(report, contents, name) for name in (METRICS, ABOUT))
    if told is None or about is None:
        return
    config = parse(EvaluateConfig, pipeline.lock.params_of("evaluate").get("evaluate") or {}, f"evaluate of {LOCK}")
    split = _scored_split(where, config)
    detections, masks = folder / "detections.json", folder / "masks.json"
    if split is None or not all(path.is_file() for path in (where.classes, detections, masks)):
        report.skip(f"numbers of {METRICS}", _GONE)
        return
    results, segmentation = files.read_json(detections), "masks" in told
    if segmentation:
        results = [box | mask for box, mask in zip(results, files.read_json(masks), strict=True)]
    annotations = files.read_json(where.split(split)[0])
    names = {index: entry.name for index, entry in enumerate(read_classes(where.classes))}
    scored = Scored.from_results(annotations, results, segmentation=segmentation, threshold=config.threshold)
    compare(report, METRICS, scored.numbers(), told, "scored again")
    compare(report, ABOUT, about_of(split, config, scored.numbers()), about, "scored again")
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary)
        check_layout(report, contents, results, made)
        scored.write(made, names)
        for name in TABLES:
            compare_lines(report, FOLDER / name, made / name, folder / name, "scored again")
        manifest = where.split(split)[1]
        if manifest.is_file() and where.dataset.is_dir():
            samples = read_samples(where.split(split)[0], manifest)
            arguments = (scored, samples, where.dataset, names, config.pictures)
            _check_pictures(report, contents, made / "pictures", arguments)
        elif (folder / "pictures").is_dir():
            report.skip((FOLDER / "pictures").as_posix(), "gone: the images are not here")


def _scored_split(where: ProjectPaths, config: EvaluateConfig) -> str | None:
    """The split that evaluate takes; None where its annotations are not at hand."""
    for split in dict.fromkeys((config.split, "valid")):
        path = where.split(split)[0]
        if not path.is_file() or files.read_json(path)["images"]:
            return split if path.is_file() else None
    return None


def check_layout(report: Report, contents: Contents, results: list[dict[str, Any]], made: Path) -> None:
    """detections.json and masks.json have the keys that evaluate writes, and no others. made: an empty folder."""
    from rfdetr_core.evaluation.scoring import write_results

    write_results(made / "detections.json", results, "bbox")
    write_results(made / "masks.json", results, "segmentation")
    for name in ("detections.json", "masks.json"):
        compare_lines(report, FOLDER / name, made / name, contents.root / FOLDER / name, "written again")


def _check_pictures(report: Report, contents: Contents, made: Path, arguments: tuple[Any, ...]) -> None:
    """Draw the pictures again; equal pixels suffice. Others are no fault if they may be due to other packages."""
    from rfdetr_core.evaluation.evaluate import write_pictures

    name, folder = (FOLDER / "pictures").as_posix(), contents.root / FOLDER / "pictures"
    if not folder.is_dir():
        report.skip(name, "gone: it is not here")
        return
    try:
        write_pictures(made, *arguments)
    except UserError as error:
        report.skip(name, f"an image is gone or changed: {error}")
        return
    known = (contents.root / EVALUATION).is_file()
    told = (known and read_json(report, contents, EVALUATION, Evaluation)) or {}
    other = [*_other_versions(told.get("packages") or {}, _DRAW), *_unlocked(contents, "runtime", _DRAW)]
    for file in sorted({path.name for one in (made, folder) for path in one.iterdir()}):
        again, found = made / file, folder / file
        if not again.is_file() or not found.is_file():
            expected, there = ("a picture" if path.is_file() else None for path in (again, found))
            report.wrong(f"{name}/{file}", expected, there, "drawn again")
        elif files.read_bytes(again) == files.read_bytes(found) or _pixels(again) == _pixels(found):
            report.checked += 1
        elif other:
            report.skip(f"{name}/{file}", f"drawn with other packages: {'; '.join(other)}")
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
    """What stage report wrote, made again: its page by bytes, thresholds and intervals by their numbers."""
    page, folder = FOLDER / "index.html", contents.root / FOLDER
    if "report" not in pipeline.lock.stages:
        return
    if other := other_making(contents, pipeline, "report", {"numeric": _COUNT, "report": None}):
        report.skip(page.as_posix(), other)
        return
    from rfdetr_core.report.evaluation import write_report

    config = parse(ReportConfig, pipeline.lock.params_of("report").get("report") or {}, f"report of {LOCK}")
    inputs = ("detections.json", "masks.json", "metrics.json", "about.json", "per_class.csv", "lineage.json")
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary)
        for name in (*inputs, "pictures"):
            (made / name).symlink_to(folder / name)
        try:
            with contextlib.chdir(contents.root):  # the page names paths below it
                write_report(ProjectPaths(dataset=Path(data)), config, made, Path("output"))
        except UserError as error:
            report.skip(page.as_posix(), f"what it is made of is gone or changed: {error}")
            return
        by = "made again"
        report.equal(f"{page.as_posix()}, {by}", pipeline.lock.out(page.as_posix()), files.md5_file(made / page.name),
                     LOCK)  # fmt: skip
        compare_lines(report, FOLDER / "suspects.csv", made / "suspects.csv", folder / "suspects.csv", by)
        for name in ("thresholds.json", "intervals.json"):
            told = read_json(report, contents, (FOLDER / name).as_posix())
            if told is not None:
                compare(report, (FOLDER / name).as_posix(), files.read_json(made / name), told, by)


def other_making(
    contents: Contents, pipeline: Pipeline, stage: str, locks: Mapping[str, Collection[str] | None]
) -> str | None:
    """Why bytes of a stage may differ if they are made here: other code than it ran, or other packages; None: nothing.

    locks: of requirements/, by their names; of each the packages that matter, None for all.
    """
    if is_other_code(pipeline, stage):
        return f"changed: the code here is not that of {stage} in {LOCK}"
    other = [line for lock, names in locks.items() for line in _unlocked(contents, lock, names)]
    return f"other packages are installed: {'; '.join(other)}" if other else None


def is_other_code(pipeline: Pipeline, stage: str) -> bool:
    """Whether a stage would run other code here than dvc.lock says it ran."""
    here = files.md5_bytes(files.json_text(Code().digests_of(stage)).encode())
    return pipeline.lock.dep(stage, (DIGESTS / f"{stage}.json").as_posix()) != here


def _unlocked(contents: Contents, lock: str, names: Collection[str] | None) -> Iterator[str]:
    """The packages whose installed version is not that of requirements/<lock>.lock. names: those to look at."""
    for name, wanted in locked_versions(contents.root / "requirements" / f"{lock}.lock").items():
        if names is None or name in names:
            found = _version(name)
            if found is None or not is_version(found, wanted):
                yield f"{name} {found or 'none'}, locked {wanted}"


def _other_versions(packages: Mapping[str, str], names: Collection[str]) -> Iterator[str]:
    here = provenance.environment()["packages"]
    for name in sorted(packages.keys() & names):
        if packages[name] != here.get(name):
            yield f"{name} {here.get(name)}, not {packages[name]}"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def compare(report: Report, where: str, again: Any, told: Any, by: str, key: str = "") -> None:
    """Values made again with those of a JSON file, key by key. Neither may have a key that the other lacks; of numbers
    the last digits may differ, as they may on another processor."""
    what = f"{key} of {where}" if key else where
    if isinstance(again, Mapping) and isinstance(told, Mapping):
        for name in sorted(again.keys() | told.keys()):
            inner = f"{key}.{name}" if key else name
            if name in again and name in told:
                compare(report, where, again[name], told[name], by, inner)
            else:
                there = ("the key", "no such key") if name in again else ("no such key", str(told[name]))
                report.wrong(f"{inner} of {where}", *there, by)
    elif isinstance(again, list) and isinstance(told, list) and len(again) == len(told):
        for place, pair in enumerate(zip(again, told, strict=True)):
            compare(report, where, *pair, by, f"{key}[{place}]")
    else:
        report.equal(what, told if _close(again, told) else again, told, by)


def _close(one: Any, other: Any) -> bool:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (one, other))
    return numbers and math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)


def compare_lines(report: Report, shown: Path, again: Path, path: Path, by: str) -> None:
    """Name the first line in which a file differs from the one made again."""
    if not path.is_file():
        report.skip(shown.as_posix(), "gone: it is not here")
        return
    pairs = enumerate(zip_longest(*(files.read_text(one).splitlines() for one in (again, path))), 1)
    line, value, old = next(((line, *pair) for line, pair in pairs if pair[0] != pair[1]), (0, None, None))
    report.equal(f"{shown.as_posix()}{f' line {line}' if line else ''}", value, old, by)


def check_lineage_keys(report: Report, contents: Contents, data: str) -> None:
    """The lineage of the evaluation has the keys that evaluate writes, and no others; sizes and git's names as well."""
    told = read_json(report, contents, EVALUATION, Evaluation)
    if told is None:
        return
    where, known = paths_of(contents, data), {"schema", *Evaluation.model_fields}
    identity = {"sha256", "size", "git"}
    given = {"": (told, known), "model.": (told["model"], identity | {"tensors"})}
    named = {f"{path.parent.name}/{path.name}": path for path in (*where.split(told["split"]), where.classes)}
    given["inputs."] = (told["inputs"], {*named})
    given |= {f"inputs.{name}.": (one, identity) for name, one in told["inputs"].items()}
    for place, (values, expected) in given.items():
        for name in sorted(values.keys() - expected):
            report.wrong(f"{place}{name} of {EVALUATION}", "no such key", values[name], "evaluate writes none")
        report.checked += 1
    for name in sorted(named.keys() & told["inputs"].keys()):
        if named[name].is_file():
            found = provenance.identity(named[name])
            for key in sorted(told["inputs"][name].keys() & found.keys()):
                report.equal(f"{key} of {name}", told["inputs"][name][key], found[key], EVALUATION)
