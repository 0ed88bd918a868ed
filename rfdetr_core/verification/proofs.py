"""Check a proof of `audit --prove` with an attestation only. Neither the project, its data nor the model is needed."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from rfdetr_core.audit.proofs import proof_sentence, training_name
from rfdetr_core.base import files, images
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.merkle import Position, is_in_tree
from rfdetr_core.base.schema import Count, FileSchema, Sha256, Text, checked, require
from rfdetr_core.checkpoint.published import PUBLISHED
from rfdetr_core.checkpoint.schema import Root
from rfdetr_core.verification.report import Report


class ProofPosition(FileSchema):
    """The position of a leaf in a Merkle tree, see `merkle.Position`."""

    leaf: Text
    index: Count
    path: Annotated[list[Sha256], Field(max_length=64)]


class ProofOfSplit(FileSchema):
    """The claim that a leaf is, or is not, in a tree of a split. through: "", or the weights digest of an ancestor."""

    through: Text
    split: Text
    tree: Literal["images", "labelled", "pixels"]
    leaf: Text
    positions: Annotated[list[ProofPosition], Field(max_length=2)]


class ProofImage(FileSchema):
    """The image that the proof is about."""

    sha256: Sha256
    pixels: Sha256 | None


class ProofModel(FileSchema):
    """The model file that the proof was made with."""

    sha256: Sha256


class ProofFile(FileSchema):
    """The file that `audit --prove` writes (see `audit.proofs.prove`)."""

    schema_: Annotated[Literal[1], Field(alias="schema")]
    image: ProofImage
    model: ProofModel
    proofs: list[ProofOfSplit]


class StatementRoots(FileSchema):
    """The Merkle roots in a statement (see `audit.proofs.roots_of`)."""

    roots: dict[Text, dict[Text, dict[Text, Root]] | None]


class Subject(FileSchema):
    """A file that a statement is about."""

    digest: dict[Text, Text]


class Definition(FileSchema):
    """The build definition of a statement: its `resolvedDependencies`."""

    resolvedDependencies: list[dict[Text, Any]]  # noqa: N815


class Predicate(FileSchema):
    """The part of the SLSA predicate that a proof needs."""

    buildDefinition: Definition  # noqa: N815


class StatementParts(FileSchema):
    """The part of an in-toto statement that a proof needs."""

    subject: list[Subject]
    predicate: Predicate


def check_proof(report: Report, path: Path, attestation: Path, image: Path | None) -> None:
    """Check a proof with the Merkle roots of an attestation. The proven claims are in the notes of the report.

    Args:
        report: Receives mismatches and notes.
        path: The proof.
        attestation: The statement or its envelope.
        image: The image file that the proof is about; None to skip the comparison with it.

    Raises:
        UserError: A file is missing or has another layout, or the attestation has no Merkle roots.
    """
    proof = checked(_read(path), ProofFile, str(path))
    statement = read_statement(attestation)
    roots = _roots_in(statement, attestation)
    subjects = [str(subject["digest"].get("sha256")) for subject in statement["subject"]]
    source = str(attestation)
    if proof["model"]["sha256"] not in subjects:
        report.wrong(f"model of {path}", " or ".join(map(str, subjects)), proof["model"]["sha256"], source)
    _check_image(report, proof["image"], image, path)
    with_pixels = any("pixels" in trees for splits in roots.values() for trees in (splits or {}).values())
    if proof["image"]["pixels"] is None and with_pixels and image is not None:
        report.wrong(f"pixels of {path}", "proofs of the pixels, because the attestation has their roots", None, source)
    elif proof["image"]["pixels"] is None:
        report.skip(
            f"pixels of {path}",
            "the proof covers only the bytes. To cover the pixels, too: audit FILE --prove IMAGE, with the image file",
        )
    expected = {(through, split, tree) for through, of in roots.items() for split in of or {} for tree in _trees(proof)}
    for proof_of_split in proof["proofs"]:
        key = proof_of_split["through"], proof_of_split["split"], proof_of_split["tree"]
        expected.discard(key)
        root = ((roots.get(key[0]) or {}).get(key[1]) or {}).get(key[2])
        subject = f"proof of {' '.join(filter(None, key))} in {path}"
        if root is None:
            report.wrong(subject, None, "a proof for which the attestation has no root", source)
        elif not _is_about(proof_of_split["leaf"], proof_of_split["tree"], proof["image"]):
            report.wrong(subject, "the digest of the image", proof_of_split["leaf"], str(path))
        else:
            _check_positions(report, proof_of_split, root, subject)
    for through, split, tree in sorted(expected):
        if tree == "pixels" and tree not in (roots[through] or {})[split]:
            report.skip(
                f"pixels of {split} of {training_name(through)}", "its manifest is from a version without pixel digests"
            )
        else:
            report.wrong(
                f"proof of {' '.join(filter(None, (through, split, tree)))} in {path}", "a proof", None, source
            )
    for through in (through for through, splits in roots.items() if splits is None):
        report.skip(f"images of {training_name(through)}", "the attestation has no Merkle roots for this training")
    dependencies = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    for name in sorted(
        {str(dependency.get("name")).removeprefix("weights/") for dependency in dependencies} & PUBLISHED.keys()
    ):
        report.note(
            f"the model started from published weights, {name}. The images that upstream trained them on are not known"
        )


def read_statement(path: Path) -> dict[str, Any]:
    """The statement of an attestation, which may be in a DSSE envelope.

    Raises:
        UserError: The file is missing or is not a statement.
    """
    content = _read(path)
    try:
        if "payload" in content:
            content = files.parse_json(base64.b64decode(content["payload"], validate=True))
        return dict(content)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is not an in-toto statement ({error}).") from None


def _read(path: Path) -> Any:
    try:
        return files.parse_json(files.read_bytes(path))
    except FileNotFoundError:
        remedy = "attest FILE writes a statement, and audit FILE --prove IMAGE writes a proof"
        raise UserError(f"{path} does not exist. {remedy}.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable JSON ({error}). Get it again.") from None


def _roots_in(statement: dict[str, Any], path: Path) -> dict[str, Any]:
    try:
        roots = statement["predicate"]["buildDefinition"]["internalParameters"].get("roots")
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is not a statement that this program wrote: it has no internalParameters.") from None
    if roots is None:
        raise UserError(f"{path} has no Merkle roots: a version without them made the model or the statement.")
    require(StatementRoots, {"roots": roots}, str(path))
    require(StatementParts, statement, str(path))
    return dict(roots)


def _trees(proof: dict[str, Any]) -> tuple[str, ...]:
    """The trees for which a proof needs a claim in each split."""
    return ("images", "pixels") if proof["image"]["pixels"] else ("images",)


def _is_about(leaf: str, tree: str, image: dict[str, Any]) -> bool:
    if tree == "labelled":
        return leaf.startswith(f"{image['sha256']} ")
    return bool(leaf == image["sha256" if tree == "images" else "pixels"])


def _check_positions(report: Report, proof: dict[str, Any], root: dict[str, Any], subject: str) -> None:
    positions = [
        Position(position["leaf"], position["index"], tuple(position["path"])) for position in proof["positions"]
    ]
    report.checked += 1
    try:
        is_in = is_in_tree(proof["leaf"], positions, root["size"], root["root"])
        if proof["tree"] == "labelled" and not is_in:
            raise ValueError("the image has other labels")
    except ValueError as error:
        report.wrong(subject, "a proof that leads to the root", str(error), "the Merkle tree")
        return
    report.note(
        f"proven: {proof_sentence(proof['through'], proof['split'], proof['tree'], proof['leaf'], is_in=is_in)}"
    )


def _check_image(report: Report, expected: dict[str, Any], image: Path | None, path: Path) -> None:
    if image is None:
        report.skip(
            f"the image of {path}", f"no image was given: --image FILE. The proof is about sha256 {expected['sha256']}"
        )
        return
    try:
        data = images.read_limited(image, images.MAX_PIXELS)
    except OSError as error:
        raise UserError(f"{image} cannot be read ({error.strerror}). Give the image file.") from None
    report.equal(f"sha256 of {image}", expected["sha256"], files.sha256_bytes(data), str(path))
    if expected["pixels"] is not None:
        actual = images.pixel_digest(images.decode(data, str(image)))
        report.equal(f"pixels of {image}", expected["pixels"], actual, str(path))
