"""Publish what the pipeline made to MLflow: a stage that DVC restores from its cache tracks nothing by itself."""

from __future__ import annotations

from pathlib import Path

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.manifest import DataConfig
from rfdetr_core.base.params import read_section
from rfdetr_core.base.provenance import flattened
from rfdetr_core.checkpoint.files import read_checkpoint
from rfdetr_core.lineage.lock import LOCK, Lock
from rfdetr_core.observers.history import read_history
from rfdetr_core.observers.runs import TrackedRun, connect, fault, open_run, origin, where
from rfdetr_core.training.config import RuntimeConfig

_PATIENCE = 60  # seconds; a server may take its time with a large file
HISTORY, METRICS = Path("output/history.csv"), Path("reports/evaluate/metrics.json")
CHECKPOINT = Path("output/checkpoint_best_total.pth")
# What is published, and the stage that wrote it.
PUBLISHED = {
    HISTORY: "train",
    Path("output/scores.json"): "train",
    Path("output/selection.json"): "select_best",
    CHECKPOINT: "strip",
    METRICS: "evaluate",
}


def publish(register: str | None = None) -> list[str]:
    """Bring the MLflow run of the pipeline's result up to its files; make the run if there is none.

    Found again by the fingerprint of the training, so that publishing twice changes nothing. `register`: the name of a
    registered model that gets a version, unless one has these very bytes. The result is what to tell: where the run is.

    Raises:
        UserError: a file is missing or not the one of dvc.lock, or MLflow refuses, fails or cannot be reached.
    """
    lock = _checked_lock()
    record = read_checkpoint(CHECKPOINT).origin
    if record is None:
        raise UserError(f"{CHECKPOINT} does not say what it was trained from. Train with this version: dvc repro")
    runtime, rows, metrics = read_section(RuntimeConfig, "runtime"), read_history(HISTORY), files.read_json(METRICS)
    name = Path(read_section(DataConfig, "data").dir).name
    digests = {split: record["inputs"][f"manifest/{split}.json"] for split in ("train", "valid")}
    digests[metrics["split"]] = files.sha256_file(Path("manifest") / f"{metrics['split']}.json")
    entries = {stage: lock.stages[stage].raw for stage in ("train", "strip", "evaluate")}
    tags = origin() | {f"dvc.lock.{stage}": files.digest(entry) for stage, entry in entries.items()}
    scores = {f"{metrics['split']}/{key}": value for key, value in flattened(metrics).items()}
    try:
        run = open_run(connect(_PATIENCE), runtime.project, runtime.run, record, rows)
        run.describe(record, {f"{name}/{split}": digest for split, digest in digests.items()}, tags)
        run.log_epochs(rows)
        run.log_values({key: value for key, value in scores.items() if type(value) in (int, float)})
        for path in PUBLISHED:
            run.log_file(path, "model" if path == CHECKPOINT else None)
        run.end("FINISHED")
        told = [f"published as run {where(run)}"]
        if register is not None:
            told.append(f"{CHECKPOINT} is version {_version(run, register)} of the model {register}")
    except Exception as error:
        what, reason = fault(error)
        raise UserError(f"{what}; nothing is lost, publish again when that is mended. {reason}") from error
    if tags.get("git.dirty") == "true":
        told.append(f"note: not everything is committed, so commit {tags['mlflow.source.git.commit'][:10]} lacks it")
    return told


def _checked_lock() -> Lock:
    """dvc.lock, whose digests are those of the files."""
    missing = [str(path) for path in (*PUBLISHED, Path(LOCK)) if not path.exists()]
    if missing:
        raise UserError(f"{', '.join(missing)} does not exist. Fetch what was made: dvc pull. Or make it: dvc repro")
    lock = Lock.read(Path())
    for path, stage in PUBLISHED.items():
        if stage not in lock.stages or lock.stages[stage].outs.get(path.as_posix()) != files.md5_file(path):
            raise UserError(
                f"{path} is not the file of {LOCK}. Run dvc repro, or restore both: git restore, dvc checkout"
            )
    return lock


def _version(run: TrackedRun, name: str) -> str:
    """The version of a registered model that has the checkpoint's bytes, made if there is none."""
    client, digest = run.client, files.sha256_file(CHECKPOINT)
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    found = client.search_model_versions(f"name = '{name}' and tags.sha256 = '{digest}'")
    if found:
        return str(found[0].version)
    made = client.create_model_version(name, f"runs:/{run.id}/model", run.id, tags={"sha256": digest})
    return str(made.version)
