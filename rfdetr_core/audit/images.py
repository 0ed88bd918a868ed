"""Which images made a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfdetr_core.audit.ancestors import ancestors_of
from rfdetr_core.audit.history import Commit, rows_of
from rfdetr_core.audit.metadata import Selection
from rfdetr_core.audit.paths import withdrawn
from rfdetr_core.audit.trace import Archive, Trace, evaluations_of
from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.manifest import SPLITS
from rfdetr_core.base.provenance import identity


@dataclass(frozen=True)
class Images:
    """Every image behind a model: split, path, sha256, width, height, labels (the digest of its annotations), through
    (the tensors of the ancestor that it was used for, or ""). unknown: a sentence for each part that cannot be named.
    notes: what limits the answer."""

    rows: list[dict[str, Any]]
    unknown: list[str]
    notes: list[str]


def images_of(traced: Trace, archive: Archive, *, own: bool = False, where: Sequence[str] = ()) -> Images:
    """The images behind a model and behind the models that it was trained from.

    own: those of its own training alone. where: only those for which all these conditions hold, each KEY=VALUE, by the
    metadata that was committed with the model that they are behind.

    Raises:
        UserError: what made the file is not known, or a condition asks for what no image has.
    """
    selection = Selection(where, archive.history) if where else None
    training, found = _training_of(traced), Images([], [], [])
    _add(found, _manifests(training, traced, archive), traced, archive, selection)
    for ancestor in () if own else ancestors_of(training, archive):
        who = f"its ancestor {ancestor.name}, tensors {ancestor.through[-1]}"
        if ancestor.training is not None:
            at = commit_of(ancestor.training, ancestor.through[-1], archive)
            blobs = recorded(ancestor.training).items()
            manifests = [Manifest(split, blob, at, who, ancestor.through[-1]) for split, blob in blobs]
            _add(found, manifests, traced, archive, selection)
        elif ancestor.published:
            found.notes.append(published([ancestor.name]))
        else:
            found.unknown.append(f"the images of {who}: no record here knows what made it")
    if selection:
        selection.require_known()
    return found


def published(names: list[str]) -> str:
    """A note on published weights."""
    return (
        f"started from published weights, {', '.join(names)}: which images upstream trained them on is not known here"
    )


def _training_of(traced: Trace) -> dict[str, Any]:
    """The training of a file; of several that may have made it any, where they had the same images and parents."""
    if traced.training is not None:
        return traced.training
    if not traced.runs:
        raise UserError("the file carries no lineage, and no record of it was found: its images cannot be named.")
    trainings = [one["lineage"]["training"] for one in traced.runs]
    said = [(recorded(one), {key: parent["sha256"] for key, parent in one["parents"].items()}) for one in trainings]
    if any(one != said[0] for one in said):
        raise UserError(f"its images cannot be named, since {traced.notes[0]}")
    return dict(trainings[0])


@dataclass(frozen=True)
class Manifest:
    """The manifest of a split behind a model: its git blob, and the commit whose metadata belongs to it, if known.

    who: whose it is, for a message. through: the tensors of the ancestor that it is of, or "".
    """

    split: str
    blob: str
    at: Commit | None
    who: str
    through: str


def _add(
    found: Images, manifests: list[Manifest], traced: Trace, archive: Archive, selection: Selection | None
) -> None:
    """Add the rows of these manifests, or why they cannot be read."""
    for one in sorted(manifests, key=lambda one: SPLITS.index(one.split)):
        name, beside = f"manifest/{one.split}.json", traced.file.parent / "dataset"  # as RFDETR.train() leaves it
        ((_, content),) = archive.history.read([one.blob])
        is_beside = (beside / name).is_file() and identity(beside / name)["git"] == one.blob
        if content is None and is_beside:
            content = files.read_bytes(beside / name)
        if content is None:
            found.unknown.append(f"{name} of {one.who}: {archive.history.why_missing(one.blob)}")
            continue
        rows = rows_of(content, f"{name} (git blob {one.blob})")
        if selection:
            if is_beside and one.at is None and not one.through:
                selected = selection.images_of(beside / "metadata" / f"{one.split}.csv")
            else:
                selected = selection.images(one.at, one.split)
            if isinstance(selected, str):
                found.unknown.append(f"which images of {name} of {one.who} have {selection}: {selected}")
                continue
            rows = [row for row in rows if row["path"] in selected]
        found.rows.extend({"split": one.split, **row, "through": one.through} for row in rows)


def digest_of(image: str, archive: Archive) -> str:
    """The SHA-256 that is meant: of a file that is there, of one that a manifest at HEAD names, or given as such.

    Raises:
        UserError: none of these.
    """
    if Path(image).is_file():
        return files.sha256_file(Path(image))
    if len(image) == 64 and set(image.lower()) <= set("0123456789abcdef"):
        return image.lower()
    for _, content in archive.history.read(f"HEAD:./manifest/{split}.json" for split in SPLITS):
        for row in rows_of(content or b"[]", "a manifest at HEAD"):
            if image == row["path"] or image.endswith(f"/{row['path']}"):
                return str(row["sha256"])
    if (error := withdrawn(image, archive.history)) is not None:
        raise error
    raise UserError(f"{image} is no file, no SHA-256, and no image of the manifests at HEAD. Give its SHA-256.")


def pixels_of(image: str, sha256: str, archive: Archive) -> str | None:
    """The digest of an image's pixels (see `images.pixel_digest`): of a file that is there, else as a manifest at HEAD
    has it for these bytes; None: not known."""
    if Path(image).is_file():
        from rfdetr_core.base import images  # numpy and Pillow: other questions do without

        try:
            data = images.read_limited(Path(image), images.MAX_PIXELS)
            return images.pixel_digest(images.decode(data, image))
        except UserError:
            return None
    for _, content in archive.history.read(f"HEAD:./manifest/{split}.json" for split in SPLITS):
        for row in rows_of(content, "a manifest at HEAD") if content and sha256.encode() in content else ():
            if row["sha256"] == sha256:
                return row.get("pixels")
    return None


def commit_of(training: dict[str, Any], tensors: str | None, archive: Archive) -> Commit | None:
    """The commit that brought the model of a training, with these weights if there is one; None: no record has it."""
    digest = files.digest(training)
    return archive.first_with(archive.models.get((digest, tensors)) or archive.models.get((digest, None)))


def made_by(traced: Trace, archive: Archive) -> Commit | None:
    """The commit that brought a file, or else the model of its training; None: no commit here did."""
    made = archive.first_with(traced.record["file"]["md5"] if traced.record else traced.md5)
    return made or (commit_of(traced.training, traced.tensors, archive) if traced.training else None)


def _manifests(training: dict[str, Any], traced: Trace, archive: Archive) -> list[Manifest]:
    """The manifest of each split; that of test from an evaluation of the same file, else of its weights."""
    made = made_by(traced, archive) or commit_of(training, traced.tensors, archive)
    found = {split: Manifest(split, blob, made, "this run", "") for split, blob in recorded(training).items()}
    for evaluation in evaluations_of(traced, archive)[:1]:
        at = next(commit for commit, one in archive.evaluations if one == evaluation)
        tested = evaluated(evaluation).items()
        found |= {split: Manifest(split, blob, at, "this run", "") for split, blob in tested}
    return list(found.values())


def evaluated(evaluation: dict[str, Any]) -> dict[str, str]:
    """The git blob of each split's manifest that an evaluation read."""
    return _by_split(evaluation["inputs"])


def recorded(training: dict[str, Any]) -> dict[str, str]:
    """The git blob of each split's manifest that a training read."""
    return _by_split(training.get("files") or {})


def _by_split(named: dict[str, Any]) -> dict[str, str]:
    """The git blob of each split's manifest that is among the files."""
    return {split: named[name]["git"] for split in SPLITS if (name := f"manifest/{split}.json") in named}
