from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rfdetr_core.base import files
from rfdetr_core.base.code import exact_digests
from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.files import (
    file_content,
    read_checkpoint,
    read_plain,
    tensor_digest,
    write_checkpoint,
    write_plain,
)
from rfdetr_core.checkpoint.loading import build_from_checkpoint
from rfdetr_core.selection.select import select
from rfdetr_core.selection.strip import strip
from tests.checkpoint.tiny import tiny_checkpoint, tiny_record

RECORD = tiny_record(params={"train": {"lr": 1e-4}})
KEPT = {"model", "args", "model_name", "model_config", "rfdetr_version", "best_total_source", "lineage"}


def selection(ema: float) -> dict[str, Any]:
    tracks = {"regular": {"score": 0.5, "epoch": 3}, "ema": {"score": ema, "epoch": 8}}
    return select({"val/mAP_50_95": tracks, "epochs": 9})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run folder with both best files. They contain optimiser state."""
    for seed, (track, epoch) in enumerate({"regular": 2, "ema": 7}.items()):
        checkpoint = replace(tiny_checkpoint(seed), epoch=epoch, training_record=RECORD)
        extra = {"optimizer_states": [{"exp_avg": torch.ones(3)}], "when": "today"}
        write_plain(tmp_path / f"checkpoint_best_{track}.pth", file_content(checkpoint) | extra)
    return tmp_path


@pytest.mark.parametrize(("ema", "winner"), [(0.5, "regular"), (0.6, "ema")])
def test_the_result_is_the_winners_weights(folder: Path, ema: float, winner: str) -> None:
    strip(folder, selection(ema), folder / "total.pth", folder / "records")
    total, best = read_checkpoint(folder / "total.pth"), read_checkpoint(folder / f"checkpoint_best_{winner}.pth")
    assert total.best_total_source == winner
    assert total.weights.keys() == best.weights.keys()
    assert all(torch.equal(total.weights[name], best.weights[name]) for name in total.weights)


def test_the_file_has_only_weights_and_what_loading_needs(folder: Path) -> None:
    strip(folder, selection(0.6), folder / "total.pth", folder / "records")
    content = read_plain(folder / "total.pth")
    assert content.keys() == KEPT
    assert not [name for name, value in content.items() if name != "model" and "tensor(" in repr(value)]
    weights = sum(value.nelement() * value.element_size() for value in content["model"].values())
    assert (folder / "total.pth").stat().st_size < weights + 400 * len(content["model"]) + 16_000
    loaded = build_from_checkpoint(folder / "total.pth")
    assert not loaded.report.missing
    assert not loaded.report.unused


def test_equal_input_gives_equal_bytes_whatever_the_names_of_folder_and_file(folder: Path, tmp_path: Path) -> None:
    strip(folder, selection(0.6), folder / "total.pth", folder / "records")
    moved = tmp_path / "elsewhere" / "a run"
    for track in ("regular", "ema"):
        write_checkpoint(
            moved / f"checkpoint_best_{track}.pth", read_checkpoint(folder / f"checkpoint_best_{track}.pth")
        )
    strip(moved, selection(0.6), moved / "another name.pth", moved / "records")
    assert (folder / "total.pth").read_bytes() == (moved / "another name.pth").read_bytes()
    assert str(tmp_path).encode() not in (folder / "total.pth").read_bytes()


def test_files_of_two_trainings_are_not_mixed(folder: Path) -> None:
    other_selection = selection(0.6)
    other_selection["ema"]["epoch"] = 5
    with pytest.raises(UserError, match=r"epoch 8.*epoch 5"):
        strip(folder, other_selection, folder / "total.pth", folder / "records")
    assert not (folder / "total.pth").exists()


def test_a_missing_best_file_and_a_damaged_selection_are_named(folder: Path) -> None:
    with pytest.raises(UserError, match=r"selection\.json"):
        strip(folder, {"winner": "both"}, folder / "total.pth", folder / "records")
    (folder / "checkpoint_best_ema.pth").unlink()
    with pytest.raises(UserError, match=r"checkpoint_best_ema\.pth does not exist"):
        strip(folder, selection(0.6), folder / "total.pth", folder / "records")


def test_the_lineage_holds_the_record_the_selection_and_the_digest_of_the_weights(folder: Path) -> None:
    strip(folder, selection(0.6), folder / "total.pth", folder / "records")
    total = read_checkpoint(folder / "total.pth")
    assert total.lineage is not None
    assert total.training == total.lineage["training"] == RECORD
    assert total.lineage["selection"] == selection(0.6)
    assert total.lineage["tensors"] == tensor_digest(total.weights)


def test_the_run_record_has_the_digests_of_the_file_and_the_facts_of_the_run(folder: Path) -> None:
    noted = {"record": files.digest(RECORD), "run": {"host": "here"}}
    files.write_json(folder / "run.json", noted)
    strip(folder, selection(0.6), folder / "total.pth", folder / "records")
    (path,) = (folder / "records").iterdir()
    record, total = files.read_json(path), read_checkpoint(folder / "total.pth")
    assert record["lineage"] == total.lineage
    assert path.name.startswith(record["lineage"]["tensors"][:16])
    assert (folder / "record.json").read_bytes() == path.read_bytes()
    assert record["file"]["sha256"] == files.sha256_file(folder / "total.pth")
    assert record["run"] == {"host": "here", "code_of_strip": exact_digests(record["lineage"]["code"])}
    files.write_json(folder / "run.json", noted | {"run": {"host": "elsewhere"}})
    strip(folder, selection(0.6), folder / "total.pth", folder / "records")
    assert files.read_json(path) == files.read_json(folder / "record.json") == record  # the same result again


def test_run_facts_of_another_training_are_not_used(folder: Path) -> None:
    files.write_json(folder / "run.json", {"record": "0" * 64, "run": {"host": "here"}})
    strip(folder, selection(0.6), folder / "total.pth", folder / "records")
    (path,) = (folder / "records").iterdir()
    assert "host" not in files.read_json(path)["run"]


def test_a_best_file_that_does_not_say_what_made_it_is_refused(folder: Path) -> None:
    write_checkpoint(folder / "checkpoint_best_ema.pth", replace(tiny_checkpoint(1), epoch=7))
    with pytest.raises(UserError, match="has no training record"):
        strip(folder, selection(0.6), folder / "total.pth", folder / "records")
