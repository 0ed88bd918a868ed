"""From a file to what made it: found by its content in the history of dvc.lock, and by the lineage that it carries."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from rfdetr_core.audit import exported as exports
from rfdetr_core.audit import weights
from rfdetr_core.audit.history import EVALUATION, EXPORT, NOT_COMMITTED, Commit, History, NoHistory, cached
from rfdetr_core.base import files
from rfdetr_core.base.code import STAGE
from rfdetr_core.base.errors import UserError, listed
from rfdetr_core.base.provenance import flattened
from rfdetr_core.base.schema import FileSchema, checked
from rfdetr_core.checkpoint.schema import Evaluation, RecordFile
from rfdetr_core.lineage.lock import LOCK, Entry, Lock
from rfdetr_core.lineage.records import FOLDER, RECORD, record_names, run_digest

if TYPE_CHECKING:
    from rfdetr_core.checkpoint.exported import Exported
    from rfdetr_core.checkpoint.files import Checkpoint

SUFFIXES = (".pth", ".pt", ".ckpt")
_MD5 = re.compile(rb"\b[0-9a-f]{32}\b(?:\.dir\b)?")
_CHANGED = "a detection may be given another name, or be computed otherwise"


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

    file: where it was read. found_by: "bytes" (of a dvc.lock, a record or an export.json), "tensors" (the weights are
    those of a record, or of a file of a dvc.lock), "rounded" (they are those of such a file, rounded), "training" (what
    it says of its training is in a record; of its weights nothing is), "description" (an exported file that says to be
    of a record's weights), "derived" (the same, and its graph is not the exported one), or None: unknown here.
    exported: what such a file says of itself.
    path: its name in the pipeline. links: from the stage that wrote it back to validate. lineage: what the record says,
    else what the file carries. training: that of the lineage, else what the file carries. record: the content of its
    file in records/; None also where `runs` has several: the runs that made these weights, of which the file does not
    say which made it. children: tensor digests of models that were trained from it. contradicted: the file speaks of
    another making than its record, or of other weights.
    """

    file: Path
    sha256: str
    md5: str
    tensors: str | None = None
    found_by: str | None = None
    path: str | None = None
    links: tuple[Link, ...] = ()
    lineage: dict[str, Any] | None = None
    training: dict[str, Any] | None = None
    record: dict[str, Any] | None = None
    runs: tuple[dict[str, Any], ...] = ()
    children: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    contradicted: bool = False
    exported: Exported | None = None

    @property
    def known(self) -> bool:
        """Whether the history vouches for the file, and for what is said of it."""
        return self.found_by in ("bytes", "tensors", "rounded") and not self.contradicted and not self.runs


