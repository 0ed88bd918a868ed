"""Creates the LoggedModel of a checkpoint in MLflow, linked to its run, its datasets and its scores."""

from __future__ import annotations

import http
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rfdetr_core.base import files
from rfdetr_core.observers.runs import DIGEST, METRICS, TrackedRun, mlflow_name

NAME = "detector"  # the name of the model in dvc.yaml


class Score(NamedTuple):
    """A score of a model; its run has it, too.

    Attributes:
        name: As in the run.
        value: As in the run.
        step: The epoch; 0 for a score of the evaluation.
        dataset: The name of the run's dataset that it was measured on.
    """

    name: str
    value: float
    step: int
    dataset: str


def link_model(
    run: TrackedRun,
    file: Path,
    kind: str | None,
    epoch: int,
    datasets: Mapping[str, str],
    scores: Iterable[Score],
) -> bool:
    """Create the LoggedModel of a checkpoint if there is none, and log its scores, each with its dataset.

    A second call changes nothing. The model file stays an artifact of the run; the description of the model says so.

    Args:
        run: The MLflow run of the training.
        file: The checkpoint. Its SHA-256 is a tag of the model, by which a later call finds it.
        kind: The class of the model, such as RFDETRNano.
        epoch: The epoch of its weights.
        datasets: The SHA-256 of each manifest, by the name of the dataset in the run.
        scores: The scores of this model.

    Returns:
        False if the server is older than MLflow 3 and has no such models.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

    digest = files.sha256_file(file)
    try:
        query = f"source_run_id = '{run.id}' AND tags.sha256 = '{digest}'"
        models = list(run.client.search_logged_models([run.experiment], query))
    except MlflowException as error:
        # A newer server also answers 404 for a deleted experiment; that is an error.
        of_server = error.error_code != "RESOURCE_DOES_NOT_EXIST"
        if of_server and error.get_http_status_code() == http.HTTPStatus.NOT_FOUND:  # type: ignore[no-untyped-call]
            return False
        raise
    if models:
        model = models[0]
    else:
        description = f"The file is model/{file.name} of the source run."
        tags = {"sha256": digest, MLFLOW_RUN_NOTE: description}
        model = run.client.create_logged_model(run.experiment, NAME, run.id, tags, {"epoch": str(epoch)}, kind)
    if str(model.status) != "READY":
        run.client.finalize_logged_model(model.model_id, "READY")
    _add_output(run, model.model_id, epoch)
    _add_scores(run, model, datasets, scores)
    return True


def _add_output(run: TrackedRun, model: str, epoch: int) -> None:
    """Register the model as an output of the run."""
    from mlflow.entities import LoggedModelOutput

    outputs = run.client.get_run(run.id).outputs
    if model not in [output.model_id for output in (outputs.model_outputs if outputs else [])]:
        run.client.log_outputs(run.id, [LoggedModelOutput(model, epoch)])


def _add_scores(run: TrackedRun, model: Any, datasets: Mapping[str, str], scores: Iterable[Score]) -> None:
    """Log the finite scores that the model lacks, with their timestamps in the run. A second call adds nothing."""
    from mlflow.entities import Metric

    logged_metrics = model.metrics or []
    existing = {
        (metric.key, metric.step, metric.value, metric.dataset_name, metric.dataset_digest) for metric in logged_metrics
    }
    times = {(metric.key, metric.step, metric.timestamp) for metric in logged_metrics}
    now, metrics = int(time.time() * 1000), []
    for score in scores:
        if not math.isfinite(score.value):
            continue
        name, dataset = mlflow_name(score.name), (score.dataset, datasets[score.dataset][:DIGEST])
        if (name, score.step, score.value, *dataset) in existing:
            continue
        logged = run.client.get_metric_history(run.id, name)
        timestamps = [metric.timestamp for metric in logged if (metric.step, metric.value) == (score.step, score.value)]
        # A model has only one value for each metric, step and timestamp. So equal scores of two datasets need different
        # timestamps.
        free = [timestamp for timestamp in timestamps if (name, score.step, timestamp) not in times]
        links = {"model_id": model.model_id, "dataset_name": dataset[0], "dataset_digest": dataset[1]}
        metrics.append(Metric(name, score.value, max(free, default=now), score.step, **links))
    for start in range(0, len(metrics), METRICS):
        run.client.log_batch(run.id, metrics=metrics[start : start + METRICS])
