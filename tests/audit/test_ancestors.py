"""Images of ancestors: the trainings of the weights that a training started from. Every kind of file is traced."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from rfdetr_core.base import provenance
from rfdetr_core.checkpoint.files import read_checkpoint, tensor_digest, write_checkpoint
from rfdetr_core.training.record import GENERATIONS, parent_of
from tests.audit.repository import Images, Repository, sha256_of
from tests.audit.test_audit import audit, audit_json
from tests.checkpoint.tiny import tiny_checkpoint

OLD: Images = {"train": {"train/person.jpg": "person"}, "valid": {"valid/v.jpg": "v"}, "test": {"test/t.jpg": "t"}}
NEW: Images = {"train": {"train/n.jpg": "n"}, "valid": {"valid/v.jpg": "v"}, "test": {"test/t.jpg": "t"}}


def tensors_of(model: Path) -> str:
    return tensor_digest(read_checkpoint(model).weights)


@pytest.fixture
def family(tmp_path: Path) -> tuple[Repository, list[Path]]:
    """Three generations, each trained from the one before; the image `person` is in the data of the first alone."""
    repository, models = Repository(tmp_path / "clone"), []
    for number, images in enumerate((OLD, NEW, NEW)):
        parents = {"pretrain_weights": parent_of(models[-1])} if models else {}
        models.append(tmp_path / f"{number}.pth")
        shutil.copy(repository.train(number, images, parents=parents), models[-1])
        repository.commit(f"Generation {number}")
    return repository, models


def test_an_image_leads_to_the_descendants_of_the_model_that_was_trained_on_it(
    family: tuple[Repository, list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    repository, models = family
    first, second, third = map(tensors_of, models)
    answer = audit_json(capsys, repository, "--image", sha256_of("person"))
    uses = {use["tensors"]: (use["role"], use["through"]) for use in answer["uses"]}
    assert uses == {first: ("trained", []), second: ("trained", [first]), third: ("trained", [second, first])}
    lines = audit(capsys, repository, "--image", sha256_of("person"))
    assert f"through its parent {second}\n             then through that model's parent {first}" in lines
    # If a model itself was trained on an image, its parent is not named.
    answer = audit_json(capsys, repository, "--image", sha256_of("n"))
    assert {use["tensors"]: use["through"] for use in answer["uses"]} == {second: [], third: []}


@pytest.mark.parametrize("key", ["pretrain_weights", "resume"])
def test_ancestors_beyond_those_that_a_file_lists_are_found_in_git(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    repository, parents, sizes, tensors, sources = Repository(tmp_path / "clone"), {}, [], [], []
    for number in range(GENERATIONS + 4):
        source = repository.train(number, NEW if number else OLD, parents=parents)
        repository.commit(f"Generation {number}")
        tensors.append(tensors_of(source))
        sizes.append(source.stat().st_size)
        if key == "resume":  # git has no record of a resume state: its weights differ from those of the run's model
            best = read_checkpoint(source.with_name("checkpoint_best_ema.pth"))
            source = tmp_path / "checkpoint.pth"
            write_checkpoint(source, replace(best, weights=tiny_checkpoint(100 + number).weights))
        sources.append(tensors_of(source))
        parents = {key: parent_of(source)}
    assert sizes[1] < sizes[GENERATIONS]
    assert sizes[-3] == sizes[-2] == sizes[-1]
    uses = audit_json(capsys, repository, "--image", sha256_of("person"))["uses"]
    assert {use["tensors"]: use["through"] for use in uses} == {
        model: sources[:place][::-1] for place, model in enumerate(tensors)
    }
    elsewhere = Repository(tmp_path / "elsewhere")
    elsewhere.train(99, NEW, parents=parents)
    elsewhere.commit("moved")
    unknown = audit_json(capsys, elsewhere, "--image", sha256_of("person"), status=1)["unknown"]
    assert max(len(row["through"]) for row in unknown) == GENERATIONS + 1


def test_the_images_of_a_model_are_listed_with_those_of_its_ancestors(
    family: tuple[Repository, list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    repository, models = family
    first, second, _ = map(tensors_of, models)
    rows = audit_json(capsys, repository, models[2], "--images")["images"]
    listed = {(row["split"], row["path"], row["through"]) for row in rows}
    assert listed >= {("train", "train/n.jpg", ""), ("test", "test/t.jpg", ""), ("train", "train/person.jpg", first)}
    assert ("test", "test/t.jpg", first) not in listed  # of an ancestor, only the images of its training are listed
    assert {row["through"] for row in rows} == {"", first, second}


@pytest.mark.parametrize("known", ["by its record", "from the state alone"])
def test_a_resumed_training_is_followed_to_the_images_of_the_state(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], known: str
) -> None:
    repository = Repository(tmp_path / "clone")
    repository.train(1, OLD)
    repository.commit("first", without=("records",) if known == "from the state alone" else ())
    best = read_checkpoint(repository.folder / "output" / "checkpoint_best_ema.pth")
    state = tmp_path / "checkpoint.pth"
    write_checkpoint(state, replace(best, weights=tiny_checkpoint(7).weights))
    resumed = repository.train(2, NEW, parents={"resume": parent_of(state)})
    repository.commit("resumed")
    uses = audit_json(capsys, repository, "--image", sha256_of("person"))["uses"]
    assert {(use["tensors"], *use["through"]) for use in uses} >= {(tensors_of(resumed), tensors_of(state))}


def test_an_unknown_ancestor_is_named_and_published_weights_are_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = Repository(tmp_path / "clone")
    stranger = tmp_path / "stranger.pth"
    write_checkpoint(stranger, tiny_checkpoint(5))
    parent = parent_of(stranger)
    published = repository.train(1, OLD, parents={"pretrain_weights": parent | {"name": "rf-detr-nano.pth"}})
    repository.commit("from published weights")
    answer = audit_json(capsys, repository, "--image", sha256_of("x"))
    assert (answer["unknown"], answer["published"]) == ([], ["rf-detr-nano.pth"])
    assert "rf-detr-nano.pth" in audit(capsys, repository, "--image", sha256_of("x"))
    assert audit(capsys, repository, published, "--images")
    child = repository.train(2, OLD, parents={"pretrain_weights": parent | {"name": "stranger.pth"}})
    repository.commit("from a stranger")
    answer = audit_json(capsys, repository, "--image", sha256_of("x"), status=1)
    (unknown,) = answer["unknown"]
    assert (unknown["tensors"], unknown["ancestor"]) == (tensors_of(child), "stranger.pth")
    assert "no run record here names the training that produced stranger.pth" in audit(
        capsys, repository, "--image", sha256_of("x"), status=1
    )
    assert "train/person.jpg" in audit(capsys, repository, child, "--images", status=1)


def test_images_of_an_ancestor_from_another_project_are_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere, repository = Repository(tmp_path / "elsewhere"), Repository(tmp_path / "clone")
    parent = parent_of(elsewhere.train(1, OLD))
    child = repository.train(2, {**NEW, "valid": {"valid/w.jpg": "w"}}, parents={"pretrain_weights": parent})
    repository.commit("child")
    answer = audit_json(capsys, repository, "--image", sha256_of("person"), status=1)
    assert answer["uses"] == []
    assert {(row["tensors"], tuple(row["through"])) for row in answer["unknown"]} == {
        (tensors_of(child), (parent["tensors"],))
    }


def test_the_search_for_ancestors_ends_if_a_training_kept_its_parents_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = Repository(tmp_path / "clone")
    parent = parent_of(repository.train(1, OLD)) | {"sha256": "0" * 64, "lineage": None}
    repository.commit("parent")
    repository.train(1, NEW, parents={"pretrain_weights": parent})  # these weights are also its own
    repository.commit("both")
    assert audit_json(capsys, repository, "--image", sha256_of("n"))["uses"]


def test_every_kind_of_file_of_a_run_is_traced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = Repository(tmp_path / "clone")
    model = repository.train(1, OLD)
    repository.commit("train")
    output = repository.folder / "output"
    best = read_checkpoint(output / "checkpoint_best_ema.pth")
    lost = replace(best, weights=tiny_checkpoint(8).weights, epoch=0)
    states: dict[str, Callable[[Path], object]] = {
        "promoted.pth": lambda path: shutil.copy(model, path),
        "winner.pth": lambda path: shutil.copy(output / "checkpoint_best_ema.pth", path),
        "checkpoint.pth": lambda path: write_checkpoint(path, lost),
        "checkpoint_0.pth": lambda path: write_checkpoint(path, replace(lost, weights=tiny_checkpoint(9).weights)),
    }
    for name, write in states.items():
        write(path := tmp_path / name)
        known = name in ("promoted.pth", "winner.pth")
        answer = audit_json(capsys, repository, path, status=0 if known else 1)
        assert answer["training"] == best.training_record
        assert [link["stage"] for link in answer["chain"]][-2:] == ["train", "validate"]
        assert answer["found_by"] == ("bytes" if known else "training")
        assert "seed       0" in audit(capsys, repository, path, status=0 if known else 1)
        rows = audit_json(capsys, repository, path, "--images")["images"]
        assert [row["path"] for row in rows][:2] == ["train/person.jpg", "valid/v.jpg"]


def test_a_file_of_a_training_outside_the_pipeline_lists_its_images_by_the_manifests_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, repository = Repository(tmp_path / "run"), Repository(tmp_path / "clone")
    model = run.train(1, OLD)
    repository.train(2, NEW)
    repository.commit("another")
    shutil.move(run.folder / "manifest", model.parent / "dataset" / "manifest")
    rows = audit_json(capsys, repository, model, "--images")["images"]
    assert [row["path"] for row in rows] == ["train/person.jpg", "valid/v.jpg"]
    assert provenance.identity(model.parent / "dataset" / "manifest" / "train.json")["git"]


def test_a_model_without_a_record_that_started_from_weights_is_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = Repository(tmp_path / "clone")
    repository.train(1, OLD)
    shutil.rmtree(repository.folder / "records")
    (repository.folder / "output" / "record.json").unlink()
    lock = repository.folder / "dvc.lock"
    for name, unknown in (("rf-detr-nano.pth", []), ("promoted.pth", ["promoted.pth"])):
        content = yaml.safe_load(lock.read_text())
        content["stages"]["train"]["params"] = {"params.yaml": {"model": {"pretrain_weights": name}, "train": {}}}
        lock.write_text(yaml.safe_dump(content, sort_keys=False))
        repository.commit(f"from {name}", without=("records", "reports/evaluate/lineage.json"))
        answer = audit_json(capsys, repository, "--image", sha256_of("person"), status=1 if unknown else 0)
        assert [row["ancestor"] for row in answer["unknown"]] == unknown
        assert [use["role"] for use in answer["uses"]] == ["trained"]
    assert f"unknown    md5     {answer['unknown'][0]['md5']}" in audit(
        capsys, repository, "--image", sha256_of("person"), status=1
    )
