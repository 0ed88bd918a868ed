"""DSSE envelopes: a statement and its signature in one file, made with an elliptic-curve key.

The format is that of https://github.com/secure-systems-lab/dsse, version 1.0. The signature
covers `signed_bytes`, not only the statement. Any tool can build and verify these bytes.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import (
        ECDSA,
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )

PAYLOAD_TYPE = "application/vnd.in-toto+json"
_HASHES = {256: "SHA256", 384: "SHA384", 521: "SHA512"}  # by key size in bits, as in model-signing


def signed_bytes(payload: bytes) -> bytes:
    """The bytes that a signature covers: the type and the payload, each preceded by its length in bytes."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def read_private_key(path: Path) -> EllipticCurvePrivateKey:
    """Read a private key in PEM form, without a password.

    Raises:
        ImportError: The package cryptography is not installed.
        TypeError, ValueError, OSError: The file is not such a key.
    """
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(files.read_bytes(path), None)
    if not isinstance(key, EllipticCurvePrivateKey) or key.key_size not in _HASHES:
        raise ValueError("the key is not on the curve P-256, P-384 or P-521")
    return key


def read_public_key(path: Path) -> EllipticCurvePublicKey:
    """Read a public key in PEM form. Raises what `read_private_key` does."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    key = load_pem_public_key(files.read_bytes(path))
    if not isinstance(key, EllipticCurvePublicKey) or key.key_size not in _HASHES:
        raise ValueError("the key is not on the curve P-256, P-384 or P-521")
    return key


def key_id(key: EllipticCurvePublicKey) -> str:
    """The SHA-256 of the public key in PEM form as openssl writes it. model-signing uses the same key ids."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return files.sha256_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def seal(payload: bytes, key: EllipticCurvePrivateKey) -> dict[str, Any]:
    """Sign a payload and return its envelope."""
    signature = key.sign(signed_bytes(payload), _algorithm(key.key_size))
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"keyid": key_id(key.public_key()), "sig": base64.b64encode(signature).decode()}],
    }


def payload_of(path: Path) -> bytes:
    """The payload of the envelope in a file. The signature is not verified.

    Raises:
        UserError: The file is not an envelope of an in-toto statement.
    """
    return _read(path)[0]


def is_signed_by(path: Path, key: EllipticCurvePublicKey) -> bool:
    """Whether this key made a signature of the envelope in a file. Raises what `payload_of` does."""
    from cryptography.exceptions import InvalidSignature

    payload, signatures = _read(path)
    for signature in signatures:
        try:
            key.verify(signature, signed_bytes(payload), _algorithm(key.key_size))
        except InvalidSignature:
            continue
        return True
    return False


def _algorithm(key_size: int) -> ECDSA:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

    return ECDSA(getattr(hashes, _HASHES[key_size])())


def _read(path: Path) -> tuple[bytes, list[bytes]]:
    try:
        envelope = files.read_json(path)
        if envelope["payloadType"] != PAYLOAD_TYPE:
            raise ValueError(f"its payload type is {envelope['payloadType']!r}, not {PAYLOAD_TYPE}")
        signatures = [base64.b64decode(signature["sig"], validate=True) for signature in envelope["signatures"]]
        return base64.b64decode(envelope["payload"], validate=True), signatures
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a DSSE envelope of a statement: {type(error).__name__} {error}") from None
