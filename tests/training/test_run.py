from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rfdetr_core.base import files
from rfdetr_core.base.code import ROOT
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.checkpoint.files import read_checkpoint, read_plain
from rfdetr_core.checkpoint.loading import build_from_checkpoint
from rfdetr_core.data.samples import read_samples
from rfdetr_core.evaluation.evaluate import detect
from rfdetr_core.inference.predictor import Predictor
from rfdetr_core.metrics.coco import score
from rfdetr_core.training import record
from tests.training.tiny import OUTS, make_files, outs, script, train


def rows(files: dict[str, bytes]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(files["history.csv"].decode())))


# Properties of a process: its loader workers, whether they persist, the hash seed, the folder, and earlier code.
PROCESSES = {
    "one worker": ({"num_workers": 1}, "1", "import torch; torch.rand(7); torch.set_num_threads(2)"),
    "two workers": ({"num_workers": 2, "persistent_workers": False}, "2", "import numpy; numpy.random.seed(3)"),
    "four workers": ({"num_workers": 4}, "3", "import random, mlflow, supervision; random.seed(4)"),
}


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_process(
    where: ProjectPaths, uninterrupted: dict[str, bytes], tmp_path: Path
) -> None:
    running = []
    for folder, (runtime, hash_seed, before) in PROCESSES.items():
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        source = f"{before}\n{script(where, tmp_path / folder, runtime=runtime)}"
        (tmp_path / f"{hash_seed}").mkdir()
        running.append(subprocess.Popen([sys.executable, "-c", source], cwd=tmp_path / hash_seed, env=environment))
    assert [process.wait() for process in running] == [0, 0, 0]
    for folder in PROCESSES:
        assert outs(tmp_path / folder) == uninterrupted, folder


@pytest.mark.parametrize("first", [True, False])
def test_the_first_process_says_whether_a_training_starts_from_scratch_or_from_which_weights(
    uninterrupted: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    first: bool,
) -> None:
    where = make_files(tmp_path / "made")
    parent = where.weights / "parent.pth"
    parent.write_bytes(uninterrupted[OUTS[0]])
    monkeypatch.setattr(record, "first_process", lambda: first)
    lines = {None: "training from scratch: no pretrain_weights", parent.name: f"training from the weights of {parent}"}
    for name, line in lines.items():
        train(where, tmp_path / str(name), train={"epochs": 1}, model={"pretrain_weights": name})
        start_lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("training from")]
        assert start_lines == [line] * first


def test_threads_are_pinned_and_recorded(where: ProjectPaths, output: Path) -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            train(where, output, train={"epochs": 1}, runtime={"threads": threads})
            record = read_checkpoint(output / OUTS[0]).training_record
            assert record is not None
            assert record["machine"]["threads"] == threads == torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def test_another_seed_gives_other_weights(where: ProjectPaths, uninterrupted: dict[str, bytes], output: Path) -> None:
    assert train(where, output, train={"seed": 1})[OUTS[0]] != uninterrupted[OUTS[0]]


@pytest.mark.parametrize("track", ["ema", "regular"])
def test_a_best_file_has_the_threshold_of_its_best_f1_on_valid(
    track: str, where: ProjectPaths, uninterrupted: dict[str, bytes], tmp_path: Path
) -> None:
    path = tmp_path / "best.pth"
    path.write_bytes(uninterrupted[f"checkpoint_best_{track}.pth"])
    predictor = Predictor.from_checkpoint(path, device="cpu")
    results = detect(predictor, where.dataset, read_samples(*where.split("valid")), predictor.class_names)
    measured = score(files.read_json(where.split("valid")[0]), results)
    assert measured.f1 > 0
    assert predictor.threshold == read_checkpoint(path).threshold == pytest.approx(measured.threshold)


