from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rfdetr_core.checkpoint.files import read_checkpoint, read_plain
from rfdetr_core.checkpoint.loading import build_from_checkpoint
from rfdetr_core.errors import UserError
from rfdetr_core.training.run import TrainingFiles
from tests.architecture import ROOT
from tests.training.tiny import OUTS, make_files, outs, script, train


def rows(found: dict[str, bytes]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(found["history.csv"].decode())))


@pytest.mark.slow
def test_workers_hash_seed_and_the_process_leave_the_bytes_alone(
    where: TrainingFiles, uninterrupted: dict[str, bytes], output: Path
) -> None:
    source = "import torch; torch.rand(7)\n" + script(where, output, runtime={"num_workers": 2})
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", source], cwd=output.parent, env=environment, check=True)
    assert outs(output) == uninterrupted


def test_another_seed_gives_other_weights(where: TrainingFiles, uninterrupted: dict[str, bytes], output: Path) -> None:
    assert train(where, output, train={"seed": 1})[OUTS[0]] != uninterrupted[OUTS[0]]


def test_a_best_file_holds_no_optimiser_and_says_what_made_it(uninterrupted: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "best.pth"
    path.write_bytes(uninterrupted["checkpoint_best_ema.pth"])
    told = {"model", "args", "model_name", "model_config", "rfdetr_version", "epoch", "training_record"}
    assert read_plain(path).keys() == told
    record = read_checkpoint(path).training_record
    assert record is not None
    assert record.keys() == {"params", "inputs", "weights", "code", "packages", "machine"}
    assert build_from_checkpoint(path).checkpoint.args["class_names"] == ["red", "green"]


def test_the_resume_state_also_loads_as_a_model(where: TrainingFiles, output: Path) -> None:
    train(where, output, train={"epochs": 1}, runtime={"checkpoint_interval": 1})
    assert build_from_checkpoint(output / "checkpoint.pth").report.left == ()
    assert (output / "checkpoint_0.pth").read_bytes() == (output / "checkpoint.pth").read_bytes()


def test_the_last_epoch_is_evaluated_whatever_the_interval(where: TrainingFiles, output: Path) -> None:
    found = rows(train(where, output, train={"eval_interval": 2}))
    assert [bool(row["val/ema_mAP_50_95"]) for row in found] == [False, True, True]


@pytest.mark.parametrize(("train_images", "valid_images"), [(1, 1), (3, 0)])
def test_one_image_and_no_valid_image_train(tmp_path: Path, train_images: int, valid_images: int) -> None:
    where = make_files(tmp_path, train_images, valid_images)
    found = train(where, tmp_path / "output", train={"epochs": 1, "batch_size": 4})
    assert len(rows(found)) == 1


def test_a_segmenter_is_picked_by_its_masks(where: TrainingFiles, output: Path) -> None:
    model = {"variant": "seg-pico", "resolution": 48}
    found = train(where, output, model=model, train={"epochs": 1})
    assert b'"key": "val/segm_mAP_50_95"' in found["scores.json"]
    assert "train/loss_mask_dice" in rows(found)[0]


def test_no_train_image_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train split has no image"):
        train(make_files(tmp_path, 0, 1), tmp_path / "output")


def test_pretrain_weights_start_from_another_run(where: TrainingFiles, tmp_path: Path, capsys: Any) -> None:
    first = train(where, tmp_path / "first", train={"epochs": 1})
    (where.weights / "first.pth").write_bytes(first["checkpoint_best_regular.pth"])
    # So small a rate leaves the weights as they were read.
    train(where, tmp_path / "second", model={"pretrain_weights": "first.pth"}, train={"epochs": 1, "lr": 1e-12})
    told = read_checkpoint(tmp_path / "second" / "checkpoint_best_regular.pth")
    assert told.training_record is not None
    assert told.training_record["weights"]["pretrain_weights"] is not None
    for name, tensor in read_checkpoint(where.weights / "first.pth").weights.items():
        assert (told.weights[name] - tensor).abs().max() < 1e-6 or name.startswith("encoder."), name
    assert "first.pth" in capsys.readouterr().out
