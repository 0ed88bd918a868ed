"""Which images made a model, and which models an image was used for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha1 as new_sha1
from pathlib import Path
from typing import Any

from rfdetr_core.audit.ancestors import ancestors_of
from rfdetr_core.audit.history import MODEL, NOT_COMMITTED, Commit, History
from rfdetr_core.audit.trace import Archive, Trace, evaluations_of
from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.manifest import SPLITS
from rfdetr_core.base.provenance import identity
from rfdetr_core.base.schema import require
from rfdetr_core.checkpoint.published import PUBLISHED
from rfdetr_core.checkpoint.schema import Manifest
from rfdetr_core.lineage.lock import LOCK, Lock

_SHA1 = 40  # hexadecimal digits; repositories with SHA-256 have more
ROLES = {"train": "trained", "valid": "validated", "test": "tested"}
# As DVC writes it. A lock where this does not find a known model is parsed; parsing all would take most of the time.
_MODEL_IN_LOCK = re.compile(rb"^ *- path: %s\n *hash: md5\n *md5: ([0-9a-f]{32})$" % re.escape(MODEL).encode(), re.M)


@dataclass(frozen=True)
class Use:
    """One model that an image was trained, validated or tested on; path: the image's name then. tensors: None where
    the model was committed without a record. commit: the one that brought it. through: empty, or the tensor digests of
    the model's parent and so on to the ancestor that the image was used for."""

    role: str
    path: str
    tensors: str | None
    md5: str | None
    commit: Commit | None
    through: tuple[str, ...] = ()


@dataclass(frozen=True)
class Images:
    """Every image behind a model: split, path, sha256, width, height, labels (the digest of its annotations), through
    (the tensors of the ancestor that it was used for, or ""). unknown: a sentence for each part that cannot be named.
    notes: what limits the answer."""

    rows: list[dict[str, Any]]
    unknown: list[str]
    notes: list[str]


def images_of(traced: Trace, archive: Archive, *, own: bool = False) -> Images:
    """The images behind a model and behind the models that it was trained from; own: those of its own training alone.

    Raises:
        UserError: what made the file is not known.
    """
    training, found = _training_of(traced), Images([], [], [])
    _add(found, _manifests(training, traced, archive), "this run", "", traced, archive)
    for ancestor in () if own else ancestors_of(training, archive):
        who = f"its ancestor {ancestor.name}, tensors {ancestor.through[-1]}"
        if ancestor.training is not None:
            _add(found, _recorded(ancestor.training), who, ancestor.through[-1], traced, archive)
        elif ancestor.published:
            found.notes.append(published([ancestor.name]))
        else:
            found.unknown.append(f"the images of {who}: no record here knows what made it")
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
    said = [(_recorded(one), {key: parent["sha256"] for key, parent in one["parents"].items()}) for one in trainings]
    if any(one != said[0] for one in said):
        raise UserError(f"its images cannot be named, since {traced.notes[0]}")
    return dict(trainings[0])


def _add(found: Images, blobs: dict[str, str], who: str, through: str, traced: Trace, archive: Archive) -> None:
    """Add the rows of these manifests, or why they cannot be read."""
    for split, blob in sorted(blobs.items(), key=lambda one: SPLITS.index(one[0])):
        ((_, content),) = archive.history.read([blob])
        if content is None:
            beside = traced.file.parent / "dataset" / "manifest" / f"{split}.json"  # as RFDETR.train() leaves it
            content = files.read_bytes(beside) if beside.is_file() and identity(beside)["git"] == blob else None
        if content is None:
            found.unknown.append(f"manifest/{split}.json of {who}: {archive.history.why_missing(blob)}")
            continue
        if len(blob) == _SHA1 and new_sha1(b"blob %d\0" % len(content) + content).hexdigest() != blob:
            raise UserError(f"git's object {blob}, manifest/{split}.json, was changed. Fetch it again: git fsck")
        rows = _rows(content, f"manifest/{split}.json (git blob {blob})")
        found.rows.extend({"split": split, **row, "through": through} for row in rows)


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
        for row in _rows(content or b"[]", "a manifest at HEAD"):
            if image == row["path"] or image.endswith(f"/{row['path']}"):
                return str(row["sha256"])
    raise UserError(f"{image} is no file, no SHA-256, and no image of the manifests at HEAD. Give its SHA-256.")


