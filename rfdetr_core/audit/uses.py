"""Which models of a history an image was used for."""

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
# As DVC writes it. A lock where this does not find a known model is parsed; parsing all would take most of the time.
_MODEL_IN_LOCK = re.compile(rb"^ *- path: %s\n *hash: md5\n *md5: ([0-9a-f]{32})$" % re.escape(MODEL).encode(), re.M)


Families = list[tuple[dict[str, Any], list[Ancestor]]]  # the record of each run with its ancestors


@dataclass(frozen=True)
class ModelUse:
    """One model that images were used for, and in which role: trained, validated or tested.

    tensors: None where the model was committed without a record. commit: the one that brought it. through: empty, or
    the tensor digests of the model's parent and so on to the ancestor that the images were used for.
    """

    role: str
    tensors: str | None
    md5: str | None
    commit: Commit | None
    through: tuple[str, ...]


@dataclass(frozen=True)
class Use(ModelUse):
    """The use of one image; path, sha256, labels: its name, its bytes and the digest of its annotations then.

    same: "bytes", or "pixels" where the bytes differ, as in a copy that was saved again without loss.
    """

    path: str
    sha256: str
    same: str
    labels: str


U = TypeVar("U", bound=ModelUse)


@dataclass(frozen=True)
class Answer(Generic[U]):
    """Every use of images, newest first; unknown: models that may have used them as well, with the reason: a manifest
    (a git blob) that was never committed, an ancestor (its file's name) that no record knows, or another reason.
    published: weights of upstream that models of the history started from."""

    uses: list[U]
    unknown: list[dict[str, Any]]
    published: list[str]


@dataclass(frozen=True)
class Image:
    """What an image is searched by: the digest of its bytes, and that of its pixels, if that is known."""

    sha256: str
    pixels: str | None = None

    def same(self, row: Mapping[str, Any]) -> str:
        """What a row of a manifest has in common with it: "bytes", "pixels", or nothing."""
        if row["sha256"] == self.sha256:
            return "bytes"
        return "pixels" if row.get("pixels") in {self.sha256, self.pixels} - {None} else ""

    def use_in(self, rows: Iterable[Mapping[str, Any]]) -> tuple[str, str, str, str] | None:
        """Path, digest, what is the same, and the digest of the labels: of the first row with its bytes, else of the
        first with its pixels."""
        found = [(row["path"], row["sha256"], same, row["labels"]) for row in rows if (same := self.same(row))]
        return min(found, key=lambda use: use[2] != "bytes", default=None)


def uses_of(image: Image, archive: Archive) -> Answer[Use]:
    """Every model of the whole history that an image went into, itself or through a model that it was trained from.

    Raises:
        UserError: "none" would be no answer, since commits or what they hold are not in this clone.
    """
    require_whole(archive)
    families, without_record = families_of(archive), list(unrecorded(archive))
    everything = list(sightings(archive, families))
    places, gone = _containing(image, archive, {sighting.blob for sighting in everything})
    uses: dict[tuple[str, str | None], Use] = {}
    unknown: dict[tuple[Any, ...], dict[str, Any]] = {}
    for sighting in everything:
        if sighting.blob in places:
            use = Use(
                sighting.role, sighting.tensors, sighting.md5, sighting.commit, sighting.through, *places[sighting.blob]
            )
            uses.setdefault((sighting.role, sighting.md5 or sighting.tensors), use)
        if sighting.blob in gone:
            row = {"role": sighting.role, "tensors": sighting.tensors, "manifest": sighting.blob, "ancestor": None}
            unknown.setdefault((sighting.tensors, sighting.blob), row | {"through": list(sighting.through)})
    for use in _uses_unrecorded(without_record, places, archive):
        uses.setdefault((use.role, use.md5), use)
    all_unknown = [*unknown.values(), *unknown_ancestors(families, without_record)]
    return Answer(newest_first(uses.values(), archive), all_unknown, upstream(families))


def families_of(archive: Archive) -> Families:
    """Every run of the history."""
    return [(record, list(ancestors_of(record["lineage"]["training"], archive))) for record in archive.runs]


def newest_first(uses: Iterable[U], archive: Archive) -> list[U]:
    """Uses in the order of the commits of their models."""
    places = archive.places
    return sorted(uses, key=lambda use: (places.get(use.commit.id, 0) if use.commit else -1, use.role))


@dataclass(frozen=True)
class Sighting:
    """One manifest of a split, a git blob, that a model with a record was trained, validated or tested on.

    commit: the one that brought the model. through: see Use. at: the commit that brought what used the manifest: the
    model, its ancestor or the evaluation; None where that is not known.
    """

    role: str
    split: str
    blob: str
    tensors: str
    md5: str | None
    commit: Commit | None
    through: tuple[str, ...]
    at: Commit | None


