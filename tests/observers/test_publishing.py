from __future__ import annotations

import hashlib
import http.server
import json
import shutil
import subprocess
import threading
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from ruamel.yaml import YAML

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.checkpoint.files import read_checkpoint
from rfdetr_core.cli import main
from rfdetr_core.documents import DOCUMENTS, write_documents
from rfdetr_core.lineage.lock import listing_md5
from rfdetr_core.metrics.coco import CocoScores
from rfdetr_core.observers import publishing
from rfdetr_core.observers import runs as runs_of_mlflow
from rfdetr_core.observers.history import read_history
from rfdetr_core.observers.logged_model import link_model
from rfdetr_core.observers.publishing import (
    CHECKPOINT,
    METRICS,
    PUBLISHED,
    REPORT,
    named_intervals,
    named_scores,
    track_evaluation,
    track_report,
)
from rfdetr_core.observers.runs import TrackedRun
from rfdetr_core.selection.select import select
from rfdetr_core.selection.strip import strip
from tests.browser import running as running_browser
from tests.evaluation.scene import write_tiny_checkpoint
from tests.observers.conftest import Server
from tests.observers.test_mlflow import has_every_epoch_once, logged, runs
from tests.pipeline.project import Project
from tests.slow import KINDS, slow_server
from tests.training.tiny import make_files, train

SCORES = {"images": 2, "map": 0.25, "map_75": None, "masks": {"map": 0.5}}
SENT = {"test/mAP_50_95": 0.25, "test/segm_mAP_50_95": 0.5, "test/images": 2}
INTERVALS = {
    "schema": 1,
    "images": 2,
    "resamples": 1000,
    "boxes": {"map": [0.125, 0.375], "map_50": [0.0, 1.0], "map_75": None, "mar_100": [0.25, 0.5], "f1": [0.5, 0.75]},
    "masks": {"map": [0.25, 0.625]},
}
# In addition to the names of the scores.
SENT_INTERVALS = {
    **{"test/mAP_50_95_low": 0.125, "test/mAP_50_95_high": 0.375, "test/mAP_50_low": 0.0, "test/mAP_50_high": 1.0},
    **{"test/mAR_low": 0.25, "test/mAR_high": 0.5, "test/F1_low": 0.5, "test/F1_high": 0.75},
    **{"test/segm_mAP_50_95_low": 0.25, "test/segm_mAP_50_95_high": 0.625},
}
BENCHMARK = ("--seconds", "0", "--precision", "bf16", "--device", "cpu")
ANALYSIS = {path for path, stage in PUBLISHED.items() if stage == "report"}


def write_lock() -> None:
    """The entries of dvc.lock for the existing published files."""
    stages: dict[str, dict[str, Any]] = {}
    for path, stage in ((path, stage) for path, stage in PUBLISHED.items() if path.exists()):
        content = {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in files_of(path)}
        digest = listing_md5(content) if path.is_dir() else content[path.name]
        entry = stages.setdefault(stage, {"cmd": f"exec python -m stages.{stage}", "outs": []})
        entry["outs"].append({"path": path.as_posix(), "hash": "md5", "md5": digest})
    YAML().dump({"schema": "2.0", "stages": stages}, Path("dvc.lock"))


def write_analysis(word: str = "first") -> None:
    """Write the files of the stage report."""
    files.write_json(REPORT / "intervals.json", INTERVALS)
    files.write_json(REPORT / "thresholds.json", {"all": {"threshold": 0.25}})
    files.write_text(REPORT / "suspects.csv", "image,annotation\n")
    files.write_text(REPORT / "index.html", f"<!doctype html><title>{word}</title>")


def files_of(path: Path) -> list[Path]:
    return sorted(path.iterdir()) if path.is_dir() else [path]


def write_report() -> None:
    """Write the published files of the stage evaluate."""
    files.write_json(METRICS, SCORES)
    files.write_json(REPORT / "about.json", {"split": "test", "not_measured": "map_75"})
    for name in ("per_class.csv", "per_image.csv", "confusion.csv"):
        files.write_text(REPORT / name, f"of\n{name}\n")
    files.write_text(REPORT / "pr_curve.csv", "recall,precision,mask_precision\n0.0,1.0,0.5\n0.01,0.75,0.25\n")
    for name in ("best_1.png", "worst_1.png"):
        files.write_bytes(REPORT / "pictures" / name, name.encode())


