"""Finds or creates the MLflow run of a training, one for each training record, and sends missing data to it."""

from __future__ import annotations

import hashlib
import http
import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rfdetr_core.base import files, git
from rfdetr_core.base.errors import UserError, causes
from rfdetr_core.base.printing import one_line
from rfdetr_core.base.provenance import flattened
from rfdetr_core.base.waiting import OutOfTimeError, TimeLimit
from rfdetr_core.observers.history import fingerprint, main_repository

_LONGEST = 250
_END = 32
# The escaped characters, in the order of the pattern. The last three items are escaped because they would change if
# MLflow normalises the name as a path.
# - characters that MLflow refuses, and the colon, which begins an escape;
# - the first dot of a path part "." or "..";
# - the first of two dots at the start;
# - a slash at the start, after a slash, or at the end.
_ESCAPED = re.compile(r"[^\w/.\- ]|(?<![^/])\.(?=\.?(?:/|\Z))|\A\.(?=\.)|\A/|(?<=/)/|/\Z")


def mlflow_name(key: str) -> str:
    """The name of a metric or param in MLflow for a key.

    Most names equal their key, such as "val/mAP_50". A character that MLflow refuses becomes its UTF-8 bytes, each
    written as a colon and two hexadecimal digits: "cat & dog" becomes "cat :26 dog". A name that is too long ends in
    two colons and a digest. So no two keys have the same name.
    """
    name = _ESCAPED.sub(lambda match: _bytes(match.group()), key) or ":"
    if len(name) <= _LONGEST:
        return name
    # No escape has two colons in a row, so no short name ends like this.
    end = "::" + hashlib.sha256(name.encode()).hexdigest()[:_END]
    return name[: _LONGEST - len(end)] + end


