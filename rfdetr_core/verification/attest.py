"""An in-toto statement of what made a model file, and its signature. Offline, with a key of one's own.

A consistent rewrite of weights, lineage and history cannot be told from the truth by comparing them with each other:
only a signature over the file, made before, finds it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rfdetr_core.audit.exported import SUFFIXES as EXPORTED
from rfdetr_core.audit.exported import contradictions, is_derived, plain_description
from rfdetr_core.audit.proofs import roots_of
from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.provenance import flattened
from rfdetr_core.checkpoint.exported import Exported, read_exported
from rfdetr_core.checkpoint.files import read_checkpoint, tensor_digest
from rfdetr_core.lineage.compose import description_digest
from rfdetr_core.verification.report import Report

SUFFIX = ".intoto.json"


def attest(file: Path, output: Path | None = None, key: Path | None = None) -> list[Path]:
    """Write the statement beside the file, and with a private key its signature beside that; the paths.

    Raises:
        UserError: no model file, without lineage or with that of another, a key that is none, or the signing extra is
            not installed.
    """
    statement = statement_of(file)
    path = output or file.with_name(f"{file.name}{SUFFIX}")
    if key is None:
        files.write_json(path, statement)
        return [path]
    signature = path.with_name(f"{path.name}.sig")
    with tempfile.TemporaryDirectory() as temporary:
        draft, signed = Path(temporary) / "statement", Path(temporary) / "signature"
        files.write_json(draft, statement)
        with _staged(file, draft) as folder, _explained(f"{key} cannot sign"):
            from model_signing import signing

            config = signing.Config()  # type: ignore[no-untyped-call]
            config.use_elliptic_key_signer(private_key=key).sign(folder, signed)
        files.write_bytes(path, files.read_bytes(draft))
        files.write_bytes(signature, files.read_bytes(signed))
    return [path, signature]


def statement_of(file: Path) -> dict[str, Any]:
    """The statement: subject = the file; materials = manifests, annotations, code, params, weights, environment lock;
    of an exported file also the checkpoint that it was made of, and what was measured of it.

    Raises:
        UserError: no model file, without lineage, or with that of another model.
    """
    exported = read_exported(file) if file.suffix in EXPORTED else None
    checkpoint = exported.checkpoint if exported else read_checkpoint(file)
    tensors = exported.description.tensors if exported else tensor_digest(checkpoint.weights)
    lineage = checkpoint.lineage
    if lineage is None:
        raise UserError(f"{file} carries no lineage. Attest the stripped model: output/checkpoint_best_total.pth")
    own = (checkpoint.model_name, description_digest(checkpoint), tensors)
    if own != tuple(lineage.get(key) for key in ("variant", "description", "tensors")) or checkpoint.unknown:
        raise UserError(f"{file} is not what its lineage says. What differs: python -m rfdetr_core verify {file}")
    if exported and (is_derived(exported) or [*contradictions(exported)]):
        raise UserError(f"{file} is not what was exported. What differs: python -m rfdetr_core verify {file}")
    training = lineage["training"]
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": one.name, "digest": {"sha256": files.sha256_file(one)}} for one in _parts(file)],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": f"urn:rfdetr-dvc:pipeline:{lineage.get('schema', 1)}",
                "externalParameters": {"variant": lineage["variant"], "params": training["params"]},
                "internalParameters": {
                    **{key: training[key] for key in ("packages", "machine", "counts")},
                    "selection": lineage["selection"],
                    **({"roots": roots_of(training)} if training.get("roots") else {}),
                    **({"custom": training["custom"]} if "custom" in training else {}),
                    **({"export": plain_description(exported)} if exported else {}),
                },
                "resolvedDependencies": [*_materials(lineage), *(_source(exported) if exported else ())],
            },
            "runDetails": {
                "builder": {"id": "urn:rfdetr-dvc:dvc-repro"},
                "byproducts": [{"name": "tensors", "digest": {"sha256": lineage["tensors"]}}],
            },
        },
    }


def _parts(file: Path) -> list[Path]:
    """The files that a model is: an OpenVINO model is two."""
    return [file, file.with_suffix(".bin")] if file.suffix == ".xml" else [file]


def _source(exported: Exported) -> Iterator[dict[str, Any]]:
    yield {"name": "checkpoint", "digest": {"sha256": exported.description.source}}


def check_attestation(report: Report, file: Path, key: Path | None) -> None:
    """The statement beside a file against its lineage, and with a public key its signature."""
    path = file.with_name(f"{file.name}{SUFFIX}")
    signature = path.with_name(f"{path.name}.sig")
    if key is not None:
        _check_key(key)
    if not path.is_file():
        if key is not None:
            report.wrong(str(path), "a statement", None, "--key")
        return
    gone = next((part for part in _parts(file) if not part.is_file()), None)
    if gone is not None:
        if key is not None:
            report.wrong(str(gone), "the file that was signed", None, "--key")
        report.skip(str(path), f"gone: {'the model' if gone == file else gone} is not here")
        return
    try:
        told, again = files.read_json(path), statement_of(file)
        _compare(report, told, again, path)
    except (UserError, TypeError, KeyError, AttributeError, IndexError) as error:
        report.wrong(str(path), "a statement of the model", str(error), "its name")
    if key is None:
        if signature.is_file():
            report.skip(str(signature), "no key given: --key PUBLIC.pem")
        return
    if not signature.is_file():
        report.wrong(str(signature), "a signature", None, "--key")
        return
    report.checked += 1
    try:
        with _staged(file, path) as folder, _explained("it does not verify"):
            from model_signing import verifying

            config = verifying.Config()  # type: ignore[no-untyped-call]
            config.use_elliptic_key_verifier(public_key=key).verify(folder, signature)
    except UserError as error:
        wanted = f"one of {key} over the file and its statement"
        report.wrong(f"signature of {file}", wanted, str(error), str(signature))


def _check_key(key: Path) -> None:
    """Check that a file holds a public key.

    Raises:
        UserError: it does not, or the signing extra is not installed.
    """
    with _explained(f"{key} is no public key in PEM form"):
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        load_pem_public_key(files.read_bytes(key))


def _materials(lineage: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    training = lineage["training"]
    for name, sha256 in sorted(training["inputs"].items()):
        yield {"name": name, "digest": {"sha256": sha256, "gitBlob": training["files"].get(name, {}).get("git")}}
    kind = "sha256" if lineage.get("schema", 1) == 1 else "semanticSha256"
    for name, digest in sorted((training["code"] | lineage["code"]).items()):
        yield {"name": name, "digest": {kind: digest}}
    yield {"name": "params", "digest": {"sha256": files.digest(training["params"])}}
    for key, parent in sorted(training["parents"].items()):
        yield {"name": f"weights/{parent['name']}", "digest": {"sha256": parent["sha256"]}, "annotations": {"as": key}}
    if training.get("lock") is not None:
        yield {"name": "requirements/numeric.lock", "digest": {"sha256": training["lock"]}}


def _compare(report: Report, told: Any, again: dict[str, Any], path: Path) -> None:
    """Statements part by part; a renamed file is the same subject."""
    materials: list[dict[str, Any]] = []
    for statement in (told, again):
        statement["subject"] = [one["digest"] for one in statement["subject"]]
        given = statement["predicate"]["buildDefinition"].pop("resolvedDependencies")
        materials.append({one["name"]: one for one in given})
        report.equal(f"materials of {path}", len(given), len(materials[-1]), "each has one name")
    for name in sorted(materials[0].keys() | materials[1].keys()):
        report.equal(f"material {name} of {path}", materials[1].get(name), materials[0].get(name), "lineage")
    before, after = flattened(again), flattened(told)
    for name in sorted(before.keys() | after.keys()):
        report.equal(f"{name} of {path}", before.get(name), after.get(name), "the file and its lineage")


@contextlib.contextmanager
def _staged(file: Path, statement: Path) -> Iterator[Path]:
    """A folder with nothing but the two, under names that no renaming changes and that are never ignored.

    model-signing covers folders; it refuses links and passes over names such as .gitattributes.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        folder.mkdir()
        names = ("checkpoint", "constants")
        parts = [*zip(_parts(file), names, strict=False), (statement, "statement.json")]
        for source, name in parts:
            try:
                os.link(source.resolve(), folder / name)
            except OSError:
                shutil.copyfile(source.resolve(), folder / name)
        yield folder


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Errors of the signing library as one message."""
    try:
        yield
    except ImportError:
        raise UserError("signing needs an extra: pip install -e '.[signing]'") from None
    except Exception as error:  # the library raises what its parts do: ValueError, InvalidSignature, OSError
        raise UserError(f"{what}: {type(error).__name__} {error}".strip()) from error
