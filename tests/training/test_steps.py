from __future__ import annotations

import csv
import hashlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rfdetr_core.base.chain import broken_link, digest_of
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.checkpoint.files import read_checkpoint, tensor_digest
from rfdetr_core.training.steps import Steps
from tests.training.tiny import train

SEEN = {"loss": 2.5, "loss_bbox": 0.1, "loss_bbox_0": 0.25, "loss_bbox_enc": 0.5}


def epochs(lengths: list[int], **options: Any) -> Steps:
    """The steps of epochs of these lengths. Each step has another loss."""
    made, step = Steps(), 0
    for epoch, length in enumerate(lengths, start=1):
        made.begin(step)
        for _ in range(length):
            step += 1
            terms = {name: torch.tensor(value + step) for name, value in SEEN.items()}
            made.add_batch(step, length, terms, options.get("digest", lambda: "0" * 64))
            made.add_batch(step, length, terms, None)  # a batch without an optimiser step
        made.end(epoch, options.get("digests", {"regular": f"r{epoch}", "ema": f"e{epoch}"}))
    return made


def rows(made: Steps) -> list[dict[str, str]]:
    return list(csv.DictReader(made.lines))


@given(st.lists(st.integers(1, 500), min_size=1, max_size=4))
def test_an_epoch_has_its_last_step_and_at_most_forty_at_equal_distances(lengths: list[int]) -> None:
    entries, end = rows(epochs(lengths)), 0
    for epoch, length in enumerate(lengths, start=1):
        steps = [int(row["step"]) - end for row in entries if row["epoch"] == str(epoch)]
        assert min(length, 20) <= len(steps) <= 41
        assert steps[-1] == length
        assert len({after - before for before, after in zip([0, *steps], steps[:-1], strict=False)}) <= 1
        end += length


def test_a_row_has_the_terms_in_full_those_of_inner_layers_summed() -> None:
    (row,) = rows(epochs([1]))
    terms = {name: value + 1 for name, value in SEEN.items()}
    as_float32 = {name: torch.tensor(value).item() for name, value in terms.items()}
    assert float(row["loss"]) == as_float32["loss"]
    assert float(row["loss_bbox"]) == as_float32["loss_bbox"]
    assert float(row["loss_bbox_aux"]) == as_float32["loss_bbox_0"] + as_float32["loss_bbox_enc"]
    assert (row["regular"], row["ema"]) == ("r1", "e1")


@pytest.mark.parametrize(("length", "digests"), [(3999, 1), (4000, 20)])
def test_weights_are_digested_at_the_end_of_an_epoch_and_in_long_epochs_more_often(length: int, digests: int) -> None:
    entries = rows(epochs([length]))
    assert sum(bool(row["regular"]) for row in entries) == digests
    assert [row["step"] for row in entries if row["ema"]] == [str(length)]


def test_an_epoch_of_unknown_length_has_rows_too() -> None:
    made = Steps()
    made.begin(0)
    for step in range(1, 451):
        made.add_batch(step, float("inf"), {"loss": torch.tensor(1.0)}, lambda: "d")
    made.end(1, {"regular": "r"})
    assert [(row["step"], row["regular"]) for row in rows(made)] == [("200", "d"), ("400", "d"), ("450", "r")]


def test_the_chain_is_computed_as_documented() -> None:
    lines = epochs([3, 2]).lines
    for before, line in pairwise(lines):
        row, _, link = line.rpartition(",")
        assert link == hashlib.sha256(f"{before}\n{row}".encode()).hexdigest()


@given(st.data())
def test_any_change_breaks_the_chain_at_the_changed_or_the_next_line(data: st.DataObject) -> None:
    lines = epochs([4, 3]).lines
    text = "".join(f"{line}\n" for line in lines)
    assert broken_link(text) is None
    place = data.draw(st.integers(0, len(text) - 1).filter(lambda index: text[index] != "\n"))
    replacement = data.draw(st.sampled_from("0123456789abcdef.").filter(lambda character: character != text[place]))
    changed = text[:place].count("\n") + 1
    assert broken_link(text[:place] + replacement + text[place + 1 :]) == max(changed, 2)
    gone = data.draw(st.integers(1, len(lines) - 2))
    assert broken_link("\n".join(lines[:gone] + lines[gone + 1 :])) == gone + 1


def test_the_digests_are_those_of_the_weights_in_the_files(
    where: ProjectPaths, uninterrupted: dict[str, bytes], tmp_path: Path
) -> None:
    text = uninterrupted["steps.csv"].decode()
    assert broken_link(text) is None
    for track in ("regular", "ema"):
        path = tmp_path / f"{track}.pth"
        path.write_bytes(uninterrupted[f"checkpoint_best_{track}.pth"])
        best = read_checkpoint(path)
        assert best.epoch is not None
        assert digest_of(text, track, best.epoch + 1) == tensor_digest(best.weights)
        assert digest_of(text, track, 99) is None


@pytest.mark.slow
def test_without_an_average_both_tracks_have_the_regular_weights(where: ProjectPaths, output: Path) -> None:
    text = train(where, output, train={"epochs": 1, "use_ema": False, "grad_accum_steps": 2})["steps.csv"].decode()
    digest = tensor_digest(read_checkpoint(output / "checkpoint_best_ema.pth").weights)
    assert digest_of(text, "ema", 1) == digest_of(text, "regular", 1) == digest
    assert [line.split(",")[:2] for line in text.splitlines()[1:]] == [["1", "1"]]
