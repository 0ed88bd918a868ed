from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rfdetr_core.checkpoint.files import file_content, read_checkpoint, read_plain, write_checkpoint, write_plain
from rfdetr_core.checkpoint.loading import build_from_checkpoint
from rfdetr_core.errors import UserError
from rfdetr_core.selection import select
from rfdetr_core.stripping import strip
from tests.checkpoint.tiny import tiny_checkpoint

KEPT = {"model", "args", "model_name", "model_config", "rfdetr_version", "best_total_source", "training_record"}


def selection(ema: float) -> dict[str, Any]:
    tracks = {"regular": {"score": 0.5, "epoch": 3}, "ema": {"score": ema, "epoch": 8}}
    return select({"metric": "map", "key": "val/mAP_50_95", **tracks})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Both best files, with an optimiser's state in them."""
    for seed, (track, epoch) in enumerate({"regular": 3, "ema": 8}.items()):
        checkpoint = replace(tiny_checkpoint(seed), epoch=epoch, training_record={"params": {"lr": 1e-4}})
        extra = {"optimizer_states": [{"exp_avg": torch.ones(3)}], "when": "today"}
        write_plain(tmp_path / f"checkpoint_best_{track}.pth", file_content(checkpoint) | extra)
    return tmp_path


@pytest.mark.parametrize(("ema", "winner"), [(0.5, "regular"), (0.6, "ema")])
def test_the_result_is_the_winners_weights(folder: Path, ema: float, winner: str) -> None:
    strip(folder, selection(ema), folder / "total.pth")
    total, best = read_checkpoint(folder / "total.pth"), read_checkpoint(folder / f"checkpoint_best_{winner}.pth")
    assert total.best_total_source == winner
    assert total.weights.keys() == best.weights.keys()
    assert all(torch.equal(total.weights[name], best.weights[name]) for name in total.weights)


def test_nothing_is_in_it_but_weights_and_what_loading_needs(folder: Path) -> None:
    strip(folder, selection(0.6), folder / "total.pth")
    content = read_plain(folder / "total.pth")
    assert content.keys() == KEPT
    assert not [name for name, value in content.items() if name != "model" and "tensor" in repr(value)]
    weights = sum(value.nelement() * value.element_size() for value in content["model"].values())
    assert (folder / "total.pth").stat().st_size < weights + 400 * len(content["model"]) + 10_000
    loaded = build_from_checkpoint(folder / "total.pth")
    assert not loaded.report.left
    assert not loaded.report.unused


def test_equal_input_gives_equal_bytes_whatever_the_names_of_folder_and_file(folder: Path, tmp_path: Path) -> None:
    strip(folder, selection(0.6), folder / "total.pth")
    moved = tmp_path / "elsewhere" / "a run"
    for track in ("regular", "ema"):
        write_checkpoint(
            moved / f"checkpoint_best_{track}.pth", read_checkpoint(folder / f"checkpoint_best_{track}.pth")
        )
    strip(moved, selection(0.6), moved / "another name.pth")
    assert (folder / "total.pth").read_bytes() == (moved / "another name.pth").read_bytes()
    assert str(tmp_path).encode() not in (folder / "total.pth").read_bytes()


def test_files_of_two_trainings_are_not_mixed(folder: Path) -> None:
    other = selection(0.6)
    other["ema"]["epoch"] = 5
    with pytest.raises(UserError, match=r"epoch 8.*epoch 5"):
        strip(folder, other, folder / "total.pth")
    assert not (folder / "total.pth").exists()


def test_a_missing_best_file_and_a_foreign_selection_are_named(folder: Path) -> None:
    with pytest.raises(UserError, match=r"selection\.json"):
        strip(folder, {"winner": "both"}, folder / "total.pth")
    (folder / "checkpoint_best_ema.pth").unlink()
    with pytest.raises(UserError, match=r"checkpoint_best_ema\.pth does not exist"):
        strip(folder, selection(0.6), folder / "total.pth")
