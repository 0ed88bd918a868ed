"""A proof of `audit --prove`, checked with an attestation alone: without the project, its data or the model."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from rfdetr_core.audit.proofs import said, whose
from rfdetr_core.base import files, images
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.merkle import Position, is_in_tree
from rfdetr_core.base.schema import Count, FileSchema, Sha256, Text, checked, require
from rfdetr_core.checkpoint.published import PUBLISHED
from rfdetr_core.checkpoint.schema import Root
from rfdetr_core.verification.report import Report


class ProofPosition(FileSchema):
    """See `merkle.Position`."""

    leaf: Text
    index: Count
    path: Annotated[list[Sha256], Field(max_length=64)]


class ProofOfSplit(FileSchema):
    """That a leaf is in a tree of a split, or is not. through: "", or the ancestor's tensors."""

    through: Text
    split: Text
    tree: Literal["images", "labelled", "pixels"]
    leaf: Text
    positions: Annotated[list[ProofPosition], Field(max_length=2)]


class ProofImage(FileSchema):
    """The image that is spoken of."""

    sha256: Sha256
    pixels: Sha256 | None


class ProofModel(FileSchema):
    """The model file that the proof was made with."""

    sha256: Sha256


class ProofFile(FileSchema):
    """What `audit --prove` writes (see `audit.proofs.prove`)."""

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
    """What a statement says of the making."""

    resolvedDependencies: list[dict[Text, Any]]  # noqa: N815


class Predicate(FileSchema):
    """The predicate of SLSA, as far as a proof needs it."""

    buildDefinition: Definition  # noqa: N815


class StatementParts(FileSchema):
    """An in-toto statement, as far as a proof needs it."""

    subject: list[Subject]
    predicate: Predicate


def check_proof(report: Report, path: Path, attestation: Path, image: Path | None) -> None:
    """Check a proof with the roots of an attestation; what it shows is in the notes. image: the file that it is about.

    Raises:
        UserError: a file is missing or has another layout, or the attestation has no Merkle roots.
    """
    proof = checked(_read(path), ProofFile, str(path))
    statement = read_statement(attestation)
    roots = _roots_in(statement, attestation)
    subjects = [str(one["digest"].get("sha256")) for one in statement["subject"]]
    by = str(attestation)
    if proof["model"]["sha256"] not in subjects:
        report.wrong(f"model of {path}", " or ".join(map(str, subjects)), proof["model"]["sha256"], by)
    _check_image(report, proof["image"], image, path)
    with_pixels = any("pixels" in trees for of in roots.values() for trees in (of or {}).values())
    if proof["image"]["pixels"] is None and with_pixels and image is not None:
        report.wrong(f"pixels of {path}", "proofs of the pixels, whose roots the attestation has", None, by)
    elif proof["image"]["pixels"] is None:
        report.skip(f"pixels of {path}", "the proof is of the bytes alone: --prove with the file proves both")
    wanted = {(through, split, tree) for through, of in roots.items() for split in of or {} for tree in _trees(proof)}
    for one in proof["proofs"]:
        place = one["through"], one["split"], one["tree"]
        wanted.discard(place)
        root = ((roots.get(place[0]) or {}).get(place[1]) or {}).get(place[2])
        what = f"proof of {' '.join(filter(None, place))} in {path}"
        if root is None:
            report.wrong(what, None, "a proof", by)
        elif not _is_about(one["leaf"], one["tree"], proof["image"]):
            report.wrong(what, "the digest of the image", one["leaf"], str(path))
        else:
            _check_positions(report, one, root, what)
    for through, split, tree in sorted(wanted):
        if tree == "pixels" and tree not in (roots[through] or {})[split]:
            report.skip(f"pixels of {split} of {whose(through)}", "its manifest is older than digests of pixels")
        else:
            report.wrong(f"proof of {' '.join(filter(None, (through, split, tree)))} in {path}", "a proof", None, by)
    for through in (through for through, of in roots.items() if of is None):
        report.skip(f"images of {whose(through)}", "the attestation has no Merkle roots of it")
    dependencies = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    for name in sorted({str(one.get("name")).removeprefix("weights/") for one in dependencies} & PUBLISHED.keys()):
        report.note(f"it started from published weights, {name}: which images upstream trained them on is not known")


def read_statement(path: Path) -> dict[str, Any]:
    """The statement of an attestation, also within an envelope of DSSE.

    Raises:
        UserError: it is missing or is not a statement.
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
        what = "A statement is written by attest FILE, a proof by audit FILE --prove IMAGE"
        raise UserError(f"{path} does not exist. {what}.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable JSON ({error}). Get it again.") from None


def _roots_in(statement: dict[str, Any], path: Path) -> dict[str, Any]:
    try:
        told = statement["predicate"]["buildDefinition"]["internalParameters"].get("roots")
    except (KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path} is not a statement about a model of this project: it has no internalParameters."
        ) from None
    if told is None:
        raise UserError(f"{path} has no Merkle roots: its model was trained, or it was written, before they were made.")
    require(StatementRoots, {"roots": told}, str(path))
    require(StatementParts, statement, str(path))
    return dict(told)


def _trees(proof: dict[str, Any]) -> tuple[str, ...]:
    """The trees that a proof must speak of in each split."""
    return ("images", "pixels") if proof["image"]["pixels"] else ("images",)


def _is_about(leaf: str, tree: str, image: dict[str, Any]) -> bool:
    if tree == "labelled":
        return leaf.startswith(f"{image['sha256']} ")
    return bool(leaf == image["sha256" if tree == "images" else "pixels"])


def _check_positions(report: Report, one: dict[str, Any], root: dict[str, Any], what: str) -> None:
    positions = [Position(at["leaf"], at["index"], tuple(at["path"])) for at in one["positions"]]
    report.checked += 1
    try:
        is_in = is_in_tree(one["leaf"], positions, root["size"], root["root"])
        if one["tree"] == "labelled" and not is_in:
            raise ValueError("the image has other labels")
    except ValueError as error:
        report.wrong(what, "a proof that leads to the root", str(error), "the Merkle tree")
        return
    report.note(f"proven: {said(one['through'], one['split'], one['tree'], one['leaf'], is_in=is_in)}")


def _check_image(report: Report, told: dict[str, Any], image: Path | None, path: Path) -> None:
    if image is None:
        report.skip(f"the image of {path}", f"not given: --image FILE; it speaks of sha256 {told['sha256']}")
        return
    try:
        data = images.read_limited(image, images.MAX_PIXELS)
    except OSError as error:
        raise UserError(f"{image} cannot be read ({error.strerror}). Give the image file.") from None
    report.equal(f"sha256 of {image}", told["sha256"], files.sha256_bytes(data), str(path))
    if told["pixels"] is not None:
        found = images.pixel_digest(images.decode(data, str(image)))
        report.equal(f"pixels of {image}", told["pixels"], found, str(path))