def test_a_best_file_has_no_optimiser_but_a_training_record(uninterrupted: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "best.pth"
    path.write_bytes(uninterrupted["checkpoint_best_ema.pth"])
    keys = {"model", "args", "model_name", "model_config", "rfdetr_version", "epoch", "threshold", "training_record"}
    assert read_plain(path).keys() == keys
    record = read_checkpoint(path).training_record
    assert record is not None
    keys = {"params", "inputs", "weights", "code", "packages", "lock", "machine", "files", "counts", "parents", "roots"}
    assert record.keys() == keys
    assert build_from_checkpoint(path).checkpoint.args["class_names"] == ["red", "green"]


def test_the_resume_state_also_loads_as_a_model(where: ProjectPaths, output: Path) -> None:
    train(where, output, train={"epochs": 1}, runtime={"checkpoint_interval": 1})
    assert build_from_checkpoint(output / "checkpoint.pth").report.missing == ()
    assert (output / "checkpoint_0.pth").read_bytes() == (output / "checkpoint.pth").read_bytes()


def test_the_last_epoch_is_evaluated_whatever_the_interval(where: ProjectPaths, output: Path) -> None:
    history = rows(train(where, output, train={"eval_interval": 2}))
    assert [bool(row["val/ema_mAP_50_95"]) for row in history] == [False, True, True]


@pytest.mark.parametrize("images", [1, 3])
def test_one_image_or_less_than_a_batch_is_enough_to_train(tmp_path: Path, images: int) -> None:
    where = make_files(tmp_path, images, 1)
    files = train(where, tmp_path / "output", train={"epochs": 1, "batch_size": 4})
    assert len(rows(files)) == 1


def test_more_objects_than_queries_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = make_files(tmp_path, 2, 1, objects=9)
    for queries, noted in ((8, True), (9, False)):
        train(where, tmp_path / f"{queries}", model={"num_queries": queries}, train={"epochs": 1})
        note = "note: 3 images have more objects than the 8 that the model can find (model.num_queries): train/0"
        assert (note in capsys.readouterr().out) == noted


def test_no_valid_image_is_an_error_before_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="valid split has no image"):
        train(make_files(tmp_path, 3, 0), tmp_path / "output")


def test_the_best_epoch_of_a_segmenter_is_chosen_by_masks(where: ProjectPaths, output: Path) -> None:
    model = {"variant": "seg-pico", "resolution": 48}
    files = train(where, output, model=model, train={"epochs": 1})
    assert b'"val/segm_mAP_50_95": {' in files["scores.json"]
    assert "train/loss_mask_dice" in rows(files)[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_changed_image_is_named_by_any_process_that_reads_it(tmp_path: Path, workers: int) -> None:
    where = make_files(tmp_path)
    image = where.dataset / "train" / "001.png"
    image.write_bytes(image.read_bytes() + b"more")
    with pytest.raises(UserError) as raised:
        train(where, tmp_path / "output", runtime={"num_workers": workers})
    assert str(raised.value).startswith(f"{image} is not the file that was validated")


def test_no_train_image_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train split has no image"):
        train(make_files(tmp_path, 0, 1), tmp_path / "output")


def test_pretrain_weights_start_from_another_run(where: ProjectPaths, tmp_path: Path, capsys: Any) -> None:
    first = train(where, tmp_path / "first", train={"epochs": 1})
    (where.weights / "first.pth").write_bytes(first["checkpoint_best_regular.pth"])
    # With such a small rate the weights stay as they were read.
    train(where, tmp_path / "second", model={"pretrain_weights": "first.pth"}, train={"epochs": 1, "lr": 1e-12})
    checkpoint = read_checkpoint(tmp_path / "second" / "checkpoint_best_regular.pth")
    assert checkpoint.training_record is not None
    assert checkpoint.training_record["weights"]["pretrain_weights"] is not None
    for name, tensor in read_checkpoint(where.weights / "first.pth").weights.items():
        assert (checkpoint.weights[name] - tensor).abs().max() < 1e-6 or name.startswith("encoder."), name
    assert "first.pth" in capsys.readouterr().out
