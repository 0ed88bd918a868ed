"""Questions about files and images: which training produced them, and which models used them."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from rfdetr_core.audit.difference import compare_lineages
from rfdetr_core.audit.history import History
from rfdetr_core.audit.trace import Archive
from rfdetr_core.base import files
from rfdetr_core.base.code import ROOT
from rfdetr_core.base.images import pixel_digest
from rfdetr_core.base.manifest import ManifestRow, write_manifest
from rfdetr_core.checkpoint.files import read_checkpoint, tensor_digest, write_checkpoint
from rfdetr_core.cli import main
from rfdetr_core.lineage.records import RECORD
from tests.audit.repository import Images, Repository, audit, audit_json, row, sha256_of, tracks

FIRST: Images = {
    "train": {"train/a.jpg": "a", "train/b.jpg": "b"},
    "valid": {"valid/c.jpg": "c"},
    "test": {"test/d.jpg": "d"},
}
SECOND: Images = {
    "train": {"train/a.jpg": "a moved", "train/e.jpg": "e", "train/renamed.jpg": "b"},
    "valid": {"valid/c.jpg": "C"},
    "test": {"test/d.jpg": "d"},
}


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Two results on the branch main. The folder `copies` has copies of both model files, under other names."""
    repository, copies = Repository(tmp_path / "clone"), tmp_path / "copies"
    copies.mkdir()
    for number, images in enumerate((FIRST, SECOND), start=1):
        shutil.copy(repository.train(number, images, lr=number / 1000), copies / f"{number}.pth")
        repository.commit(f"Retrain {number}")
    return repository


@pytest.fixture
def copies(repository: Repository) -> Path:
    return repository.folder.parent / "copies"


