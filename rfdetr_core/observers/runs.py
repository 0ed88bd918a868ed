"""The MLflow run of a result: one for each fingerprint, found again by whoever asks, brought up to history.csv."""

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
# What MLflow's pattern lacks; the colon that escapes it; and as MLflow refuses what is another path when normalised,
# the dot that makes a part "." or "..", one of two at the start, and a slash beside which a part is empty.
_ESCAPED = re.compile(r"[^\w/.\- ]|(?<![^/])\.(?=\.?(?:/|\Z))|\A\.(?=\.)|\A/|(?<=/)/|/\Z")


def mlflow_name(key: str) -> str:
    """A key as the name of a metric or param: no two keys have the same, and most have themselves.

    What MLflow would refuse is written as the bytes of its UTF-8, each as a colon and two hexadecimal digits. Of a name
    that is too long the end is a digest.
    """
    name = _ESCAPED.sub(lambda found: _bytes(found.group()), key) or ":"
    if len(name) <= _LONGEST:
        return name
    # An escape never has two colons.
    end = "::" + hashlib.sha256(name.encode()).hexdigest()[:_END]
    return name[: _LONGEST - len(end)] + end


def _bytes(character: str) -> str:
    return "".join(f":{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


# Each epoch has it, and it is sent last: an epoch that has it on the server is there whole.
MARK = "train/loss"
# What MLflow takes in one call, and of a dataset's digest.
METRICS, _PARAMS, DIGEST = 1000, 100, 36
PATIENCE = 5  # seconds that a training or an evaluation waits for a read of a server
_LONGEST_CALL = 120.0  # seconds, however many reads it has
_SLOWEST = 100_000  # bytes a second of an upload
# The start of the address of a database, which the client itself opens: it decides where the artifacts go.
_DATABASE = re.compile(r"(sqlite|postgresql|mysql|mssql)(\+\w+)?:")
_CREDENTIALS = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."

Rows = Mapping[int, Mapping[str, float]]


@dataclass(frozen=True)
class TrackedRun:
    """A run of MLflow. Every method leaves things as they are when it is called again."""

    client: Any
    experiment: str
    id: str

    def describe(self, record: Mapping[str, Any], datasets: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Log all of a training's record as params, the manifests' digests by "<dataset>/<split>", and tags."""
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
        """Log the epochs that are not there."""
        there = _logged(self.client, self.id)
        for epoch in sorted(rows.keys() - there):
            values = {"epoch": float(epoch), **rows[epoch]}
            self._log((key, values[key], epoch) for key in sorted(values, key=lambda key: key == MARK))

    def log_values(self, values: Mapping[str, float]) -> None:
        """Log numbers that belong to no epoch, such as the scores on the test split."""
        there = self.client.get_run(self.id).data.metrics
        self._log((key, value, 0) for key, value in values.items() if there.get(mlflow_name(key)) != value)

    def log_curve(self, name: str, values: Mapping[int, float]) -> None:
        """Log a curve, such as precision by recall in percent: the page draws it over the step."""
        there = {metric.step: metric.value for metric in self.client.get_metric_history(self.id, mlflow_name(name))}
        self._log((name, value, step) for step, value in values.items() if there.get(step) != value)

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Attach a file, unless its very bytes are attached already, and still there."""
        tag, digest, place = (
            f"sha256.{path.name}",
            files.sha256_file(path),
            f"{folder}/{path.name}" if folder else path.name,
        )
        there = {file.path: file.file_size for file in self.client.list_artifacts(self.id, folder)}
        whole = place in there and there[place] in (path.stat().st_size, None)  # None: a store that does not say it
        if not whole or self.client.get_run(self.id).data.tags.get(tag) != digest:
            self.client.log_artifact(self.id, str(path), folder)
            self.client.set_tag(self.id, tag, digest)

    def resume(self) -> None:
        """Take a run that failed or was killed as running again."""
        if self.client.get_run(self.id).info.status in ("FAILED", "KILLED"):
            self.client.update_run(self.id, "RUNNING")

    def end(self, status: str) -> None:
        """Close the run as FINISHED, FAILED or KILLED."""
        if self.client.get_run(self.id).info.status != status:
            self.client.set_terminated(self.id, status)

    def replace(self, earlier: str) -> None:
        """Close an earlier run as KILLED: its training was killed, and this run does not resume it."""
        from mlflow.exceptions import MlflowException

        try:
            if earlier != self.id and self.client.get_run(earlier).info.status == "RUNNING":
                self.client.set_terminated(earlier, "KILLED")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # it was tracked elsewhere
                raise

    def _log(self, values: Iterable[tuple[str, float, int]]) -> None:
        """Log names, values and steps in this order."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(mlflow_name(key), value, now, step) for key, value, step in values if math.isfinite(value)]
        for start in range(0, len(metrics), METRICS):
            self.client.log_batch(self.id, metrics=metrics[start : start + METRICS])


class Client:
    """MLflow's client, of which every method is called with patience. make: what connects."""

    def __init__(self, make: Callable[[], Any], patience: TimeLimit) -> None:
        self._patience = patience
        self._client = patience.call(make)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            sizes = [Path(one).stat().st_size for one in arguments[1:2] if name == "log_artifact"]
            method = getattr(self._client, name)
            return self._patience.call(lambda: method(*arguments, **named), sum(sizes) / _SLOWEST)

        return call


def connect(seconds: int, patience: TimeLimit | None = None) -> Client:
    """A client of MLFLOW_TRACKING_URI, else of mlflow.db in the main repository.

    MLflow's own patience is minutes for each read; here it is `seconds`, asked for twice. patience: how long whole
    calls may take; by default two minutes each.
    """
    settings = {"REQUEST_MAX_RETRIES": "1", "REQUEST_TIMEOUT": str(seconds)}
    own = {f"MLFLOW_HTTP_{key}": value for key, value in settings.items()}
    own |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "WARNING"}
    for key, value in own.items():
        os.environ.setdefault(key, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    return Client(lambda: MlflowClient(store()), patience or TimeLimit(_LONGEST_CALL, per_call=True))


def open_run(client: Any, project: str, name: str | None, record: Mapping[str, Any], rows: Rows) -> TrackedRun:
    """The run of a record's fingerprint, made if there is none.

    Without `deterministic`, one fingerprint can have several results. So a run whose losses are not those of `rows` is
    that of another result.

    Raises:
        UserError: the experiment was deleted.
    """
    found = client.get_experiment_by_name(project)
    if found and found.lifecycle_stage == "deleted":
        raise UserError(
            f"the MLflow experiment {project} was deleted. Restore it: "
            f"MLFLOW_TRACKING_URI={_without_password(store())} mlflow experiments restore --experiment-id "
            f"{found.experiment_id}. Or set another runtime.project."
        )
    # By default a client puts the artifacts of a database into its working directory, which DVC removes where that is
    # of a temporary experiment.
    place = (main_repository() / "mlartifacts").as_uri() if _DATABASE.match(store()) else None
    experiment = found.experiment_id if found else client.create_experiment(project, place)
    own = fingerprint(record)
    query = f"tags.fingerprint = '{own}'"
    for run in client.search_runs([experiment], query, order_by=["attributes.start_time ASC"]):
        there = _logged(client, run.info.run_id)
        if all(math.isclose(there[epoch], rows[epoch].get(MARK, math.nan)) for epoch in there.keys() & rows.keys()):
            return TrackedRun(client, experiment, run.info.run_id)
    made = client.create_run(experiment, run_name=name, tags={"fingerprint": own})
    return TrackedRun(client, experiment, made.info.run_id)


def origin() -> dict[str, str]:
    """Tags: the commit, whether the working tree differs from it, and the stage and experiment of DVC, if any."""
    commit, changes = (
        git.answer(Path(), *one) for one in (("rev-parse", "HEAD"), ("status", "--porcelain", "--", "."))
    )
    tags = {
        "mlflow.source.name": "rfdetr_core.training",
        "mlflow.source.git.commit": (commit or "").strip(),
        "git.dirty": str(bool(changes)).lower() if commit else "",
        "dvc.stage": os.environ.get("DVC_STAGE", ""),
        "dvc.experiment": os.environ.get("DVC_EXP_NAME", ""),
    }
    return {key: value for key, value in tags.items() if value}


def fault(error: BaseException) -> tuple[str, str]:
    """What went wrong with MLflow: whether it refused, cannot be reached or failed; and its own words."""
    if isinstance(error, ImportError):
        return "MLflow cannot be imported", str(error)
    if isinstance(error, UserError):
        return "MLflow refused", str(error)
    if isinstance(error, OutOfTimeError):
        return "MLflow is too slow", str(error)
    from mlflow.exceptions import MlflowException
    from requests import exceptions

    away = (exceptions.ConnectionError, exceptions.Timeout, ConnectionError, TimeoutError)
    what, code = "failed", 0
    for one in causes(error):
        if isinstance(one, away):
            what = "cannot be reached"
        elif isinstance(one, MlflowException):
            code = code or int(one.get_http_status_code())  # type: ignore[no-untyped-call]
        elif isinstance(one, exceptions.HTTPError) and one.response is not None:
            code = code or one.response.status_code
    if what == "failed" and http.HTTPStatus.BAD_REQUEST <= code < http.HTTPStatus.INTERNAL_SERVER_ERROR:
        what = "refused"
    told = one_line(_without_password(" ".join(str(error).split()))[:300])
    if what == "refused" and code in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN):
        told += f" ({_CREDENTIALS})"
    return f"MLflow {what}", told


def page(run: TrackedRun) -> str:
    """Where a person finds the run."""
    server = _without_password(_server())
    if server and not server.startswith("http"):
        return f"{run.id} in {_without_password(store())}"
    return _page(server or local_server(), run.experiment, run.id) + ("" if server else " (after: make ui)")


def newest_page(server: str) -> str:
    """The address of the page of the run that was begun last; without one, of the server."""
    client = connect(PATIENCE)
    experiments = [one.experiment_id for one in client.search_experiments()]
    for run in client.search_runs(experiments, order_by=["attributes.start_time DESC"], max_results=1):
        return _page(server, run.info.experiment_id, run.info.run_id)
    return server


def local_server(port: int = 5000) -> str:
    """The address of `make ui`."""
    return f"http://127.0.0.1:{port}"


def store() -> str:
    """The address that a client is to open: MLFLOW_TRACKING_URI, else mlflow.db in the main repository.

    A database of a relative path is below the main repository, not below a copy of it.
    """
    server, folder = _server(), quote(str(main_repository()))  # what an address has after % or ? is no path
    kind, _, path = server.partition(":///")
    if kind == "sqlite" and path and not path.startswith("/"):
        return f"sqlite:///{folder}/{path}"
    return server or f"sqlite:///{folder}/mlflow.db"


def _page(server: str, experiment: str, run: str) -> str:
    # That of a server alone opens MLflow's home, which shows something else.
    return f"{server.rstrip('/')}/#/experiments/{experiment}/runs/{run}"


def _server() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI", "")


def _without_password(text: str) -> str:
    return re.sub(r"(?<=://)[^\s/@]+@", "", text)


def _logged(client: Any, run: str) -> dict[int, float]:
    return {metric.step: metric.value for metric in client.get_metric_history(run, MARK)}


def _context(tag: Any, split: str) -> Any:
    return tag("mlflow.data.context", {"train": "training", "valid": "validation"}.get(split, "evaluation"))
