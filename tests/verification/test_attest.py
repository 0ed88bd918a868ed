from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from rfdetr_core.base import files
from rfdetr_core.base.code import ROOT, semantic_digest
from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.files import read_checkpoint, tensor_digest, write_checkpoint
from rfdetr_core.cli import main
from rfdetr_core.lineage.records import write_record
from rfdetr_core.verification.attest import attest, check_attestation, statement_of
from rfdetr_core.verification.report import Report
from tests.audit.exported import export, flip_bit
from tests.audit.repository import Repository
from tests.verification.told import verify


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """A private key and its public one."""
    return make_keys(tmp_path)


def make_keys(folder: Path, name: str = "key") -> tuple[Path, Path]:
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    key = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_a_statement_names_subject_and_materials_and_is_deterministic(repository: Repository, model: Path) -> None:
    (path,) = attest(model)
    assert path.name == "model.pth.intoto.json"
    first, told = path.read_bytes(), files.read_json(path)
    attest(model)
    assert path.read_bytes() == first
    assert told["_type"] == "https://in-toto.io/Statement/v1"
    assert told["predicateType"] == "https://slsa.dev/provenance/v1"
    assert told["subject"] == [{"name": "model.pth", "digest": {"sha256": files.sha256_file(model)}}]
    materials = materials_of(told)
    manifest = repository.folder / "manifest" / "train.json"
    assert materials["manifest/train.json"]["sha256"] == files.sha256_file(manifest)
    assert materials["weights/promoted.pth"] == {"sha256": "0" * 64}
    assert "params" in materials
    strip = "rfdetr_core/selection/strip.py"
    assert materials[strip] == {"semanticSha256": semantic_digest(ROOT / strip)}


