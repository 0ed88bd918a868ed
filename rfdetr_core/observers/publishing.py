"""Sends an evaluation, a report, or a result that DVC restored from its cache to MLflow."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.manifest import DataConfig
from rfdetr_core.base.params import read_section
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.base.printing import say
from rfdetr_core.base.waiting import TimeLimit
from rfdetr_core.checkpoint.exported import read_any_training_record
from rfdetr_core.checkpoint.files import read_checkpoint
from rfdetr_core.lineage.lock import LOCK, Lock, listing_md5
from rfdetr_core.metrics.names import PREFIX, REPORTED
from rfdetr_core.observers.history import fingerprint, read_history
from rfdetr_core.observers.logged_model import Score, link_model
from rfdetr_core.observers.runs import PATIENCE, TrackedRun, connect, mlflow_failure, open_run, run_address, source_tags
from rfdetr_core.training.config import RuntimeConfig

_PATIENCE = 60  # seconds for a read; a server may be slow with a large file
_IN_ALL = 120.0  # seconds for all calls of an evaluation together
OUTPUT, REPORT = Path("output"), Path("reports/evaluate")
HISTORY, CHECKPOINT, METRICS = (
    OUTPUT / "history.csv",
    OUTPUT / "checkpoint_best_total.pth",
    REPORT / "metrics.json",
)
_OF_RUN = {"history.csv": "train", "scores.json": "train", "selection.json": "select_best"}
_OF_REPORT = (
    "about.json",
    "metrics.json",
    "per_class.csv",
    "per_image.csv",
    "pr_curve.csv",
    "confusion.csv",
    "pictures",
)
INTERVALS = "intervals.json"
_OF_ANALYSIS = ("index.html", "thresholds.json", "suspects.csv", INTERVALS)  # from the stage report, in the same folder
# The published files, each with the stage that wrote it.
PUBLISHED = {
    **{OUTPUT / name: stage for name, stage in _OF_RUN.items()},
    CHECKPOINT: "strip",
    **{REPORT / name: "evaluate" for name in _OF_REPORT},
    **{REPORT / name: "report" for name in _OF_ANALYSIS},
}


def publish(register: str | None = None, documents: Callable[[Path], Sequence[Path]] | None = None) -> list[str]:
    """Send the files of the pipeline's result to its MLflow run; create the run if there is none.

    The run is found by the digest of the training record, so that a second call changes nothing. The run also gets a
    LoggedModel with the scores of the checkpoint, each with its dataset.

    Args:
        register: The name of a registered model. It gets a new version, unless a version has the same bytes.
        documents: Writes documents about the checkpoint into a folder and returns their paths; they are attached. If it
            raises a UserError, everything else is published, and a printed note has the reason.

    Returns:
        The lines to print, such as the address of the run.

    Raises:
        UserError: a file is missing or differs from dvc.lock; or MLflow refuses, fails or cannot be reached.
    """
    lock = _checked_lock()
    entries = {name: lock.stages[name].raw for name in ("train", "strip", "evaluate", "report") if name in lock.stages}
    tags = source_tags() | {f"dvc.lock.{stage}": files.digest(entry) for stage, entry in entries.items()}
    runtime, dataset = read_section(RuntimeConfig, "runtime"), Path(read_section(DataConfig, "data").dir)
    record, where = _record(CHECKPOINT), ProjectPaths(dataset)
    with tempfile.TemporaryDirectory() as folder:
        attached, failed = _written(documents, Path(folder))
        try:
            run = _send_missing(connect(_PATIENCE), runtime, record, tags, where, OUTPUT, REPORT)
            if "report" in entries:
                _add_analysis(run, REPORT)
            run.log_file(CHECKPOINT, "model")
            for path in attached:
                run.log_file(path, "documents")
            linked = _link_model(run, record, where, with_intervals="report" in entries)
            run.end("FINISHED")
            lines = [f"published as run {run_address(run)}"]
            if not linked:
                lines.append("note: this server is older than MLflow 3, so the model has no page of its own")
            if register is not None:
                lines.append(f"{CHECKPOINT} is version {_version(run, register)} of the model {register}")
        except Exception as error:
            failure, reason = mlflow_failure(error)
            raise UserError(f"{failure}. Nothing is lost: publish again later. {reason}") from error
    lines += [f"note: the run has no documents: {failed}"] if failed else []
    if tags.get("git.dirty") == "true":
        lines.append(
            f"note: the run names commit {tags['mlflow.source.git.commit'][:10]}, which lacks the uncommitted changes "
            "of this project"
        )
    return lines


def _written(documents: Callable[[Path], Sequence[Path]] | None, folder: Path) -> tuple[Sequence[Path], str | None]:
    """The paths of the documents, or the reason why there are none."""
    try:
        return (documents(folder) if documents else ()), None
    except UserError as error:
        return (), str(error)


def publish_benchmark(paths: Sequence[Path], figures: Mapping[str, Any], table: str) -> str:
    """Attach the results of the command benchmark to the MLflow run of the project's training.

    Args:
        paths: The measured files. At least one must come from that training.
        figures: The results, attached as benchmark.json.
        table: The same results as text, attached as benchmark.txt.

    Returns:
        A line with the address of the run.

    Raises:
        UserError: no file comes from the project's training; or MLflow refuses, fails or cannot be reached.
    """
    record = _record(CHECKPOINT)
    if fingerprint(record) not in [
        fingerprint(model_record) for model_record in map(read_any_training_record, paths) if model_record
    ]:
        raise UserError(
            f"None of the measured files comes from the training of {CHECKPOINT}, so the results do not belong to the "
            f"MLflow run of that training. Also measure {CHECKPOINT}, or leave out --mlflow."
        )
    runtime, rows = read_section(RuntimeConfig, "runtime"), read_history(HISTORY)
    try:
        run = open_run(connect(_PATIENCE), runtime.project, runtime.run, record, rows)
        with tempfile.TemporaryDirectory() as folder:
            files.write_json(Path(folder, "benchmark.json"), figures)
            files.write_text(Path(folder, "benchmark.txt"), f"{table}\n")
            for path in sorted(Path(folder).iterdir()):
                run.log_file(path, "benchmark")
        run.end("FINISHED")
        return f"attached to run {run_address(run)}"
    except Exception as error:
        failure, reason = mlflow_failure(error)
        raise UserError(f"{failure}, so the results are not attached. {reason}") from error


def track_evaluation(
    where: ProjectPaths, output: Path = OUTPUT, report: Path = REPORT, runtime: RuntimeConfig | None = None
) -> None:
    """Send an evaluation to the MLflow run of its training, if `runtime.mlflow` is true.

    An error becomes a warning; `publish` can send the evaluation later.

    Args:
        where: The paths of the dataset and its manifests.
        output: The run folder of the training.
        report: The folder of the evaluation.
        runtime: The section `runtime`; None reads params.yaml.
    """
    _track(where, output, report, runtime, "evaluation")


def track_report(
    where: ProjectPaths, output: Path = OUTPUT, report: Path = REPORT, runtime: RuntimeConfig | None = None
) -> None:
    """As `track_evaluation`, and with the files of the stage report: page, thresholds, suspects and intervals.

    Args:
        where: The paths of the dataset and its manifests.
        output: The run folder of the training.
        report: The folder of the evaluation and of the page.
        runtime: The section `runtime`; None reads params.yaml.
    """
    _track(where, output, report, runtime, "report")


def _track(where: ProjectPaths, output: Path, report: Path, runtime: RuntimeConfig | None, part: str) -> None:
    try:
        runtime = runtime or read_section(RuntimeConfig, "runtime")
        if runtime.mlflow:
            record = _record(output / CHECKPOINT.name)
            # No tags, so that the run keeps the commit of its training.
            run = _send_missing(connect(PATIENCE, TimeLimit(_IN_ALL)), runtime, record, {}, where, output, report)
            if part == "report":  # after an evaluation, the old page is still there
                _add_analysis(run, report)
            run.end("FINISHED")
            say(f"tracked as run {run_address(run)}")
    except Exception as error:  # noqa: BLE001 - an error of MLflow must not lose a result
        failed, reason = mlflow_failure(error)
        message = f"{failed}, so the MLflow run lacks this {part}. Send it later: `python -m rfdetr_core publish`"
        warnings.warn(f"{message}. {reason}", stacklevel=3)


def _record(checkpoint: Path) -> dict[str, Any]:
    """The training record of a checkpoint. UserError: the checkpoint has none."""
    record = read_checkpoint(checkpoint).training
    if record is None:
        raise UserError(f"{checkpoint} has no training record. Train again, with this version: dvc repro")
    return record


def _send_missing(
    client: Any,
    runtime: RuntimeConfig,
    record: Mapping[str, Any],
    tags: Mapping[str, str],
    where: ProjectPaths,
    output: Path,
    report: Path,
) -> TrackedRun:
    """Send the files of a run folder and of its evaluation, except checkpoints, to the run of the training."""
    rows, split = read_history(output / HISTORY.name), files.read_json(report / "about.json")["split"]
    run = open_run(client, runtime.project, runtime.run, record, rows)
    run.describe(record, _datasets(record, where, split), tags)
    run.log_epochs(rows)
    run.log_values(named_scores(split, files.read_json(report / METRICS.name)))
    for name, values in _curves(split, report / "pr_curve.csv").items():
        run.log_curve(name, values)
    for name in _OF_RUN:
        run.log_file(output / name)
    for path in (report / name for name in _OF_REPORT):
        for file in sorted(path.glob("*.png")) if path.is_dir() else [path]:
            run.log_file(file, file.parent.relative_to(report.parent).as_posix())
    return run


def _datasets(record: Mapping[str, Any], where: ProjectPaths, split: str) -> dict[str, str]:
    """The SHA-256 of the manifests of a training and its evaluation, by the name of the dataset."""
    digests = {name: record["inputs"][f"manifest/{name}.json"] for name in ("train", "valid")}
    digests[split] = files.sha256_file(where.split(split)[1])
    return {f"{where.dataset.name}/{name}": digest for name, digest in digests.items()}


def _link_model(run: TrackedRun, record: Mapping[str, Any], where: ProjectPaths, *, with_intervals: bool) -> bool:
    """Link CHECKPOINT: see `link_model`."""
    split, selection = files.read_json(REPORT / "about.json")["split"], files.read_json(OUTPUT / "selection.json")
    winner, name = selection["winner"], where.dataset.name
    epoch = selection[winner]["epoch"]
    row = read_history(HISTORY).get(epoch, {})
    columns = {f"{PREFIX[winner]}{kind}{column}": "valid" for kind in ("", "segm_") for column in REPORTED}
    scores = [
        Score(column, row[column], epoch, f"{name}/{split_name}")
        for column, split_name in {"train/loss": "train", **columns}.items()
        if column in row
    ]
    measured = named_scores(split, files.read_json(METRICS))
    measured |= named_intervals(split, files.read_json(REPORT / INTERVALS)) if with_intervals else {}
    scores += [Score(key, value, 0, f"{name}/{split}") for key, value in measured.items()]
    kind = read_checkpoint(CHECKPOINT).model_name
    return link_model(run, CHECKPOINT, kind, epoch, _datasets(record, where, split), scores)


def _add_analysis(run: TrackedRun, report: Path) -> None:
    """Send the files of the stage report to the run."""
    split = files.read_json(report / "about.json")["split"]
    run.log_values(named_intervals(split, files.read_json(report / INTERVALS)))
    for name in _OF_ANALYSIS:
        run.log_file(report / name, report.name)


def named_intervals(split: str, intervals: Mapping[str, Any]) -> dict[str, float]:
    """Both ends of each interval in intervals.json, named after the score: test/mAP_50_low, test/mAP_50_high."""
    scores: dict[str, float] = {}
    for index, end in enumerate(("low", "high")):
        boxes, masks = (
            {key: pair[index] for key, pair in (intervals.get(kind) or {}).items() if pair}
            for kind in ("boxes", "masks")
        )
        named = named_scores(split, {**boxes, "masks": masks})
        scores |= {f"{name}_{end}": value for name, value in named.items()}
    return scores


def named_scores(split: str, metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of metrics.json, with names as in history.csv: test/mAP_50 beside val/mAP_50."""
    columns, scores = {field: column for column, field in REPORTED.items()}, {}
    for kind, part in (("", metrics), ("segm_", metrics.get("masks") or {})):
        for key, value in part.items():
            if type(value) in (int, float):
                name = columns.get(key) or key.replace("map_", "mAP_").replace("mar_", "mAR_")
                scores[f"{split}/{kind}{name}"] = float(value)
    return scores


