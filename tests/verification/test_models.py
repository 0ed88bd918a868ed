"""`verify FILE`: a model file from this history has no mismatch, any other file has."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rfdetr_core.checkpoint.files import file_content, read_checkpoint, tensor_digest, write_checkpoint, write_plain
from rfdetr_core.cli import main
from tests.audit.repository import Repository
from tests.verification.mismatches import verify


def reweighted(path: Path) -> None:
    checkpoint = read_checkpoint(path)
    weights = {name: tensor + 1 for name, tensor in checkpoint.weights.items()}
    lineage = checkpoint.lineage and checkpoint.lineage | {"tensors": tensor_digest(weights)}
    write_checkpoint(path, replace(checkpoint, weights=weights, lineage=lineage))


def test_weights_that_nothing_here_made_do_not_hold(
    repository: Repository, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = Path(shutil.copy(repository.folder / "output" / "checkpoint_best_ema.pth", model.with_name("best.pth")))
    for path in (model, best):
        assert verify(capsys, repository, path) == []
        reweighted(path)
        assert f"weights of {path}" in verify(capsys, repository, path)
    dropped = read_checkpoint(model)
    assert dropped.lineage
    write_checkpoint(model, replace(dropped, lineage=None, training_record=dropped.lineage["training"]))
    assert verify(capsys, repository, model) == [f"weights of {model}"]


def test_in_a_shallow_clone_unknown_weights_are_unchecked(
    repository: Repository, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository.train(2, {"train": {"train/z.jpg": "z"}})
    repository.git("rm", "-q", "-r", "--cached", "records")
    shutil.rmtree(repository.folder / "records")
    repository.commit("Another", without=("records",))
    repository.git("clone", "-q", "--depth", "1", f"file://{repository.folder}", str(tmp_path / "shallow"))
    clone = Repository.__new__(Repository)
    clone.folder = tmp_path / "shallow"
    assert verify(capsys, clone, model) == []


@pytest.mark.parametrize(
    "change",
    [
        {"args": {"class_names": ["green", "red"]}},
        {"model_config": {"resolution": 128}},
        {"model_name": "RFDETRLarge"},
        {"best_total_source": "regular"},
    ],
)
def test_what_a_file_says_of_its_model_is_covered(
    repository: Repository, model: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any]
) -> None:
    checkpoint = read_checkpoint(model)
    values = {
        key: getattr(checkpoint, key) | value if isinstance(value, dict) else value for key, value in change.items()
    }
    write_checkpoint(model, replace(checkpoint, **values))
    subject = "best_total_source" if "best_total_source" in change else "classes and configuration"
    assert f"{subject} of {model}" in verify(capsys, repository, model)
    # Without the lineage in the file, the run record shows the change, except that of best_total_source.
    write_checkpoint(model, replace(read_checkpoint(model), lineage=None))
    assert verify(capsys, repository, model) == ([] if "best_total_source" in change else [f"{subject} of {model}"])


def test_what_a_file_holds_beside_its_model_is_named(
    repository: Repository, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = file_content(read_checkpoint(model))
    for more in ({"model": content["model"] | {"more.weight": torch.ones(3)}}, {"note": "x"}):
        write_plain(model, content | more)
        assert verify(capsys, repository, model) == [f"content of {model} besides the model"]


@pytest.mark.parametrize("kind", ["sparse", "meta"])
def test_tensors_without_plain_bytes_are_refused(
    repository: Repository, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tensor = {
        "sparse": lambda: torch.ones(3, 3).to_sparse(),
        "meta": lambda: torch.ones(3, 3, device="meta"),
    }[kind]()
    torch.save({"model": {"class_embed.weight": tensor}}, tmp_path / "odd.pth")
    assert verify(capsys, repository, tmp_path / "odd.pth") == [str(tmp_path / "odd.pth")]


@pytest.mark.parametrize("lineage", [{}, {"training": {}}, {"training": [1], "selection": 5, "tensors": ["a"]}])
def test_a_lineage_that_is_none_is_a_mismatch(
    repository: Repository, model: Path, capsys: pytest.CaptureFixture[str], lineage: dict[str, Any]
) -> None:
    write_checkpoint(model, replace(read_checkpoint(model), lineage=lineage))
    assert verify(capsys, repository, model)


@pytest.mark.parametrize("only", ["--lock", "--reproduce"])
@pytest.mark.parametrize("arguments", [["model.pth"], ["--key", "public.pem"]])
def test_a_file_or_a_key_is_not_silently_ignored(repository: Repository, only: str, arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match=f"{only} checks the project, not a model file"):
        main(["verify", only, *arguments, "--repo", str(repository.folder)])


def test_a_folder_is_not_said_to_be_missing(repository: Repository, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="is not a file"):
        main(["verify", str(tmp_path), "--repo", str(repository.folder)])


@pytest.mark.parametrize("committed", [True, False])
def test_an_untouched_file_of_the_first_of_two_runs_with_equal_weights_holds(
    repository: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str], committed: bool
) -> None:
    first = Path(
        shutil.copy(repository.train(5, {"train": {"train/z.jpg": "z"}}, notes="first"), tmp_path / "first.pth")
    )
    repository.train(5, {"train": {"train/y.jpg": "y"}}, notes="second")
    if committed:
        repository.commit("Both")
    assert verify(capsys, repository, first) == []
    main(["verify", str(first), "--repo", str(repository.folder)])
    printed = capsys.readouterr().out
    assert "not checked: manifest/train.json of lineage of" in printed
    assert "never committed" in printed
    assert (f"not checked: record of {first} (it is not committed. Run: git add records/" in printed) == (not committed)


def test_a_state_to_resume_from_is_unchecked_in_any_folder(
    repository: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = read_checkpoint(repository.folder / "output" / "checkpoint_best_ema.pth")
    weights = {name: tensor + 1 for name, tensor in best.weights.items()}
    state = file_content(replace(best, weights=weights)) | {"run": {}, "optimizer_states": []}
    for path in (repository.folder / "output" / "checkpoint.pth", tmp_path / "checkpoint_9.pth"):
        write_plain(path, state)
        assert verify(capsys, repository, path) == []
        main(["verify", str(path), "--repo", str(repository.folder)])
        assert f"not checked: weights of {path} (the file is a state to resume from" in capsys.readouterr().out


@pytest.mark.parametrize("forge", ["root", "size", "tree", "split"])
def test_merkle_roots_that_are_not_those_of_the_manifest_are_named(
    repository: Repository, model: Path, capsys: pytest.CaptureFixture[str], forge: str
) -> None:
    lineage = json.loads(json.dumps(read_checkpoint(model).lineage))
    roots = lineage["training"]["roots"]
    if forge == "split":
        del roots["valid"]
    elif forge == "tree":
        del roots["train"]["images"]
    else:
        roots["train"]["images"][forge] = {"root": "0" * 64, "size": 7}[forge]
    write_checkpoint(model, replace(read_checkpoint(model), lineage=lineage))
    split = "valid" if forge == "split" else "train"
    assert any(subject.startswith(f"roots.{split}.images.") for subject in verify(capsys, repository, model))
