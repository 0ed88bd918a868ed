"""Run records: each run has one, and it is never replaced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.lineage.records import record_names, write_record
from tests.audit.repository import Repository

TENSORS = "a" * 64


@pytest.fixture
def model(tmp_path: Path) -> Path:
    files.write_bytes(path := tmp_path / "output" / "model.pth", b"weights")
    return path


def write(model: Path, run: str, **training: Any) -> Path:
    lineage = {"tensors": TENSORS, "training": training}
    return write_record(model.parent.parent / "records", model, lineage, {"host": run})


def host(path: Path) -> str:
    return str(files.read_json(path)["run"]["host"])


def test_runs_with_equal_weights_have_separate_records(model: Path) -> None:
    first, second = write(model, "one", notes="first"), write(model, "two", notes="second")
    model.write_bytes(b"the same weights in another file")
    third = write(model, "three", notes="first")
    assert [host(path) for path in (first, second, third)] == ["one", "two", "three"]
    assert host(model.with_name("record.json")) == "three"


def test_a_repeated_run_keeps_its_first_record(model: Path) -> None:
    first = write(model, "one", notes="first")
    before = first.read_bytes()
    write(model, "two", notes="second")
    assert write(model, "three", notes="first") == first
    assert first.read_bytes() == before == model.with_name("record.json").read_bytes()


def test_a_record_with_an_old_name_belongs_only_to_its_run(model: Path) -> None:
    first = write(model, "one", notes="first")
    old = first.rename(first.with_name(f"{TENSORS}.json"))
    assert write(model, "two", notes="first") == old
    other = write(model, "three", notes="second")
    assert (host(old), host(other), len(list(old.parent.iterdir()))) == ("one", "three", 2)


def test_the_record_of_an_applied_and_committed_experiment_is_kept(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    files.write_bytes(model := tmp_path / "output" / "model.pth", b"weights")
    applied = write(model, "elsewhere", notes="applied").read_bytes()
    for path in (tmp_path / "records").iterdir():
        path.unlink()  # the experiment wrote it in another folder
    repository.git("add", "output/record.json")
    repository.git("commit", "-q", "-m", "apply")
    model.with_name("record.json").unlink()  # as DVC does before strip runs
    write(model, "here", notes="next")
    assert write(model, "here", notes="applied").read_bytes() == applied
    assert model.with_name("record.json").read_bytes() == applied


@pytest.mark.parametrize("content", [{}, {"lineage": {"tensors": "../../x"}, "file": {}}, [1]])
def test_a_committed_file_that_is_not_a_record_is_ignored(tmp_path: Path, content: object) -> None:
    repository = Repository(tmp_path)
    files.write_json(tmp_path / "output" / "record.json", content)
    repository.git("add", "output/record.json")
    repository.git("commit", "-q", "-m", "odd")
    (model := tmp_path / "output" / "model.pth").write_bytes(b"weights")
    path = write(model, "here")
    assert list((tmp_path / "records").iterdir()) == [path]


def test_a_changed_record_is_named_and_not_written_over(model: Path) -> None:
    path = write(model, "one", notes="first")
    changed = files.read_json(path)
    changed["lineage"]["training"]["notes"] = "other"
    path.write_text(json.dumps(changed))
    with pytest.raises(UserError, match=f"{path} was changed"):
        write(model, "two", notes="first")
    assert files.read_json(path) == changed
    assert path.name not in record_names(changed)