def test_a_file_is_found_by_its_bytes_in_a_clone_without_any_file(
    repository: Repository, copies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository.git("clone", "-q", ".", str(copies / "clone"))
    commits = repository.git("log", "--format=%H", "--reverse").split()
    clone = Repository.__new__(Repository)
    clone.folder = copies / "clone"
    for number, commit in enumerate(commits, start=1):
        answer = audit_json(capsys, clone, copies / f"{number}.pth")
        assert answer["found_by"] == "bytes"
        assert answer["path"] == "output/checkpoint_best_total.pth"
        chain = {link["stage"]: link["commit"] for link in answer["chain"]}
        assert list(chain) == ["strip", "train", "validate"]
        assert chain["strip"]["id"] == chain["train"]["id"] == commit
        assert (chain["strip"]["author"], chain["strip"]["email"]) == ("Ada", "ada@example.org")
        assert answer["lineage"]["training"]["params"]["train"]["lr"] == number / 1000


def test_a_link_names_the_commit_that_introduced_it(repository: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = repository.git("log", "--format=%H", "--reverse").split()
    # The data is the same as before, so validate is older than train and strip.
    model = repository.train(3, SECOND)
    third = repository.commit("Other weights")
    repository.train(3, SECOND)
    repository.git("commit", "-q", "--allow-empty", "-m", "nothing new")
    chain = {link["stage"]: link["commit"]["id"] for link in audit_json(capsys, repository, model)["chain"]}
    assert chain == {"strip": third, "train": third, "validate": second}
    assert first not in chain.values()


def test_a_file_that_was_saved_again_is_found_by_its_weights(
    repository: Repository, copies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": torch.load(copies / "1.pth", weights_only=True)["model"]}, copies / "mine.pt")
    answer = audit_json(capsys, repository, copies / "mine.pt")
    assert answer["found_by"] == "tensors"
    assert answer["lineage"] == read_checkpoint(copies / "1.pth").lineage


def test_a_tracked_result_that_is_not_a_model_is_found(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = audit_json(capsys, repository, repository.folder / "reports/evaluate/lineage.json")
    assert [link["stage"] for link in answer["chain"]] == ["evaluate", "strip", "train", "validate"]


def test_results_of_other_branches_tags_and_experiments_are_found(
    repository: Repository, copies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, reference in enumerate(("refs/heads/other", "refs/tags/v1", "refs/exps/ab/cdef/try"), start=5):
        shutil.copy(repository.train(number, FIRST), copies / "exp.pth")
        repository.git("checkout", "-q", "--detach")
        repository.git("update-ref", reference, repository.commit("elsewhere", without=("records",)))
        repository.git("checkout", "-q", "-f", "main")
        assert audit_json(capsys, repository, copies / "exp.pth")["found_by"] == "bytes"


def test_an_unknown_file_and_one_with_changed_weights_are_reported(
    repository: Repository, copies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(copies / "1.pth", weights_only=True)
    content["model"]["class_embed.bias"][0] += 1
    torch.save(content, copies / "changed.pth")
    answer = audit_json(capsys, repository, copies / "changed.pth", status=1)
    assert answer["found_by"] is None
    assert any("weights or lineage were changed" in note for note in answer["notes"])
    with pytest.raises(SystemExit, match=r"nowhere\.pth does not exist"):
        main(["audit", str(copies / "nowhere.pth"), "--repo", str(repository.folder)])
    with pytest.raises(SystemExit, match="no git history"):
        main(["audit", str(copies / "1.pth"), "--repo", str(copies)])


def test_every_image_behind_a_model_is_listed_though_the_manifests_changed_since(
    repository: Repository, copies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = list(csv.DictReader(io.StringIO(audit(capsys, repository, copies / "1.pth", "--images"))))
    expected = [(split, path, sha256_of(word)) for split, images in FIRST.items() for path, word in images.items()]
    assert [(row["split"], row["path"], row["sha256"]) for row in rows] == expected


def test_an_image_leads_to_every_model_that_used_it(
    repository: Repository, copies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (tensor_digest(read_checkpoint(copies / f"{number}.pth").weights) for number in (1, 2))

    def uses(word: str) -> set[tuple[str, str, str]]:
        return {
            (use["role"], use["tensors"], use["path"])
            for use in audit_json(capsys, repository, "--image", word)["uses"]
        }

    assert uses(sha256_of("b")) == {("trained", first, "train/b.jpg"), ("trained", second, "train/renamed.jpg")}
    assert uses(sha256_of("c")) == {("validated", first, "valid/c.jpg")}
    assert uses("test/d.jpg") == {("tested", first, "test/d.jpg"), ("tested", second, "test/d.jpg")}
    assert uses(sha256_of("z")) == set()
    assert sha256_of("e") in audit(capsys, repository, "--image", "data/mine/train/e.jpg")


@pytest.fixture
def resaved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """Two models: the first was trained on a.png, the second on a file with its pixels and other bytes."""
    repository, image = Repository(tmp_path / "resaved"), Image.new("RGB", (8, 6), "red")
    image.save(tmp_path / "a.png")
    digests = files.sha256_file(tmp_path / "a.png"), sha256_of("saved again")
    for seed, digest in enumerate(digests):
        real = ManifestRow("train/a.png", digest, 8, 6, "0" * 64, pixel_digest(image))
        monkeypatch.setattr("tests.audit.repository.row", lambda *_, real=real: real)
        repository.train(seed, {"train": {"train/a.png": ""}})
        repository.commit(f"Model {seed}")
    return repository


def test_the_pixels_of_a_file_lead_to_the_models_that_had_them_in_other_bytes(
    resaved: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def same(image: object) -> dict[str, str]:
        return {use["sha256"]: use["same"] for use in audit_json(capsys, resaved, "--image", image)["uses"]}

    first, again = files.sha256_file(tmp_path / "a.png"), sha256_of("saved again")
    assert same(tmp_path / "a.png") == {first: "bytes", again: "pixels"}
    # The manifest at HEAD also has the pixels of an image. An image that only older commits have is found by its bytes.
    assert same(again) == same("train/a.png") == {first: "pixels", again: "bytes"}
    assert same(first) == {first: "bytes"}
    Image.open(tmp_path / "a.png").save(tmp_path / "b.bmp")
    assert same(tmp_path / "b.bmp") == {first: "pixels", again: "pixels"}
    assert same(audit_json(capsys, resaved, "--image", tmp_path / "b.bmp")["pixels"]) == {
        first: "pixels",
        again: "pixels",
    }
    output = audit(capsys, resaved, "--image", tmp_path / "b.bmp")
    assert f"as      train/a.png, the same pixels in other bytes, sha256 {first}" in output
    Image.new("RGB", (8, 6), (254, 0, 0)).save(tmp_path / "other.png")
    assert same(tmp_path / "other.png") == {}
    (tmp_path / "no image").write_text("x")
    assert same(tmp_path / "no image") == {}


def test_a_digest_of_labels_is_not_taken_for_an_image(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit_json(capsys, repository, "--image", sha256_of("labels "))["uses"] == []


def test_a_model_older_than_pixel_digests_is_searched_by_bytes_and_a_note_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = Repository(tmp_path / "clone")
    repository.train(1, FIRST, older=True)
    repository.commit("older")
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    (note,) = audit_json(capsys, repository, "--image", tmp_path / "a.png")["notes"]
    assert "1 older models have no pixel digests" in note
    assert len(audit_json(capsys, repository, "--image", sha256_of("b"))["uses"]) == 1


def test_a_model_without_a_record_is_found_by_the_digests_of_its_lock(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = Repository(tmp_path / "clone")
    repository.train(1, FIRST)
    repository.commit("without a record", without=("records", "reports/evaluate/lineage.json"))
    # New data was committed without training, so dvc.lock still has the old manifest.
    write_manifest(repository.manifest("train"), [row("train/new.jpg", "new")])
    repository.commit("new data, not trained", without=("records", "reports/evaluate/lineage.json"))
    assert [use["role"] for use in audit_json(capsys, repository, "--image", sha256_of("a"))["uses"]] == ["trained"]
    assert [use["role"] for use in audit_json(capsys, repository, "--image", sha256_of("d"))["uses"]] == ["tested"]
    assert audit_json(capsys, repository, "--image", sha256_of("new"))["uses"] == []


def test_the_difference_of_two_models_names_what_changed_in_data_params_and_scores(
    repository: Repository, copies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = audit_json(capsys, repository, "--diff", copies / "1.pth", copies / "2.pth")
    assert answer["making"]["params"] == {"train.lr": [0.001, 0.002]}
    assert answer["making"]["scores"] == {"ema.score": [tracks(number)["ema"]["score"] for number in (1, 2)]}
    assert answer["making"].keys() == {"params", "scores"}
    images = {kind: [row["path"] for row in rows] for kind, rows in answer["images"].items()}
    assert images == {
        "added": ["train/e.jpg"],
        "renamed": ["train/renamed.jpg"],
        "pixels": ["valid/c.jpg"],
        "labels": ["train/a.jpg"],
    }
    assert "no difference" in audit(capsys, repository, "--diff", copies / "1.pth", copies / "1.pth")


def test_digests_of_code_with_different_schemas_are_not_compared() -> None:
    code = {"rfdetr_core/a.py": "1" * 64}
    old, new = ({"schema": schema, "code": code, "training": {"code": code}} for schema in (1, 2))
    new["code"] = {"rfdetr_core/a.py": "2" * 64}
    assert compare_lineages(old | {"schema": 2}, new) == {"code of strip": {"rfdetr_core/a.py": ["1" * 64, "2" * 64]}}
    (changes,) = compare_lineages(old, new).values()
    assert list(changes.values()) == [[1, 2]]


def test_models_that_were_trained_from_a_model_are_named(
    repository: Repository, copies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parent = tensor_digest(read_checkpoint(copies / "1.pth").weights)
    child = repository.train(9, SECOND, parent=parent)
    repository.commit("from the first")
    answer = audit_json(capsys, repository, copies / "1.pth")
    assert answer["trained_from_it"] == [tensor_digest(read_checkpoint(child).weights)]


def test_a_result_of_a_merged_branch_that_the_merge_did_not_take_is_found(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    repository.git("checkout", "-q", "-b", "side")
    repository.train(7, {**FIRST, "train": {"train/x.jpg": "x"}})
    repository.commit("side")
    repository.git("checkout", "-q", "main")
    repository.git("merge", "-q", "-s", "ours", "-m", "keep ours", "side")
    repository.git("branch", "-D", "side")
    assert [use["role"] for use in audit_json(capsys, repository, "--image", sha256_of("x"))["uses"]] == ["trained"]


def test_git_settings_and_the_current_folder_do_not_change_the_answer(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"log.showRoot": "false", "grep.lineNumber": "true", "grep.column": "true", "color.ui": "always"}
    for name, value in settings.items():
        repository.git("config", name, value)
    command = ["audit", "--image", sha256_of("c"), "--json", "--repo", str(repository.folder / "manifest")]
    main(command)
    assert [use["role"] for use in json.loads(capsys.readouterr().out)["uses"]] == ["validated"]


def test_an_uncommitted_result_is_found_and_marked(repository: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    model = repository.train(8, {**FIRST, "train": {"train/x.jpg": "x"}})
    answer = audit_json(capsys, repository, model)
    assert (answer["found_by"], answer["chain"][0]["commit"]["subject"]) == ("bytes", "not committed yet")
    assert len(audit_json(capsys, repository, "--image", sha256_of("x"))["uses"]) == 1
    assert "not committed yet" in audit(capsys, repository, model)


def test_a_shallow_clone_is_an_error(repository: Repository, copies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository.git("clone", "-q", "--depth", "1", f"file://{repository.folder}", str(copies / "shallow"))
    with pytest.raises(SystemExit, match="shallow"):
        main(["audit", "--image", sha256_of("c"), "--repo", str(copies / "shallow")])


def test_a_model_whose_manifest_was_never_committed_is_unknown(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    repository.train(8, {**FIRST, "train": {"train/x.jpg": "x"}})
    tensors = json.loads((repository.folder / RECORD).read_text())["lineage"]["tensors"]
    repository.commit("without its manifests", without=("manifest",))
    repository.git("checkout", "-q", "-f", "HEAD")
    for word, uses in (("x", []), ("c", ["validated", "validated"])):
        answer = audit_json(capsys, repository, "--image", sha256_of(word), status=1)
        assert [use["role"] for use in answer["uses"]] == uses
        assert {(row["role"], row["tensors"]) for row in answer["unknown"]} == {("trained", tensors)}
    assert f"unknown    tensors {tensors}" in audit(capsys, repository, "--image", sha256_of("x"), status=1)


def test_a_lost_git_object_is_an_error(repository: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    blob = repository.git("rev-parse", "HEAD~:manifest/train.json")
    (repository.folder / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(SystemExit, match=f"git blob {blob}.* not in this clone"):
        main(["audit", "--image", sha256_of("a"), "--repo", str(repository.folder)])


@pytest.mark.parametrize("content", ["{", "{}", '{"lineage": {"tensors": "0"}}', "forged", "[" * 100_000, "\0" * 100])
def test_a_damaged_or_forged_record_does_not_hide_a_use(
    repository: Repository, copies: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    for path in (repository.folder / "records").iterdir():
        forged = path.read_text().replace(json.loads(path.read_text())["lineage"]["tensors"], "f" * 64)
        path.write_text(forged if content == "forged" else content)
    commit = repository.commit("damage")
    answer = audit_json(capsys, repository, "--image", sha256_of("c"), status=1)
    assert [use["role"] for use in answer["uses"]] == ["validated"]
    assert f"of commit {commit}" in answer["notes"][0]
    assert audit_json(capsys, repository, copies / "1.pth", status=1)["found_by"] == "bytes"
    assert "which cannot be read: records/" in audit(capsys, repository, copies / "1.pth", status=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("reports/evaluate/lineage.json", "[" * 100_000),
        ("dvc.lock", "stages: " + "[" * 300_000),
        ("dvc.lock", "stages:\n" + "- " * 300_000),
        ("dvc.lock", "stages: " + "? " * 300_000),
        ("dvc.lock", "stages:\n" + "".join(f"{' ' * level}a:\n" for level in range(1, 10_000))),
        (
            "dvc.lock",
            "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}]\n" for a, b in pairwise("abcdefghij")),
        ),
    ],
)
def test_a_bad_commit_on_another_branch_does_not_stop_an_audit(
    repository: Repository, copies: Path, name: str, content: str
) -> None:
    """The audit runs in a separate process, because an overflow of the C stack would end the process."""
    repository.git("checkout", "-q", "-b", "elsewhere")
    digests = re.findall(
        r"md5: (\w{32})", (repository.folder / "dvc.lock").read_text()
    )  # so that it is searched and parsed
    (repository.folder / name).write_bytes(f"{content}\n# {' '.join(digests)}\n".encode())
    commit = repository.commit("bad")
    repository.git("checkout", "-q", "main")
    for question in (["--image", sha256_of("c")], [copies / "1.pth"]):
        done = subprocess.run(
            [sys.executable, "-m", "rfdetr_core", "audit", *question, "--repo", repository.folder, "--json"],
            capture_output=True,
            text=True,
            timeout=60,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert done.returncode in (0, 1), done.stderr[-2000:]
        answer = json.loads(done.stdout)
        assert (
            [use["role"] for use in answer["uses"]] == ["validated"]
            if "uses" in answer
            else answer["found_by"] == "bytes"
        )
        assert not answer["notes"] or commit in answer["notes"][0]
        assert done.returncode == bool(answer["notes"])
        if name != "dvc.lock":
            assert answer["notes"]
    archive = Archive(History(repository.folder))
    blob = repository.git("rev-parse", f"elsewhere:{name}")
    assert name != "dvc.lock" or archive.history.lock(blob) is None


def test_other_classes_or_another_configuration_in_a_file_are_reported(
    repository: Repository, copies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = read_checkpoint(copies / "1.pth")
    swapped = checkpoint.args | {"class_names": list(reversed(checkpoint.args["class_names"]))}
    config = checkpoint.model_config | {"num_queries": checkpoint.model_config["num_queries"] - 1}
    for changes in ({"args": swapped}, {"model_config": config}, {"args": swapped, "lineage": None}):
        write_checkpoint(copies / "swapped.pth", replace(checkpoint, **changes))
        answer = audit_json(capsys, repository, copies / "swapped.pth", status=1)
        assert answer["found_by"] == "tensors"
        assert "classes or configuration in the file differ from those" in answer["notes"][0]
    write_checkpoint(copies / "same.pth", replace(checkpoint, lineage=None))
    assert audit_json(capsys, repository, copies / "same.pth")["found_by"] == "tensors"


@pytest.mark.parametrize("indent", [None, 2])
def test_a_project_in_a_folder_of_a_repository_with_manifests_of_another_layout_is_searched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, indent: int | None
) -> None:
    def write(path: Path, rows: Any) -> None:
        write_manifest(path, rows)
        path.write_text(json.dumps(json.loads(path.read_text()), indent=indent))

    monkeypatch.setattr("tests.audit.repository.write_manifest", write)
    inner = Repository(tmp_path / "outer" / "project")
    shutil.move(inner.folder / ".git", tmp_path / "outer" / ".git")
    inner.train(1, FIRST)
    inner.commit("Retrain")
    uses = audit_json(capsys, inner, "--image", sha256_of("b"))["uses"]
    assert [(use["role"], use["path"]) for use in uses] == [("trained", "train/b.jpg")]


@pytest.fixture
def twins(tmp_path: Path) -> tuple[Repository, Path, Path]:
    """Two runs before one commit, with equal weights, different images and different notes."""
    repository = Repository(tmp_path / "twins")
    copies = tmp_path / "first.pth", tmp_path / "second.pth"
    for path, images, notes in zip(copies, (FIRST, SECOND), ("one", "two"), strict=True):
        shutil.copy(repository.train(1, images, notes=notes), path)
    repository.commit("both")
    return repository, *copies


def test_runs_with_equal_weights_are_distinguished(
    twins: tuple[Repository, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    repository, *copies = twins
    for path, notes in zip(copies, ("one", "two"), strict=True):
        answer = audit_json(capsys, repository, path)
        assert answer["lineage"]["training"]["params"]["train"]["notes"] == notes
        assert answer["lineage"] == read_checkpoint(path).lineage
        assert answer["found_by"] == "bytes"
        assert any("another run produced equal weights" in note for note in answer["notes"])
    answer = audit_json(capsys, repository, "--diff", *copies, status=1)
    assert answer["making"] == {"params": {"train.notes": ["one", "two"]}}


def test_a_file_that_several_runs_may_have_produced_stays_ambiguous(
    twins: tuple[Repository, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository, first, second = twins
    bare = tmp_path / "bare.pth"
    torch.save({"model": torch.load(first, weights_only=True)["model"]}, bare)
    answer = audit_json(capsys, repository, bare, status=1)
    assert (answer["found_by"], answer["lineage"]) == ("tensors", None)
    names = {path.name for path in (repository.folder / "records").iterdir()}
    assert len(names) == 2
    assert all(any(name in note for note in answer["notes"]) for name in names)
    assert any("training.params.train.notes" in note for note in answer["notes"])
    for arguments in (["--diff", bare, second], [bare, "--images"]):
        with pytest.raises(SystemExit, match="which of them"):
            main(["audit", *map(str, arguments), "--repo", str(repository.folder)])


def test_a_manifest_that_was_never_committed_is_named_and_the_others_are_listed(
    twins: tuple[Repository, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    repository, first, second = twins
    with pytest.raises(SystemExit) as ended:
        main(["audit", str(first), "--images", "--repo", str(repository.folder)])
    printed = capsys.readouterr()
    assert ended.value.code == 1
    listed = list(csv.DictReader(io.StringIO(printed.out)))
    assert [row["path"] for row in listed] == ["test/d.jpg"]
    for split in ("train", "valid"):
        assert re.search(
            rf"^unknown: manifest/{split}\.json of this model is missing: .*never committed", printed.err, re.MULTILINE
        )
    assert "train/e.jpg" in audit(capsys, repository, second, "--images")
    # The first run again: its manifest is that of the working tree.
    repository.train(1, FIRST, notes="one")
    assert "train/b.jpg" in audit(capsys, repository, first, "--images")
