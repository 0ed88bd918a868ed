"""The command `attest`: write, sign and check a statement of how a model file was made; sign the file. Offline.

Weights, lineage and history can be rewritten so that they still agree with each other. Only an earlier signature then
shows the change. The user's key makes two signatures: one over the statement (DSSE), which openssl can also verify, and
one over the model, which model_signing can also verify.
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
_OLDER = "a signature in an older format. Sign again: python -m rfdetr_core attest FILE --sign-key KEY.pem"


def attest(
    file: Path,
    output: Path | None = None,
    key: Path | None = None,
    *,
    root: Path = Path(),
    own_word: bool = False,
    documents: Path | None = None,
) -> list[Path]:
    """Write the statement of a model file, and with a private key both signatures. Returns the paths.

    Args:
        file: The model file.
        output: The path of the statement; default: beside the file.
        key: The private key; None to write the statement without signatures.
        root: The project whose history must confirm the file.
        own_word: Also attest a file that no commit confirms. The statement then says so.
        documents: A folder whose files become subjects of the statement, too. Hidden files, the model and the files of
            the statement are left out.

    Raises:
        UserError: The file is not a model file, has no lineage, or has the lineage of another model. No commit confirms
            it. The folder has no documents. The key cannot be read, or the signing extra is not installed.
    """
    statement_of(file)  # raises if the file contradicts itself
    history_facts = _history_facts(file, root, own_word)
    path = output or file.with_name(f"{file.name}{SUFFIX}")
    envelope, signature = path.with_name(f"{path.name}{_ENVELOPE}"), path.with_name(f"{file.name}.sig")
    own_files = [path, envelope, signature, *parts_of(file)]
    document_entries = document_subjects(documents, path.parent, without=own_files) if documents else []
    if key is None:
        if envelope.exists():
            raise UserError(
                f"{envelope} has the signature of an earlier statement. Sign the new statement, too (--sign-key), "
                f"or delete {envelope}."
            )
        files.write_json(path, _add_subjects(statement_of(file, history_facts), document_entries))
        return [path]
    with _library_errors(f"{key} cannot sign"):
        private = dsse.read_private_key(key)
    statement = files.json_text(
        _add_subjects(statement_of(file, history_facts, dsse.key_id(private.public_key())), document_entries)
    ).encode()
    with tempfile.TemporaryDirectory() as temporary, _library_errors(f"{key} cannot sign"):
        from model_signing import signing

        signed = Path(temporary) / "signature"
        config = signing.Config()  # type: ignore[no-untyped-call]
        with _copied_model(file, [part.name for part in parts_of(file)]) as copy:
            config.use_elliptic_key_signer(private_key=key).sign(copy, signed)
        bundle = files.read_bytes(signed)
    files.write_bytes(path, statement)
    files.write_json(envelope, dsse.seal(statement, private))
    files.write_bytes(signature, bundle)
    return [path, envelope, signature]


def _add_subjects(statement: dict[str, Any], subjects: list[dict[str, Any]]) -> dict[str, Any]:
    return statement | {"subject": [*statement["subject"], *subjects]}


def _history_facts(file: Path, root: Path, own_word: bool) -> HistoryFacts | None:
    """What the history says about a file. With own_word, None if the history cannot be read.

    Raises:
        UserError: No commit confirms the file, a commit contradicts it, or the journal is not committed.
    """
    try:
        history_facts = HistoryFacts.of(file, root)
    except UserError:
        if own_word:
            return None
        raise
    traced = history_facts.traced
    if traced.contradicted or not (traced.confirmed or own_word):
        reason = traced.notes[0] if traced.notes else "no commit contains the file"
        remedy = "" if traced.contradicted else (
            " If the result is not committed yet, commit it. If another project made the file, name that project: "
            "--repo DIR. To attest a file that no commit confirms: --own-word"
        )  # fmt: skip
        raise UserError(f"{file} cannot be attested: {reason}.{remedy}")
    if traced.confirmed and (uncommitted_names := [*uncommitted(history_facts.heads, history_facts.history)]):
        raise UserError(
            f"{file} cannot be attested, because these files are not committed: {listed(uncommitted_names)}. "
            "Commit them: git add journal records"
        )
    return history_facts


def check_attestation(report: Report, file: Path, key: Path | None, root: Path = Path()) -> None:
    """Check the statement beside a model file, and that its signatures exist. With a public key, verify them.

    Args:
        report: Receives the mismatches.
        file: The model file.
        key: The public key; None to skip the signatures.
        root: The project whose history is compared with the statement.
    """
    path = file.with_name(f"{file.name}{SUFFIX}")
    public = None if key is None else _public_key(key)
    if not path.is_file():
        if key is not None:
            report.wrong(str(path), "a statement", None, "--key needs it")
        return
    missing = next((part for part in parts_of(file) if not part.is_file()), None)
    if missing is not None:
        if key is not None:
            report.wrong(str(missing), "the file that was signed", None, "--key needs it")
        report.skip(str(path), f"missing: {'the model' if missing == file else missing} is not in this clone")
        return
    stored: Any = None
    try:
        stored, history_facts = files.read_json(path), HistoryFacts.of(file, root)
        compare(report, stored, statement_of(file, history_facts), history_facts, path)
        _check_documents(report, stored["subject"][len(parts_of(file)) :], path)
    except (UserError, TypeError, KeyError, AttributeError, ValueError, IndexError, OSError) as error:
        report.wrong(str(path), "a statement about the model", f"an error: {error}", "its file name")
    _check_signatures(report, file, path, stored, key, public)


def _check_documents(report: Report, subjects: list[dict[str, Any]], path: Path) -> None:
    """Compare the digests of the documents that a statement names, if they are local."""
    for subject in subjects:
        document, expected = path.parent / subject["name"], subject["digest"]["sha256"]
        name = f"document {os.path.normpath(document)}"
        if document.is_file():
            report.equal(name, expected, files.sha256_file(document), str(path))
        else:
            report.skip(name, "missing: the document is not in this clone")


def check_envelope(report: Report, attestation: Path, key: Path) -> None:
    """Check only the signature of a statement.

    Args:
        report: Receives the mismatches.
        attestation: The statement or its envelope. The envelope of a statement is beside it.
        key: The public key.
    """
    public = _public_key(key)
    envelope = (
        attestation if attestation.suffix == _ENVELOPE else attestation.with_name(f"{attestation.name}{_ENVELOPE}")
    )
    if not envelope.is_file():
        report.wrong(str(envelope), "a signature", None, "--key needs it")
        return
    _check_statement(report, attestation, envelope, key, public)


def _check_statement(
    report: Report, path: Path, envelope: Path, key: Path | None, public: EllipticCurvePublicKey | None
) -> None:
    """Check that an envelope contains this statement and, with a key, that the key signed it."""
    with _mismatch_on_error(report, f"statement in {envelope}", f"the statement {path}", str(envelope)):
        if path != envelope and dsse.payload_of(envelope) != files.read_bytes(path):
            raise UserError("another statement")
    if public is None:
        return
    with _mismatch_on_error(report, f"signature of {path}", f"a valid signature of {key}", str(envelope)):
        if not dsse.is_signed_by(envelope, public):
            raise UserError("an invalid signature")


def _check_signatures(
    report: Report, file: Path, path: Path, stored: Any, key: Path | None, public: EllipticCurvePublicKey | None
) -> None:
    envelope, signature, older = (
        path.with_name(name) for name in (f"{path.name}{_ENVELOPE}", f"{file.name}.sig", f"{path.name}.sig")
    )
    signed_with = key_of(stored)
    source = str(path) if key is None else "--key needs it"
    actual = _OLDER if older.is_file() else None
    for signature_file in (envelope, signature):
        if signature_file.is_file():
            if key is None:
                report.skip(str(signature_file), "no public key was given: --key PUBLIC.pem")
        elif key is not None or signed_with is not None:
            report.wrong(
                str(signature_file),
                f"a signature of key {signed_with}" if signed_with else "a signature",
                actual,
                source,
            )
    if actual and key is None and not envelope.is_file():
        report.skip(str(older), actual)
    if envelope.is_file():
        _check_statement(report, path, envelope, key, public)
    if key is None:
        return
    with _mismatch_on_error(report, f"signature of {file}", f"a valid signature of {key}", str(signature)):
        if signature.is_file():
            subjects = stored["subject"][: len(parts_of(file))] if stored else []
            names = [Path(subject["name"]).name for subject in subjects]
            with _copied_model(file, names) as copy, _library_errors("an invalid signature"):
                from model_signing import verifying

                config = verifying.Config()  # type: ignore[no-untyped-call]
                config.use_elliptic_key_verifier(public_key=key).verify(copy, signature)


def _public_key(path: Path) -> EllipticCurvePublicKey:
    """Read a public key.

    Raises:
        UserError: The file has no public key, or the signing extra is not installed.
    """
    with _library_errors(f"{path} is not a public key in PEM form"):
        return dsse.read_public_key(path)


@contextlib.contextmanager
def _mismatch_on_error(report: Report, subject: str, expected: str, source: str) -> Iterator[None]:
    """Count a comparison; an error in the block becomes a mismatch."""
    report.checked += 1
    try:
        yield
    except (UserError, KeyError, TypeError, ValueError, OSError) as error:
        report.wrong(subject, expected, str(error), source)


@contextlib.contextmanager
def _copied_model(file: Path, names: Sequence[str]) -> Iterator[Path]:
    """Copy the files of the model under these names into a temporary folder, which has no other files.

    Yields the file, or the folder if the model has several files. model-signing refuses links, and it signs all files
    of a folder.
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
def _library_errors(failure: str) -> Iterator[None]:
    """Turn errors of the signing library into one message."""
    try:
        yield
    except ImportError:
        raise UserError("signing needs an extra: pip install -e '.[signing]'") from None
    except Exception as error:  # the library raises many types, such as ValueError, InvalidSignature, OSError
        raise UserError(f"{failure}: {type(error).__name__}: {error}".strip(": ")) from error
