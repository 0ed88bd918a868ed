"""Sign the statement of the result by sigstore, with the identity that the platform gives to this job; no key is kept.

Without an identity, or where sigstore cannot be reached, the statement stays unsigned, and the comment says so. The log
of sigstore is public: the statement of a project that is not public is signed only if RETRAIN_PUBLIC_LOG is true.
"""

from __future__ import annotations

import os

from ci.push import delivered
from ci.secrets import redacted
from ci.steps import ATTESTATION, COMMENT, STATEMENT, attachment, nothing_to_do, step
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.markdown import code
from rfdetr_core.base.printing import say

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


def signature() -> str:
    """Sign the statement; what became of it, in Markdown.

    Raises:
        UserError: this job has an identity, and sigstore did not sign with it.
    """
    try:
        token = identity()
        if token is None:
            return "none, since this machine has no identity that sigstore knows"
        if os.environ.get("RETRAIN_VISIBILITY") != "public" and os.environ.get("RETRAIN_PUBLIC_LOG") != "true":
            return (
                "none, since this project is not public and sigstore's log is. To sign all the same, set the variable "
                "RETRAIN_PUBLIC_LOG to true"
            )
        bundle, who = sign(STATEMENT.read_bytes(), token)
    except Exception as error:  # of the platform, the network, sigstore: each has its own
        raise UserError(redacted(f"{type(error).__name__}: {error}")) from error
    ATTESTATION.write_text(bundle)
    address = attachment(ATTESTATION.name, delivered()[1])
    return f"{f'[{ATTESTATION.name}]({address})' if address else f'`{ATTESTATION}`'}, by {code(who)}, through sigstore"


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
    lines = [one for one in COMMENT.read_text().rstrip("\n").split("\n") if not one.startswith(LINE)]
    COMMENT.write_text("\n".join([*lines, *([""] if lines[-1] else []), line, ""]))
    say(line)


if __name__ == "__main__":
    step(main)
