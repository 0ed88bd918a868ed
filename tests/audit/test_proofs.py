"""Proofs that a training used an image, or did not, checked with the model's attestation alone."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rfdetr_core.audit.history import History
from rfdetr_core.audit.images import digest_of
from rfdetr_core.audit.images import pixels_of as pixels_at_head
from rfdetr_core.audit.proofs import prove, roots_of
from rfdetr_core.audit.trace import Archive, trace
from rfdetr_core.audit.uses import Image as ImageDigests
from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.images import decode, pixel_digest
from rfdetr_core.checkpoint.files import read_checkpoint, tensor_digest
from rfdetr_core.checkpoint.published import PUBLISHED
from rfdetr_core.cli import main
from rfdetr_core.training.record import parent_of
from rfdetr_core.verification.attest import attest
from rfdetr_core.verification.proofs import check_proof
from rfdetr_core.verification.report import Report
from tests.audit.repository import Images, Repository, audit, pixels_of, row, sha256_of
from tests.verification.test_attest import make_keys

OLD: Images = {"train": {"train/person.jpg": "person", "train/a.jpg": "a"}, "valid": {"valid/v.jpg": "v"}}
NEW: Images = {"train": {"train/a.jpg": "a", "train/n.jpg": "n"}, "valid": {"valid/v.jpg": "v"}}


class Models:
    """Two models and their attestations, outside of the project. The second was trained from the first."""

    def __init__(self, folder: Path) -> None:
        self.repository, self.folder = Repository(folder / "clone"), folder
        parents: dict[str, Any] = {}
        for name, images in (("first", OLD), ("second", NEW)):
            model = self.repository.train(len(parents) + 1, images, parents=parents)
            self.repository.commit(name)
            shutil.copy(model, folder / f"{name}.pth")
            attest(folder / f"{name}.pth", root=self.repository.folder)
            parents = {"pretrain_weights": parent_of(folder / f"{name}.pth")}

    @cache  # noqa: B019
    def proof(self, image: str) -> bytes:
        """The bytes of the proof about an image and the second model."""
        archive = Archive(History(self.repository.folder))
        sha256 = digest_of(image, archive)
        digests = ImageDigests(sha256, pixels_at_head(image, sha256, archive))
        return files.canonical_json(prove(digests, trace(self.folder / "second.pth", archive), archive).content)

    @property
    def tensors(self) -> str:
        """The weights of the first model."""
        return tensor_digest(read_checkpoint(self.folder / "first.pth").weights)

    def prove(self, capsys: pytest.CaptureFixture[str], image: str, name: str = "second", status: int = 0) -> Path:
        path = self.folder / "proof.json"
        audit(capsys, self.repository, self.folder / f"{name}.pth", "--prove", image, "--output", path, status=status)
        return path

    def proven(self, proof: Path, name: str = "second") -> set[str]:
        """The sentences that a proof shows with the attestation alone."""
        report = Report()
        check_proof(report, proof, self.folder / f"{name}.pth.intoto.json", None)
        assert report.mismatches == {}
        return {note.removeprefix("proven: ") for note in report.notes}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("proofs"))


def test_an_image_of_an_ancestor_is_proven_there_and_absent_elsewhere(
    models: Models, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = row("", "person").labels
    ancestor, model = f"the ancestor with tensors {models.tensors}", "this model's training"
    assert models.proven(models.prove(capsys, sha256_of("person"))) == {
        f"train of {ancestor} has an image with these bytes",
        f"train of {ancestor} has an image with these bytes and labels {labels}",
        f"valid of {ancestor} has no image with these bytes",
        f"train of {model} has no image with these bytes",
        f"valid of {model} has no image with these bytes",
    }


@pytest.mark.parametrize("word", ["person", "a", "n", "v", "z", "another", "0"])
def test_every_digest_has_a_proof_of_what_the_manifests_say(
    models: Models, capsys: pytest.CaptureFixture[str], word: str
) -> None:
    proven = models.proven(models.prove(capsys, sha256_of(word)))
    for through, images in (("this model's", NEW), ("the ancestor", OLD)):
        for split, named in images.items():
            is_in = "an" if word in named.values() else "no"
            sentences = {
                sentence
                for sentence in proven
                if sentence.startswith(f"{split} of {through}") and sentence.endswith("these bytes")
            }
            assert [f"has {is_in} image" in sentence for sentence in sentences] == [True]


def test_the_pixels_of_an_image_at_head_are_proven_with_its_bytes(
    models: Models, capsys: pytest.CaptureFixture[str]
) -> None:
    path = models.prove(capsys, "train/a.jpg")
    assert files.read_json(path)["image"] == {"sha256": sha256_of("a"), "pixels": pixels_of("a")}
    proven = models.proven(path)
    assert "train of this model's training has an image with these pixels" in proven
    assert "valid of this model's training has no image with these pixels" in proven


def test_a_proof_needs_neither_the_project_nor_the_model(
    models: Models, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    proof = shutil.copy(models.prove(capsys, sha256_of("z")), tmp_path)
    statement = Path(shutil.copy(models.folder / "second.pth.intoto.json", tmp_path / "statement.json"))
    main(["verify", "--proof", str(proof), str(statement), "--repo", str(tmp_path)])
    output = capsys.readouterr().out
    assert "train of this model's training has no image with these bytes" in output
    assert "not checked: signature" in output
    assert "not checked: the image of" in output
    assert "0 mismatches" in output
    payload = base64.b64encode(statement.read_bytes()).decode()
    files.write_json(tmp_path / "envelope.json", {"payloadType": "application/vnd.in-toto+json", "payload": payload})
    main(["verify", "--proof", str(proof), str(tmp_path / "envelope.json")])
    assert capsys.readouterr().out.count("proven: ") == output.count("proven: ")


def test_with_a_key_the_attestation_is_checked_too(
    models: Models, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    private, public = make_keys(tmp_path)
    model = Path(shutil.copy(models.folder / "second.pth", tmp_path))
    attest(model, key=private, root=models.repository.folder)
    model.unlink()  # the attestation alone is enough
    proof, path = models.prove(capsys, sha256_of("z")), tmp_path / "second.pth.intoto.json"
    command = ["verify", "--proof", str(proof), "--key", str(public)]
    for attestation in (path, path.with_name(f"{path.name}.dsse")):
        main([*command, str(attestation)])
        assert "not checked: signature" not in capsys.readouterr().out
    command.append(str(path))
    path.write_text(path.read_text().replace(roots(models)["train"]["images"]["root"], "0" * 64))
    with pytest.raises(SystemExit):
        main(command)


def test_a_proof_of_bytes_alone_is_not_enough_if_the_image_is_given(
    models: Models, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    Image.new("RGB", (8, 6), "red").save(tmp_path / "image.png")
    proof = models.prove(capsys, files.sha256_file(tmp_path / "image.png"))
    command = ["verify", "--proof", str(proof), str(models.folder / "second.pth")]
    main(command)
    assert "not checked: pixels of" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*command, "--image", str(tmp_path / "image.png")])
    assert "proofs of the pixels" in capsys.readouterr().out


def roots(models: Models, name: str = "second") -> dict[str, Any]:
    return read_checkpoint(models.folder / f"{name}.pth").lineage["training"]["roots"]  # type: ignore[index,no-any-return]


def test_a_proof_belongs_to_the_given_image(models: Models, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name, colour in (("image.png", "red"), ("other.png", "blue")):
        Image.new("RGB", (8, 6), colour).save(tmp_path / name)
    proof = models.prove(capsys, str(tmp_path / "image.png"))
    assert files.read_json(proof)["image"]["pixels"] == pixel_digest(decode((tmp_path / "image.png").read_bytes(), "x"))
    command = ["verify", "--proof", str(proof), str(models.folder / "second.pth"), "--image"]
    main([*command, str(tmp_path / "image.png")])
    assert "0 mismatches" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*command, str(tmp_path / "other.png")])
    assert "2 mismatches" in capsys.readouterr().out


def remove_a_proof(proof: dict[str, Any]) -> None:
    del proof["proofs"][0]


def swap_trees(proof: dict[str, Any]) -> None:
    for entry in proof["proofs"]:
        if entry["tree"] != "labelled":
            entry["tree"] = {"images": "pixels", "pixels": "images"}[entry["tree"]]


def claim_absence(proof: dict[str, Any]) -> None:
    for entry in proof["proofs"]:
        if len(entry["positions"]) == 1 and entry["positions"][0]["leaf"] == entry["leaf"]:
            entry["positions"] = []


def change_split(proof: dict[str, Any]) -> None:
    for entry in proof["proofs"]:
        entry["split"] = {"train": "valid", "valid": "train"}[entry["split"]]


def change_image(proof: dict[str, Any]) -> None:
    """The proofs of another image's absence under the digest of this one."""
    proof["image"]["sha256"] = sha256_of("a")


