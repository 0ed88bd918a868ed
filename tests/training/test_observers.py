from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from rfdetr_core.observers.mlflow import main_repository
from rfdetr_core.training.run import TrainingFiles
from tests.training.tiny import train


@pytest.mark.slow
def test_observed_or_not_a_training_gives_equal_bytes_and_mlflow_has_its_epochs(
    where: TrainingFiles,
    uninterrupted: dict[str, bytes],
    output: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    found = train(where, output, runtime={"mlflow": True, "project": "crowns", "run": "first"})
    assert found == uninterrupted
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("crowns")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "first")
    assert run.data.params["params.train.lr"] == "0.001"
    history = list(csv.DictReader(io.StringIO(found["history.csv"].decode())))
    logged = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "train/loss")}
    assert logged == {int(row["epoch"]): float(row["train/loss"]) for row in history}
    assert sorted(file.path for file in client.list_artifacts(run.info.run_id)) == ["history.csv", "scores.json"]
    assert (tmp_path / "mlartifacts").is_dir()


def test_a_server_that_is_away_is_reported_once_and_costs_no_training(
    where: TrainingFiles,
    uninterrupted: dict[str, bytes],
    output: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.warns(UserWarning, match="MLflow cannot be reached") as told:
        assert train(where, output, runtime={"mlflow": True}) == uninterrupted
    assert len([one for one in told if "MLflow cannot" in str(one.message)]) == 1


def test_a_temporary_experiment_of_dvc_writes_to_the_main_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    for root in ("/repo", "/repo/.dvc/tmp/exps/standalone/tmp1", "/repo/.dvc/tmp/exps/tmp2"):
        monkeypatch.setenv("DVC_ROOT", root)
        assert main_repository() == Path("/repo")
