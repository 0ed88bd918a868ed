"""Sign the statement of the result with sigstore and the identity that the platform gives to this job.

Signing is keyless: sigstore needs no stored private key. If there is no identity, or sigstore cannot be reached, the
statement stays unsigned, and the comment says so. Sigstore's log is public. So the statement of a private project is
signed only if RETRAIN_PUBLIC_LOG is true.
"""

from __future__ import annotations

import json
import os

from ci.push import fetch_result, is_before
from ci.secrets import redacted
from ci.steps import ATTESTATION, COMMENT, MODEL, STATEMENT, attachment, call, nothing_to_do, step
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.markdown import code
from rfdetr_core.base.printing import say
from rfdetr_core.lineage.lock import LOCK, Lock
from rfdetr_core.lineage.records import RECORD

LINE = "Signature of the statement: "


def identity() -> str | None:
    """The token that proves the identity of this job, from GitHub (`id-token: write`) or GitLab (SIGSTORE_ID_TOKEN).

    None on other machines.
    """
    from sigstore.oidc import detect_credential

    return detect_credential()


def sign(statement: bytes, token: str) -> tuple[str, str]:
    """Sign the bytes of a statement. Returns a bundle (a DSSE envelope) and the identity in its certificate."""
    from cryptography.x509 import SubjectAlternativeName
    from sigstore.dsse import Statement
    from sigstore.models import ClientTrustConfig
    from sigstore.oidc import IdentityToken
    from sigstore.sign import SigningContext

    context = SigningContext.from_trust_config(ClientTrustConfig.production())
    with context.signer(IdentityToken(token)) as signer:
        bundle = signer.sign_dsse(Statement(statement))
    names = bundle.signing_certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
    return bundle.to_json(), ", ".join(str(name.value) for name in names)


def check_statement(statement: bytes, result: str) -> bytes:
    """Check that a statement is about the model in the result's commit. Returns the statement.

    The training job wrote the statement, and this job does not trust that job.

    Args:
        statement: the bytes of the file STATEMENT.
        result: the commit of the result.

    Raises:
        UserError: the statement is about another file, or about a commit that is not in the result's history.
    """
    lock, record = (call("git", "show", f"{result}:./{name}").stdout for name in (LOCK, RECORD.as_posix()))
    try:
        content, file = json.loads(statement), json.loads(record)["file"]
        subjects = {subject["name"]: subject["digest"]["sha256"] for subject in content["subject"]}
        dependencies = content["predicate"]["buildDefinition"].get("resolvedDependencies", [])
        commits = [
            str(dependency["digest"]["gitCommit"]) for dependency in dependencies if "gitCommit" in dependency["digest"]
        ]
        same = subjects[MODEL.name] == file["sha256"] and Lock.parse(lock.encode()).out(MODEL.as_posix()) == file["md5"]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{STATEMENT}, or {RECORD} of the result, cannot be read: {error!r}") from error
    if not same:
        raise UserError(f"{STATEMENT} is not about the model of the result {result[:10]}")
    if not all(is_before(commit, result) for commit in commits):
        raise UserError(f"{STATEMENT} names a commit that is not in the history of the result {result[:10]}")
    return statement


def signature() -> str:
    """Sign the statement. Returns Markdown: the place of the signature, or the reason why there is no signature.

    Raises:
        UserError: the statement is not about the result, or this job has an identity and sigstore did not sign with it.
    """
    result, _ = fetch_result()
    statement = check_statement(STATEMENT.read_bytes(), result)
    try:
        token = identity()
        if token is None:
            return "none, because this machine has no identity that sigstore accepts"
        if os.environ.get("RETRAIN_VISIBILITY") != "public" and os.environ.get("RETRAIN_PUBLIC_LOG") != "true":
            return (
                "none, because sigstore's log is public and this project is not. To sign nevertheless, set the "
                "variable RETRAIN_PUBLIC_LOG to true"
            )
        bundle, signer = sign(statement, token)
    except Exception as error:  # the platform, the network and sigstore each raise their own errors
        raise UserError(redacted(f"{type(error).__name__}: {error}")) from error
    ATTESTATION.write_text(bundle)
    address = attachment(ATTESTATION.name, result)
    link = f"[{ATTESTATION.name}]({address})" if address else f"`{ATTESTATION}`"
    return f"{link}, by {code(signer)}, through sigstore"


def main() -> None:
    """Write the signature, and a line in the comment: the signer, or the reason why there is no signature."""
    if not STATEMENT.exists():
        if not nothing_to_do():
            say("there is no statement to sign")
        return
    ATTESTATION.unlink(missing_ok=True)
    try:
        line = f"{LINE}{signature()}."
    except UserError as error:  # the result is delivered without a signature
        line = f"{LINE}none. {code(str(error))}"
    earlier = COMMENT.read_text().rstrip("\n").split("\n")
    lines = [text for text in earlier if not text.startswith(LINE)]
    COMMENT.write_text("\n".join([*lines, *([""] if lines[-1] else []), line, ""]))
    say(line)


if __name__ == "__main__":
    step(main)