@dataclass(frozen=True)
class Answer:
    """Every use of an image, newest first; unknown: models that may have used it as well, with the reason: a manifest
    (a git blob) that was never committed, or an ancestor (its file's name) that no record knows. published: weights of
    upstream that models of the history started from."""

    uses: list[Use]
    unknown: list[dict[str, Any]]
    published: list[str]


def uses_of(sha256: str, archive: Archive) -> Answer:
    """Every model of the whole history that an image went into, itself or through a model that it was trained from.

    Raises:
        UserError: "none" would be no answer, since commits or what they hold are not in this clone.
    """
    _require_whole(archive)
    families = [(record, list(ancestors_of(record["lineage"]["training"], archive))) for record in archive.runs]
    named = [_recorded(record["lineage"]["training"]) for record, _ in families]
    named += [_recorded(one.training) for _, ancestors in families for one in ancestors if one.training]
    named += [_evaluated(evaluation) for _, evaluation in archive.evaluations]
    places, gone = _containing(sha256, archive, {blob for blobs in named for blob in blobs.values()})
    found: dict[tuple[str, str | None], Use] = {}
    unknown: dict[tuple[Any, ...], dict[str, Any]] = {}

    def add(
        role: str, blob: str, tensors: str, md5: str | None, commit: Commit | None, through: tuple[str, ...]
    ) -> None:
        if blob in places:
            found.setdefault((role, md5 or tensors), Use(role, places[blob], tensors, md5, commit, through))
        if blob in gone:
            row = {"role": role, "tensors": tensors, "manifest": blob, "ancestor": None, "through": list(through)}
            unknown.setdefault((tensors, blob), row)

    for record, ancestors in families:
        tensors, md5 = record["lineage"]["tensors"], record["file"]["md5"]
        for through, training in (
            ((), record["lineage"]["training"]),
            *((one.through, one.training) for one in ancestors),
        ):
            for split, blob in _recorded(training or {}).items():
                add(ROLES[split], blob, tensors, md5, archive.first_with(md5), through)
        for one in ancestors:
            if one.training is None and not one.published:
                row = {"role": "trained", "tensors": tensors, "manifest": None, "ancestor": one.name}
                unknown[tensors, one.through] = row | {"through": list(one.through)}
    for commit, evaluation in archive.evaluations:
        model = evaluation["model"]
        md5 = _md5_of(model, archive)
        for blob in _evaluated(evaluation).values():
            add("tested", blob, model["tensors"], md5, archive.first_with(md5) or commit, ())
    unrecorded = list(_unrecorded(archive))
    for use in _uses_unrecorded(unrecorded, places, archive):
        found.setdefault((use.role, use.md5), use)
    for md5, _, lock in unrecorded:
        for name in _started_from(lock):
            row = {"role": "trained", "tensors": None, "md5": md5, "manifest": None, "ancestor": name, "through": []}
            unknown[md5, name] = row
    places_of = archive.places
    uses = sorted(found.values(), key=lambda one: (places_of.get(one.commit.id, 0) if one.commit else -1, one.role))
    upstream = sorted({one.name for _, ancestors in families for one in ancestors if one.published})
    return Answer(uses, list(unknown.values()), upstream)


def _manifests(training: dict[str, Any], traced: Trace, archive: Archive) -> dict[str, str]:
    """The git blob of each split's manifest; that of test from an evaluation of the same file, else of its weights."""
    blobs = _recorded(training)
    for evaluation in evaluations_of(traced, archive)[:1]:
        blobs |= _evaluated(evaluation)
    return blobs


def _evaluated(evaluation: dict[str, Any]) -> dict[str, str]:
    return _by_split(evaluation["inputs"])


def _recorded(training: dict[str, Any]) -> dict[str, str]:
    return _by_split(training.get("files") or {})


def _by_split(named: dict[str, Any]) -> dict[str, str]:
    """The git blob of each split's manifest that is among the files."""
    return {split: named[name]["git"] for split in SPLITS if (name := f"manifest/{split}.json") in named}