class Archive:
    """Records, evaluations and locks of a history, by what they are looked up with."""

    def __init__(self, history: History) -> None:
        self.history = history
        self._damaged: list[str] = []

    @cached_property
    def runs(self) -> list[dict[str, Any]]:
        """The record of every run, newest first; of several versions of a record, the first."""
        return list({run_digest(one): one for one in self.all_records}.values())

    @cached_property
    def trainings(self) -> dict[str, dict[str, Any]]:
        """The training record of every run, by its digest."""
        return {files.digest(one["lineage"]["training"]): one["lineage"]["training"] for one in self.runs}

    @cached_property
    def models(self) -> dict[tuple[str, str | None], str]:
        """The MD5 of the model of every training, by the digest of its record and the weights, or by the digest and
        None; of several, that of the newest."""
        found: dict[tuple[str, str | None], str] = {}
        for one in self.runs:
            training = files.digest(one["lineage"]["training"])
            for tensors in (one["lineage"]["tensors"], None):
                found.setdefault((training, tensors), one["file"]["md5"])
        return found

    def runs_of(self, sha256: str, tensors: str | None, said: Checkpoint | None) -> list[dict[str, Any]]:
        """The runs that may have made a file: by its bytes, else by its weights and what it says, or by these alone."""
        runs = [one for one in self.runs if one["lineage"]["tensors"] == tensors]
        exact = [one for one in runs if one["file"]["sha256"] == sha256]
        exact = [one for one in exact if said and one["lineage"] == said.lineage] or exact  # the others are forged
        lineage, training = (said.lineage, said.training_record) if said else (None, None)
        alike = [one for one in runs if lineage == one["lineage"] or training == one["lineage"]["training"]]
        return exact or alike or runs

    @cached_property
    def contradictions(self) -> list[tuple[str, str]]:
        """Records of one file that say otherwise what made it, the older first. The file holds its lineage, so that
        equal files have equal lineages: one of the two was forged."""
        first: dict[str, dict[str, Any]] = {}
        pairs = ((first.setdefault(one["file"]["sha256"], one), one) for one in reversed(self.runs))
        return [(title_of(old), title_of(new)) for old, new in pairs if old["lineage"] != new["lineage"]]

    @cached_property
    def all_records(self) -> list[dict[str, Any]]:
        """Every version of every record that is whole and has the name of its content, newest first."""
        return [one for _, one in self._read((f"{FOLDER}/", RECORD.as_posix()), RecordFile)]

    @cached_property
    def evaluations(self) -> list[tuple[Commit, dict[str, Any]]]:
        """The lineage of every evaluation, newest first."""
        return list(self._read(EVALUATION, Evaluation))

    @cached_property
    def exports(self) -> list[tuple[Commit, dict[str, Any]]]:
        """Every export.json, newest first."""
        return list(self._read(EXPORT, exports.Export))

    @property
    def notes(self) -> list[str]:
        """What of the history was looked at, cannot be read, and so is no part of the answer; and what contradicts
        itself."""
        _ = self.all_records, self.evaluations, self.exports
        parsed = ((one, self.history.parsed.get(one.changed.get(LOCK, ""), True)) for one in self.history.commits)
        damaged = self._damaged + [f"{LOCK} {_of(commit)}" for commit, lock in parsed if lock is None]
        said = [f"not readable, and left out: {listed(damaged)}"] if damaged else []
        return said + [f"{old} and {new} are of one file and say otherwise what made it: one of them was forged"
                       for old, new in self.contradictions]  # fmt: skip

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

    def _read(self, prefix: str | tuple[str, ...], schema: type[FileSchema]) -> Iterator[tuple[Commit, dict[str, Any]]]:
        """Parsed JSON files whose path starts so, with the commit that brought each, newest first; equal ones once."""
        places: dict[str, list[tuple[Commit, str]]] = {}
        for commit in self.history.commits:
            for path, blob in commit.changed.items():
                if path.startswith(prefix):
                    places.setdefault(blob, []).append((commit, path))
        for blob, content in self.history.read(list(places)):
            try:
                parsed = checked(files.parse_json(content or b""), schema, places[blob][0][1])
            except (ValueError, UserError):
                sound = []
            else:
                sound = [
                    commit for commit, path in places[blob] if schema is not RecordFile or _has_its_name(path, parsed)
                ]
            yield from ((commit, parsed) for commit in sound[:1])
            self._damaged += [f"{path} {_of(commit)}" for commit, path in places[blob][:1] if not sound]


def trace(path: Path, archive: Archive) -> Trace:
    """Find a file of any name. What cannot be found is None or empty, and `notes` say why.

    Raises:
        UserError: the file is missing; or it is a model file that cannot be read.
    """
    if not path.is_file():
        what = "is no file" if path.exists() else "does not exist"
        raise UserError(f"{path} {what}. Give a model file, or another result of the pipeline.")
    sha256, md5 = files.sha256_file(path), files.md5_file(path)
    said, tensors, exported = _read_model(path)
    runs = archive.runs_of(sha256, tensors, said)
    searched = weights.searched(said, md5, archive) if said and not exported and not runs else None
    like = searched.likeness if searched else None
    runs = archive.runs_of(sha256, like.tensors, said) if like else runs
    record = runs[0] if len(runs) == 1 else None
    own, training = (said.lineage, said.training_record) if said else (None, None)
    lineage = record["lineage"] if record else own
    training = lineage["training"] if lineage else like.checkpoint.training if like and not runs else training
    contradictions = list(_contradictions(said, like.tensors if like else tensors, runs))
    contradictions += exports.contradictions(exported, runs) if exported else []
    sisters = [one for one in archive.runs if one["lineage"]["training"] == training and not contradictions]
    written = exports.recorded_as(sha256, archive)
    path_there, found = written or (None, None)
    found = found or archive.introduced(md5) or _in_folder(md5, archive)
    known = (written or found) is not None or any(one["file"]["sha256"] == sha256 for one in runs)
    path_there = path_there or (found.path if found else None)
    if found is None and like:
        found, path_there = archive.introduced(like.md5), like.path
    elif found is None and (record or sisters):
        found = archive.introduced((record or sisters[0])["file"]["md5"])
        path_there = path_there or (found.path if found and record and exported is None else None)
        found = replace(found, stage="train") if found and not record and "train" in found.lock.stages else found
    by_content = exports.found_by(exported) if exported else "rounded" if like and like.rounded else "tensors"
    made = Trace(
        file=path,
        sha256=sha256,
        md5=md5,
        tensors=tensors,
        found_by="bytes" if known else by_content if runs or like else "training" if sisters else None,
        path=path_there,
        links=tuple(_links(found, archive)) if found else (),
        lineage=lineage,
        training=training,
        record=record,
        runs=tuple(runs) if record is None else (),
        children=tuple(sorted({one["lineage"]["tensors"] for one in archive.runs if tensors in _parents(one)})),
        notes=contradictions,
        contradicted=bool(contradictions),
        exported=exported,
    )
    made.notes.extend([*_notes(made, archive), *weights.limits(searched), *archive.notes])
    return made


