"""The files of `attest`, verified by other tools: openssl, model_signing, in-toto and securesystemslib."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from rfdetr_core.base.code import ROOT
from rfdetr_core.verification.attest import attest
from tests.audit.exported import export
from tests.audit.repository import Repository


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """A private key and its public key, made with the commands of docs/audit.md."""
    (command,) = (line[6:] for line in page() if line.startswith("    $ openssl ecparam"))
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path / "key.pem", tmp_path / "public.pem"


def page() -> list[str]:
    return (ROOT / "docs" / "audit.md").read_text().splitlines()


def command_on_page(*starts: str) -> str:
    """The commands of docs/audit.md with these beginnings; the model is called second.pth there."""
    commands = [line[6:] for line in page() if line.startswith(tuple(f"    $ {start}" for start in starts))]
    assert len(commands) == len(starts)
    return "\n".join(commands)


def run(command: str, folder: Path) -> tuple[int, str]:
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_openssl_verifies_the_statement_by_the_commands_of_the_page(
    repository: Repository, model: Path, keys: tuple[Path, Path]
) -> None:
    model = model.rename(model.with_name("second.pth"))
    statement = attest(model, key=keys[0], root=repository.folder)[0]
    commands = command_on_page("python -c", "printf", "openssl dgst")
    assert run(commands, model.parent) == (0, "Verified OK\n")
    statement.write_text(statement.read_text().replace("in-toto.io", "in-toto.example", 1))
    assert run(commands, model.parent)[0] != 0


def test_model_signing_verifies_the_model_by_the_command_of_the_page(
    repository: Repository, model: Path, keys: tuple[Path, Path]
) -> None:
    model = model.rename(model.with_name("second.pth"))
    attest(model, key=keys[0], root=repository.folder)
    command = command_on_page("model_signing verify key second.pth")
    assert run(command, model.parent) == (0, "Verification succeeded\n")
    model.write_bytes(model.read_bytes() + b"0")
    status, output = run(command, model.parent)
    assert status != 0
    assert "Hash mismatch" in output


def test_model_signing_verifies_both_files_of_an_openvino_model_under_their_names(
    repository: Repository, keys: tuple[Path, Path]
) -> None:
    (path,) = export(repository, "model.xml")
    repository.commit("Export")
    attest(path, key=keys[0], root=repository.folder)
    (command,) = re.findall(r"model_signing verify key output/export\s[^`]+", "\n".join(page()))
    command = command.replace("\n", " ").replace("public.pem", str(keys[1]))
    assert run(command, repository.folder) == (0, "Verification succeeded\n")
    weights = path.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes() + b"0")
    status, output = run(command, repository.folder)
    assert status != 0
    assert "model.bin" in output


def test_the_statement_has_the_types_of_in_toto_and_slsa_and_no_other_field(
    repository: Repository, model: Path, keys: tuple[Path, Path]
) -> None:
    repository.git("remote", "add", "origin", "https://ada:secret@example.org/models.git?token=secret")
    text = attest(model, key=keys[0], root=repository.folder)[0].read_text()
    statement = json_format.Parse(text, statement_pb2.Statement())
    Statement.copy_from_pb(statement).validate()
    provenance = json_format.ParseDict(json.loads(text)["predicate"], provenance_pb2.Provenance())
    source = provenance.build_definition.resolved_dependencies[0]
    assert source.uri == "git+https://example.org/models.git"
    assert source.digest["gitCommit"] == repository.git("rev-parse", "HEAD")
    assert "secret" not in text
    run_details = provenance.run_details
    (record,) = (repository.folder / "records").iterdir()
    assert run_details.metadata.invocation_id == f"records/{record.name}"
    assert run_details.metadata.started_on.ToJsonString() == "2026-01-02T01:04:05Z"
    assert run_details.metadata.finished_on.ToJsonString() == "2026-01-02T01:05:05Z"
    (key,) = run_details.builder.builder_dependencies
    _, digest = run("sha256sum public.pem", keys[1].parent)
    assert key.digest["sha256"] == digest.split()[0]


def test_securesystemslib_verifies_the_envelope(repository: Repository, model: Path, keys: tuple[Path, Path]) -> None:
    statement, path, _ = attest(model, key=keys[0], root=repository.folder)
    envelope = Envelope.from_dict(json.loads(path.read_text()))
    assert envelope.payload == statement.read_bytes()
    (signature,) = envelope.signatures.values()
    public = SSlibKey(signature.keyid, "ecdsa", "ecdsa-sha2-nistp256", {"public": keys[1].read_text()})
    envelope.verify([public], 1)
    envelope.payload += b" "
    with pytest.raises(VerificationError):
        envelope.verify([public], 1)
