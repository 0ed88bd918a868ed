"""From a file to what made it: found by its content in the history of dvc.lock, and by the lineage that it carries."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rfdetr_core.audit.history import EVALUATION, NOT_COMMITTED, Commit, History, cached
from rfdetr_core.base import files
from rfdetr_core.base.code import STAGE
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.provenance import flattened
from rfdetr_core.base.schema import Fields, checked
from rfdetr_core.checkpoint.schema import Evaluation, RecordFile
from rfdetr_core.lineage.lock import LOCK, Entry, Lock

SUFFIXES = (".pth", ".pt", ".ckpt")
_MOST = 3
_MD5 = re.compile(rb"\b[0-9a-f]{32}\b(?:\.dir\b)?")


@dataclass(frozen=True)
class Link:
    """One stage that led to a file: the commit that brought this result of it, its dvc.lock, and the file's path."""

    stage: str
    commit: Commit
    lock: Lock
    path: str

    @property
    def entry(self) -> Entry:
        """What dvc.lock says of the stage."""
        return self.lock.stages[self.stage]


@dataclass(frozen=True)
class Trace:
    """What is known of a file.

    found_by: "bytes" (in a dvc.lock), "tensors" (the weights are those of a record), or None: in no history here.
    path: its name in the pipeline. links: from the stage that wrote it back to validate. lineage: what it carries, or
    what the record says. record: the content of its file in records/. children: tensor digests of models that were
    trained from it. contradicted: the file speaks of another making than its record, or of other weights.
    """

    sha256: str
    md5: str
    tensors: str | None = None
    found_by: str | None = None
    path: str | None = None
    links: tuple[Link, ...] = ()
    lineage: dict[str, Any] | None = None
    record: dict[str, Any] | None = None
    children: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    contradicted: bool = False


class Archive:
    """Records, evaluations and locks of a history, by what they are looked up with."""

    def __init__(self, history: History) -> None:
        self.history = history
        self._damaged: list[str] = []

    @cached_property
    def records(self) -> dict[str, dict[str, Any]]:
        """The newest record of each tensor digest, over all commits."""
        return {one["lineage"]["tensors"]: one for one in reversed(self.all_records)}

    @cached_property
    def all_records(self) -> list[dict[str, Any]]:
        """Every version of every record that is whole and speaks of the tensors in its name, newest first."""
        return [one for _, one in self._read("records/", RecordFile)]

    @cached_property
    def evaluations(self) -> list[tuple[Commit, dict[str, Any]]]:
        """The lineage of every evaluation, newest first."""
        return list(self._read(EVALUATION, Evaluation))

    @property
    def notes(self) -> list[str]:
        """What of the history was looked at, cannot be read, and so is no part of the answer."""
        _ = self.all_records, self.evaluations
        parsed = ((one, self.history.parsed.get(one.changed.get(LOCK, ""), True)) for one in self.history.commits)
        damaged = self._damaged + [f"{LOCK} {_of(commit)}" for commit, lock in parsed if lock is None]
        more = f" and {len(damaged) - _MOST} more" if len(damaged) > _MOST else ""
        return [f"not readable, and left out: {', '.join(damaged[:_MOST])}{more}"] if damaged else []

    def introduced(self, md5: str) -> Link | None:
        """The stage with this out, and the oldest commit whose dvc.lock has it."""
        for commit in reversed(self.named.get(md5, [])):
            lock = self.history.lock(commit.changed[LOCK])
            for stage, path, out in lock.outs() if lock else ():
                if lock and out == md5:
                    return Link(stage, commit, lock, path)
        return None

    def first_with(self, md5: str | None) -> Commit | None:
        """The oldest commit whose dvc.lock names an MD5."""
        return self.named[md5][-1] if md5 in self.named else None

    @cached_property
    def named(self) -> dict[str, list[Commit]]:
        """By MD5: the commits whose dvc.lock names it as anything, newest first. Nothing is parsed for it."""
        found: dict[str, list[Commit]] = {}
        for commit in self.history.commits:
            for md5 in set(_MD5.findall(self.history.lock_texts.get(commit.changed.get(LOCK, ""), b""))):
                found.setdefault(md5.decode(), []).append(commit)
        return found

    @cached_property
    def places(self) -> dict[str, int]:
        """The place of each commit in the history, by its id: the higher, the older."""
        return {commit.id: place for place, commit in enumerate(self.history.commits)}

    def _read(self, prefix: str, schema: type[Fields]) -> Iterator[tuple[Commit, dict[str, Any]]]:
        """Parsed JSON files whose path starts so, with the commit that brought each, newest first."""
        places: dict[str, tuple[Commit, str]] = {}
        for commit in self.history.commits:
            for path, blob in commit.changed.items():
                if path.startswith(prefix):
                    places.setdefault(blob, (commit, path))
        for blob, content in self.history.read(list(places)):
            commit, path = places[blob]
            try:
                parsed = checked(files.parse_json(content or b""), schema, path)
                if schema is RecordFile and Path(path).stem != parsed["lineage"]["tensors"]:
                    raise ValueError("it is not of the tensors in its name")
            except (ValueError, UserError):
                self._damaged.append(f"{path} {_of(commit)}")
            else:
                yield commit, parsed