@pytest.fixture(scope="module")
def finished_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a pipeline whose training was not tracked."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train(make_files(folder), Path("output"))
        selection = select(files.read_json(Path("output/scores.json")))
        files.write_json(Path("output/selection.json"), selection)
        strip(Path("output"), selection, CHECKPOINT, Path("records"))
        write_report()
        shutil.copyfile("manifest/valid.json", "manifest/test.json")
        Path("params.yaml").write_text("data: {dir: data}\nruntime: {project: published, run: named}\n")
        write_lock()
        for command in (
            "init -q",
            "config user.name a",
            "config user.email a@localhost",
            "add -A",
            "commit -q -m made",
        ):
            subprocess.run(["git", *command.split()], check=True)
    return folder


@pytest.fixture
def project(finished_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    shutil.copytree(finished_project, folder)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return folder


@pytest.fixture
def analysed(project: Path) -> Path:
    """The project with the files of the stage report."""
    write_analysis()
    write_lock()
    return project


def refused(*arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["publish", *arguments])
    assert isinstance(ended.value.code, str)  # printed, with status 1
    return ended.value.code


@pytest.mark.slow
def test_publishing_twice_makes_one_run_with_everything_and_one_version_of_the_model(
    analysed: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    client = MlflowClient(server.uri)
    for _ in range(2):
        main(["publish", "--register", "detector"])
        (run,) = runs(client, "published")
        output = capsys.readouterr().out
        assert f"{server.uri}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}" in output
        assert "version 1 of the model detector" in output
        assert (run.info.status, run.info.run_name) == ("FINISHED", "named")
        assert has_every_epoch_once(client, run, Path("output/history.csv"))
        for key, value in (SENT | SENT_INTERVALS).items():
            assert logged(client, run, key) == [(0, value)]
        assert logged(client, run, "test/precision_at_recall") == [(0, 1.0), (1, 0.75)]
        assert logged(client, run, "test/segm_precision_at_recall") == [(0, 0.5), (1, 0.25)]
        assert "test/mAP_75" not in run.data.metrics
        datasets = {entry.dataset.name: entry.dataset.digest for entry in run.inputs.dataset_inputs}
        manifests = {split: files.sha256_file(Path(f"manifest/{split}.json")) for split in ("train", "valid", "test")}
        assert datasets == {f"data/{split}": digest[:36] for split, digest in manifests.items()}
        lock = YAML(typ="safe").load(Path("dvc.lock"))["stages"]
        assert all(
            run.data.tags[f"dvc.lock.{stage}"] == files.digest(lock[stage])
            for stage in ("train", "strip", "evaluate", "report")
        )
        assert run.data.params["params.train.lr"] == "0.001"
        (version,) = client.search_model_versions("name = 'detector'")
        (page,) = pages(client, run)
        assert page.tags["sha256"] == version.tags["sha256"]
        assert (page.source_run_id, page.model_type) == (run.info.run_id, read_checkpoint(CHECKPOINT).model_name)
        assert [output.model_id for output in run.outputs.model_outputs] == [page.model_id]
        fetched = Path(client.download_artifacts(run.info.run_id, "model/checkpoint_best_total.pth", str(analysed)))
        assert files.sha256_file(fetched) == files.sha256_file(CHECKPOINT) == version.tags["sha256"]
        attached = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
        assert attached == {"history.csv", "scores.json", "selection.json", "evaluate", "model", "documents"}
        documents = {
            Path(artifact.path).name: artifact for artifact in client.list_artifacts(run.info.run_id, "documents")
        }
        assert documents.keys() == DOCUMENTS.keys()
        for path in write_documents(CHECKPOINT, analysed / "documents"):
            attached_file = client.download_artifacts(
                run.info.run_id, f"documents/{path.name}", str(analysed / "fetched")
            )
            assert Path(attached_file).read_bytes() == path.read_bytes()
        here = {file.relative_to(REPORT.parent).as_posix() for file in REPORT.rglob("*") if file.is_file()}
        folders = [client.list_artifacts(run.info.run_id, path) for path in ("evaluate", "evaluate/pictures")]
        assert {artifact.path for artifact in chain(*folders) if not artifact.is_dir} == here


def pages(client: MlflowClient, run: Any, *queries: str, **more: Any) -> list[Any]:
    """The LoggedModels of the experiment of a run."""
    return list(client.search_logged_models([run.info.experiment_id], " AND ".join(queries) or None, **more))


@pytest.mark.slow
def test_without_documents_everything_else_is_published_with_a_note(
    project: Path, server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise UserError("the file carries no lineage")

    monkeypatch.setattr("rfdetr_core.documents.write_documents", refuse)
    main(["publish"])
    assert "note: the run has no documents: the file carries no lineage" in capsys.readouterr().out
    client = MlflowClient(server.uri)
    (run,) = runs(client, "published")
    assert run.info.status == "FINISHED"
    assert "model" in {artifact.path for artifact in client.list_artifacts(run.info.run_id)}


@pytest.mark.slow
def test_the_page_of_the_model_has_its_scores_each_with_its_dataset(analysed: Path, server: Server) -> None:
    Path("params.yaml").write_text("data: {dir: data}\nruntime: {project: paged}\n")
    client, selection = MlflowClient(server.uri), files.read_json(Path("output/selection.json"))
    epoch = selection[selection["winner"]]["epoch"]
    row = read_history(Path("output/history.csv"))[epoch]
    track = {"ema": "val/ema_", "regular": "val/"}[selection["winner"]]
    run_scores = {"train/loss": "train", f"{track}mAP_50_95": "valid", f"{track}F1": "valid"}
    expected = {key: (row[key], epoch, f"data/{split}") for key, split in run_scores.items()}
    expected |= {key: (value, 0, "data/test") for key, value in (SENT | SENT_INTERVALS).items()}
    for _ in range(2):
        main(["publish"])
        (run,) = runs(client, "paged")
        (page,) = pages(client, run)
        shown = {metric.key: (metric.value, metric.step, metric.dataset_name) for metric in page.metrics}
        assert len(page.metrics) == len(shown), "each once"
        assert expected.items() <= shown.items()
        other_prefix = {"ema": "val/", "regular": "val/ema_"}[selection["winner"]]
        assert f"{other_prefix}mAP_50_95" not in shown, "that of the other weights"
        assert has_every_epoch_once(client, run, Path("output/history.csv"))
        for key, value in (SENT | SENT_INTERVALS).items():
            assert logged(client, run, key) == [(0, value)]
        for split in ("train", "valid", "test"):
            digest = files.sha256_file(Path(f"manifest/{split}.json"))[:36]
            assert {metric.dataset_digest for metric in page.metrics if metric.dataset_name == f"data/{split}"} == {
                digest
            }
    query, dataset = "metrics.`test/mAP_50_95` > 0.2", {"dataset_name": "data/test", "dataset_digest": digest}
    assert len(pages(client, run, query, datasets=[dataset])) == 1
    assert not pages(client, run, query, datasets=[dataset | {"dataset_name": "data/valid"}])
    start = analysed / "empty.html"
    start.write_text("")
    texts = ["data/train", "data/valid", "data/test", "test/mAP_50_95", f"{track}F1", f"model/{CHECKPOINT.name}"]
    with running_browser() as browser:
        opened = browser.open(start)
        opened.value(f"location.href = '{server.uri}/#/experiments/{run.info.experiment_id}/models/{page.model_id}'")
        opened.wait(f"{texts}.every((text) => document.body?.innerText.includes(text))")
    # The same scores on other images of test.
    Path("manifest/test.json").write_text("[]\n")
    for _ in range(2):
        main(["publish"])
        (page,) = pages(client, run)
        of_map = [metric.dataset_digest for metric in page.metrics if metric.key == "test/mAP_50_95"]
        assert sorted(of_map) == sorted([digest, files.sha256_file(Path("manifest/test.json"))[:36]])


class Older(http.server.BaseHTTPRequestHandler):
    """A server that answers 404."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, code = self.server.answer  # type: ignore[attr-defined]
        if code is None:
            return self.send_error(status)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps({"error_code": code, "message": code}).encode())
        return None

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_server_before_version_3_has_no_page_of_a_model_and_other_errors_are_raised(project: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Older) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        run = TrackedRun(MlflowClient(f"http://127.0.0.1:{server.server_port}"), "1", "0a1b")
        server.answer = (404, None)  # type: ignore[attr-defined]
        assert link_model(run, CHECKPOINT, None, 1, {}, []) is False
        for answer, reason in ((403, None), "403"), ((404, "RESOURCE_DOES_NOT_EXIST"), "RESOURCE_DOES_NOT_EXIST"):
            server.answer = answer  # type: ignore[attr-defined]
            with pytest.raises(MlflowException, match=reason):
                link_model(run, CHECKPOINT, None, 1, {}, [])
        server.shutdown()


def attached(client: MlflowClient, run: Any) -> set[str]:
    return {Path(artifact.path).name for artifact in client.list_artifacts(run.info.run_id, "evaluate")}


@pytest.mark.slow
def test_a_report_is_added_to_the_run_of_its_evaluation_but_an_older_page_is_not(
    analysed: Path, server: Server
) -> None:
    Path("params.yaml").write_text("data: {dir: data}\nruntime: {project: analysed, mlflow: true}\n")
    client, where, names = MlflowClient(server.uri), ProjectPaths(Path("data")), {path.name for path in ANALYSIS}
    track_evaluation(where)  # the existing page is from an earlier evaluation
    (run,) = runs(client, "analysed")
    assert not names & attached(client, run)
    assert not SENT_INTERVALS.keys() & run.data.metrics.keys()
    write_analysis("second")
    for _ in range(2):
        track_report(where)
        (run,) = runs(client, "analysed")
        assert names <= attached(client, run)
        for key, value in (SENT | SENT_INTERVALS).items():
            assert logged(client, run, key) == [(0, value)]
        assert run.info.status == "FINISHED"
    page = Path(client.download_artifacts(run.info.run_id, "evaluate/index.html", str(analysed)))
    assert page.read_bytes() == (REPORT / "index.html").read_bytes()


@pytest.mark.slow
def test_a_benchmark_is_attached_to_the_run_of_the_training(project: Path, server: Server, tmp_path: Path) -> None:
    client = MlflowClient(server.uri)
    main(["publish"])
    for _ in range(2):
        main(["benchmark", str(CHECKPOINT), *BENCHMARK, "--mlflow", "--output", str(tmp_path / "figures.json")])
        (run,) = runs(client, "published")
        paths = [artifact.path for artifact in client.list_artifacts(run.info.run_id, "benchmark")]
        assert paths == ["benchmark/benchmark.json", "benchmark/benchmark.txt"]
        assert run.info.status == "FINISHED"
        figures, table = (Path(client.download_artifacts(run.info.run_id, path, str(project))) for path in paths)
        assert files.read_json(figures) == files.read_json(tmp_path / "figures.json")
        assert str(CHECKPOINT) in table.read_text()


def test_a_benchmark_of_other_models_is_not_attached(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    other_model = write_tiny_checkpoint(tmp_path / "other.pth")
    with pytest.raises(SystemExit, match="None of the measured files comes from the training"):
        main(["benchmark", str(other_model), *BENCHMARK, "--mlflow"])


@pytest.mark.slow
def test_a_result_without_a_page_is_published_without_one_and_later_with_it(project: Path, server: Server) -> None:
    Path("params.yaml").write_text("data: {dir: data}\nruntime: {project: pageless}\n")
    client, names = MlflowClient(server.uri), {path.name for path in ANALYSIS}
    main(["publish"])
    (run,) = runs(client, "pageless")
    assert not names & attached(client, run)
    write_analysis()
    write_lock()
    for path in ANALYSIS:
        path.rename(path.with_suffix(".away"))
        assert f"{path} does not exist" in refused()
        path.with_suffix(".away").rename(path)
    main(["publish"])
    (run,) = runs(client, "pageless")
    assert names <= attached(client, run)
    assert run.data.metrics["test/mAP_50_95_high"] == 0.375


def test_an_interval_has_the_name_of_its_score_and_a_missing_score_has_none() -> None:
    assert named_intervals("test", INTERVALS) == SENT_INTERVALS
    numbers = named_scores("test", dict.fromkeys(INTERVALS["boxes"], 0.5) | {"masks": {"map": 0.5}})
    assert {name.removesuffix("_low").removesuffix("_high") for name in SENT_INTERVALS} < numbers.keys()
    assert named_intervals("test", {"schema": 1, "images": 0, "resamples": 0, "boxes": {"map": None}}) == {}


def test_a_file_that_is_missing_or_differs_from_the_lock_is_named(project: Path, server: Server) -> None:
    Path("params.yaml").write_text("data: {dir: data}\nruntime: {project: refused}\n")
    METRICS.write_text("{}")
    assert "reports/evaluate/metrics.json differs from dvc.lock" in refused()
    METRICS.unlink()
    assert "reports/evaluate/metrics.json does not exist" in refused()
    assert not runs(MlflowClient(server.uri), "refused")


def test_a_server_that_is_away_is_an_error_of_publish_and_a_warning_of_a_stage(
    analysed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert "MLflow cannot be reached. Nothing is lost: publish again" in refused()
    for part, track in (("evaluation", track_evaluation), ("report", track_report)):
        with pytest.warns(
            UserWarning, match=rf"MLflow cannot be reached, so the MLflow run lacks this {part}\. Send it later"
        ):
            track(ProjectPaths(Path("data")))


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_is_slow_is_an_error_of_publish_and_a_warning_of_evaluate(
    kind: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs_of_mlflow, "_LONGEST_CALL", 1.0)
    monkeypatch.setattr(publishing, "_IN_ALL", 1.0)
    with slow_server(kind) as (address, _):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert "MLflow is too slow. Nothing is lost: publish again" in refused()
        with pytest.warns(
            UserWarning, match=r"MLflow is too slow, so the MLflow run lacks this evaluation\. Send it later"
        ):
            track_evaluation(ProjectPaths(Path("data")))


def test_the_scores_of_a_report_have_the_names_of_an_epoch(project: Path) -> None:
    measured = {field.name: 0.5 for field in fields(CocoScores) if field.type == "float"}
    row, names = read_history(Path("output/history.csv"))[1], named_scores("val", measured)
    of_epoch = {name for name in row if name.startswith("val/") and not name.startswith("val/ema_")}
    assert of_epoch - {"val/loss"} <= names.keys()
    assert not {
        name for name in names.keys() - of_epoch if not name.endswith(("_small", "_medium", "_large", "_1", "_10"))
    }


@pytest.mark.slow
def test_a_result_that_dvc_restored_is_published_to_the_run_of_its_training_or_to_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project.create(tmp_path / "project", {"runtime": {"mlflow": True}})
    project.repro()
    project.commit("trained")
    monkeypatch.chdir(project.folder)
    for name in ("DVC_ROOT", "DVC_STAGE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    client = MlflowClient(f"sqlite:///{project.folder / 'mlflow.db'}")
    (run,) = runs(client, "rfdetr")
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test/mAP_50"] == json.loads(METRICS.read_text())["map_50"]
    pictures = {artifact.path for artifact in client.list_artifacts(run.info.run_id, "evaluate/pictures")}
    assert pictures == {f"evaluate/pictures/{path.name}" for path in (REPORT / "pictures").iterdir()} != set()
    shutil.rmtree("output")
    project.run("git", "checkout", "-q", "--", ".")
    project.run("dvc", "checkout", "-q")
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    for store in ("mlflow.db", "another.db"):
        if store == "another.db":
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
        main(["publish"])
        client = MlflowClient(f"sqlite:///{project.folder / store}")
        (run,) = runs(client, "rfdetr")
        assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 2
        assert run.data.tags["mlflow.source.git.commit"] == head
        # The training itself made the first run.
        assert run.data.tags.get("dvc.stage") == {"mlflow.db": "train", "another.db": None}[store]