def change_labels(proof: dict[str, Any]) -> None:
    for entry in proof["proofs"]:
        if entry["tree"] == "labelled":
            entry["leaf"] = f"{proof['image']['sha256']} {sha256_of('labels forged')}"


def change_model(proof: dict[str, Any]) -> None:
    proof["model"]["sha256"] = sha256_of("model")


def remove_pixel_proofs(proof: dict[str, Any]) -> None:
    proof["proofs"] = [entry for entry in proof["proofs"] if entry["tree"] != "pixels"]


def remove_ancestor_proofs(proof: dict[str, Any]) -> None:
    proof["proofs"] = [entry for entry in proof["proofs"] if entry["through"] == ""]


FORGERIES: dict[str, tuple[str, Callable[[dict[str, Any]], None]]] = {
    "a split is left out": ("train/a.jpg", remove_a_proof),
    "the ancestor is left out": ("train/a.jpg", remove_ancestor_proofs),
    "pixels are left out": ("train/a.jpg", remove_pixel_proofs),
    "bytes for pixels": ("train/a.jpg", swap_trees),
    "a used image is claimed to be absent": ("train/a.jpg", claim_absence),
    "the proof of another split": ("train/a.jpg", change_split),
    "the proof of another image": (sha256_of("z"), change_image),
    "other labels": ("train/a.jpg", change_labels),
    "the proof of another model": ("train/a.jpg", change_model),
}