def materials_of(statement: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {one["name"]: one["digest"] for one in statement["predicate"]["buildDefinition"]["resolvedDependencies"]}


def test_the_statement_of_an_older_model_stays_what_it_was(model: Path) -> None:
    checkpoint = read_checkpoint(model)
    assert checkpoint.lineage is not None
    write_checkpoint(model, replace(checkpoint, lineage=checkpoint.lineage | {"schema": 1}))
    statement = statement_of(model)
    assert statement["predicate"]["buildDefinition"]["buildType"] == "urn:rfdetr-dvc:pipeline:1"
    assert materials_of(statement)["rfdetr_core/training/run.py"] == {"sha256": "1" * 64}


def test_a_statement_that_is_true_is_accepted_and_a_changed_one_is_not(
    repository: Repository, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = attest(model)
    assert verify(capsys, repository, model) == []
    told = files.read_json(path)
    told["predicate"]["buildDefinition"]["resolvedDependencies"][0]["digest"]["sha256"] = "1" * 64
    files.write_json(path, told)
    name = told["predicate"]["buildDefinition"]["resolvedDependencies"][0]["name"]
    assert verify(capsys, repository, model) == [f"material {name} of {path}"]


@pytest.mark.parametrize("broken", ["[]", "{}", '{"subject": 1}', "no JSON"])
def test_what_is_no_statement_is_a_mismatch(
    repository: Repository, model: Path, capsys: pytest.CaptureFixture[str], broken: str
) -> None:
    path = model.with_name("model.pth.intoto.json")
    path.write_text(broken)
    assert verify(capsys, repository, model) == [str(path)]


def test_a_signature_holds_also_for_a_renamed_file_and_for_its_own_key_alone(
    repository: Repository, model: Path, keys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private, public = keys
    paths = attest(model, key=private)
    assert [path.name for path in paths] == ["model.pth.intoto.json", "model.pth.intoto.json.sig"]
    renamed = tmp_path / ".gitattributes"  # a name that the library skips
    for path in (model, *paths):
        shutil.copy(path, path.with_name(path.name.replace("model.pth", renamed.name)))
    assert verify(capsys, repository, model, "--key", public) == []
    assert verify(capsys, repository, renamed, "--key", public) == []
    _, other = make_keys(tmp_path, "other")
    assert verify(capsys, repository, model, "--key", other) == [f"signature of {model}"]


def test_without_a_signature_a_key_is_not_satisfied(
    repository: Repository, model: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = model.with_name("model.pth.intoto.json")
    assert verify(capsys, repository, model, "--key", keys[1]) == [str(path)]
    attest(model)
    assert verify(capsys, repository, model, "--key", keys[1]) == [f"{path}.sig"]


def test_a_consistent_rewrite_is_found_by_the_signature_alone(
    repository: Repository, model: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    private, public = keys
    attest(model, key=private)
    checkpoint = read_checkpoint(model)
    weights = {name: tensor + 1 for name, tensor in checkpoint.weights.items()}
    lineage: dict[str, Any] = dict(checkpoint.lineage or {}) | {"tensors": tensor_digest(weights)}
    write_checkpoint(model, replace(checkpoint, weights=weights, lineage=lineage))
    write_record(repository.folder / "records", model, lineage, {})
    there = Path(shutil.copy(model, repository.folder / "output" / "checkpoint_best_total.pth"))
    repository.lock()
    there.unlink()
    repository.commit("Nothing to see")
    signature = model.with_name("model.pth.intoto.json.sig").read_bytes()
    attest(model)
    assert verify(capsys, repository, model) == []
    assert model.with_name("model.pth.intoto.json.sig").read_bytes() == signature
    assert verify(capsys, repository, model, "--key", public) == [f"signature of {model}"]


def test_a_key_that_is_none_leaves_nothing_behind(model: Path, tmp_path: Path) -> None:
    (tmp_path / "none.pem").write_text("no key")
    with pytest.raises(UserError, match=r"none\.pem cannot sign"):
        attest(model, key=tmp_path / "none.pem")
    assert not list(tmp_path.glob("*.intoto.json*"))


def test_a_file_without_lineage_cannot_be_attested(model: Path) -> None:
    write_checkpoint(model, replace(read_checkpoint(model), lineage=None))
    with pytest.raises(UserError, match="carries no lineage"):
        attest(model)


@pytest.mark.parametrize("part", ["weights", "lineage", "args", "layout"])
def test_a_file_that_contradicts_itself_is_not_attested(model: Path, part: str) -> None:
    checkpoint = read_checkpoint(model)
    changed: dict[str, Any] = {
        "weights": {"weights": {name: tensor + 1 for name, tensor in checkpoint.weights.items()}},
        "lineage": {"lineage": dict(checkpoint.lineage or {}) | {"variant": "RFDETRLarge"}},
        "args": {"args": checkpoint.args | {"class_names": ["other"]}},
        "layout": {"lineage": {"training": {}, "tensors": "x"}},
    }
    write_checkpoint(model, replace(checkpoint, **changed[part]))
    with pytest.raises(UserError, match=r"model\.pth( is not what its lineage says|: lineage.variant: it is missing)"):
        attest(model)
    assert not model.with_name("model.pth.intoto.json").exists()


def test_a_statement_of_a_model_that_is_not_here_is_unchecked_but_for_a_key(
    repository: Repository, model: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    gone = repository.folder / "output" / "checkpoint_best_total.pth"
    for path in attest(model, key=keys[0]):
        shutil.copy(path, path.with_name(path.name.replace(model.name, gone.name)))
        shutil.move(path.with_name(path.name.replace(model.name, gone.name)), gone.parent)
    report = Report()
    check_attestation(report, gone, None)
    assert not report.mismatches
    check_attestation(report, gone, keys[1])
    assert [what for what, _, _ in report.mismatches] == [str(gone)]


def test_a_material_that_is_named_twice_is_a_mismatch(
    repository: Repository, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = attest(model)
    told = files.read_json(path)
    materials = told["predicate"]["buildDefinition"]["resolvedDependencies"]
    materials.insert(0, materials[0] | {"digest": {"sha256": "1" * 64}})
    files.write_json(path, told)
    assert verify(capsys, repository, model) == [f"materials of {path}"]


@pytest.mark.parametrize("content", [None, "no key"])
def test_a_key_that_cannot_verify_is_no_mismatch_but_an_error(
    repository: Repository, model: Path, tmp_path: Path, content: str | None
) -> None:
    attest(model)
    key = tmp_path / "none.pem"
    if content:
        key.write_text(content)
    with pytest.raises(SystemExit, match=r"none\.pem is no public key"):
        main(["verify", str(model), "--key", str(key), "--repo", str(repository.folder)])


@pytest.mark.parametrize("name", ["model.onnx", "model.xml"])
def test_an_exported_file_is_attested_with_its_source_and_what_was_measured(
    repository: Repository, keys: tuple[Path, Path], tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = export(repository, name)
    repository.commit("Export")
    source = repository.folder / "output" / "checkpoint_best_total.pth"
    digest = files.sha256_file(source)
    source.unlink()  # nothing is exported again
    statement, signature = attest(path, key=keys[0])
    told = files.read_json(statement)
    parts = sorted(one.name for one in path.parent.iterdir() if one not in (statement, signature))
    assert sorted(one["name"] for one in told["subject"]) == parts
    assert [files.sha256_file(path.parent / one["name"]) for one in told["subject"]] == [
        one["digest"]["sha256"] for one in told["subject"]
    ]
    assert materials_of(told)["checkpoint"] == {"sha256": digest}
    assert told["predicate"]["buildDefinition"]["internalParameters"]["export"]["parity"] == {"boxes": 1e-6}
    assert verify(capsys, repository, path, "--key", keys[1]) == []
    told["predicate"]["buildDefinition"]["internalParameters"]["export"]["parity"]["boxes"] = 0
    files.write_json(statement, told)
    changed = f"predicate.buildDefinition.internalParameters.export.parity.boxes of {statement}"
    assert verify(capsys, repository, path, "--key", keys[1]) == [changed, f"signature of {path}"]


def test_a_signature_covers_the_constants_of_an_openvino_model(
    repository: Repository, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = export(repository, "model.xml")
    attest(path, key=keys[0])
    weights = path.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes() + b"0")  # no constant has this byte
    found = verify(capsys, repository, path, "--key", keys[1])
    assert f"signature of {path}" in found
    weights.unlink()
    assert str(weights) in verify(capsys, repository, path, "--key", keys[1])


def test_an_exported_file_that_is_not_as_it_was_exported_is_not_attested(repository: Repository) -> None:
    (path,) = export(repository, "model.onnx")
    flip_bit(path)
    with pytest.raises(UserError, match="is not what was exported"):
        attest(path)