def _containing(sha256: str, archive: Archive, named: set[str]) -> tuple[dict[str, str], set[str]]:
    """The manifests of the whole history that hold an image, by blob, with its path there; and those of `named`
    that no commit has, as after two trainings without a commit between them.

    Raises:
        UserError: the manifest of a commit is not in this clone.
    """
    needle, history, elsewhere = f'"{sha256}"', archive.history, set(named)
    found: dict[str, str] = {}
    for path in (f"manifest/{split}.json" for split in SPLITS):
        oldest = {one.changed[path]: one.id for one in history.commits if path in one.changed}
        blobs = {commit: blob for blob, commit in oldest.items() if commit != NOT_COMMITTED}
        elsewhere = (elsewhere | oldest.keys()) - set(blobs.values())
        for blob in history.missing(blobs.values()):
            raise UserError(
                f"a manifest of the history (git blob {blob}) is not in this clone: a model that used the image could "
                "be missed. Name the clone that has it: --repo DIR"
            )
        for commit, line in history.lines_with(needle, path, list(blobs)).items():
            found[blobs[commit]] = _path_of(line, sha256, blobs[commit], history)
    contents = dict(history.read(sorted(elsewhere)))
    for blob, content in contents.items():
        if content and needle.encode() in content:
            found[blob] = _path_of(content, sha256, blob, history)
    return found, {blob for blob, content in contents.items() if content is None}


def _require_whole(archive: Archive) -> None:
    if archive.history.shallow:
        raise UserError("this clone is shallow: models of older commits would be missed. Run git fetch --unshallow")
    if not archive.history.lock_texts and not archive.all_records:
        raise UserError(
            f"{archive.history.root} has no {LOCK} in its history. Name the clone of the project: --repo DIR"
        )


def _path_of(line: bytes, sha256: str, blob: str, history: History) -> str:
    try:
        return str(json.loads(line.strip().rstrip(b","))["path"])
    except (ValueError, KeyError, TypeError):  # laid out by other hands
        ((_, content),) = history.read([blob])
        rows = _rows(content or b"[]", f"a manifest (git blob {blob})")
        return next((row["path"] for row in rows if row["sha256"] == sha256), "?")


def _rows(content: bytes, where: str) -> list[dict[str, Any]]:
    """The rows of a manifest. UserError: it is none."""
    try:
        rows: list[dict[str, Any]] = files.parse_json(content)
    except ValueError as error:
        raise UserError(f"{where} is not readable JSON ({error}).") from None
    require(Manifest, {"rows": rows}, where)
    return rows


def _md5_of(model: dict[str, Any], archive: Archive) -> str | None:
    return next((one["file"]["md5"] for one in archive.runs if one["file"]["sha256"] == model["sha256"]), None)


def _unrecorded(archive: Archive) -> Iterator[tuple[str, Commit, Lock]]:
    """Models that were committed in a dvc.lock without a record: MD5, commit, lock."""
    known = {record["file"]["md5"] for record in archive.runs}
    for commit in archive.history.commits:
        blob = commit.changed.get(LOCK, "")
        told = {md5.decode() for md5 in _MODEL_IN_LOCK.findall(archive.history.lock_texts.get(blob, b""))}
        if told and told <= known:
            continue
        lock = archive.history.lock(blob) if blob else None
        outs = {path: md5 for _, path, md5 in lock.outs()} if lock else {}
        trained = next((md5 for path, md5 in outs.items() if path.endswith(".pth")), None)
        md5 = outs.get(MODEL, trained)
        if lock and md5 and md5 not in known:
            yield md5, commit, lock


def _uses_unrecorded(
    missing: list[tuple[str, Commit, Lock]], places: dict[str, str], archive: Archive
) -> Iterator[Use]:
    """The uses by models without a record, by the manifests that their dvc.lock names."""
    manifests = archive.history.read(places if missing else ())
    digests = {files.md5_bytes(content): blob for blob, content in manifests if content}
    for md5, commit, lock in missing:
        for split, stage in (("train", "train"), ("valid", "train"), ("test", "evaluate")):
            dep = lock.dep(stage, f"manifest/{split}.json")
            if dep in digests:
                yield Use(ROLES[split], places[digests[dep]], None, md5, commit)


def _started_from(lock: Lock) -> Iterator[str]:
    """The weights that the params of a training name and that are not upstream's."""
    params = lock.params_of("train")
    for section, key in (("model", "pretrain_weights"), ("train", "resume")):
        name = (params.get(section) or {}).get(key)
        if name is not None and name not in PUBLISHED:
            yield str(name)