def _bytes(character: str) -> str:
    return "".join(f":{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


# The name of the value that is sent last for each epoch. If the server has this value, it has the whole epoch.
MARK = "train/loss"
# Limits of MLflow: metrics and params in one call, characters of a dataset's digest.
METRICS, _PARAMS, DIGEST = 1000, 100, 36
PATIENCE = 5  # seconds that a training or an evaluation waits for a server to answer
_LONGEST_CALL = 120.0  # seconds for one call, with all its reads
_SLOWEST = 100_000  # bytes per second: the slowest upload that is waited for
# The address of a database. The client opens it directly and then decides where the artifacts go.
_DATABASE = re.compile(r"(sqlite|postgresql|mysql|mssql)(\+\w+)?:")
_CREDENTIALS = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."

Rows = Mapping[int, Mapping[str, float]]


@dataclass(frozen=True)
class TrackedRun:
    """A run of MLflow. A second call of a method with the same data changes nothing."""

    client: Any
    experiment: str
    id: str

    def describe(self, record: Mapping[str, Any], datasets: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Log a training record, its datasets and tags.

        Args:
            record: The training record; each value becomes a param.
            datasets: The SHA-256 of each manifest, by "<dataset>/<split>".
            tags: The tags, see `source_tags`.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag

        params = [Param(mlflow_name(key), str(value)) for key, value in flattened(record).items()]
        for start in range(0, len(params), _PARAMS):
            self.client.log_batch(self.id, params=params[start : start + _PARAMS])
        self.client.log_batch(self.id, tags=[RunTag(key, value) for key, value in tags.items()])
        inputs = []
        for name, digest in datasets.items():
            split = name.rpartition("/")[2]
            source = json.dumps({"uri": f"manifest/{split}.json", "sha256": digest})
            inputs.append(DatasetInput(Dataset(name, digest[:DIGEST], "local", source), [_context(InputTag, split)]))
        self.client.log_inputs(self.id, inputs)

    def log_epochs(self, rows: Rows) -> None:
        """Log the epochs that the run lacks."""
        logged = _logged(self.client, self.id)
        for epoch in sorted(rows.keys() - logged):
            values = {"epoch": float(epoch), **rows[epoch]}
            self._log((key, values[key], epoch) for key in sorted(values, key=lambda key: key == MARK))

    def log_values(self, values: Mapping[str, float]) -> None:
        """Log numbers without an epoch, such as the scores on the test split."""
        logged = self.client.get_run(self.id).data.metrics
        self._log((key, value, 0) for key, value in values.items() if logged.get(mlflow_name(key)) != value)

    def log_curve(self, name: str, values: Mapping[int, float]) -> None:
        """Log a curve, such as precision by recall in percent; MLflow draws it over the step."""
        logged = {metric.step: metric.value for metric in self.client.get_metric_history(self.id, mlflow_name(name))}
        self._log((name, value, step) for step, value in values.items() if logged.get(step) != value)

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Attach a file, unless the run already has the same bytes. folder: in the artifacts of the run."""
        tag, digest, artifact_path = (
            f"sha256.{path.name}",
            files.sha256_file(path),
            f"{folder}/{path.name}" if folder else path.name,
        )
        sizes = {file.path: file.file_size for file in self.client.list_artifacts(self.id, folder)}
        is_complete = artifact_path in sizes and sizes[artifact_path] in (
            path.stat().st_size,
            None,
        )  # None: this store does not give sizes
        if not is_complete or self.client.get_run(self.id).data.tags.get(tag) != digest:
            self.client.log_artifact(self.id, str(path), folder)
            self.client.set_tag(self.id, tag, digest)

    def resume(self) -> None:
        """Set a run that failed or was killed to running."""
        if self.client.get_run(self.id).info.status in ("FAILED", "KILLED"):
            self.client.update_run(self.id, "RUNNING")

    def end(self, status: str) -> None:
        """Close the run as FINISHED, FAILED or KILLED."""
        if self.client.get_run(self.id).info.status != status:
            self.client.set_terminated(self.id, status)

    def replace(self, earlier: str) -> None:
        """Close an earlier run as KILLED, since its training was killed and this run does not resume it."""
        from mlflow.exceptions import MlflowException

        try:
            if earlier != self.id and self.client.get_run(earlier).info.status == "RUNNING":
                self.client.set_terminated(earlier, "KILLED")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # the earlier run is on another server
                raise

    def _log(self, values: Iterable[tuple[str, float, int]]) -> None:
        """Log names, values and steps in this order."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(mlflow_name(key), value, now, step) for key, value, step in values if math.isfinite(value)]
        for start in range(0, len(metrics), METRICS):
            self.client.log_batch(self.id, metrics=metrics[start : start + METRICS])


class Client:
    """MLflow's client, with a time limit for every call. make: creates MLflow's client. patience: the time limit."""

    def __init__(self, make: Callable[[], Any], patience: TimeLimit) -> None:
        self._patience = patience
        self._client = patience.call(make)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            sizes = [Path(path).stat().st_size for path in arguments[1:2] if name == "log_artifact"]
            method = getattr(self._client, name)
            return self._patience.call(lambda: method(*arguments, **named), sum(sizes) / _SLOWEST)

        return call


def connect(seconds: int, patience: TimeLimit | None = None) -> Client:
    """Connect to MLFLOW_TRACKING_URI, or to mlflow.db in the main repository.

    Args:
        seconds: How long to wait for an answer, with one retry. MLflow's default is minutes.
        patience: The time limit of calls; by default two minutes for each call.
    """
    settings = {"REQUEST_MAX_RETRIES": "1", "REQUEST_TIMEOUT": str(seconds)}
    variables = {f"MLFLOW_HTTP_{key}": value for key, value in settings.items()}
    variables |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "WARNING"}
    for key, value in variables.items():
        os.environ.setdefault(key, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    return Client(lambda: MlflowClient(store_address()), patience or TimeLimit(_LONGEST_CALL, per_call=True))


def open_run(client: Any, project: str, name: str | None, record: Mapping[str, Any], rows: Rows) -> TrackedRun:
    """Find the run of a training, or create it. Its tag `fingerprint` is the digest of the training record.

    Without `train.deterministic`, trainings with the same record can have different results. So a run with other losses
    than `rows` belongs to another training and is not used.

    Args:
        client: MLflow's client.
        project: The name of the experiment.
        name: The name of a new run; None lets MLflow choose.
        record: The training record.
        rows: The epochs of history.csv.

    Raises:
        UserError: the experiment was deleted.
    """
    existing = client.get_experiment_by_name(project)
    if existing and existing.lifecycle_stage == "deleted":
        raise UserError(
            f"The MLflow experiment {project} was deleted. Restore it: "
            f"MLFLOW_TRACKING_URI={_without_password(store_address())} mlflow experiments restore --experiment-id "
            f"{existing.experiment_id}. Or choose another runtime.project."
        )
    # With a database, MLflow would store artifacts in the current folder. DVC deletes it after a temporary experiment.
    artifact_location = (main_repository() / "mlartifacts").as_uri() if _DATABASE.match(store_address()) else None
    experiment = existing.experiment_id if existing else client.create_experiment(project, artifact_location)
    record_fingerprint = fingerprint(record)
    query = f"tags.fingerprint = '{record_fingerprint}'"
    for run in client.search_runs([experiment], query, order_by=["attributes.start_time ASC"]):
        logged = _logged(client, run.info.run_id)
        if all(math.isclose(logged[epoch], rows[epoch].get(MARK, math.nan)) for epoch in logged.keys() & rows.keys()):
            return TrackedRun(client, experiment, run.info.run_id)
    created = client.create_run(experiment, run_name=name, tags={"fingerprint": record_fingerprint})
    return TrackedRun(client, experiment, created.info.run_id)


def source_tags() -> dict[str, str]:
    """Tags: the commit, whether the working tree differs from it, and DVC's stage and experiment."""
    commit, changes = (
        git.answer(Path(), *command) for command in (("rev-parse", "HEAD"), ("status", "--porcelain", "--", "."))
    )
    tags = {
        "mlflow.source.name": "rfdetr_core.training",
        "mlflow.source.git.commit": (commit or "").strip(),
        "git.dirty": str(bool(changes)).lower() if commit else "",
        "dvc.stage": os.environ.get("DVC_STAGE", ""),
        "dvc.experiment": os.environ.get("DVC_EXP_NAME", ""),
    }
    return {key: value for key, value in tags.items() if value}


def mlflow_failure(error: BaseException) -> tuple[str, str]:
    """The kind of an error of MLflow (refused, cannot be reached, too slow, failed), and its message."""
    if isinstance(error, ImportError):
        return "MLflow cannot be imported", str(error)
    if isinstance(error, UserError):
        return "MLflow refused", str(error)
    if isinstance(error, OutOfTimeError):
        return "MLflow is too slow", str(error)
    from mlflow.exceptions import MlflowException
    from requests import exceptions

    away = (exceptions.ConnectionError, exceptions.Timeout, ConnectionError, TimeoutError)
    failure, code = "failed", 0
    for cause in causes(error):
        if isinstance(cause, away):
            failure = "cannot be reached"
        elif isinstance(cause, MlflowException):
            code = code or int(cause.get_http_status_code())  # type: ignore[no-untyped-call]
        elif isinstance(cause, exceptions.HTTPError) and cause.response is not None:
            code = code or cause.response.status_code
    if failure == "failed" and http.HTTPStatus.BAD_REQUEST <= code < http.HTTPStatus.INTERNAL_SERVER_ERROR:
        failure = "refused"
    message = one_line(_without_password(" ".join(str(error).split()))[:300])
    if failure == "refused" and code in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN):
        message += f" ({_CREDENTIALS})"
    return f"MLflow {failure}", message


def run_address(run: TrackedRun) -> str:
    """The address of the web page of a run; for a database without a server, the id and the database."""
    server = _without_password(_server())
    if server and not server.startswith("http"):
        return f"{run.id} in {_without_password(store_address())}"
    return _run_address(server or local_server(), run.experiment, run.id) + ("" if server else " (after: make ui)")


def newest_run_address(server: str) -> str:
    """The address of the page of the newest run; without a run, that of the server."""
    client = connect(PATIENCE)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    for run in client.search_runs(experiments, order_by=["attributes.start_time DESC"], max_results=1):
        return _run_address(server, run.info.experiment_id, run.info.run_id)
    return server


def local_server(port: int = 5000) -> str:
    """The address of `make ui`."""
    return f"http://127.0.0.1:{port}"


def store_address() -> str:
    """The address of the store: MLFLOW_TRACKING_URI, or mlflow.db in the main repository.

    The relative path of a database starts at the main repository, not at a temporary copy of it.
    """
    server, folder = _server(), quote(str(main_repository()))  # quoted, since % and ? have a meaning in an address
    kind, _, path = server.partition(":///")
    if kind == "sqlite" and path and not path.startswith("/"):
        return f"sqlite:///{folder}/{path}"
    return server or f"sqlite:///{folder}/mlflow.db"


def _run_address(server: str, experiment: str, run: str) -> str:
    # The full path, since the address of the server alone opens MLflow's home page.
    return f"{server.rstrip('/')}/#/experiments/{experiment}/runs/{run}"


def _server() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI", "")


def _without_password(text: str) -> str:
    return re.sub(r"(?<=://)[^\s/@]+@", "", text)


def _logged(client: Any, run: str) -> dict[int, float]:
    return {metric.step: metric.value for metric in client.get_metric_history(run, MARK)}


def _context(tag: Any, split: str) -> Any:
    return tag("mlflow.data.context", {"train": "training", "valid": "validation"}.get(split, "evaluation"))
