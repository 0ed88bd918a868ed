"""Which images made a model, and which models an image was used for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha1 as new_sha1
from pathlib import Path
from typing import Any

from rfdetr_core.audit.history import MODEL, NOT_COMMITTED, Commit, History
from rfdetr_core.audit.trace import Archive, Trace, evaluations_of
from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.manifest import SPLITS
from rfdetr_core.base.schema import require
from rfdetr_core.checkpoint.schema import Manifest
from rfdetr_core.lineage.lock import LOCK, Lock

_SHA1 = 40  # hexadecimal digits; repositories with SHA-256 have more
ROLES = {"train": "trained", "valid": "validated", "test": "tested"}
# As DVC writes it. A lock where this does not find a known model is parsed; parsing all would take most of the time.
_MODEL_IN_LOCK = re.compile(rb"^ *- path: %s\n *hash: md5\n *md5: ([0-9a-f]{32})$" % re.escape(MODEL).encode(), re.M)


@dataclass(frozen=True)
class Use:
    """One model that an image was trained, validated or tested on; path: the image's name then. tensors: None where
    the model was committed without a record. commit: the one that brought it."""

    role: str
    path: str
    tensors: str | None
    md5: str | None
    commit: Commit | None


def rows_of(traced: Trace, archive: Archive) -> Iterator[dict[str, Any]]:
    """Every image behind a model: split, path, sha256, width, height, labels (the digest of its annotations).

    Raises:
        UserError: the file has no lineage, or a manifest that it names is in no commit here.
    """
    if traced.lineage is None:
        raise UserError("the file carries no lineage, and no record of it was found: its images cannot be named.")
    for split, blob in sorted(_manifests(traced, archive).items(), key=lambda one: SPLITS.index(one[0])):
        ((_, content),) = archive.history.read([blob])
        if content is None:
            raise UserError(
                f"manifest/{split}.json (git blob {blob}) is not in this clone. Name the clone that has its history: "
                "--repo DIR; a shallow clone needs git fetch --unshallow"
            )
        if len(blob) == _SHA1 and new_sha1(b"blob %d\0" % len(content) + content).hexdigest() != blob:
            raise UserError(f"git's object {blob}, manifest/{split}.json, was changed. Fetch it again: git fsck")
        yield from ({"split": split, **row} for row in _rows(content, f"manifest/{split}.json (git blob {blob})"))


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
    """Every use of an image, newest first; unknown: models that may have used it as well, since the manifest (a git
    blob) that their record names is in no commit here."""

    uses: list[Use]
    unknown: list[dict[str, str | None]]


def uses_of(sha256: str, archive: Archive) -> Answer:
    """Every model of the whole history that an image went into.

    Raises:
        UserError: "none" would be no answer, since commits or what they hold are not in this clone.
    """
    _require_whole(archive)
    places, gone = _containing(sha256, archive)
    found: dict[tuple[str, str | None], Use] = {}
    unknown: dict[tuple[str, str], dict[str, str | None]] = {}
    for record in archive.all_records:
        tensors = record["lineage"]["tensors"]
        for split, blob in _recorded(record["lineage"]).items():
            if blob in places:
                md5 = record["file"]["md5"]
                one = Use(ROLES[split], places[blob], tensors, md5, archive.first_with(md5))
                found.setdefault((one.role, one.md5), one)
            if blob in gone:
                unknown[tensors, blob] = {"role": ROLES[split], "tensors": tensors, "manifest": blob}
    for commit, evaluation in archive.evaluations:
        for blob in _evaluated(evaluation).values():
            if blob in places:
                model = evaluation["model"]
                new = _md5_of(model, archive)
                one = Use("tested", places[blob], model["tensors"], new, archive.first_with(new) or commit)
                found[one.role, one.md5 or model["tensors"]] = one
            if blob in gone:
                tensors = evaluation["model"]["tensors"]
                unknown[tensors, blob] = {"role": "tested", "tensors": tensors, "manifest": blob}
    for one in _unrecorded(places, archive):
        found.setdefault((one.role, one.md5), one)
    places_of = archive.places
    uses = sorted(found.values(), key=lambda one: (places_of.get(one.commit.id, 0) if one.commit else -1, one.role))
    return Answer(uses, list(unknown.values()))


def _manifests(traced: Trace, archive: Archive) -> dict[str, str]:
    """The git blob of each split's manifest; that of test from an evaluation of the same weights."""
    blobs = _recorded(traced.lineage or {})
    for evaluation in evaluations_of(traced.tensors, archive)[:1]:
        blobs |= _evaluated(evaluation)
    return blobs


def _evaluated(evaluation: dict[str, Any]) -> dict[str, str]:
    return _by_split(evaluation["inputs"])


def _recorded(lineage: dict[str, Any]) -> dict[str, str]:
    return _by_split(lineage.get("training", {}).get("files") or {})


def _by_split(named: dict[str, Any]) -> dict[str, str]:
    """The git blob of each split's manifest that is among the files."""
    return {split: named[name]["git"] for split in SPLITS if (name := f"manifest/{split}.json") in named}


def _containing(sha256: str, archive: Archive) -> tuple[dict[str, str], set[str]]:
    """The manifests of the whole history that hold an image, by blob, with its path there; and those that a record
    names and no commit has, as after two trainings without a commit between them.

    Raises:
        UserError: the manifest of a commit is not in this clone.
    """
    needle, history = f'"{sha256}"', archive.history
    found: dict[str, str] = {}
    elsewhere = set(_named_blobs(archive))
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


def _named_blobs(archive: Archive) -> Iterator[str]:
    """Every manifest that a record or an evaluation names."""
    for record in archive.all_records:
        yield from _recorded(record["lineage"]).values()
    for _, evaluation in archive.evaluations:
        yield from _evaluated(evaluation).values()


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
    record = archive.records.get(model["tensors"])
    return record["file"]["md5"] if record and record["file"]["sha256"] == model["sha256"] else None


def _unrecorded(places: dict[str, str], archive: Archive) -> Iterator[Use]:
    """Models that were committed in a dvc.lock without a record, as DVC's experiments are."""
    known = {record["file"]["md5"] for record in archive.records.values()}
    missing: list[tuple[str, Commit, Lock]] = []
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
            missing.append((md5, commit, lock))
    manifests = archive.history.read(places if missing else ())
    digests = {files.md5_bytes(content): blob for blob, content in manifests if content}
    for md5, commit, lock in missing:
        for split, stage in (("train", "train"), ("valid", "train"), ("test", "evaluate")):
            dep = lock.dep(stage, f"manifest/{split}.json")
            if dep in digests:
                yield Use(ROLES[split], places[digests[dep]], None, md5, commit)