def _curves(split: str, path: Path) -> dict[str, dict[int, float]]:
    """The curves of pr_curve.csv: precision by recall in percent."""
    import pandas as pd

    table = pd.read_csv(path)
    recalls = (100 * table["recall"]).round().astype(int)
    names = {column: f"{split}/{column.replace('mask_', 'segm_')}_at_recall" for column in table.columns[1:]}
    return {name: dict(zip(recalls, table[column], strict=True)) for column, name in names.items()}


def _checked_lock() -> Lock:
    """Read dvc.lock and compare it with the published files. UserError: a file is missing or differs."""
    lock = Lock.read(Path())
    # A result of an older version has no report.
    published = {path: stage for path, stage in PUBLISHED.items() if stage != "report" or stage in lock.stages}
    missing = [str(path) for path in published if not path.exists()]
    if missing:
        raise UserError(
            f"{', '.join(missing)} does not exist. Get an existing result: dvc pull. Or compute it: dvc repro"
        )
    for path, stage in published.items():
        content = {file.name: files.md5_file(file) for file in (path.iterdir() if path.is_dir() else [path])}
        md5 = listing_md5(content) if path.is_dir() else content[path.name]
        if stage not in lock.stages or lock.stages[stage].outs.get(path.as_posix()) != md5:
            raise UserError(f"{path} differs from {LOCK}. Run dvc repro, or restore both: git restore, dvc checkout")
    return lock


def _version(run: TrackedRun, name: str) -> str:
    """The version of a registered model with the bytes of the checkpoint; created if there is none."""
    client, digest = run.client, files.sha256_file(CHECKPOINT)
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    versions = client.search_model_versions(f"name = '{name}' and tags.sha256 = '{digest}'")
    if versions:
        return str(versions[0].version)
    version = client.create_model_version(name, f"runs:/{run.id}/model", run.id, tags={"sha256": digest})
    return str(version.version)