def _read_model(path: Path) -> tuple[Checkpoint | None, str | None, Exported | None]:
    """What a model file says of itself, the digest of its weights or of those that it says to be exported from, and
    the exported file."""
    # These import torch, which the search for an image does without.
    if path.suffix in exports.SUFFIXES:
        from rfdetr_core.checkpoint.exported import read_exported

        exported = read_exported(path)
        return exported.checkpoint, exported.description.tensors, exported
    if path.suffix in SUFFIXES:
        from rfdetr_core.checkpoint.files import read_checkpoint, tensor_digest

        said = read_checkpoint(path)
        return said, tensor_digest(said.weights), None
    return None, None, None


def _notes(made: Trace, archive: Archive) -> Iterator[str]:
    """What limits an answer."""
    if made.exported is not None:
        yield from exports.limits(made.exported, made.found_by, made.file)
    if isinstance(archive.history, NoHistory):
        yield (
            "this folder is in no git repository, so nothing vouches for what the file says of itself. Name a clone of "
            "the project that made it: --repo DIR"
        )
        return
    if made.runs:
        known = [flattened(one["lineage"]) for one in made.runs]
        keys = dict.fromkeys(key for one in known[1:] for key in _differing(known[0], one))
        yield (
            f"{len(made.runs)} runs made these weights, and which of them made this file is not known: "
            f"{listed(map(title_of, made.runs))}; they differ in {listed(keys)}"
        )
    elif made.record is not None:
        more = [one for one in archive.runs if one["lineage"]["tensors"] == made.tensors and one != made.record]
        if more:
            yield f"equal weights were made by another run, too: {listed(map(title_of, more))}"
    elif made.found_by == "training":
        yield "that its training made these weights is the file's own word: no record and no dvc.lock has them"
    elif made.lineage or (made.training and made.found_by is None):
        yield "what made it is the file's own word: no record of its weights is in this history"
    if made.found_by in (None, "description", "derived") or not made.links:
        yield "no dvc.lock of this repository's history has this file"


def _differing(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The keys with other values, params first."""
    keys = (key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    return sorted(keys, key=lambda key: (not key.startswith("training.params."), key))


def title_of(record: dict[str, Any]) -> str:
    """A record as messages name it."""
    return f"{FOLDER}/{record_names(record)[0]}"


def _contradictions(said: Checkpoint | None, tensors: str | None, runs: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What a file says of its making that is not so."""
    own, training = (said.lineage, said.training_record) if said else (None, None)
    if own is None:
        if training is not None and runs and all(training != one["lineage"]["training"] for one in runs):
            yield "the training that the file names is that of no run that made these weights"
        elif said and said.model_config and training is None and runs and not _described(said, runs):
            yield f"classes or configuration in the file are not those of its record: {_CHANGED}"
    elif own["tensors"] != tensors:
        yield "the weights are not those that its lineage speaks of: one of the two was changed"
    elif said and not _described(said, [{"lineage": own}]):
        yield f"classes or configuration in the file are not those that its lineage speaks of: {_CHANGED}"
    elif len(runs) > 1 and all(own != one["lineage"] for one in runs):
        yield "what the file itself says is the lineage of no run that made these weights"
    elif runs and (other := _differing(flattened(runs[0]["lineage"]), flattened(own))):
        yield f"told is its record; the file itself says otherwise of {listed(other)}"


def _described(said: Checkpoint, runs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether what a file says of its model is what strip wrote in one of these runs; older lineages do not tell."""
    from rfdetr_core.lineage.compose import description_digest

    return any(one["lineage"].get("description") in (None, description_digest(said)) for one in runs)


def evaluations_of(traced: Trace, archive: Archive) -> list[dict[str, Any]]:
    """Every evaluation that was committed of this file, else of these weights; newest first, without repetition."""
    found = [one for _, one in archive.evaluations if traced.tensors and one["model"]["tensors"] == traced.tensors]
    files_of_run = {traced.sha256, traced.record["file"]["sha256"] if traced.record else None}
    found = [one for one in found if one["model"]["sha256"] in files_of_run] or found
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
            if whole and f'"md5": "{md5}"'.encode() in files.read_bytes(listing):  # as DVC writes it
                return archive.introduced(digest)
    return None


def _of(commit: Commit) -> str:
    return "of the working tree" if commit.id == NOT_COMMITTED else f"of commit {commit.id}"


def _has_its_name(path: str, record: dict[str, Any]) -> bool:
    """Whether a record lies beside the model, or has, in records/, a name of its content."""
    return path == RECORD.as_posix() or PurePosixPath(path).name in record_names(record)


def _parents(record: dict[str, Any]) -> set[str]:
    """Tensor digests of the models that a record's model started from."""
    return {one["tensors"] for one in (record["lineage"]["training"].get("parents") or {}).values()}
