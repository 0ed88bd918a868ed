from __future__ import annotations

import base64
import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from rfdetr_core.base import files
from rfdetr_core.base.code import ROOT, semantic_digest
from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.files import read_checkpoint, tensor_digest, write_checkpoint
from rfdetr_core.cli import main
from rfdetr_core.lineage import journal
from rfdetr_core.lineage.lock import Entry
from rfdetr_core.lineage.records import write_record
from rfdetr_core.verification.attest import attest, check_attestation, statement_of
from rfdetr_core.verification.report import Report
from tests.audit.exported import export, flip_bit
from tests.audit.repository import Repository
from tests.verification.mismatches import verify


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """A private key and its public key."""
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
    (path,) = attest(model, root=repository.folder)
    assert path.name == "model.pth.intoto.json"
    first, statement = path.read_bytes(), files.read_json(path)
    attest(model, root=repository.folder)
    assert path.read_bytes() == first
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert statement["subject"] == [{"name": "model.pth", "digest": {"sha256": files.sha256_file(model)}}]
    materials = materials_of(statement)
    manifest = repository.folder / "manifest" / "train.json"
    assert materials["manifest/train.json"]["sha256"] == files.sha256_file(manifest)
    assert materials["weights/promoted.pth"] == {"sha256": "0" * 64}
    assert "params" in materials
    strip = "rfdetr_core/selection/strip.py"
    assert materials[strip] == {"semanticSha256": semantic_digest(ROOT / strip)}


