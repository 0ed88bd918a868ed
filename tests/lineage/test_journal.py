"""An entry for each run, and the heads that the next one names."""

from __future__ import annotations

import datetime
import itertools
import json
from pathlib import Path

import pytest

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.lineage import journal
from rfdetr_core.lineage.lock import Entry
from tests.verification.runs import Runs


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "project")


def named(path: Path) -> set[str]:
    return {Path(name).name for name in files.read_json(path)["previous"]}


def test_an_entry_names_what_no_entry_named_before_so_that_one_head_is_left(runs: Runs) -> None:
    files.write_text(runs.folder / "records" / "old.json", "{}\n")
    written = [path for seed in range(3) for path in runs.run(seed)]
    assert named(written[0]) == {"old.json"}
    for before, after in itertools.pairwise(written):
        assert named(after) == {before.name}
    assert journal.heads(runs.folder) == {f"journal/{written[-1].name}": files.sha256_file(written[-1])}
    assert journal.entries(runs.folder).keys() == {f"journal/{path.name}" for path in written}


def test_the_heads_of_merged_branches_are_all_named(runs: Runs) -> None:
    runs.run(0)
    runs.commit()
    ends = []
    for seed, branch in ((1, "one"), (2, "two")):
        runs.git("checkout", "-q", "-b", branch, "main")
        ends.append(runs.run(seed)[1])
        runs.commit()
    runs.git("merge", "-q", "-X", "ours", "-m", "merge", "one")
    assert journal.heads(runs.folder).keys() == {f"journal/{path.name}" for path in ends}
    assert named(runs.run(3)[0]) == {path.name for path in ends}
    assert len(journal.heads(runs.folder)) == 1


def test_the_heads_are_others_if_any_earlier_entry_or_record_is(runs: Runs) -> None:
    record = runs.folder / "records" / "old.json"
    files.write_text(record, "{}\n")
    for path in [record, *(path for seed in range(2) for path in runs.run(seed))]:
        before, text = journal.heads(runs.folder), path.read_text()
        path.write_text(f"{text} ")
        assert journal.heads(runs.folder) != before
        path.write_text(text)


def test_a_run_with_the_same_inputs_and_results_keeps_its_entry(runs: Runs) -> None:
    path, _ = runs.run(0, began=1.0)
    before = path.read_bytes()
    runs.run(1)
    assert runs.run(0, began=2.0)[0] == path
    assert path.read_bytes() == before


def test_an_entry_that_was_committed_and_reverted_comes_back_as_it_was(runs: Runs) -> None:
    runs.run(0)
    runs.commit()
    files.write_text(record := runs.folder / "records" / "1.json", "{}\n")
    paths = [record, *runs.run(1, began=1.0)]
    before = [path.read_bytes() for path in paths]
    runs.commit()
    runs.git("revert", "--no-edit", "HEAD")
    assert not any(path.exists() for path in paths)
    runs.run(1, began=2.0)
    assert [path.read_bytes() for path in paths] == before


def test_a_damaged_entry_stops_no_stage_and_stays_a_head(runs: Runs) -> None:
    damaged, _ = runs.run(0)
    damaged.write_text("<<<<<<< HEAD\n")
    assert damaged.name in named(runs.run(1)[0])
    with pytest.raises(UserError, match=damaged.name):
        journal.entries(runs.folder)


def test_params_that_json_cannot_hold_have_an_entry_that_is_found(runs: Runs) -> None:
    raw = {"cmd": "run train", "params": {"params.yaml": {"train": {1: 2.5, "since": datetime.date(2024, 1, 2)}}}}
    runs.lock("train", raw)
    journal.write(runs.folder, "train", Entry.of(runs.locked("train")), 0.0)
    assert runs.printed_lines() == ([], [])


def test_without_git_history_an_entry_is_written(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    path, _ = runs.run(0)
    content = json.loads(path.read_text())
    assert (content["schema"], content["run"]["commit"], content["run"]["dirty"]) == (1, None, None)
    assert not [one for one in path.parent.iterdir() if one.suffix != ".json"]
