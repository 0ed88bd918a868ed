"""The signature of the statement covers its exact bytes. The comment names the signer or says why there is none.

Neither sigstore nor a platform is here. The signer is a key of the test, in the envelope that sigstore's library makes.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
import sigstore.dsse
import sigstore.models
import sigstore.sign
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from ci import attest
from ci.steps import ATTESTATION, BUNDLE, COMMENT, MODEL, STATE, STATEMENT, TRAILER
from rfdetr_core.base import files
from rfdetr_core.verification import dsse

LOCK = f"""
schema: '2.0'
stages:
  strip:
    cmd: python -m stages.strip
    outs: [{{path: {MODEL}, md5: {"a" * 32}, size: 1}}]
"""
RECORD = {"lineage": {}, "file": {"md5": "a" * 32, "sha256": "0" * 64, "size": 1}}
KEY = ec.generate_private_key(ec.SECP256R1())
WORKFLOW = "https://github.example/owner/name/.github/workflows/retrain.yml@refs/heads/main"
COMMENTED = "## Retrained\n\nGate passed: so.\n"
STATEMENT_OF_TEST = {
    "_type": "https://in-toto.io/Statement/v1",
    "subject": [
        {"name": MODEL.name, "digest": {"sha256": "0" * 64}},
        {"name": "attachments/documents/card.md", "digest": {"sha256": "1" * 64}},
    ],
    "predicateType": "https://slsa.dev/provenance/v1",
    "predicate": {"buildDefinition": {}, "note": "not the order of a dictionary that was read and written again"},
}


def certificate() -> x509.Certificate:
    name, now = x509.Name([]), datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(WORKFLOW)])
    builder = x509.CertificateBuilder(name, name, KEY.public_key(), 1, now, now + datetime.timedelta(minutes=10))
    return builder.add_extension(names, critical=False).sign(KEY, hashes.SHA256())


class Context:
    """Signs as sigstore's library does, with the key of the test."""

    @classmethod
    def from_trust_config(cls, config: Any) -> Context:
        return cls()

    @contextlib.contextmanager
    def signer(self, token: Any) -> Iterator[Context]:
        assert token.identity
        yield self

    def sign_dsse(self, statement: sigstore.dsse.Statement) -> Any:
        envelope = sigstore.dsse._sign(KEY, statement)
        return SimpleNamespace(to_json=envelope.to_json, signing_certificate=certificate())


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with a delivered result, on a machine without an identity."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "GITHUB_ACTIONS",
        "GITLAB_CI",
        "SIGSTORE_ID_TOKEN",
        "BUILDKITE",
        "CIRCLECI",
        "RETRAIN_RAW",
        "RETRAIN_PUBLIC_LOG",
    ):
        monkeypatch.delenv(name, raising=False)
    for command in (
        ["init", "-q"],
        ["config", "user.name", "ci"],
        ["config", "user.email", "ci@localhost"],
        ["commit", "-q", "--allow-empty", "-m", "source"],
    ):
        subprocess.run(["git", *command], check=True)
    source = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    Path("dvc.lock").write_text(LOCK)
    MODEL.parent.mkdir()
    MODEL.with_name("record.json").write_text(json.dumps(RECORD))
    subprocess.run(["git", "add", "."], check=True)
    subprocess.run(["git", "commit", "-q", "-m", f"Retrain\n\n{TRAILER}: {source}"], check=True)
    STATE.mkdir()
    subprocess.run(["git", "bundle", "create", "-q", str(BUNDLE), "HEAD", f"^{source}"], check=True)
    STATEMENT.write_text(json.dumps(STATEMENT_OF_TEST, indent=3))
    COMMENT.write_text(COMMENTED)
    monkeypatch.setattr(sigstore.sign, "SigningContext", Context)
    monkeypatch.setattr(sigstore.models.ClientTrustConfig, "production", lambda: None)
    return tmp_path


def on_gitlab(monkeypatch: pytest.MonkeyPatch, issued: float) -> str:
    claims = {"iss": "https://gitlab.example", "sub": "project_path:owner/name", "aud": "sigstore"}
    token = jwt.encode(claims | {"iat": issued, "exp": issued + 300}, "a key that nobody has to know here")
    monkeypatch.setenv("GITLAB_CI", "true")
    monkeypatch.setenv("RETRAIN_VISIBILITY", "public")
    monkeypatch.setenv("SIGSTORE_ID_TOKEN", token)
    return token