@pytest.mark.parametrize(("image", "forge"), FORGERIES.values(), ids=FORGERIES.keys())
def test_a_forged_proof_is_a_mismatch(
    models: Models, capsys: pytest.CaptureFixture[str], image: str, forge: Callable[[dict[str, Any]], None]
) -> None:
    path = models.prove(capsys, image)
    content = files.read_json(path)
    forge(content)
    files.write_json(path, content)
    report = Report()
    check_proof(report, path, models.folder / "second.pth.intoto.json", None)
    assert report.mismatches


def test_a_proof_does_not_hold_for_the_attestation_of_another_model(
    models: Models, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report()
    check_proof(report, models.prove(capsys, sha256_of("z")), models.folder / "first.pth.intoto.json", None)
    assert report.mismatches


@settings(max_examples=300, deadline=None)
@given(bit=st.integers(0, 2**31))
@pytest.mark.parametrize("image", ["train/a.jpg", sha256_of("z")], ids=["present", "absent"])
def test_a_proof_with_one_flipped_bit_does_not_hold(models: Models, image: str, bit: int) -> None:
    data = bytearray(models.proof(image))
    bit %= 8 * len(data)
    data[bit // 8] ^= 1 << bit % 8
    path, report = models.folder / "flipped.json", Report()
    path.write_bytes(data)
    try:
        check_proof(report, path, models.folder / "second.pth.intoto.json", None)
    except UserError:
        return
    assert report.mismatches


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"schema": 2}', "[" * 100_000, '{"a": NaN}', "null", "3"])
def test_an_invalid_proof_or_statement_is_one_message(
    models: Models, capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str
) -> None:
    (tmp_path / "bad.json").write_text(content)
    good = models.prove(capsys, sha256_of("z"))
    for proof, statement in (("bad.json", models.folder / "second.pth.intoto.json"), (good, tmp_path / "bad.json")):
        with pytest.raises(SystemExit, match=r"bad\.json"):
            main(["verify", "--proof", str(tmp_path / proof), str(statement)])


def test_a_model_older_than_merkle_roots_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = Repository(tmp_path / "clone")
    model = repository.train(1, NEW, older=True)
    repository.commit("older")
    with pytest.raises(SystemExit, match="older than Merkle roots"):
        main(["audit", str(model), "--prove", sha256_of("a"), "--repo", str(repository.folder)])
    (statement,) = attest(model, root=repository.folder)
    assert "roots" not in statement.read_text()
    (tmp_path / "proof.json").write_text(json.dumps({
        "schema": 1, "image": {"sha256": "0" * 64, "pixels": None}, "model": {"sha256": "0" * 64}, "proofs": [],
    }))  # fmt: skip
    with pytest.raises(SystemExit, match="has no Merkle roots"):
        main(["verify", "--proof", str(tmp_path / "proof.json"), str(statement)])


def test_an_ancestor_without_roots_leaves_the_answer_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = Repository(tmp_path / "clone")
    first = Path(shutil.copy(repository.train(1, OLD, older=True), tmp_path / "first.pth"))
    repository.commit("older")
    second = Path(shutil.copy(repository.train(2, NEW, parents={"resume": parent_of(first)}), tmp_path / "second.pth"))
    repository.commit("newer")
    proof = tmp_path / "proof.json"
    audit(capsys, repository, second, "--prove", sha256_of("z"), "--output", proof, status=1)
    (statement,) = attest(second, root=repository.folder)
    main(["verify", "--proof", str(proof), str(statement)])
    assert "not checked: images of the ancestor with tensors" in capsys.readouterr().out


def test_published_weights_are_named_and_leave_the_proof_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository, name = Repository(tmp_path / "clone"), next(iter(PUBLISHED))
    parent = {"name": name, "sha256": "0" * 64, "tensors": "0" * 64, "lineage": None}
    model = repository.train(1, NEW, parents={"pretrain_weights": parent})
    repository.commit("from published weights")
    assert roots_of(read_checkpoint(model).lineage["training"]).keys() == {""}  # type: ignore[index]
    audit(capsys, repository, model, "--prove", sha256_of("z"), "--output", tmp_path / "proof.json")
    (statement,) = attest(model, root=repository.folder)
    main(["verify", "--proof", str(tmp_path / "proof.json"), str(statement)])
    assert f"published weights, {name}" in capsys.readouterr().out


def test_a_manifest_that_is_not_in_git_proves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = Repository(tmp_path / "clone")
    model = Path(shutil.copy(repository.train(1, OLD), tmp_path / "first.pth"))
    repository.train(2, NEW)
    repository.commit("the second alone")
    with pytest.raises(SystemExit):
        main(["audit", str(model), "--prove", sha256_of("z"), "--repo", str(repository.folder)])
    printed = capsys.readouterr()
    assert "never committed" in printed.err
    assert "train of this model's training" not in printed.out
