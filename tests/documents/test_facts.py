from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from rfdetr_core.base import files
from rfdetr_core.base.code import ROOT
from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.files import read_checkpoint, write_checkpoint
from rfdetr_core.cli import main
from rfdetr_core.documents import DOCUMENTS, PREVIOUS, write_documents
from rfdetr_core.documents.facts import CHOSEN, SCORED, TRAINED, collect
from rfdetr_core.documents.limits import limits
from rfdetr_core.lineage import journal
from rfdetr_core.lineage.lock import Lock
from rfdetr_core.verification.statement import parts_of
from tests.audit.exported import export
from tests.audit.repository import Repository
from tests.documents.scored import ENDS, IMAGES, LICENCES, NAMES, reports, scored_repository

MODEL = "output/checkpoint_best_total.pth"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return scored_repository(tmp_path / "clone")


def test_the_facts_are_those_of_record_history_and_evaluation(repository: Repository) -> None:
    began = 1_700_000_000.0
    journal.write(repository.folder, "train", Lock.read(repository.folder).stages["train"], began)
    facts = collect(repository.folder / MODEL, repository.folder)
    assert facts.confirmed
    assert facts.commit is not None
    assert facts.commit.id == repository.git("rev-parse", "HEAD")
    assert {split.name: split.uses for split in facts.splits.values()} == {
        "train": (TRAINED,), "valid": (CHOSEN,), "test": (SCORED,)
    }  # fmt: skip
    test, evaluation = facts.splits["test"], facts.evaluation
    assert (test.images, test.objects, test.values("licence")) == (3, 3, {"CC-BY-4.0": 2, "CC0-1.0": 1})
    assert test.classes == dict(zip(NAMES, (1, 2, 0), strict=True))
    assert evaluation is not None
    assert evaluation.metrics == files.read_json(reports(repository) / "metrics.json")
    assert (evaluation.intervals["boxes"], evaluation.resamples) == (ENDS, 200)
    by_licence = [row for row in evaluation.slices["boxes"] if row["slice"] == "metadata: licence"]
    assert {row["value"]: row["images"] for row in by_licence} == {"CC-BY-4.0": 2, "CC0-1.0": 1}
    assert facts.run["host"] == "runner"
    assert [*facts.durations] == ["train"]
    assert facts.recorded("manifest/test.json") == files.read_bytes(repository.manifest("test"))


def test_an_input_that_was_changed_since_is_read_from_git(repository: Repository) -> None:
    path = repository.manifest("train")
    content = path.read_bytes()
    path.write_bytes(b"[]\n")
    facts = collect(repository.folder / MODEL, repository.folder)
    assert facts.recorded("manifest/train.json") == content
    assert facts.splits["train"].metadata == {"train/a.jpg": LICENCES["train/a.jpg"]}


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ("other weights", "is an evaluation of other weights"),
        ("no evaluation", "there is no evaluation"),
        ("no scores", "the scores in reports/evaluate/ are missing"),
        ("other scores", "metrics.json differs from dvc.lock"),
        ("damaged", "is not readable"),
        ("text for a number", "images: it must be a whole number"),
    ],
)
def test_an_evaluation_that_is_not_of_these_weights_is_named_and_not_used(
    repository: Repository, change: str, note: str
) -> None:
    folder = reports(repository)
    if change == "other weights":
        lineage = files.read_json(folder / "lineage.json")
        lineage["model"]["tensors"] = "1" * 64
        files.write_json(folder / "lineage.json", lineage)
        repository.lock()
    elif change == "no evaluation":
        shutil.rmtree(folder)
    elif change == "no scores":
        (folder / "metrics.json").unlink()
    elif change == "other scores":
        lock = yaml.safe_load((repository.folder / "dvc.lock").read_text())
        lock["stages"]["evaluate"]["outs"].append(repository.entry("reports/evaluate/metrics.json"))
        (repository.folder / "dvc.lock").write_text(yaml.safe_dump(lock))
        files.write_json(folder / "metrics.json", files.read_json(folder / "metrics.json") | {"map": 1.0})
    elif change == "text for a number":
        files.write_json(folder / "metrics.json", files.read_json(folder / "metrics.json") | {"images": "3"})
    else:
        (folder / "intervals.json").write_text('{"boxes": 1')
    facts = collect(repository.folder / MODEL, repository.folder)
    assert facts.evaluation is None
    assert "test" not in facts.splits
    assert any(note in sentence for sentence in facts.notes)
    assert any("so their quality is not known" in sentence for sentence in limits(facts))