def test_an_identity_signs_the_bytes_of_the_statement_and_the_comment_names_it(
    state: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token = on_gitlab(monkeypatch, time.time())
    attest.main()
    attest.main()  # again: the comment still has one such line
    assert dsse.payload_of(ATTESTATION) == files.read_bytes(STATEMENT)
    assert dsse.is_signed_by(ATTESTATION, KEY.public_key())
    assert not dsse.is_signed_by(ATTESTATION, ec.generate_private_key(ec.SECP256R1()).public_key())
    comment = COMMENT.read_text()
    assert comment.startswith(COMMENTED)
    assert comment.count(attest.LINE) == 1
    assert f"`{WORKFLOW}`" in comment
    assert token not in comment


def rewritten(**changes: Any) -> None:
    STATEMENT.write_text(json.dumps(STATEMENT_OF_TEST | changes))


@pytest.mark.parametrize("how", ["another model", "another lock", "another history", "no statement", "not of the push"])
def test_a_statement_that_is_not_about_the_model_of_the_pushed_commit_is_not_signed(
    state: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    on_gitlab(monkeypatch, time.time())
    here = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    commit = {"name": "repository", "digest": {"gitCommit": here}}
    rewritten(predicate={"buildDefinition": {"resolvedDependencies": [commit]}})
    attest.main()
    assert ATTESTATION.exists(), "this statement is about the result"
    if how == "another model":
        rewritten(subject=[{"name": MODEL.name, "digest": {"sha256": "f" * 64}}])
    elif how == "another history":
        commit["digest"]["gitCommit"] = "f" * 40
        rewritten(predicate={"buildDefinition": {"resolvedDependencies": [commit]}})
    elif how == "no statement":
        STATEMENT.write_text("[]")
    elif how == "another lock":
        Path("dvc.lock").write_text(LOCK.replace("a" * 32, "f" * 32))
        subprocess.run(["git", "commit", "-q", "-a", "--amend", "--no-edit"], check=True)
        subprocess.run(["git", "bundle", "create", "-q", str(BUNDLE), "HEAD", "^HEAD~"], check=True)
    else:
        subprocess.run(["git", "commit", "-q", "--allow-empty", "-m", "another push"], check=True)
    attest.main()
    line = next(line for line in COMMENT.read_text().splitlines() if line.startswith(attest.LINE))
    assert line.startswith(f"{attest.LINE}none. ")
    assert not ATTESTATION.exists()


@pytest.mark.parametrize("visibility", ["private", "internal", "", None])
@pytest.mark.parametrize("allowed", [False, True])
def test_a_private_project_is_signed_in_the_public_log_only_if_a_variable_allows_it(
    state: Path, monkeypatch: pytest.MonkeyPatch, visibility: str | None, allowed: bool
) -> None:
    on_gitlab(monkeypatch, time.time())
    if visibility is None:
        monkeypatch.delenv("RETRAIN_VISIBILITY")
    else:
        monkeypatch.setenv("RETRAIN_VISIBILITY", visibility)
    if allowed:
        monkeypatch.setenv("RETRAIN_PUBLIC_LOG", "true")
    attest.main()
    assert ATTESTATION.exists() == allowed
    assert ("set the variable RETRAIN_PUBLIC_LOG" in COMMENT.read_text()) == (not allowed)


def test_without_an_identity_the_comment_says_so_and_an_earlier_signature_is_removed(state: Path) -> None:
    ATTESTATION.write_text("of another statement")
    attest.main()
    assert f"{attest.LINE}none, because this machine has no identity" in COMMENT.read_text()
    assert not ATTESTATION.exists()


@pytest.mark.parametrize("how", ["no permission", "expired", "away"])
def test_a_failure_of_the_platform_or_of_sigstore_does_not_stop_the_delivery(
    state: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    expected = {
        "no permission": "insufficient OIDC token permissions",
        "expired": "Identity token",
        "away": "not reached",
    }[how]
    if how == "no permission":
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
        monkeypatch.delenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", raising=False)
    else:
        on_gitlab(monkeypatch, time.time() - (3600 if how == "expired" else 0))
    if how == "away":

        def away(*_: Any) -> None:
            raise ConnectionError("not reached")

        monkeypatch.setattr(Context, "sign_dsse", away)
    attest.main()
    line = next(line for line in COMMENT.read_text().splitlines() if line.startswith(attest.LINE))
    assert line.startswith(f"{attest.LINE}none. ")
    assert expected in line
    assert not ATTESTATION.exists()
