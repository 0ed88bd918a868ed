"""Sign the statement of the result by sigstore, with the identity that the platform gives to this job; no key is kept.

Without an identity, or where sigstore cannot be reached, the statement stays unsigned, and the comment says so. The log
of sigstore is public: the statement of a project that is not public is signed only if RETRAIN_PUBLIC_LOG is true.
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
    """A token of the job's identity, in GitHub Actions (`id-token: write`) and GitLab CI (SIGSTORE_ID_TOKEN)."""
    from sigstore.oidc import detect_credential

    return detect_credential()


def sign(statement: bytes, token: str) -> tuple[str, str]:
    """A bundle of sigstore with the statement, byte for byte, in a DSSE envelope; and whom its certificate names."""
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
    """A statement, which the job that trained left, if it is about the model of the commit of the result.

    Raises:
        UserError: it is about another file or another history.
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
        raise UserError(f"{STATEMENT} or {RECORD} of the result cannot be read: {error!r}") from error
    if not same:
        raise UserError(f"{STATEMENT} is not about the model of the result {result[:10]}")
    if not all(is_before(commit, result) for commit in commits):
        raise UserError(f"{STATEMENT} names a commit that the result {result[:10]} does not come from")
    return statement


def signature() -> str:
    """Sign the statement; what became of it, in Markdown.

    Raises:
        UserError: it is not about the result, or this job has an identity and sigstore did not sign with it.
    """
    result, _ = fetch_result()
    statement = check_statement(STATEMENT.read_bytes(), result)
    try:
        token = identity()
        if token is None:
            return "none, since this machine has no identity that sigstore knows"
        if os.environ.get("RETRAIN_VISIBILITY") != "public" and os.environ.get("RETRAIN_PUBLIC_LOG") != "true":
            return (
                "none, since this project is not public and sigstore's log is. To sign all the same, set the variable "
                "RETRAIN_PUBLIC_LOG to true"
            )
        bundle, signer = sign(statement, token)
    except Exception as error:  # of the platform, the network, sigstore: each has its own
        raise UserError(redacted(f"{type(error).__name__}: {error}")) from error
    ATTESTATION.write_text(bundle)
    address = attachment(ATTESTATION.name, result)
    return (
        f"{f'[{ATTESTATION.name}]({address})' if address else f'`{ATTESTATION}`'}, by {code(signer)}, through sigstore"
    )


def main() -> None:
    """Leave the signature, and a line in the comment that says whose it is or why there is none."""
    if not STATEMENT.exists():
        if not nothing_to_do():
            say("there is no statement to sign")
        return
    ATTESTATION.unlink(missing_ok=True)
    try:
        line = f"{LINE}{signature()}."
    except UserError as error:  # a result is delivered all the same
        line = f"{LINE}none. {code(str(error))}"
    lines = [
        comment_line
        for comment_line in COMMENT.read_text().rstrip("\n").split("\n")
        if not comment_line.startswith(LINE)
    ]
    COMMENT.write_text("\n".join([*lines, *([""] if lines[-1] else []), line, ""]))
    say(line)


if __name__ == "__main__":
    step(main)
