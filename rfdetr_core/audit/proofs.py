"""Proofs that a training used an image, or did not, for a reader who may see neither the data nor file names.

For each split, a training record has the roots of Merkle trees over the digests of its images (see
`base.manifest.trees`). An attestation repeats these roots. A proof leads from the digest of an image to a root, and is
checked against the attestation alone (see `verification.proofs`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rfdetr_core.audit.images import images_of
from rfdetr_core.audit.trace import Archive, Trace
from rfdetr_core.audit.uses import Image
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.manifest import row_of, trees
from rfdetr_core.base.merkle import Tree
from rfdetr_core.checkpoint.published import PUBLISHED

SCHEMA = 1
Roots = dict[str, dict[str, dict[str, Any]]]  # size and root, by split and name of the tree


def roots_of(training: Mapping[str, Any]) -> dict[str, Roots | None]:
    """The Merkle roots of a training and of its ancestors, from the training record.

    Returns:
        Roots by the weights digest of the ancestor; "" for the training itself. None if the roots are not known. There
        are three reasons: the ancestor's training is older than Merkle roots; the ancestor is more than ten generations
        back; the ancestor's file had no record. Published weights are absent: upstream publishes no roots.
    """
    roots: dict[str, Roots | None] = {"": training.get("roots")}
    waiting = [training]
    while waiting:
        for parent in (waiting.pop().get("parents") or {}).values():
            lineage, parent_training = parent.get("lineage"), parent.get("training")
            parent_training = (
                lineage["training"] if lineage and lineage["tensors"] == parent["tensors"] else parent_training
            )
            if roots.get(parent["tensors"]) is None and (parent_training or parent["name"] not in PUBLISHED):
                roots[parent["tensors"]] = (parent_training or {}).get("roots")
                waiting += [parent_training] if parent_training else []
    return roots


def has_pixels(training: Mapping[str, Any]) -> bool:
    """Whether the manifests of a training have pixel digests."""
    roots = (training.get("roots") or {}).values()
    return bool(roots) and all("pixels" in trees for trees in roots)


@dataclass(frozen=True)
class Proof:
    """A proof about one image and one model.

    Attributes:
        content: The proof file, as plain values.
        lines: The same as text.
        unknown: A sentence for each part that is missing.
        notes: The limits of the answer, as sentences.
    """

    content: dict[str, Any]
    lines: list[str]
    unknown: list[str]
    notes: list[str]


def prove(image: Image, traced: Trace, archive: Archive) -> Proof:
    """Prove for each split of a training and of its ancestors that an image is in it, or is not.

    Args:
        image: The digests of the image.
        traced: The model.
        archive: The history of the project.

    Raises:
        UserError: The training of the file is not known, or it is older than Merkle roots.
    """
    if traced.contradicted:
        raise UserError(f"nothing can be proven with {traced.file}: {traced.notes[0]}")
    images = images_of(traced, archive)
    training = traced.training or traced.runs[0]["lineage"]["training"]
    if not training.get("roots"):
        raise UserError(
            f"{traced.file} is too old: its training record has no Merkle roots. Train again to get proofs."
        )
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in images.rows:
        rows.setdefault((row["through"], row["split"]), []).append(row)
    proofs, lines, unknown = [], [f"image {image.sha256}"], list(images.unknown)
    for through, roots in roots_of(training).items():
        if roots is None:
            unknown.append(
                f"the images of {training_name(through)}: its training record is not in the file, or has no Merkle "
                "roots"
            )
        for split, commitments in (roots or {}).items():
            split_rows = rows.get((through, split), [])
            split_trees = trees(map(row_of, split_rows))
            if commitments != {name: tree.commitment() for name, tree in split_trees.items()}:
                source = f"the {split} split of {training_name(through)}"
                unknown.append(f"{source}: its Merkle roots were computed from another manifest")
                continue
            for name, leaf in _leaves(image, split_rows, split_trees):
                positions = [asdict(position) for position in split_trees[name].prove(leaf)]
                proofs.append({"through": through, "split": split, "tree": name, "leaf": leaf, "positions": positions})
                is_in = leaf in (position["leaf"] for position in positions)
                lines.append(f"  {proof_sentence(through, split, name, leaf, is_in=is_in)}")
    content = {
        "schema": SCHEMA,
        "image": {"sha256": image.sha256, "pixels": image.pixels},
        "model": {"sha256": traced.sha256},
        "proofs": proofs,
    }
    return Proof(content, lines, unknown, images.notes)


def _leaves(image: Image, rows: list[dict[str, Any]], split_trees: Mapping[str, Tree]) -> Iterator[tuple[str, str]]:
    """The leaves to prove for a split, with the name of each tree.

    The leaves of the tree `labelled` have the labels that the image has in this split.
    """
    yield "images", image.sha256
    labels = {row["labels"] for row in rows if row["sha256"] == image.sha256}
    yield from (("labelled", f"{image.sha256} {label}") for label in sorted(labels))
    if image.pixels and "pixels" in split_trees:
        yield "pixels", image.pixels


def training_name(through: str) -> str:
    """A training's name in messages; `through` is the weights digest of an ancestor, or "" for the model itself."""
    return f"the ancestor with tensors {through}" if through else "this model's training"


def proof_sentence(through: str, split: str, tree: str, leaf: str, *, is_in: bool) -> str:
    """A sentence about the result of a proof.

    Args:
        through: The weights digest of an ancestor; "" for the model itself.
        split: The split.
        tree: images (bytes), labelled (bytes and labels) or pixels.
        leaf: The leaf that was searched in the tree.
        is_in: Whether the tree has the leaf.
    """
    parts = {"images": "bytes", "labelled": f"bytes and labels {leaf.partition(' ')[2]}", "pixels": "pixels"}
    return f"the {split} split of {training_name(through)} has {'an' if is_in else 'no'} image with these {parts[tree]}"
