from __future__ import annotations

import http.server
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy import make_url

from rfdetr_core.base.code import ROOT
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.cli import main
from rfdetr_core.observers.history import fingerprint, main_repository, read_history
from rfdetr_core.observers.loggers import MlflowRun
from rfdetr_core.observers.runs import (
    connect,
    mlflow_failure,
    mlflow_name,
    newest_run_address,
    open_run,
    run_address,
    store_address,
)
from rfdetr_core.training.module import TrainingModule
from tests.browser import running as running_browser
from tests.observers.conftest import Server
from tests.training.tiny import script, train


def runs(client: Any, project: str) -> list[Any]:
    experiment = client.get_experiment_by_name(project)
    return [] if experiment is None else list(client.search_runs([experiment.experiment_id]))


def logged(client: Any, run: Any, key: str) -> list[tuple[int, float]]:
    return sorted((metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, key))


def has_every_epoch_once(client: Any, run: Any, history: Path) -> bool:
    rows = read_history(history)
    keys = {key for row in rows.values() for key in row}
    return len(rows) == 3 and all(
        logged(client, run, key) == [(epoch, row[key]) for epoch, row in rows.items() if key in row] for key in keys
    )


@pytest.mark.slow
def test_without_a_server_a_run_is_tracked_in_mlflow_db_with_its_commit(
    where: ProjectPaths,
    uninterrupted: dict[str, bytes],
    output: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("DVC_STAGE", "train")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert train(where, output, runtime={"mlflow": True, "project": "crowns", "run": "first"}) == uninterrupted
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = runs(client, "crowns")
    assert (run.info.status, run.info.run_name) == ("FINISHED", "first")
    assert run.data.params["params.train.lr"] == "0.001"
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert (run.data.tags["mlflow.source.git.commit"], run.data.tags["dvc.stage"]) == (head, "train")
    datasets = {entry.dataset.name: entry.dataset.digest for entry in run.inputs.dataset_inputs}
    manifests = {split: where.split(split)[1] for split in ("train", "valid")}
    digests = {f"data/{split}": run.data.params[f"inputs.manifest/{split}.json"][:36] for split in manifests}
    assert datasets == digests
    assert has_every_epoch_once(client, run, output / "history.csv")
    assert sorted(file.path for file in client.list_artifacts(run.info.run_id)) == ["history.csv", "scores.json"]
    assert (tmp_path / "mlartifacts").is_dir()


@pytest.mark.slow
def test_a_server_down_and_up_again_costs_no_training_and_no_epoch(
    where: ProjectPaths,
    uninterrupted: dict[str, bytes],
    output: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    send, client = MlflowRun.on_train_epoch_end, MlflowClient(server.uri)

    def interrupted(self: MlflowRun, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 1:
            assert len(logged(client, runs(client, "away")[0], "train/loss")) == 1
            server.stop()
        elif trainer.current_epoch == 2:
            server.start()
        send(self, trainer, pl_module)

    monkeypatch.setattr(MlflowRun, "on_train_epoch_end", interrupted)
    with pytest.warns(UserWarning, match="MLflow cannot be reached"):
        assert train(where, output, runtime={"mlflow": True, "project": "away"}) == uninterrupted
    (run,) = runs(client, "away")
    assert run.info.status == "FINISHED"
    assert has_every_epoch_once(client, run, output / "history.csv")


@pytest.mark.slow
def test_a_resumed_training_continues_its_run_and_another_result_gets_another(
    where: ProjectPaths,
    uninterrupted: dict[str, bytes],
    output: Path,
    tmp_path: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client, step = MlflowClient(server.uri), TrainingModule.training_step

    def stopping(self: TrainingModule, batch: Any, batch_idx: int) -> Any:
        if self.current_epoch == 1:
            raise RuntimeError("the machine is off")
        return step(self, batch, batch_idx)

    runtime = {"mlflow": True, "project": "resumed"}
    monkeypatch.setattr(TrainingModule, "training_step", stopping)
    with pytest.raises(RuntimeError, match="the machine is off"):
        train(where, output, runtime=runtime)
    (run,) = runs(client, "resumed")
    assert run.info.status == "FAILED"
    assert len(logged(client, run, "train/loss")) == 1
    monkeypatch.setattr(TrainingModule, "training_step", step)
    for folder in (output, tmp_path / "the same again"):
        assert train(where, folder, runtime=runtime) == uninterrupted
        (same,) = runs(client, "resumed")
        assert (same.info.run_id, same.info.status) == (run.info.run_id, "FINISHED")
        assert has_every_epoch_once(client, same, output / "history.csv")
    train(where, tmp_path / "other", runtime=runtime, train={"epochs": 1, "seed": 1})
    assert len(runs(client, "resumed")) == 2


@pytest.mark.slow
def test_the_run_of_a_killed_training_is_closed_by_the_next_training_in_its_folder(
    where: ProjectPaths, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'runs.db'}")
    client, runtime = MlflowClient(), {"mlflow": True, "project": "killed"}
    killed = (
        "import os\nfrom rfdetr_core.training.module import TrainingModule as module\nstep = module.training_step\n"
        "module.training_step = lambda self, *of: os.kill(os.getpid(), 9) if self.current_epoch else step(self, *of)\n"
    )
    program = killed + script(where, output, runtime=runtime)
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == -signal.SIGKILL
    (first,) = runs(client, "killed")
    assert first.info.status == "RUNNING"
    elsewhere = {"train": {"epochs": 1, "seed": 3}}
    train(where, tmp_path / "another folder", runtime=runtime, **elsewhere)
    assert client.get_run(first.info.run_id).info.status == "RUNNING"  # nothing shows that its process has ended
    train(where, output, runtime=runtime, train={"epochs": 1})
    assert {run.info.status for run in runs(client, "killed")} == {"FINISHED", "KILLED"}
    assert client.get_run(first.info.run_id).info.status == "KILLED"
    train(where, output, runtime=runtime)  # the killed training, from its beginning
    assert client.get_run(first.info.run_id).info.status == "FINISHED"


@pytest.mark.parametrize("database", ["{folder}/shared.db", "shared.db"])
def test_the_artifacts_of_a_temporary_experiment_outlive_its_folder(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "standalone" / "tmp1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_ROOT", str(copy))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database.format(folder=tmp_path)}")
    Path("scores.json").write_text("{}")
    open_run(connect(5), "aside", None, {"inputs": {}}, {}).log_file(Path("scores.json"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT")
    shutil.rmtree(copy)
    client = connect(5)
    (run,) = runs(client, "aside")
    assert Path(client.download_artifacts(run.info.run_id, "scores.json")).read_text() == "{}"


@pytest.mark.slow
def test_store_and_page_work_for_any_path_of_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a%20b?c#d"
    folder.mkdir()
    (tmp_path / "a b").mkdir()  # the folder that `a%20b` would mean if it were an address
    (folder / "scores.json").write_text("{}")
    monkeypatch.setenv("DVC_ROOT", str(folder))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    open_run(connect(5), "here", None, {"inputs": {}}, {}).log_file(folder / "scores.json")
    assert {path.name for path in folder.iterdir()} == {"mlflow.db", "mlartifacts", "scores.json"}
    assert list((tmp_path / "a b").iterdir()) == []
    commands: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, arguments: commands.append(arguments))
    main(["ui"])
    (command,) = commands
    client = MlflowClient(command[command.index("--backend-store-uri") + 1])
    (run,) = runs(client, "here")
    assert Path(client.download_artifacts(run.info.run_id, "scores.json")).read_text() == "{}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///below.db")
    assert make_url(store_address()).database == str(folder / "below.db")


def test_a_missing_or_truncated_artifact_is_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run, file = open_run(connect(5), "lost", None, {"inputs": {}}, {}), tmp_path / "history.csv"
    file.write_text("epoch\n0\n")
    run.log_file(file, "some/where")
    (sent,) = (tmp_path / "mlartifacts").rglob("history.csv")
    written = sent.stat().st_mtime_ns
    run.log_file(file, "some/where")
    assert sent.stat().st_mtime_ns == written
    for lose in (sent.unlink, lambda: sent.write_text("epoch")):
        lose()
        run.log_file(file, "some/where")
        assert sent.read_text() == file.read_text()


def test_the_message_about_a_deleted_experiment_has_the_restore_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    client = connect(5)
    run = open_run(client, "binned", None, {"inputs": {}}, {})
    client.delete_experiment(run.experiment)
    with pytest.raises(UserError, match="binned was deleted") as raised:
        open_run(client, "binned", None, {"inputs": {}}, {})
    failure, message = mlflow_failure(raised.value)
    assert failure == "MLflow refused"
    command = message.partition("Restore it: ")[2].partition(". Or")[0]
    bin_first = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(command, shell=True, env=bin_first, capture_output=True, check=True)
    assert open_run(client, "binned", None, {"inputs": {}}, {}).id == run.id


def test_the_address_of_a_run_opens_its_page(server: Server, tmp_path: Path) -> None:
    run = open_run(connect(5), "looked at", "a run with a name", {"inputs": {}}, {})
    run.log_values({"test/mAP_50": 0.25})
    assert newest_run_address(server.uri) == run_address(run)
    start = tmp_path / "empty.html"
    start.write_text("")
    with running_browser() as browser:
        opened = browser.open(start)
        opened.value(f"location.href = {run_address(run)!r}")
        opened.wait("['a run with a name', 'test/mAP_50'].every((text) => document.body?.innerText.includes(text))")


def test_different_results_with_one_fingerprint_have_separate_runs(server: Server) -> None:
    client, record = connect(5), {"inputs": {}, "params": {"deterministic": False}}
    first = open_run(client, "chance", None, record, {})
    first.log_epochs({0: {"train/loss": 0.5}, 1: {"train/loss": 0.25}})
    assert open_run(client, "chance", None, record, {0: {"train/loss": 0.5}}).id == first.id
    other_rows = {0: {"train/loss": 0.5}, 1: {"train/loss": 0.26}}
    second = open_run(client, "chance", None, record, other_rows)
    assert second.id != first.id
    second.log_epochs(other_rows)
    assert open_run(client, "chance", None, record, other_rows).id == second.id


def test_a_class_name_that_mlflow_refuses_loses_no_epoch_and_neither_do_many_classes(server: Server) -> None:
    client, odd = connect(5), ["a,b", "a;b", "x/../y", "dog/", "a//b", ".", "..", "crown (red) & wide", "w" * 300]
    run = open_run(client, "classes", None, {"inputs": {}}, {})
    run.describe({"inputs": {}, "notes": {"a//b": 1, "a,b": 2}}, {}, {})
    row = {f"val/AP/{name}": number / 2000 for number, name in enumerate([*odd, *map(str, range(1500))])}
    run.log_epochs({0: {"train/loss": 1.0, **row}})
    data = client.get_run(run.id).data
    assert {key: data.metrics[mlflow_name(key)] for key in row} == row
    assert {"notes.a/:2Fb": "1", "notes.a:2Cb": "2"}.items() <= data.params.items()


class Refusing(http.server.BaseHTTPRequestHandler):
    """A server that refuses every user."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(401)
        self.end_headers()
        self.wfile.write(b"You are not authenticated.")

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A refusing server, as MLFLOW_TRACKING_URI."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://someone:secret@127.0.0.1:{server.server_port}")
        yield
        server.shutdown()


def test_a_refusing_server_and_an_absent_one_have_different_messages(
    where: ProjectPaths, uninterrupted: dict[str, bytes], output: Path, refusing: None
) -> None:
    with pytest.warns(UserWarning, match="MLflow refused;.*401.*You are not authenticated") as caught:
        assert train(where, output, runtime={"mlflow": True}) == uninterrupted
    (message,) = [str(warning.message) for warning in caught if "MLflow" in str(warning.message)]
    assert "MLFLOW_TRACKING_USERNAME" in message


def test_a_message_of_mlflow_is_printed_without_the_password_of_its_address() -> None:
    client = MlflowClient("http://someone:secret@127.0.0.1:9")
    with pytest.raises(MlflowException) as raised:
        client.get_experiment("1")
    failure, message = mlflow_failure(raised.value)
    assert failure == "MLflow cannot be reached"
    assert "127.0.0.1" in message
    assert "secret" not in message


def test_a_server_that_is_away_is_reported_once_and_costs_no_training(
    where: ProjectPaths,
    uninterrupted: dict[str, bytes],
    output: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.warns(UserWarning, match="MLflow cannot be reached") as caught:
        assert train(where, output, runtime={"mlflow": True}) == uninterrupted
    assert len([warning for warning in caught if "MLflow" in str(warning.message)]) == 1


def test_the_fingerprint_is_a_function_of_content() -> None:
    assert fingerprint({"a": 1, "b": {"c": [2]}}) == fingerprint({"b": {"c": [2]}, "a": 1}) != fingerprint({"a": 1})


def test_a_temporary_experiment_of_dvc_writes_to_the_main_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    for root in ("/repo", "/repo/.dvc/tmp/exps/standalone/tmp1", "/repo/.dvc/tmp/exps/tmp2"):
        monkeypatch.setenv("DVC_ROOT", root)
        assert main_repository() == Path("/repo")
