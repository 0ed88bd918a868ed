"""Proofs that an image was among those of a training, or was not, for someone who may see neither data nor names.

A training record has, of each split, the roots of Merkle trees over the digests of its images (see
`base.manifest.trees`), and an attestation repeats them. A proof leads from a digest to such a root; it is checked with
the attestation alone (`verification.proofs`).
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
Roots = dict[str, dict[str, dict[str, Any]]]  # by split and name of the tree: size and root


def roots_of(training: Mapping[str, Any]) -> dict[str, Roots | None]:
    """The Merkle roots of a training, under the name "", and of its ancestors, by the digests of their weights, as the
    record has them; None where it has none: an older record, one of more than ten generations back, a file without one.
    Published weights, of which nobody here can know more, are left out."""
    found: dict[str, Roots | None] = {"": training.get("roots")}
    waiting = [training]
    while waiting:
        for parent in (waiting.pop().get("parents") or {}).values():
            lineage, its = parent.get("lineage"), parent.get("training")
            its = lineage["training"] if lineage and lineage["tensors"] == parent["tensors"] else its
            if found.get(parent["tensors"]) is None and (its or parent["name"] not in PUBLISHED):
                found[parent["tensors"]] = (its or {}).get("roots")
                waiting += [its] if its else []
    return found


def has_pixels(training: Mapping[str, Any]) -> bool:
    """Whether the manifests of a training have the digests of pixels."""
    roots = (training.get("roots") or {}).values()
    return bool(roots) and all("pixels" in trees for trees in roots)


@dataclass(frozen=True)
class Proof:
    """content: what is handed out, as plain values. lines: the same for people. unknown: a sentence for each part that
    is missing. notes: what limits the answer."""

    content: dict[str, Any]
    lines: list[str]
    unknown: list[str]
    notes: list[str]


def prove(image: Image, traced: Trace, archive: Archive) -> Proof:
    """Prove of an image, for each split of a training and of its ancestors, that it is or is not in it.

    Raises:
        UserError: what made the file is not known, or its training is older than Merkle roots.
    """
    if traced.contradicted:
        raise UserError(f"nothing can be proven with {traced.file}: {traced.notes[0]}")
    images = images_of(traced, archive)
    training = traced.training or traced.runs[0]["lineage"]["training"]
    if not training.get("roots"):
        raise UserError(f"the training of {traced.file} is older than Merkle roots: proofs need a model trained since.")
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in images.rows:
        rows.setdefault((row["through"], row["split"]), []).append(row)
    proofs, lines, unknown = [], [f"image {image.sha256}"], list(images.unknown)
    known = roots_of(training)
    for through, roots in known.items():
        if roots is None:
            unknown.append(
                f"the images of {training_name(through)}: its record is not in the file, or has no Merkle roots"
            )
        for split, told in (roots or {}).items():
            own = rows.get((through, split), [])
            made = trees(map(row_of, own))
            if told != {name: tree.commitment() for name, tree in made.items()}:
                source = f"{split} of {training_name(through)}"
                unknown.append(f"{source}: its manifest is not the one that its Merkle roots were computed from")
                continue
            for name, leaf in _leaves(image, own, made):
                positions = [asdict(one) for one in made[name].prove(leaf)]
                proofs.append({"through": through, "split": split, "tree": name, "leaf": leaf, "positions": positions})
                is_in = leaf in (one["leaf"] for one in positions)
                lines.append(f"  {proof_sentence(through, split, name, leaf, is_in=is_in)}")
    content = {
        "schema": SCHEMA,
        "image": {"sha256": image.sha256, "pixels": image.pixels},
        "model": {"sha256": traced.sha256},
        "proofs": proofs,
    }
    return Proof(content, lines, unknown, images.notes)


def _leaves(image: Image, rows: list[dict[str, Any]], made: Mapping[str, Tree]) -> Iterator[tuple[str, str]]:
    """What to prove of a split: names of trees, and the leaf of each. Of labels, those that the image has in it."""
    yield "images", image.sha256
    labels = {row["labels"] for row in rows if row["sha256"] == image.sha256}
    yield from (("labelled", f"{image.sha256} {one}") for one in sorted(labels))
    if image.pixels and "pixels" in made:
        yield "pixels", image.pixels


def training_name(through: str) -> str:
    """A training, as messages name it."""
    return f"the ancestor with tensors {through}" if through else "this model's training"


def proof_sentence(through: str, split: str, tree: str, leaf: str, *, is_in: bool) -> str:
    """What a proof shows, as a sentence."""
    parts = {"images": "bytes", "labelled": f"bytes and labels {leaf.partition(' ')[2]}", "pixels": "pixels"}
    return f"{split} of {training_name(through)} has {'an' if is_in else 'no'} image with these {parts[tree]}"