def test_the_scores_of_a_split_that_chose_the_weights_are_marked_as_probably_too_high(repository: Repository) -> None:
    folder = reports(repository)
    files.write_json(folder / "lineage.json", files.read_json(folder / "lineage.json") | {"split": "valid"})
    repository.lock()
    facts = collect(repository.folder / MODEL, repository.folder)
    assert facts.splits["valid"].uses == (CHOSEN, SCORED)
    assert any("The scores are probably higher than on new images" in sentence for sentence in limits(facts))


def test_every_document_is_written_without_history_and_evaluation(repository: Repository, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    model = Path(shutil.copy(repository.folder / MODEL, alone / "model.pth"))
    paths = write_documents(model, alone / "documents", alone)
    assert [path.name for path in paths] == [*DOCUMENTS]
    for path in paths[0], paths[-1]:
        text = path.read_text()
        assert "is not in a readable git repository" in text
        assert "No commit confirms this file" in text


def test_every_document_is_written_of_an_exported_file(repository: Repository, tmp_path: Path) -> None:
    (model,) = export(repository, "model.onnx")
    repository.commit("Export")
    facts = collect(model, repository.folder)
    assert facts.exported is not None
    assert facts.digests == {"model.onnx": files.sha256_file(model)}
    assert facts.evaluation is not None
    assert any("This file itself was not scored" in sentence for sentence in limits(facts))
    for path in write_documents(model, tmp_path / "documents", repository.folder):
        if path.suffix == ".md":
            assert "The scores above are of the checkpoint" in path.read_text()
    assert ModelCard.load(tmp_path / "documents" / "model_card.md").data.eval_results is None
    shutil.rmtree(reports(repository))
    for path in write_documents(model, tmp_path / "again", repository.folder):
        assert "The scores above are" not in path.read_text()


def test_an_openvino_model_is_documented_as_its_two_files(repository: Repository, tmp_path: Path) -> None:
    files_of = parts_of(export(repository, "model.xml")[0])
    repository.commit("Export")
    facts = collect(files_of[0], repository.folder)
    assert len(files_of) == 2
    assert facts.digests == {path.name: files.sha256_file(path) for path in files_of}
    for path in write_documents(files_of[0], tmp_path / "documents", repository.folder):
        assert all(digest in path.read_text() for digest in facts.digests.values())


def test_the_data_of_the_starting_weights_is_listed_too(tmp_path: Path) -> None:
    first = Repository(tmp_path / "first")
    first.train(1, IMAGES)
    before = read_checkpoint(first.folder / MODEL).lineage or {}
    grandparent = {"name": "public.pth", "sha256": "1" * 64, "tensors": "1" * 64}
    before["training"]["parents"] = {"pretrain_weights": grandparent}
    parent = {"name": "promoted.pth", "sha256": "2" * 64, "tensors": before["tensors"], "lineage": before}
    repository = Repository(tmp_path / "clone")
    repository.train(2, IMAGES, parents={"pretrain_weights": parent})
    repository.commit("Train")
    facts = collect(repository.folder / MODEL, repository.folder)
    assert any("also learned from the data of the weights promoted.pth" in sentence for sentence in limits(facts))
    assert any("The training data of the weights public.pth" in sentence for sentence in limits(facts))
    for path in write_documents(repository.folder / MODEL, tmp_path / "documents", repository.folder):
        if path.name != "croissant.json":
            assert before["training"]["inputs"]["manifest/train.json"] in path.read_text()


@pytest.mark.parametrize("missing", ["dvc.lock of the file", "all but the record"])
def test_a_file_that_only_a_record_has_counts_as_confirmed(repository: Repository, missing: str) -> None:
    names = ["dvc.lock"] if missing == "dvc.lock of the file" else ["dvc.lock", "manifest", "metadata"]
    repository.git("rm", "-q", "-r", "--cached", *names)
    repository.git("commit", "-q", "--amend", "-m", "Train")
    facts = collect(repository.folder / MODEL, repository.folder)
    assert (facts.confirmed, facts.commit) == (True, None)
    assert facts.confirmed_by == "a run record in git, but no dvc.lock"
    assert not any("No commit confirms" in sentence for sentence in limits(facts))


def test_unconfirmed_scores_and_missing_measurements_are_noted(repository: Repository) -> None:
    path = reports(repository) / "intervals.json"
    content = files.read_json(path)
    files.write_json(path, content | {"boxes": content["boxes"] | {"map_75": None}})
    facts = collect(repository.folder / MODEL, repository.folder)
    assert facts.evaluation is not None
    assert facts.evaluation.intervals["boxes"] == ENDS | {"map_75": None}
    (note,) = (sentence for sentence in facts.notes if "are not confirmed" in sentence)
    assert "metrics.json" in note
    lock = yaml.safe_load((repository.folder / "dvc.lock").read_text())
    names = ("metrics", "about", "intervals", "detections")
    lock["stages"]["evaluate"]["outs"] += [repository.entry(f"reports/evaluate/{name}.json") for name in names]
    lock["stages"]["evaluate"]["outs"].append(repository.entry("reports/evaluate/per_class.csv"))
    lock["stages"]["report"] = {"cmd": "", "deps": [repository.entry("reports/evaluate/metrics.json")]}
    (repository.folder / "dvc.lock").write_text(yaml.safe_dump(lock))
    facts = collect(repository.folder / MODEL, repository.folder)
    assert not any("are not confirmed" in sentence for sentence in facts.notes)
    assert any("the score threshold was chosen on the same images of test" in sentence for sentence in limits(facts))


def test_a_journal_of_another_command_or_other_params_has_no_duration_of_it(repository: Repository) -> None:
    ran = Lock.read(repository.folder).stages["train"]
    journal.write(repository.folder, "train", replace(ran, cmd="another"), 1_700_000_000.0)
    journal.write(repository.folder, "train", replace(ran, params={"params.yaml": {"train": 1}}), 1_700_000_000.0)
    assert collect(repository.folder / MODEL, repository.folder).durations == {}


def test_what_a_script_changed_of_a_training_is_a_limit(repository: Repository) -> None:
    checkpoint = read_checkpoint(repository.folder / MODEL)
    lineage = dict(checkpoint.lineage or {})
    lineage["training"] = lineage["training"] | {"custom": {"trainer": {"max_steps": 3}}}
    model = repository.folder.parent / "model.pth"
    write_checkpoint(model, replace(checkpoint, lineage=lineage))
    assert any("A script changed the training" in sentence for sentence in limits(collect(model, model.parent)))


def test_nothing_is_fetched_or_sent(repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a document needs no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert write_documents(repository.folder / MODEL, tmp_path / "documents", repository.folder)


def test_documents_are_equal_from_two_runs_and_from_a_clone_in_another_folder(
    repository: Repository, tmp_path: Path
) -> None:
    other = tmp_path / "elsewhere" / "other"
    shutil.copytree(repository.folder, other)
    folders = [tmp_path / name for name in "abc"]
    for folder, root in zip(folders, (repository.folder, repository.folder, other), strict=True):
        write_documents(root / MODEL, folder, root)
    first, *more = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)
    assert more == [first, first]
    assert not [name for name, content in first.items() if str(tmp_path).encode() in content]


@pytest.mark.slow
def test_documents_are_equal_from_processes_with_other_hashes_and_differ_by_the_remote_alone(
    repository: Repository, tmp_path: Path
) -> None:
    """With another seed of Python's hashes, a set of texts has another order."""
    written = []
    for seed, remote in (("1", "a"), ("2", "a"), ("2", "b")):
        subprocess.run(["git", "remote", "remove", "origin"], cwd=repository.folder, check=False, capture_output=True)
        repository.git("remote", "add", "origin", f"https://example.org/{remote}.git")
        folder = tmp_path / f"{seed}{remote}"
        command = ["document", repository.folder / MODEL, "--out", folder, "--repo", repository.folder]
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-m", "rfdetr_core", *map(str, command)], env=environment, check=True, cwd=ROOT)
        written.append({path.name: path.read_text() for path in folder.iterdir()})
    first, second, other = written
    assert first == second
    for name, text in other.items():
        assert text != first[name]
        serial = r'"serialNumber": "[^"]*"'
        assert re.sub(serial, "", text) == re.sub(serial, "", first[name].replace("example.org/a", "example.org/b"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        ("no record", "has no lineage"),
        ("not a model", "is not an RF-DETR"),
        ("other classes", "does not match its lin"),
    ],
)
def test_a_file_that_cannot_be_documented_is_one_message_and_no_document(
    repository: Repository, tmp_path: Path, make: str, message: str
) -> None:
    model, folder = tmp_path / "model.pth", tmp_path / "documents"
    checkpoint = read_checkpoint(repository.folder / MODEL)
    if make == "no record":
        write_checkpoint(model, replace(checkpoint, lineage=None))
    elif make == "other classes":
        write_checkpoint(model, replace(checkpoint, args=checkpoint.args | {"class_names": ["a", "b", "c"]}))
    else:
        model.write_bytes(b"text")
        message = str(model)
    with pytest.raises(SystemExit) as ended:
        main(["document", str(model), "--out", str(folder), "--repo", str(repository.folder)])
    assert str(ended.value).startswith("error: ")
    assert message in str(ended.value)
    assert not folder.exists()


def test_a_file_that_its_record_contradicts_is_refused(repository: Repository, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(repository.folder / MODEL)
    lineage = dict(checkpoint.lineage or {})
    lineage["training"] = lineage["training"] | {"params": {"train": {"lr": 1.0}}}
    model = tmp_path / "model.pth"
    write_checkpoint(model, replace(checkpoint, lineage=lineage))
    with pytest.raises(UserError, match="contradicts the history"):
        collect(model, repository.folder)


def test_existing_documents_are_kept_or_unchanged(
    repository: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "documents"
    write_documents(repository.folder / MODEL, folder, repository.folder)
    write_documents(repository.folder / MODEL, folder, repository.folder)  # the same: nothing to keep
    assert {path.name for path in folder.iterdir()} == DOCUMENTS.keys()
    filled = [f"filled in {number}" for number in range(2)]
    for text in filled:
        (folder / "annex_iv.md").write_text(text)
        write_documents(repository.folder / MODEL, folder, repository.folder)
    assert sorted(path.read_text() for path in (folder / PREVIOUS).iterdir()) == filled
    assert "filled in 1" not in (folder / "annex_iv.md").read_text()
    assert str(folder / PREVIOUS) in capsys.readouterr().err
    (folder / "annex_iv.md").unlink()
    (folder / "annex_iv.md").mkdir()
    (folder / "model_card.md").write_text("mine")
    with pytest.raises(UserError, match=r"annex_iv\.md is a folder"):
        write_documents(repository.folder / MODEL, folder, repository.folder)
    assert (folder / "model_card.md").read_text() == "mine"


def test_a_folder_below_a_file_is_one_message(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"cannot (write|be written)"):
        write_documents(repository.folder / MODEL, tmp_path / "file" / "documents", repository.folder)


def test_a_folder_that_is_a_file_is_one_message(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "documents").write_text("mine")
    command = ["document", str(repository.folder / MODEL), "--out", str(tmp_path / "documents")]
    with pytest.raises(SystemExit, match="documents is not a folder"):
        main([*command, "--repo", str(repository.folder)])
    assert (tmp_path / "documents").read_text() == "mine"
