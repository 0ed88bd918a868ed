"""The models of a history that used an image: trained, validated or tested on it, themselves or through an ancestor."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rfdetr_core.audit.ancestors import Ancestor, ancestors_of
from rfdetr_core.audit.history import MODEL, NOT_COMMITTED, Commit, rows_in
from rfdetr_core.audit.images import commit_of_training, evaluation_manifests, training_manifests
from rfdetr_core.audit.trace import Archive
from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.manifest import SPLITS
from rfdetr_core.checkpoint.published import PUBLISHED
from rfdetr_core.lineage.lock import LOCK, Lock

ROLES = {"train": "trained", "valid": "validated", "test": "tested"}
# As DVC writes it. Only a dvc.lock without a known model is parsed: parsing all would take most of the time.
_MODEL_IN_LOCK = re.compile(rb"^ *- path: %s\n *hash: md5\n *md5: ([0-9a-f]{32})$" % re.escape(MODEL).encode(), re.M)


Families = list[tuple[dict[str, Any], list[Ancestor]]]  # each run record with its ancestors


@dataclass(frozen=True)
class ModelUse:
    """A model that used images.

    Attributes:
        role: trained, validated or tested.
        tensors: The model's weights digest; None if the model was committed without a record.
        md5: The digest of the model file, if it is known.
        commit: The commit that added the model.
        through: Empty if the model itself used the images. Otherwise the weights digests from its parent to the
            ancestor that used them.
    """

    role: str
    tensors: str | None
    md5: str | None
    commit: Commit | None
    through: tuple[str, ...]


@dataclass(frozen=True)
class Use(ModelUse):
    """The use of one image by a model.

    Attributes:
        path, sha256, labels: The image's path, and the digests of its bytes and its annotations, at the time of use.
        same: What is equal in the model's image and the requested one: "bytes"; or "pixels" if only the pixels are
            equal, as in a copy that was saved again without loss.
    """

    path: str
    sha256: str
    same: str
    labels: str


U = TypeVar("U", bound=ModelUse)


@dataclass(frozen=True)
class Answer(Generic[U]):
    """The answer to a question about images.

    Attributes:
        uses: Every use, newest first.
        unknown: Models that may have used the images too. The reason is a manifest (a git blob) that was never
            committed, an ancestor (its file's name) without a record, or a sentence in the key `reason`.
        published: Names of upstream's weights that models of the history started from.
    """

    uses: list[U]
    unknown: list[dict[str, Any]]
    published: list[str]


@dataclass(frozen=True)
class Image:
    """The digests that an image is searched by: of its bytes, and of its pixels if known."""

    sha256: str
    pixels: str | None = None

    def same(self, row: Mapping[str, Any]) -> str:
        """The equal part of a manifest row and the image: "bytes", "pixels", or "" for neither."""
        if row["sha256"] == self.sha256:
            return "bytes"
        return "pixels" if row.get("pixels") in {self.sha256, self.pixels} - {None} else ""

    def use_in(self, rows: Iterable[Mapping[str, Any]]) -> tuple[str, str, str, str] | None:
        """The image in a manifest: (path, SHA-256, "bytes" or "pixels", the digest of its labels).

        The first row with its bytes decides; if there is none, the first row with its pixels.
        """
        matches = [(row["path"], row["sha256"], same, row["labels"]) for row in rows if (same := self.same(row))]
        return min(matches, key=lambda match: match[2] != "bytes", default=None)


def uses_of(image: Image, archive: Archive) -> Answer[Use]:
    """Every model in the history that used an image, itself or through an ancestor.

    Raises:
        UserError: This clone lacks commits or manifests, so that models could be missed.
    """
    require_complete(archive)
    families, without_record = families_of(archive), list(models_without_record(archive))
    manifests_used = list(manifest_uses(archive, families))
    places, missing = _search_manifests(image, archive, {manifest.blob for manifest in manifests_used})
    uses: dict[tuple[str, str | None], Use] = {}
    unknown: dict[tuple[Any, ...], dict[str, Any]] = {}
    for manifest in manifests_used:
        model = (manifest.role, manifest.tensors, manifest.md5, manifest.commit, manifest.through)
        if manifest.blob in places:
            uses.setdefault((manifest.role, manifest.md5 or manifest.tensors), Use(*model, *places[manifest.blob]))
        if manifest.blob in missing:
            row = {"role": manifest.role, "tensors": manifest.tensors, "manifest": manifest.blob, "ancestor": None}
            unknown.setdefault((manifest.tensors, manifest.blob), row | {"through": list(manifest.through)})
    for use in _uses_without_record(without_record, places, archive):
        uses.setdefault((use.role, use.md5), use)
    all_unknown = [*unknown.values(), *unknown_ancestors(families, without_record)]
    return Answer(newest_first(uses.values(), archive), all_unknown, published_ancestors(families))


def families_of(archive: Archive) -> Families:
    """Each run record of the history, together with the ancestors of its training."""
    return [(record, list(ancestors_of(record["lineage"]["training"], archive))) for record in archive.runs]


def newest_first(uses: Iterable[U], archive: Archive) -> list[U]:
    """Uses sorted by the commits of their models, newest first."""
    ages = archive.ages
    return sorted(uses, key=lambda use: (ages.get(use.commit.id, 0) if use.commit else -1, use.role))


@dataclass(frozen=True)
class ManifestUse:
    """A manifest that a model with a record was trained, validated or tested on.

    Attributes:
        role, tensors, md5, commit, through: See ModelUse.
        split: The split of the manifest.
        blob: The manifest's git blob.
        used_in: The commit of the model, the ancestor or the evaluation that used the manifest; None if it is not
            known.
    """

    role: str
    split: str
    blob: str
    tensors: str
    md5: str | None
    commit: Commit | None
    through: tuple[str, ...]
    used_in: Commit | None


def manifest_uses(archive: Archive, families: Families) -> Iterator[ManifestUse]:
    """Every manifest of every recorded training, then of its ancestors, then of every evaluation."""
    for record, ancestors in families:
        tensors, md5 = record["lineage"]["tensors"], record["file"]["md5"]
        commit, training = archive.first_with(md5), record["lineage"]["training"]
        for split, blob in training_manifests(training).items():
            yield ManifestUse(ROLES[split], split, blob, tensors, md5, commit, (), commit)
        for ancestor in ancestors:
            used_in = (
                commit_of_training(ancestor.training, ancestor.through[-1], archive) if ancestor.training else None
            )
            for split, blob in training_manifests(ancestor.training or {}).items():
                yield ManifestUse(ROLES[split], split, blob, tensors, md5, commit, ancestor.through, used_in)
    for added, evaluation in archive.evaluations:
        model = evaluation["model"]
        md5 = _md5_of(model, archive)
        for split, blob in evaluation_manifests(evaluation).items():
            commit = archive.first_with(md5) or added
            yield ManifestUse("tested", split, blob, model["tensors"], md5, commit, (), added)


def unknown_ancestors(families: Families, without_record: list[tuple[str, Commit, Lock]]) -> Iterator[dict[str, Any]]:
    """Models that may have used any image, since an ancestor's training is not known. Each pair comes once."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for record, ancestors in families:
        tensors = record["lineage"]["tensors"]
        for ancestor in ancestors:
            if ancestor.training is None and not ancestor.published:
                row = {"role": "trained", "tensors": tensors, "manifest": None, "ancestor": ancestor.name}
                rows[tensors, ancestor.through] = row | {"through": list(ancestor.through)}
    for md5, _, lock in without_record:
        for name in _started_from(lock):
            row = {"role": "trained", "tensors": None, "md5": md5, "manifest": None, "ancestor": name, "through": []}
            rows[md5, name] = row
    yield from rows.values()


def published_ancestors(families: Families) -> list[str]:
    """Names of the published weights that models of the history started from."""
    return sorted({ancestor.name for _, ancestors in families for ancestor in ancestors if ancestor.published})


Places = dict[str, tuple[str, str, str, str]]  # path, sha256, same and labels of a Use, by git blob of a manifest


def _search_manifests(image: Image, archive: Archive, named: set[str]) -> tuple[Places, set[str]]:
    """The manifests of the history that contain an image, and the named manifests that no commit has.

    A manifest is in no commit if two trainings ran without a commit between them.

    Args:
        image: The image.
        archive: The history of the project.
        named: Git blobs of manifests that records and evaluations name.

    Raises:
        UserError: This clone lacks the manifest of a commit.
    """
    history, elsewhere = archive.history, set(named)
    needles = [f'"{digest}"' for digest in (image.sha256, image.pixels) if digest]
    places: Places = {}

    def add_use(lines: Sequence[bytes], blob: str) -> None:
        if use := image.use_in(rows_in(lines, blob, history)):
            places[blob] = use

    for path in (f"manifest/{split}.json" for split in SPLITS):
        oldest = {commit.changed[path]: commit.id for commit in history.commits if path in commit.changed}
        blobs = {commit: blob for blob, commit in oldest.items() if commit != NOT_COMMITTED}
        elsewhere = (elsewhere | oldest.keys()) - set(blobs.values())
        for blob in history.missing(blobs.values()):
            raise UserError(
                f"a manifest of the history (git blob {blob}) is not in this clone, so a model that used the image "
                "could be missed. Name a clone that has it: --repo DIR"
            )
        for commit, lines in history.lines_with(needles, path, list(blobs)).items():
            add_use(lines, blobs[commit])
    contents = dict(history.read(sorted(elsewhere)))
    for blob, content in contents.items():
        if content and any(needle.encode() in content for needle in needles):
            add_use([content], blob)
    return places, {blob for blob, content in contents.items() if content is None}


def require_complete(archive: Archive) -> None:
    """Raise a UserError if models could be missed, because the clone is shallow or has no results."""
    if archive.history.shallow:
        raise UserError("this clone is shallow: it lacks models of older commits. Run git fetch --unshallow")
    if not archive.history.lock_texts and not archive.all_records:
        raise UserError(
            f"{archive.history.root} has no {LOCK} in its history. Name the clone of the project: --repo DIR"
        )


def _md5_of(model: dict[str, Any], archive: Archive) -> str | None:
    return next((record["file"]["md5"] for record in archive.runs if record["file"]["sha256"] == model["sha256"]), None)


def models_without_record(archive: Archive) -> Iterator[tuple[str, Commit, Lock]]:
    """Models that a committed dvc.lock names and no record has: MD5, commit, dvc.lock."""
    recorded = {record["file"]["md5"] for record in archive.runs}
    for commit in archive.history.commits:
        blob = commit.changed.get(LOCK, "")
        md5s = {md5.decode() for md5 in _MODEL_IN_LOCK.findall(archive.history.lock_texts.get(blob, b""))}
        if md5s and md5s <= recorded:
            continue
        lock = archive.history.lock(blob) if blob else None
        outs = {path: md5 for _, path, md5 in lock.outs()} if lock else {}
        trained = next((md5 for path, md5 in outs.items() if path.endswith(".pth")), None)
        md5 = outs.get(MODEL, trained)
        if lock and md5 and md5 not in recorded:
            yield md5, commit, lock


def _uses_without_record(missing: list[tuple[str, Commit, Lock]], places: Places, archive: Archive) -> Iterator[Use]:
    """The uses by models without a record, from the manifests that their dvc.lock names."""
    manifests = archive.history.read(places if missing else ())
    digests = {files.md5_bytes(content): blob for blob, content in manifests if content}
    for md5, commit, lock in missing:
        for split, stage in (("train", "train"), ("valid", "train"), ("test", "evaluate")):
            dep = lock.dep(stage, f"manifest/{split}.json")
            if dep in digests:
                yield Use(ROLES[split], None, md5, commit, (), *places[digests[dep]])


def _started_from(lock: Lock) -> Iterator[str]:
    """The weights that the params of a training name, except for upstream's."""
    params = lock.params_of("train")
    for section, key in (("model", "pretrain_weights"), ("train", "resume")):
        name = (params.get(section) or {}).get(key)
        if name is not None and name not in PUBLISHED:
            yield str(name)