def materials_of(statement: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {
        material["name"]: material["digest"]
        for material in statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    }


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
    (path,) = attest(model, root=repository.folder)
    assert verify(capsys, repository, model) == []
    statement = files.read_json(path)
    source, material = statement["predicate"]["buildDefinition"]["resolvedDependencies"][:2]
    source["digest"]["sha256"] = material["digest"]["sha256"] = "1" * 64
    files.write_json(path, statement)
    wrong = [f"material {material['name']} of {path}", f"repository in {path}"]
    assert verify(capsys, repository, model) == wrong


@pytest.mark.parametrize("broken", ["[]", "{}", '{"subject": 1}', "no JSON"])
def test_a_file_that_is_not_a_statement_is_a_mismatch(
    repository: Repository, model: Path, capsys: pytest.CaptureFixture[str], broken: str
) -> None:
    path = model.with_name("model.pth.intoto.json")
    path.write_text(broken)
    assert verify(capsys, repository, model) == [str(path)]


def test_a_signature_holds_also_for_a_renamed_file_and_for_its_own_key_alone(
    repository: Repository, model: Path, keys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private, public = keys
    paths = attest(model, key=private, root=repository.folder)
    assert [path.name for path in paths] == ["model.pth.intoto.json", "model.pth.intoto.json.dsse", "model.pth.sig"]
    renamed = tmp_path / ".gitattributes"  # a name that the library skips
    for path in (model, *paths):
        shutil.copy(path, path.with_name(path.name.replace("model.pth", renamed.name)))
    assert verify(capsys, repository, model, "--key", public) == []
    assert verify(capsys, repository, renamed, "--key", public) == []
    _, other_key = make_keys(tmp_path, "other")
    assert verify(capsys, repository, model, "--key", other_key) == [
        f"signature of {paths[0]}",
        f"signature of {model}",
    ]


def test_without_a_signature_a_key_is_not_satisfied(
    repository: Repository, model: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = model.with_name("model.pth.intoto.json")
    assert verify(capsys, repository, model, "--key", keys[1]) == [str(path)]
    attest(model, root=repository.folder)
    assert verify(capsys, repository, model, "--key", keys[1]) == [f"{path}.dsse", f"{model}.sig"]


@pytest.mark.parametrize("forged", ["with the old signatures", "with another key", "without signatures"])
def test_a_consistent_rewrite_is_found_by_the_signatures(
    repository: Repository, model: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str], forged: str
) -> None:
    private, public = keys
    statement, envelope, signature = attest(model, key=private, root=repository.folder)
    checkpoint = read_checkpoint(model)
    weights = {name: tensor + 1 for name, tensor in checkpoint.weights.items()}
    lineage: dict[str, Any] = dict(checkpoint.lineage or {}) | {"tensors": tensor_digest(weights)}
    write_checkpoint(model, replace(checkpoint, weights=weights, lineage=lineage))
    write_record(repository.folder / "records", model, lineage, {})
    present = Path(shutil.copy(model, repository.folder / "output" / "checkpoint_best_total.pth"))
    repository.lock()
    present.unlink()
    repository.commit("Nothing to see")
    old = envelope.read_bytes(), signature.read_bytes()
    envelope.unlink()
    signature.unlink()
    other_key = make_keys(model.parent, "other")[0] if forged == "with another key" else None
    attest(model, key=other_key, root=repository.folder)
    if forged == "with the old signatures":
        envelope.write_bytes(old[0])
        signature.write_bytes(old[1])
        assert verify(capsys, repository, model) == [f"statement in {envelope}"]
        assert verify(capsys, repository, model, "--key", public) == [
            f"statement in {envelope}",
            f"signature of {model}",
        ]
        return
    assert verify(capsys, repository, model) == []
    missing = [str(envelope), str(signature)]
    wrong = [f"signature of {statement}", f"signature of {model}"]
    assert verify(capsys, repository, model, "--key", public) == (wrong if other_key else missing)


@pytest.mark.parametrize("kind", ["no key", "public", "ed25519", "with a password"])
def test_a_key_that_cannot_sign_leaves_nothing_behind(
    repository: Repository, model: Path, keys: tuple[Path, Path], tmp_path: Path, kind: str
) -> None:
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    password = serialization.BestAvailableEncryption(b"secret")
    content = {
        "no key": b"no key",
        "public": keys[1].read_bytes(),
        "ed25519": ed25519.Ed25519PrivateKey.generate().private_bytes(pem, pkcs8, serialization.NoEncryption()),
        "with a password": ec.generate_private_key(ec.SECP256R1()).private_bytes(pem, pkcs8, password),
    }
    (tmp_path / "none.pem").write_bytes(content[kind])
    with pytest.raises(UserError, match=r"none\.pem cannot sign"):
        attest(model, key=tmp_path / "none.pem", root=repository.folder)
    assert not [*tmp_path.glob("model.pth.*")]


def test_a_file_without_lineage_cannot_be_attested(repository: Repository, model: Path) -> None:
    write_checkpoint(model, replace(read_checkpoint(model), lineage=None))
    with pytest.raises(UserError, match="has no lineage"):
        attest(model, root=repository.folder)


@pytest.mark.parametrize("part", ["weights", "lineage", "args", "layout"])
def test_a_file_that_contradicts_itself_is_not_attested(repository: Repository, model: Path, part: str) -> None:
    checkpoint = read_checkpoint(model)
    changed: dict[str, Any] = {
        "weights": {"weights": {name: tensor + 1 for name, tensor in checkpoint.weights.items()}},
        "lineage": {"lineage": dict(checkpoint.lineage or {}) | {"variant": "RFDETRLarge"}},
        "args": {"args": checkpoint.args | {"class_names": ["other"]}},
        "layout": {"lineage": {"training": {}, "tensors": "x"}},
    }
    write_checkpoint(model, replace(checkpoint, **changed[part]))
    with pytest.raises(UserError, match=r"model\.pth( does not match its lineage|: lineage.variant: it is missing)"):
        attest(model, root=repository.folder)
    assert not model.with_name("model.pth.intoto.json").exists()


def test_a_statement_of_a_model_that_is_not_here_is_unchecked_but_for_a_key(
    repository: Repository, model: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    gone = repository.folder / "output" / "checkpoint_best_total.pth"
    for path in attest(model, key=keys[0], root=repository.folder):
        shutil.copy(path, path.with_name(path.name.replace(model.name, gone.name)))
        shutil.move(path.with_name(path.name.replace(model.name, gone.name)), gone.parent)
    report = Report()
    check_attestation(report, gone, None)
    assert not report.mismatches
    check_attestation(report, gone, keys[1])
    assert [subject for subject, _, _ in report.mismatches] == [str(gone)]


def test_a_material_that_is_named_twice_is_a_mismatch(
    repository: Repository, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = attest(model, root=repository.folder)
    statement = files.read_json(path)
    materials = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    materials.insert(0, materials[0] | {"digest": {"sha256": "1" * 64}})
    files.write_json(path, statement)
    assert verify(capsys, repository, model) == [f"different names of materials in {path}"]


@pytest.mark.parametrize("content", [None, "no key"])
def test_a_key_that_cannot_verify_is_an_error_and_not_a_mismatch(
    repository: Repository, model: Path, tmp_path: Path, content: str | None
) -> None:
    attest(model, root=repository.folder)
    key = tmp_path / "none.pem"
    if content:
        key.write_text(content)
    with pytest.raises(SystemExit, match=r"none\.pem is not a public key"):
        main(["verify", str(model), "--key", str(key), "--repo", str(repository.folder)])


Attested = tuple[Path, Path, Path]  # statement, envelope, signature of the model


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a statement."""
    statement = files.read_json(path)
    change(statement["predicate"])
    files.write_json(path, statement)


def name_no_key(predicate: dict[str, Any]) -> None:
    del predicate["runDetails"]["builder"]["builderDependencies"]


def enclose(paths: Attested) -> None:
    """Put the changed statement into the envelope and keep the old signature."""
    envelope = files.read_json(paths[1])
    files.write_json(paths[1], envelope | {"payload": base64.b64encode(paths[0].read_bytes()).decode()})


def remove(*paths: Path) -> None:
    for path in paths:
        path.unlink()


def forge_metadata(paths: Attested, **changes: Any) -> None:
    edit(paths[0], lambda predicate: predicate["runDetails"]["metadata"].update(changes))
    enclose(paths)


def forge_repository(paths: Attested, **changes: Any) -> None:
    edit(paths[0], lambda predicate: predicate["buildDefinition"]["resolvedDependencies"][0].update(changes))
    enclose(paths)


def sign_again(repository: Repository, model: Path) -> None:
    attest(model, key=make_keys(model.parent, "other")[0], root=repository.folder)


def hide_the_key(paths: Attested) -> None:
    edit(paths[0], name_no_key)
    remove(*paths[1:])


def other_type(paths: Attested) -> None:
    files.write_json(paths[1], files.read_json(paths[1]) | {"payloadType": "text/plain"})


Forge = Callable[[Repository, Path, Attested], object]
# A forgery, the mismatches without a key, and the further mismatches with the key. The words in braces stand for:
# the model, its signature (sig), the statement, and its envelope (dsse).
FORGERIES: dict[str, tuple[Forge, list[str], list[str]]] = {
    "the signature of the model is gone": (lambda _, __, paths: remove(paths[2]), ["{sig}"], []),
    "the envelope is gone": (lambda _, __, paths: remove(paths[1]), ["{dsse}"], []),
    "both are gone": (lambda _, __, paths: remove(*paths[1:]), ["{dsse}", "{sig}"], []),
    "both are gone, and the name of the key": (lambda _, __, paths: hide_the_key(paths), [], ["{dsse}", "{sig}"]),
    "all three are gone": (lambda _, __, paths: remove(*paths), [], ["{statement}"]),
    "signed again with another key": (
        lambda repository, model, _: sign_again(repository, model),
        [],
        ["signature of {statement}", "signature of {model}"],
    ),
    "the envelope is not an envelope": (
        lambda _, __, paths: paths[1].write_text("{}"),
        ["statement in {dsse}"],
        ["signature of {statement}"],
    ),
    "the envelope has another type": (
        lambda _, __, paths: other_type(paths),
        ["statement in {dsse}"],
        ["signature of {statement}"],
    ),
    "the statement names no key": (lambda _, __, paths: edit(paths[0], name_no_key), ["statement in {dsse}"], []),
    "another address of the repository": (
        lambda _, __, paths: forge_repository(paths, uri="git+https://example.org/other"),
        [],
        ["signature of {statement}"],
    ),
    "another commit": (
        lambda repository, _, paths: forge_repository(paths, digest={"gitCommit": repository.git("rev-parse", "HEAD")}),
        ["output/checkpoint_best_total.pth at the commit in {statement}"],
        ["signature of {statement}"],
    ),
    "a commit that is not an id": (
        lambda _, __, paths: forge_repository(paths, digest={"gitCommit": "HEAD"}),
        ["commit in {statement}"],
        ["signature of {statement}"],
    ),
    "another run": (
        lambda _, __, paths: forge_metadata(paths, invocationId="records/other.json"),
        ["invocationId in {statement}"],
        ["signature of {statement}"],
    ),
    "another time": (
        lambda _, __, paths: forge_metadata(paths, finishedOn="2020-01-01T00:00:00Z"),
        ["finishedOn in {statement}"],
        ["signature of {statement}"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_attestation_is_named(
    repository: Repository, model: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str], forgery: str
) -> None:
    statement, envelope, signature = attest(model, key=keys[0], root=repository.folder)
    repository.train(2, {"train": {"train/z.jpg": "z"}})
    repository.commit("Another model")
    assert verify(capsys, repository, model, "--key", keys[1]) == []
    forge, without, with_key = FORGERIES[forgery]
    forge(repository, model, (statement, envelope, signature))
    words = {"model": model, "sig": signature, "statement": statement, "dsse": envelope}
    expected = [[name.format(**words) for name in names] for names in (without, with_key)]
    assert verify(capsys, repository, model) == expected[0]
    assert verify(capsys, repository, model, "--key", keys[1]) == [*expected[0], *expected[1]]


def test_the_attestation_of_another_model_is_named(
    repository: Repository, model: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    other = repository.train(2, {"train": {"train/z.jpg": "z"}})
    repository.commit("Another model")
    for path in attest(other, key=keys[0], root=repository.folder):
        path.rename(model.with_name(path.name.replace(other.name, model.name)))
    mismatches = verify(capsys, repository, model, "--key", keys[1])
    assert {f"subject of {model}.intoto.json", f"signature of {model}"} <= {*mismatches}


@pytest.mark.parametrize("fabricated", ["another training", "other weights, too", "an exported file"])
def test_a_lineage_that_no_commit_confirms_is_attested_as_unconfirmed(
    repository: Repository, model: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str], fabricated: str
) -> None:
    if fabricated == "an exported file":
        shutil.copy(model, repository.folder / "output" / "checkpoint_best_total.pth")
        (model,) = export(repository, "model.onnx")  # never committed
        (repository.folder / "output" / "checkpoint_best_total.pth").unlink()
    else:
        fabricate(model, other_weights=fabricated == "other weights, too")
    with pytest.raises(UserError, match="cannot be attested: ") as refused:
        attest(model, key=keys[0], root=repository.folder)
    assert not [*model.parent.glob(f"{model.name}.*")]
    if fabricated == "another training":  # of weights whose training is recorded
        assert "training.params.train.lr" in str(refused.value)
        with pytest.raises(UserError, match=r"training\.params\.train\.lr"):
            attest(model, key=keys[0], root=repository.folder, own_word=True)
        return
    statement = attest(model, key=keys[0], root=repository.folder, own_word=True)[0]
    predicate = files.read_json(statement)["predicate"]
    assert predicate["buildDefinition"]["internalParameters"]["lineageFrom"] == "the file's own word"
    assert "metadata" not in predicate["runDetails"]
    named = verify(capsys, repository, model, "--key", keys[1])
    assert named == ([f"weights of {model}"] if fabricated == "other weights, too" else [])
    if fabricated == "other weights, too":
        edit(statement, lambda predicate: predicate["buildDefinition"]["internalParameters"].update(lineageFrom="git"))
        assert verify(capsys, repository, model, "--key", keys[1]) == [*named, f"statement in {statement}.dsse"]


def fabricate(model: Path, *, other_weights: bool) -> None:
    """Give a file a consistent lineage of a training that never happened."""
    checkpoint = read_checkpoint(model)
    lineage: dict[str, Any] = copy.deepcopy(dict(checkpoint.lineage or {}))
    lineage["training"]["params"]["train"]["lr"] = 0.5
    weights = checkpoint.weights
    if other_weights:
        weights = {name: tensor + 1 for name, tensor in weights.items()}
        lineage["tensors"] = tensor_digest(weights)
    write_checkpoint(model, replace(checkpoint, weights=weights, lineage=lineage))


def test_outside_a_repository_an_unconfirmed_file_is_attested_on_request(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    with pytest.raises(UserError, match="has no git history"):
        attest(model, root=folder)
    (statement,) = attest(model, root=folder, own_word=True)
    definition = files.read_json(statement)["predicate"]["buildDefinition"]
    assert definition["internalParameters"]["lineageFrom"] == "the file's own word"


def test_a_result_that_is_not_committed_yet_is_not_attested(repository: Repository) -> None:
    fresh = repository.train(2, {"train": {"train/z.jpg": "z"}})
    with pytest.raises(UserError, match="commit it"):
        attest(fresh, root=repository.folder)
    repository.commit("Train again")
    assert attest(fresh, root=repository.folder)


def amend(repository: Repository, _: Path) -> None:
    repository.git("commit", "-q", "--amend", "-m", "Train, better said")
    repository.git("reflog", "expire", "--expire=now", "--all")
    repository.git("gc", "-q", "--prune=now")


def squash(repository: Repository, _: Path) -> None:
    repository.train(2, {"train": {"train/z.jpg": "z"}})
    repository.commit("Another model")
    tree = repository.git("rev-parse", "HEAD^{tree}")
    repository.git("reset", "-q", "--hard", repository.git("commit-tree", tree, "-p", "HEAD~", "-m", "Squashed"))


def save_again(_: Repository, model: Path) -> None:
    torch.save(torch.load(model, weights_only=False), model)


def train_on(repository: Repository, _: Path) -> None:
    repository.train(2, {"train": {"train/z.jpg": "z"}})
    repository.commit("Another model")


def clone_and_move(repository: Repository, _: Path) -> None:
    moved = repository.folder.with_name("moved")
    repository.folder.rename(moved)
    repository.folder = moved
    repository.git("remote", "add", "origin", "https://user:token@example.org/moved.git")


HONEST: dict[str, Callable[[Repository, Path], None]] = {
    "the message of the commit was edited": amend,
    "later commits were squashed": squash,
    "another model was trained since": train_on,
    "the clone has another folder and another remote": clone_and_move,
    "another branch is checked out": lambda repository, _: print(
        repository.git("checkout", "-q", "--orphan", "other"), repository.git("rm", "-rqf", ".")
    ),
}


@pytest.mark.parametrize("situation", HONEST)
def test_an_honest_attestation_raises_no_alarm(
    repository: Repository, model: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str], situation: str
) -> None:
    attest(model, key=keys[0], root=repository.folder)
    HONEST[situation](repository, model)
    assert verify(capsys, repository, model, "--key", keys[1]) == []


@pytest.fixture
def entry(repository: Repository) -> Path:
    """An uncommitted journal entry that names the record."""
    out = {"path": "dvc.lock", "md5": files.md5_file(repository.folder / "dvc.lock")}
    return journal.write(repository.folder, "train", Entry.of({"cmd": "train", "outs": [out]}), 0)


def test_a_journal_that_is_not_committed_is_not_signed(repository: Repository, model: Path, entry: Path) -> None:
    with pytest.raises(UserError, match=rf"{entry.name}\. Commit them: git add journal"):
        attest(model, root=repository.folder)


@pytest.mark.parametrize("forged", ["the entry", "the record before it", "the entry that is committed"])
def test_an_entry_that_is_changed_after_the_signature_is_named(
    repository: Repository,
    model: Path,
    keys: tuple[Path, Path],
    entry: Path,
    capsys: pytest.CaptureFixture[str],
    forged: str,
) -> None:
    repository.git("add", "journal")
    repository.commit("Note the run")
    (statement, *_) = attest(model, key=keys[0], root=repository.folder)
    signed = files.read_json(statement)["predicate"]["buildDefinition"]["internalParameters"]["journal"]
    assert signed == {f"journal/{entry.name}": files.sha256_file(entry)}
    assert verify(capsys, repository, model, "--key", keys[1]) == []
    (record,) = (repository.folder / "records").iterdir()
    changed = record if forged == "the record before it" else entry
    content = files.read_json(changed)
    content["run"]["seconds"] = 1e6
    files.write_json(changed, content)
    if forged == "the entry that is committed":
        repository.git("commit", "-qam", "Nothing to see")
    assert verify(capsys, repository, model, "--key", keys[1]) == [f"{changed.parent.name}/{changed.name}"]


def test_a_file_that_was_saved_again_is_attested_again(
    repository: Repository, model: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    attest(model, key=keys[0], root=repository.folder)
    save_again(repository, model)
    assert f"signature of {model}" in verify(capsys, repository, model, "--key", keys[1])
    attest(model, key=keys[0], root=repository.folder)
    assert verify(capsys, repository, model, "--key", keys[1]) == []


def test_a_new_statement_without_a_key_does_not_stay_beside_an_old_signature(
    repository: Repository, model: Path, keys: tuple[Path, Path]
) -> None:
    paths = attest(model, key=keys[0], root=repository.folder)
    before = [path.read_bytes() for path in paths]
    with pytest.raises(UserError, match="has the signature of an earlier statement"):
        attest(model, root=repository.folder)
    assert [path.read_bytes() for path in paths] == before


def test_a_signature_of_an_older_format_is_named(
    repository: Repository, model: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (statement,) = attest(model, root=repository.folder)
    edit(statement, lambda predicate: predicate["buildDefinition"]["internalParameters"].pop("lineageFrom"))
    statement.with_name(f"{statement.name}.sig").write_text("{}")
    main(["verify", str(model), "--repo", str(repository.folder)])
    assert "an older form" in capsys.readouterr().out
    assert verify(capsys, repository, model, "--key", keys[1]) == [f"{statement}.dsse", f"{model}.sig"]
    with pytest.raises(SystemExit):
        main(["verify", str(model), "--repo", str(repository.folder), "--key", str(keys[1])])
    assert "Sign again" in capsys.readouterr().out


def test_documents_are_subjects_and_a_changed_one_is_a_mismatch(
    repository: Repository, model: Path, keys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    for name in ("bom.cdx.json", "model_card.md"):
        (folder / name).write_text(name)
    statement = attest(model, key=keys[0], root=repository.folder, documents=folder)[0]
    subjects = files.read_json(statement)["subject"]
    assert [subject["name"] for subject in subjects] == [
        "model.pth",
        "documents/bom.cdx.json",
        "documents/model_card.md",
    ]
    assert [subject["digest"]["sha256"] for subject in subjects] == [
        files.sha256_file(tmp_path / subject["name"]) for subject in subjects
    ]
    assert verify(capsys, repository, model, "--key", keys[1]) == []
    (folder / "model_card.md").write_text("better scores")
    assert verify(capsys, repository, model, "--key", keys[1]) == [f"document {folder / 'model_card.md'}"]
    (folder / "model_card.md").unlink()
    main(["verify", str(model), "--repo", str(repository.folder), "--key", str(keys[1])])
    assert "0 mismatches" in (printed := capsys.readouterr().out)
    assert f"document {folder / 'model_card.md'}" in printed


def test_only_the_documents_in_the_folder_of_the_model_are_subjects(
    repository: Repository, model: Path, keys: tuple[Path, Path]
) -> None:
    for name in ("card.md", ".hidden"):
        (model.parent / name).write_text(name)
    for _ in range(2):  # the second time the statement and its envelope are there
        statement = attest(model, key=keys[0], root=repository.folder, documents=model.parent)[0]
        names = [subject["name"] for subject in files.read_json(statement)["subject"]]
        assert names[0] == "model.pth"
        assert "card.md" in names
        assert not [name for name in names[1:] if name.startswith((".", "model.pth"))]


@pytest.mark.parametrize("name", [1, None, "x" * 5000])
def test_a_subject_that_cannot_be_the_name_of_a_document_is_a_mismatch(
    repository: Repository, model: Path, capsys: pytest.CaptureFixture[str], name: object
) -> None:
    (path,) = attest(model, root=repository.folder)
    statement = files.read_json(path)
    statement["subject"].append({"name": name, "digest": {"sha256": "1" * 64}})
    files.write_json(path, statement)
    assert verify(capsys, repository, model) == [str(path)]


@pytest.mark.parametrize(("kind", "reason"), [("file", "is not a folder"), ("empty", "has no doc"), ("", "not exist")])
def test_a_folder_without_documents_is_one_message_and_no_statement(
    repository: Repository, model: Path, tmp_path: Path, kind: str, reason: str
) -> None:
    folder = tmp_path / "documents"
    if kind:
        folder.write_text("") if kind == "file" else folder.mkdir()
    with pytest.raises(UserError, match=reason):
        attest(model, root=repository.folder, documents=folder)
    assert not model.with_name("model.pth.intoto.json").exists()


@pytest.mark.parametrize("name", ["model.onnx", "model.xml"])
def test_an_exported_file_is_attested_with_its_source_and_what_was_measured(
    repository: Repository, keys: tuple[Path, Path], tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = export(repository, name)
    repository.commit("Export")
    source = repository.folder / "output" / "checkpoint_best_total.pth"
    digest = files.sha256_file(source)
    source.unlink()  # nothing is exported again
    statement, envelope, signature = attest(path, key=keys[0], root=repository.folder)
    stored = files.read_json(statement)
    parts = sorted(file.name for file in path.parent.iterdir() if file not in (statement, envelope, signature))
    assert sorted(subject["name"] for subject in stored["subject"]) == parts
    assert [files.sha256_file(path.parent / subject["name"]) for subject in stored["subject"]] == [
        subject["digest"]["sha256"] for subject in stored["subject"]
    ]
    assert materials_of(stored)["checkpoint"] == {"sha256": digest}
    assert stored["predicate"]["buildDefinition"]["internalParameters"]["export"]["parity"] == {"boxes": 1e-6}
    assert verify(capsys, repository, path, "--key", keys[1]) == []
    stored["predicate"]["buildDefinition"]["internalParameters"]["export"]["parity"]["boxes"] = 0
    files.write_json(statement, stored)
    changed = f"predicate.buildDefinition.internalParameters.export.parity.boxes of {statement}"
    assert verify(capsys, repository, path, "--key", keys[1]) == [changed, f"statement in {envelope}"]


def test_a_signature_covers_the_constants_of_an_openvino_model(
    repository: Repository, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = export(repository, "model.xml")
    repository.commit("Export")
    (repository.folder / "output" / "checkpoint_best_total.pth").unlink()  # nothing is exported again
    attest(path, key=keys[0], root=repository.folder)
    weights = path.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes() + b"0")  # no constant has this byte
    mismatches = verify(capsys, repository, path, "--key", keys[1])
    assert f"signature of {path}" in mismatches
    weights.unlink()
    assert str(weights) in verify(capsys, repository, path, "--key", keys[1])


def test_an_exported_file_that_is_not_as_it_was_exported_is_not_attested(repository: Repository) -> None:
    (path,) = export(repository, "model.onnx")
    flip_bit(path)
    with pytest.raises(UserError, match="differs from what was exported"):
        attest(path)