def trace(path: Path, archive: Archive) -> Trace:
    """Find a file of any name. What cannot be found is None or empty, and `notes` say why.

    Raises:
        UserError: the file is missing; or it is a model file that cannot be read.
    """
    if not path.is_file():
        what = "is no file" if path.exists() else "does not exist"
        raise UserError(f"{path} {what}. Give a model file, or another result of the pipeline.")
    sha256, md5 = files.sha256_file(path), files.md5_file(path)
    tensors, own = None, None
    if path.suffix in SUFFIXES:
        # They import torch, which the search for an image does without.
        from rfdetr_core.checkpoint.files import read_checkpoint, tensor_digest

        checkpoint = read_checkpoint(path)
        tensors, own = tensor_digest(checkpoint.weights), checkpoint.lineage
    record = archive.records.get(tensors or "")
    found = archive.introduced(md5) or _in_folder(md5, archive)
    by = "bytes" if found else None
    if found is None and record is not None:
        found, by = archive.introduced(record["file"]["md5"]), "tensors"
    made = Trace(
        sha256,
        md5,
        tensors,
        by,
        found.path if found else None,
        tuple(_links(found, archive)) if found else (),
        record["lineage"] if record else own,
        record,
        tuple(sorted(child for child, one in archive.records.items() if tensors and tensors in _parents(one))),
        contradictions := list(_contradictions(own, tensors, record)),
        bool(contradictions),
    )
    if own is not None and record is None:
        made.notes.append("what made it is the file's own word: no record of its weights is in this history")
    if found is None:
        made.notes.append("no dvc.lock of this repository's history has this file")
    made.notes.extend(archive.notes)
    return made


def _contradictions(own: dict[str, Any] | None, tensors: str | None, record: dict[str, Any] | None) -> Iterator[str]:
    """What a file says of its making that is not so."""
    if own is None:
        return
    if own["tensors"] != tensors:
        yield "the weights are not those that its lineage speaks of: one of the two was changed"
    elif record is not None:
        told, said = flattened(record["lineage"]), flattened(own)
        other = sorted(key for key in told.keys() | said.keys() if told.get(key) != said.get(key))
        more = f" and {len(other) - _MOST} more" if len(other) > _MOST else ""
        if other:
            yield f"told is its record; the file itself says otherwise of {', '.join(other[:_MOST])}{more}"


def evaluations_of(tensors: str | None, archive: Archive) -> list[dict[str, Any]]:
    """Every evaluation of these weights that was committed, newest first, without repetition."""
    found = [one for _, one in archive.evaluations if tensors and one["model"]["tensors"] == tensors]
    return [one for number, one in enumerate(found) if one not in found[:number]]


def _links(found: Link, archive: Archive) -> Iterator[Link]:
    """The stage that wrote a file and those before it, by the deps in the dvc.lock that has it."""
    lock = found.lock
    makers = {path: stage for stage, path, _ in lock.outs()}
    steps = {found.stage: 0}  # the longest way back to each stage: a stage comes after all that use it
    waiting = [found.stage]
    while waiting:
        name = waiting.pop()
        for maker in {makers[path] for path in _within(lock.stages[name].deps, makers)} - {STAGE}:  # the lineage has it
            if steps.get(maker, 0) <= steps[name] < len(lock.stages):
                steps[maker] = steps[name] + 1
                waiting.append(maker)
    for name in sorted(steps, key=lambda name: (steps[name], name)):
        commits = [link.commit for md5 in lock.stages[name].outs.values() if (link := archive.introduced(md5))]
        oldest = min(commits, key=lambda commit: archive.places[commit.id], default=found.commit)
        yield replace(found, stage=name, commit=oldest)


def _within(deps: dict[str, str], makers: dict[str, str]) -> set[str]:
    """Outs that are deps, or lie in a folder that is one."""
    return {out for out in makers for dep in deps if out == dep or out.startswith(f"{dep}/")}


def _in_folder(md5: str, archive: Archive) -> Link | None:
    """The folder out that holds this content, where DVC's cache still has its listing."""
    for digest in archive.named:
        if digest.endswith(".dir"):
            listing = cached(archive.history.root, digest)
            # Whoever can write into the cache could else have any file be found.
            whole = listing.exists() and f"{files.md5_file(listing)}.dir" == digest
            if whole and f'"md5": "{md5}"'.encode() in listing.read_bytes():  # as DVC writes it
                return archive.introduced(digest)
    return None


def _of(commit: Commit) -> str:
    return "of the working tree" if commit.id == NOT_COMMITTED else f"of commit {commit.id}"


def _parents(record: dict[str, Any]) -> set[str]:
    """Tensor digests of the models that a record's model started from."""
    return {one["tensors"] for one in (record["lineage"]["training"].get("parents") or {}).values()}
