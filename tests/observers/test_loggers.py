from __future__ import annotations

import json
import os
import signal
import struct
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from rfdetr_core.base.code import ROOT
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.params import parse
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.observers.history import read_history
from rfdetr_core.observers.loggers import LOGGERS, ClearML, TensorBoard, WeightsAndBiases
from rfdetr_core.training.config import EXTRAS, RuntimeConfig
from rfdetr_core.training.module import TrainingModule
from tests.training.tiny import train

ALL = {"tensorboard": True, "wandb": True, "clearml": True, "project": "crowns", "run": "first"}
History = dict[int, dict[str, float]]


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("CLEARML_OFFLINE_MODE", "1")
    monkeypatch.setenv("CLEARML_CACHE_DIR", str(tmp_path / "clearml"))
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


def tensorboard_history(folder: Path) -> History:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (run,) = folder.iterdir()
    events = EventAccumulator(str(run)).Reload()
    rows: History = {}
    for key in events.Tags()["scalars"]:
        for event in events.Scalars(key):
            assert key not in rows.setdefault(event.step, {})  # no epoch twice
            rows[event.step][key] = event.value
    return rows


def wandb_history(folder: Path) -> History:
    """Records of LevelDB's log format: blocks of 32 KiB, each record with 4 bytes of CRC, its length and its type."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("offline-run-*/*.wandb")
    content, place, parts, rows = file.read_bytes(), 7, b"", History()
    while place < len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # full, last
            record = Record.FromString(parts)
            parts = b""
            if record.HasField("history"):
                row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
                rows[record.history.step.num] = {key: value for key, value in row.items() if key[0] != "_"}
    return rows


def clearml_history(folder: Path) -> History:
    (file,) = folder.glob("offline/*.zip")
    rows: History = {}
    with zipfile.ZipFile(file) as archive:
        events = [event for line in archive.read("metrics.jsonl").splitlines() for event in json.loads(line)]
        task = json.loads(archive.read("task.json"))
    assert task["hyperparams"]["General"]["params.train.lr"]["value"] == "0.001"
    for event in events:
        if event["type"] == "training_stats_scalar":
            rows.setdefault(event["iter"], {})[f"{event['metric']}/{event['variant']}"] = event["value"]
    return rows


@pytest.mark.slow
def test_loggers_have_every_epoch_of_a_resumed_training_and_change_no_byte_of_it(
    where: ProjectPaths,
    uninterrupted: dict[str, bytes],
    output: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = TrainingModule.training_step

    def stopping(self: TrainingModule, batch: Any, batch_idx: int) -> Any:
        if self.current_epoch == 1:
            raise RuntimeError("the machine is off")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(TrainingModule, "training_step", stopping)
    with pytest.raises(RuntimeError, match="the machine is off"):
        train(where, output, runtime={"tensorboard": True, "run": "first"})
    monkeypatch.setattr(TrainingModule, "training_step", step)
    assert train(where, output, runtime=ALL) == uninterrupted
    history = read_history(output / "history.csv")
    assert len(history) == 3
    for value in (
        tensorboard_history(output / "tensorboard"),
        wandb_history(output / "wandb"),
        clearml_history(tmp_path / "clearml"),
    ):
        assert value.keys() == history.keys()
        for epoch, row in history.items():
            assert value[epoch] == pytest.approx(row, rel=1e-6)  # TensorBoard's are 32-bit


@pytest.mark.parametrize("name", EXTRAS)
def test_a_missing_package_is_an_error_that_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert getattr(parse(RuntimeConfig, {name: True}, "runtime"), name)
    monkeypatch.setattr(metadata, "distributions", lambda **sought: iter(()))
    with pytest.raises(UserError, match=rf"{name} is not installed.*\.\[{name}\]"):
        parse(RuntimeConfig, {name: True}, "runtime")
    parse(RuntimeConfig, {name: False}, "runtime")


def test_every_extra_that_the_message_names_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert all(project["optional-dependencies"][name] == [name] for name in EXTRAS)
    descriptions = {key: field.description or "" for key, field in RuntimeConfig.model_fields.items()}
    assert {key for key, text in descriptions.items() if "needs the extra" in text} == set(EXTRAS)


def test_every_logger_has_its_key() -> None:
    keys = [logger.key for logger in LOGGERS]
    assert len(keys) == len(set(keys))
    assert set(EXTRAS) <= set(keys) <= RuntimeConfig.model_fields.keys()


def test_a_logger_that_cannot_start_is_an_error_before_anything_is_trained(
    where: ProjectPaths, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: WeightsAndBiases) -> None:
        raise RuntimeError("no API key")

    monkeypatch.setattr(WeightsAndBiases, "open", refuse)
    with pytest.raises(UserError, match=r"runtime\.wandb.*no API key"):
        train(where, output, runtime={"wandb": True})
    assert not (output / "history.csv").exists()


def test_a_logger_that_fails_later_costs_no_training(
    where: ProjectPaths, uninterrupted: dict[str, bytes], output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: TensorBoard, epoch: int, row: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(TensorBoard, "send", fail)
    with pytest.warns(UserWarning, match="disk full"):
        assert train(where, output, runtime={"tensorboard": True}) == uninterrupted


def test_clearml_lives_in_another_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runtime = parse(RuntimeConfig, {"clearml": True, "project": "apart"}, "runtime")
    logger = ClearML(runtime, {"params": {"train": {"lr": 0.001}}}, tmp_path)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)], os.fork, sys.excepthook
    logger.connection = logger.open()
    logger.send(0, {"train/loss": 0.5})
    logger.close(failed=True)
    assert ([signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)], os.fork, sys.excepthook) == before
    assert logger.connection.returncode == 0
    assert clearml_history(tmp_path / "clearml") == {0: {"train/loss": 0.5}}


def test_clearml_says_why_it_cannot_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CLEARML_OFFLINE_MODE")
    monkeypatch.setenv("CLEARML_CONFIG_FILE", str(tmp_path / "none.conf"))
    monkeypatch.setenv("CLEARML_API_HOST", "http://127.0.0.1:9")
    monkeypatch.delenv("CLEARML_API_ACCESS_KEY", raising=False)
    with pytest.raises(UserError, match=r"(?i)clearml|credentials"):
        ClearML(parse(RuntimeConfig, {"clearml": True}, "runtime"), {}, tmp_path).open()
