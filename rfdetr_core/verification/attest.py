"""The attestation of a model file: a statement of what made it, and two signatures. Offline, with a key of one's own.

A consistent rewrite of weights, lineage and history cannot be told from the truth by comparing them with each other:
only a signature over the file, made before, finds it. Both signatures are verified by tools of others, too: the
statement's (DSSE) by openssl, the model's by model_signing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError, listed
from rfdetr_core.verification import dsse
from rfdetr_core.verification.compare import compare, key_of
from rfdetr_core.verification.heads import uncommitted
from rfdetr_core.verification.report import Report
from rfdetr_core.verification.statement import HistoryFacts, document_subjects, parts_of, statement_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

SUFFIX = ".intoto.json"
_ENVELOPE = ".dsse"
_OLDER = "a signature of an older form. Sign again: python -m rfdetr_core attest FILE --sign-key KEY.pem"


def attest(
    file: Path,
    output: Path | None = None,
    key: Path | None = None,
    *,
    root: Path = Path(),
    own_word: bool = False,
    documents: Path | None = None,
) -> list[Path]:
    """Write the statement beside the file, and with a private key the signatures of both; the paths.

    root: the project whose history must vouch for the file. own_word: a file for which no commit vouches is attested,
    too, and the statement says so. documents: a folder whose files, but for hidden ones, the model and its
    statement, become subjects of the statement as well.

    Raises:
        UserError: no model file, without lineage or with that of another; no commit vouches for it; a folder without
            documents; a key that is none, or the signing extra is not installed.
    """
    statement_of(file)  # first: what the file itself contradicts
    history_facts = _history_facts(file, root, own_word)
    path = output or file.with_name(f"{file.name}{SUFFIX}")
    envelope, signature = path.with_name(f"{path.name}{_ENVELOPE}"), path.with_name(f"{file.name}.sig")
    own = [path, envelope, signature, *parts_of(file)]
    more = document_subjects(documents, path.parent, without=own) if documents else []
    if key is None:
        if envelope.exists():
            raise UserError(f"{envelope} signs the present statement. Sign the new one (--sign-key), or remove it.")
        files.write_json(path, _with(statement_of(file, history_facts), more))
        return [path]
    with _explained(f"{key} cannot sign"):
        private = dsse.read_private_key(key)
    statement = files.json_text(
        _with(statement_of(file, history_facts, dsse.key_id(private.public_key())), more)
    ).encode()
    with tempfile.TemporaryDirectory() as temporary, _explained(f"{key} cannot sign"):
        from model_signing import signing

        signed = Path(temporary) / "signature"
        config = signing.Config()  # type: ignore[no-untyped-call]
        with _staged(file, [part.name for part in parts_of(file)]) as staged:
            config.use_elliptic_key_signer(private_key=key).sign(staged, signed)
        bundle = files.read_bytes(signed)
    files.write_bytes(path, statement)
    files.write_json(envelope, dsse.seal(statement, private))
    files.write_bytes(signature, bundle)
    return [path, envelope, signature]


def _with(statement: dict[str, Any], subjects: list[dict[str, Any]]) -> dict[str, Any]:
    return statement | {"subject": [*statement["subject"], *subjects]}


def _history_facts(file: Path, root: Path, own_word: bool) -> HistoryFacts | None:
    """What the history knows of a file; None, where the file's own word is asked for, if there is no history.

    Raises:
        UserError: no commit vouches for the file, or one contradicts it, or the journal is not committed.
    """
    try:
        history_facts = HistoryFacts.of(file, root)
    except UserError:
        if own_word:
            return None
        raise
    traced = history_facts.traced
    if traced.contradicted or not (traced.confirmed or own_word):
        reason = traced.notes[0] if traced.notes else "no commit has it"
        remedy = "" if traced.contradicted else (
            " If its result is not committed yet, commit it; if it is another project's, name that: --repo DIR. "
            "To attest what the file says of itself all the same: --own-word"
        )  # fmt: skip
        raise UserError(f"{file} is not attested: {reason}.{remedy}")
    if traced.confirmed and (fresh := [*uncommitted(history_facts.heads, history_facts.history)]):
        raise UserError(f"{file} is not attested: not committed: {listed(fresh)}. Commit them: git add journal records")
    return history_facts


def check_attestation(report: Report, file: Path, key: Path | None, root: Path = Path()) -> None:
    """The statement beside a file against its lineage and the history of the project at `root`, and the signatures:
    that they are there, and with a public key that they are of that key."""
    path = file.with_name(f"{file.name}{SUFFIX}")
    public = None if key is None else _public_key(key)
    if not path.is_file():
        if key is not None:
            report.wrong(str(path), "a statement", None, "--key")
        return
    gone = next((part for part in parts_of(file) if not part.is_file()), None)
    if gone is not None:
        if key is not None:
            report.wrong(str(gone), "the file that was signed", None, "--key")
        report.skip(str(path), f"gone: {'the model' if gone == file else gone} is not here")
        return
    told: Any = None
    try:
        told, history_facts = files.read_json(path), HistoryFacts.of(file, root)
        compare(report, told, statement_of(file, history_facts), history_facts, path)
        _check_documents(report, told["subject"][len(parts_of(file)) :], path)
    except (UserError, TypeError, KeyError, AttributeError, ValueError, IndexError, OSError) as error:
        report.wrong(str(path), "a statement of the model", str(error), "its name")
    _check_signatures(report, file, path, told, key, public)


def _check_documents(report: Report, subjects: list[dict[str, Any]], path: Path) -> None:
    """The documents that a statement names beside the model, where they are at hand."""
    for subject in subjects:
        document, expected = path.parent / subject["name"], subject["digest"]["sha256"]
        name = f"document {os.path.normpath(document)}"
        if document.is_file():
            report.equal(name, expected, files.sha256_file(document), str(path))
        else:
            report.skip(name, "gone: the document is not at hand")


def check_envelope(report: Report, attestation: Path, key: Path) -> None:
    """Check the signature of a statement alone, by the envelope beside it or that it is in. No model is needed."""
    public = _public_key(key)
    envelope = (
        attestation if attestation.suffix == _ENVELOPE else attestation.with_name(f"{attestation.name}{_ENVELOPE}")
    )
    if not envelope.is_file():
        report.wrong(str(envelope), "a signature", None, "--key")
        return
    _check_statement(report, attestation, envelope, key, public)


def _check_statement(
    report: Report, path: Path, envelope: Path, key: Path | None, public: EllipticCurvePublicKey | None
) -> None:
    """Whether an envelope is around this statement and, with a key, signed by it."""
    with _wrong(report, f"statement in {envelope}", f"that of {path}", str(envelope)):
        if path != envelope and dsse.payload_of(envelope) != files.read_bytes(path):
            raise UserError("another one")
    if public is None:
        return
    with _wrong(report, f"signature of {path}", f"one of {key} over the statement", str(envelope)):
        if not dsse.is_signed_by(envelope, public):
            raise UserError("it does not verify")


def _check_signatures(
    report: Report, file: Path, path: Path, told: Any, key: Path | None, public: EllipticCurvePublicKey | None
) -> None:
    envelope, signature, older = (
        path.with_name(name) for name in (f"{path.name}{_ENVELOPE}", f"{file.name}.sig", f"{path.name}.sig")
    )
    signed_with = key_of(told)
    source = str(path) if key is None else "--key"
    found = _OLDER if older.is_file() else None
    for one in (envelope, signature):
        if one.is_file():
            if key is None:
                report.skip(str(one), "no key given: --key PUBLIC.pem")
        elif key is not None or signed_with is not None:
            report.wrong(str(one), f"a signature of key {signed_with}" if signed_with else "a signature", found, source)
    if found and key is None and not envelope.is_file():
        report.skip(str(older), found)
    if envelope.is_file():
        _check_statement(report, path, envelope, key, public)
    if key is None:
        return
    with _wrong(report, f"signature of {file}", f"one of {key} over the model", str(signature)):
        if signature.is_file():
            subjects = told["subject"][: len(parts_of(file))] if told else []
            names = [Path(one["name"]).name for one in subjects]
            with _staged(file, names) as staged, _explained("it does not verify"):
                from model_signing import verifying

                config = verifying.Config()  # type: ignore[no-untyped-call]
                config.use_elliptic_key_verifier(public_key=key).verify(staged, signature)


def _public_key(path: Path) -> EllipticCurvePublicKey:
    """Read a public key.

    Raises:
        UserError: the file has none, or the signing extra is not installed.
    """
    with _explained(f"{path} is no public key in PEM form"):
        return dsse.read_public_key(path)


@contextlib.contextmanager
def _wrong(report: Report, what: str, expected: str, source: str) -> Iterator[None]:
    """A comparison: what raises an error does not hold."""
    report.checked += 1
    try:
        yield
    except (UserError, KeyError, TypeError, ValueError, OSError) as error:
        report.wrong(what, expected, str(error), source)


@contextlib.contextmanager
def _staged(file: Path, names: Sequence[str]) -> Iterator[Path]:
    """The model alone, under these names of its parts: a file; or a folder, where it has several parts.

    model-signing refuses links, and of a folder it signs all files.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / file.stem
        folder.mkdir()
        parts = parts_of(file)
        names = names if len({*names}) == len(parts) else [part.name for part in parts]
        for source, name in zip(parts, names, strict=True):
            try:
                os.link(source.resolve(), folder / name)
            except OSError:
                shutil.copyfile(source.resolve(), folder / name)
        yield folder if len(parts) > 1 else folder / names[0]


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Errors of the signing library as one message."""
    try:
        yield
    except ImportError:
        raise UserError("signing needs an extra: pip install -e '.[signing]'") from None
    except Exception as error:  # the library raises what its parts do: ValueError, InvalidSignature, OSError
        raise UserError(f"{what}: {type(error).__name__} {error}".strip()) from error