def sightings(archive: Archive, families: Families) -> Iterator[Sighting]:
    """Every manifest of every recorded training, of its ancestors, and of every evaluation, in this order."""
    for record, ancestors in families:
        tensors, md5 = record["lineage"]["tensors"], record["file"]["md5"]
        commit, own = archive.first_with(md5), record["lineage"]["training"]
        for split, blob in training_manifests(own).items():
            yield Sighting(ROLES[split], split, blob, tensors, md5, commit, (), commit)
        for ancestor in ancestors:
            at = commit_of_training(ancestor.training, ancestor.through[-1], archive) if ancestor.training else None
            for split, blob in training_manifests(ancestor.training or {}).items():
                yield Sighting(ROLES[split], split, blob, tensors, md5, commit, ancestor.through, at)
    for at, evaluation in archive.evaluations:
        model = evaluation["model"]
        md5 = _md5_of(model, archive)
        for split, blob in evaluation_manifests(evaluation).items():
            commit = archive.first_with(md5) or at
            yield Sighting("tested", split, blob, model["tensors"], md5, commit, (), at)


def unknown_ancestors(families: Families, without_record: list[tuple[str, Commit, Lock]]) -> Iterator[dict[str, Any]]:
    """Models that may have used any image, since nothing is known of an ancestor; each ancestor of a model once."""
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


def upstream(families: Families) -> list[str]:
    """The published weights that models of the history started from."""
    return sorted({ancestor.name for _, ancestors in families for ancestor in ancestors if ancestor.published})


Places = dict[str, tuple[str, str, str, str]]  # by blob of a manifest: path, sha256, same and labels of a Use


def _containing(image: Image, archive: Archive, named: set[str]) -> tuple[Places, set[str]]:
    """The manifests of the whole history that hold an image; and those of `named` that no commit has, as after two
    trainings without a commit between them.

    Raises:
        UserError: the manifest of a commit is not in this clone.
    """
    history, elsewhere = archive.history, set(named)
    needles = [f'"{digest}"' for digest in (image.sha256, image.pixels) if digest]
    places: Places = {}

    def look(lines: Sequence[bytes], blob: str) -> None:
        if use := image.use_in(rows_in(lines, blob, history)):
            places[blob] = use

    for path in (f"manifest/{split}.json" for split in SPLITS):
        oldest = {commit.changed[path]: commit.id for commit in history.commits if path in commit.changed}
        blobs = {commit: blob for blob, commit in oldest.items() if commit != NOT_COMMITTED}
        elsewhere = (elsewhere | oldest.keys()) - set(blobs.values())
        for blob in history.missing(blobs.values()):
            raise UserError(
                f"a manifest of the history (git blob {blob}) is not in this clone: a model that used the image could "
                "be missed. Name the clone that has it: --repo DIR"
            )
        for commit, lines in history.lines_with(needles, path, list(blobs)).items():
            look(lines, blobs[commit])
    contents = dict(history.read(sorted(elsewhere)))
    for blob, content in contents.items():
        if content and any(needle.encode() in content for needle in needles):
            look([content], blob)
    return places, {blob for blob, content in contents.items() if content is None}


def require_whole(archive: Archive) -> None:
    """Raise a UserError where models could be missed: the clone is shallow, or has no results."""
    if archive.history.shallow:
        raise UserError("this clone is shallow: models of older commits would be missed. Run git fetch --unshallow")
    if not archive.history.lock_texts and not archive.all_records:
        raise UserError(
            f"{archive.history.root} has no {LOCK} in its history. Name the clone of the project: --repo DIR"
        )


def _md5_of(model: dict[str, Any], archive: Archive) -> str | None:
    return next((record["file"]["md5"] for record in archive.runs if record["file"]["sha256"] == model["sha256"]), None)


def unrecorded(archive: Archive) -> Iterator[tuple[str, Commit, Lock]]:
    """Models that were committed in a dvc.lock without a record: MD5, commit, lock."""
    known = {record["file"]["md5"] for record in archive.runs}
    for commit in archive.history.commits:
        blob = commit.changed.get(LOCK, "")
        md5s = {md5.decode() for md5 in _MODEL_IN_LOCK.findall(archive.history.lock_texts.get(blob, b""))}
        if md5s and md5s <= known:
            continue
        lock = archive.history.lock(blob) if blob else None
        outs = {path: md5 for _, path, md5 in lock.outs()} if lock else {}
        trained = next((md5 for path, md5 in outs.items() if path.endswith(".pth")), None)
        md5 = outs.get(MODEL, trained)
        if lock and md5 and md5 not in known:
            yield md5, commit, lock


def _uses_unrecorded(missing: list[tuple[str, Commit, Lock]], places: Places, archive: Archive) -> Iterator[Use]:
    """The uses by models without a record, by the manifests that their dvc.lock names."""
    manifests = archive.history.read(places if missing else ())
    digests = {files.md5_bytes(content): blob for blob, content in manifests if content}
    for md5, commit, lock in missing:
        for split, stage in (("train", "train"), ("valid", "train"), ("test", "evaluate")):
            dep = lock.dep(stage, f"manifest/{split}.json")
            if dep in digests:
                yield Use(ROLES[split], None, md5, commit, (), *places[digests[dep]])


def _started_from(lock: Lock) -> Iterator[str]:
    """The weights that the params of a training name and that are not upstream's."""
    params = lock.params_of("train")
    for section, key in (("model", "pretrain_weights"), ("train", "resume")):
        name = (params.get(section) or {}).get(key)
        if name is not None and name not in PUBLISHED:
            yield str(name)
