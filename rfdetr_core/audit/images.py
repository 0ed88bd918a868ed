"""The images behind a model: those of its training, of its evaluation and of its ancestors' trainings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfdetr_core.audit.ancestors import ancestors_of
from rfdetr_core.audit.history import Commit, rows_of
from rfdetr_core.audit.metadata import Selection
from rfdetr_core.audit.paths import withdrawal_error
from rfdetr_core.audit.trace import Archive, Trace
from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.manifest import SPLITS
from rfdetr_core.base.provenance import identity


@dataclass(frozen=True)
class Images:
    """The images behind a model.

    Attributes:
        rows: A row for each image: split, path, sha256, width, height, labels (the digest of its annotations), pixels,
            and through (the weights digest of the ancestor that was trained on it; "" for the model itself).
        unknown: A sentence for each part that cannot be listed.
        notes: The limits of the answer, as sentences.
    """

    rows: list[dict[str, Any]]
    unknown: list[str]
    notes: list[str]


def images_of(traced: Trace, archive: Archive, *, own: bool = False, where: Sequence[str] = ()) -> Images:
    """The images behind a model and behind its ancestors.

    Args:
        traced: The model.
        archive: The history of the project.
        own: Leave out the images of its ancestors. The images of its own training and evaluation stay.
        where: Conditions such as KEY=VALUE. Only images that meet all of them are listed. The metadata is read
            from the commit of the model or ancestor that used the image.

    Raises:
        UserError: The training of the file is not known, or no image has the column or value of a condition.
    """
    selection = Selection(where, archive.history) if where else None
    training, images = _training_of(traced), Images([], [], [])
    _add(images, _manifests(training, traced, archive), traced, archive, selection)
    for ancestor in () if own else ancestors_of(training, archive):
        owner = f"its ancestor {ancestor.name} (tensors {ancestor.through[-1]})"
        if ancestor.training is not None:
            commit = commit_of_training(ancestor.training, ancestor.through[-1], archive)
            blobs = training_manifests(ancestor.training).items()
            manifests = [Manifest(split, blob, commit, owner, ancestor.through[-1]) for split, blob in blobs]
            _add(images, manifests, traced, archive, selection)
        elif ancestor.published:
            images.notes.append(f"this model {note_on_published([ancestor.name])}")
        else:
            images.unknown.append(f"the images of {owner}: no run record here names the training that produced it")
    if selection:
        selection.require_known()
    return images


def note_on_published(names: list[str]) -> str:
    """The note for models that started from published weights."""
    return f"started from published weights, {', '.join(names)}. The images that upstream trained them on are not known"


def _training_of(traced: Trace) -> dict[str, Any]:
    """The training of a file.

    If several trainings may have produced it, the first one is returned. All of them must have had equal images and
    parents.

    Raises:
        UserError: The file has no known training, or the possible trainings had different images or parents.
    """
    if traced.training is not None:
        return traced.training
    if not traced.runs:
        raise UserError(
            "the file carries no lineage, and this history has no run record of it. So its images are not known."
        )
    trainings = [record["lineage"]["training"] for record in traced.runs]
    inputs = [
        (training_manifests(training), {key: parent["sha256"] for key, parent in training["parents"].items()})
        for training in trainings
    ]
    if any(other != inputs[0] for other in inputs):
        raise UserError(f"the images of this file are not known: {traced.notes[0]}")
    return dict(trainings[0])


@dataclass(frozen=True)
class Manifest:
    """A manifest behind a model.

    Attributes:
        split: train, valid or test.
        blob: Its git blob.
        commit: The commit that has the metadata of its images; None if it is not known.
        owner: The run or ancestor that read it, for a message.
        through: The weights digest of the ancestor that read it; "" for the model itself.
    """

    split: str
    blob: str
    commit: Commit | None
    owner: str
    through: str


def _add(
    images: Images, manifests: list[Manifest], traced: Trace, archive: Archive, selection: Selection | None
) -> None:
    """Add the rows of these manifests to the images; for an unreadable manifest, the reason."""
    for manifest in sorted(manifests, key=lambda manifest: SPLITS.index(manifest.split)):
        # RFDETR.train() writes the manifests into the folder `dataset` beside the model.
        name, dataset = f"manifest/{manifest.split}.json", traced.file.parent / "dataset"
        ((_, content),) = archive.history.read([manifest.blob])
        is_beside_model = (dataset / name).is_file() and identity(dataset / name)["git"] == manifest.blob
        if content is None and is_beside_model:
            content = files.read_bytes(dataset / name)
        if content is None:
            reason = archive.history.why_missing(manifest.blob)
            images.unknown.append(f"{name} of {manifest.owner} is missing: {reason}")
            continue
        rows = rows_of(content, f"{name} (git blob {manifest.blob})")
        if selection:
            if is_beside_model and manifest.commit is None and not manifest.through:
                selected = selection.images_of(dataset / "metadata" / f"{manifest.split}.csv")
            else:
                selected = selection.images(manifest.commit, manifest.split)
            if isinstance(selected, str):
                images.unknown.append(f"which images in {name} of {manifest.owner} have {selection}: {selected}")
                continue
            rows = [row for row in rows if row["path"] in selected]
        images.rows.extend({"split": manifest.split, **row, "through": manifest.through} for row in rows)


def digest_of(image: str, archive: Archive) -> str:
    """The SHA-256 of the image that the user names.

    Args:
        image: An image file, a SHA-256, or a path in a manifest at HEAD.
        archive: The history of the project.

    Raises:
        UserError: It is none of these.
    """
    if Path(image).is_file():
        return files.sha256_file(Path(image))
    if len(image) == 64 and set(image.lower()) <= set("0123456789abcdef"):
        return image.lower()
    for _, content in archive.history.read(f"HEAD:./manifest/{split}.json" for split in SPLITS):
        for row in rows_of(content or b"[]", "a manifest at HEAD"):
            if image == row["path"] or image.endswith(f"/{row['path']}"):
                return str(row["sha256"])
    if (error := withdrawal_error(image, archive.history)) is not None:
        raise error
    raise UserError(f"{image} is not a file, a SHA-256 or an image of a manifest at HEAD. Give its SHA-256.")


def pixels_of(image: str, sha256: str, archive: Archive) -> str | None:
    """The digest of an image's pixels (see `images.pixel_digest`); None if it is not known.

    The pixels of a file are decoded. Otherwise the digest comes from a row of a manifest at HEAD.

    Args:
        image: The image, as the user named it: a file, a path or a SHA-256.
        sha256: The digest of its bytes, by which its row in a manifest is found.
        archive: The history of the project.
    """
    if Path(image).is_file():
        from rfdetr_core.base import images  # this needs numpy and Pillow; other questions do not

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


def commit_of_training(training: dict[str, Any], tensors: str | None, archive: Archive) -> Commit | None:
    """The commit that added the model of a training; None if no record has the training.

    Args:
        training: The training record.
        tensors: If the training has a model with this weights digest, its commit is preferred.
        archive: The history of the project.
    """
    digest = files.digest(training)
    return archive.first_with(archive.model_md5s.get((digest, tensors)) or archive.model_md5s.get((digest, None)))


def commit_of_file(traced: Trace, archive: Archive) -> Commit | None:
    """The commit that added a file, else the commit that added the model of its training; None if there is neither."""
    commit = archive.first_with(traced.record["file"]["md5"] if traced.record else traced.md5)
    return commit or (commit_of_training(traced.training, traced.tensors, archive) if traced.training else None)


def _manifests(training: dict[str, Any], traced: Trace, archive: Archive) -> list[Manifest]:
    """The manifest of each split. That of test comes from an evaluation of this file, or else of its weights."""
    commit = commit_of_file(traced, archive) or commit_of_training(training, traced.tensors, archive)
    manifests = {
        split: Manifest(split, blob, commit, "this model", "") for split, blob in training_manifests(training).items()
    }
    for evaluation in evaluations_of(traced, archive)[:1]:
        commit = next(commit for commit, lineage in archive.evaluations if lineage == evaluation)
        blobs = evaluation_manifests(evaluation).items()
        manifests |= {split: Manifest(split, blob, commit, "this model", "") for split, blob in blobs}
    return list(manifests.values())


def evaluations_of(traced: Trace, archive: Archive) -> list[dict[str, Any]]:
    """The committed evaluations of a file, else of its weights. Newest first; equal ones come once."""
    evaluations = [
        evaluation
        for _, evaluation in archive.evaluations
        if traced.tensors and evaluation["model"]["tensors"] == traced.tensors
    ]
    digests = {traced.sha256, traced.record["file"]["sha256"] if traced.record else None}
    evaluations = [evaluation for evaluation in evaluations if evaluation["model"]["sha256"] in digests] or evaluations
    return [evaluation for number, evaluation in enumerate(evaluations) if evaluation not in evaluations[:number]]


def evaluation_manifests(evaluation: dict[str, Any]) -> dict[str, str]:
    """The git blob of each manifest that an evaluation read, by split."""
    return _manifest_blobs(evaluation["inputs"])


def training_manifests(training: dict[str, Any]) -> dict[str, str]:
    """The git blob of each manifest that a training read, by split."""
    return _manifest_blobs(training.get("files") or {})


def _manifest_blobs(identities: dict[str, Any]) -> dict[str, str]:
    """The git blob of each manifest among some files, by split."""
    return {split: identities[name]["git"] for split in SPLITS if (name := f"manifest/{split}.json") in identities}
