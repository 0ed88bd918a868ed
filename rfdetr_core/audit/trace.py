"""From a file to the run that produced it: by its content in the history of dvc.lock, and by the lineage it carries."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from rfdetr_core.audit import exported as exports
from rfdetr_core.audit import weights
from rfdetr_core.audit.contradictions import contradictions_of, differing_keys
from rfdetr_core.audit.history import EVALUATION, EXPORT, NOT_COMMITTED, Commit, History, NoHistory, cache_path
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


@dataclass(frozen=True)
class Link:
    """A stage in the chain of stages that produced a file.

    Attributes:
        stage: Its name.
        commit, lock: The commit that added this result of the stage, and the dvc.lock of that commit.
        path: The path of the file.
    """

    stage: str
    commit: Commit
    lock: Lock
    path: str

    @property
    def entry(self) -> Entry:
        """The stage's entry in dvc.lock."""
        return self.lock.stages[self.stage]


@dataclass(frozen=True)
class Trace:
    """The facts about a file, from the history and from the file itself.

    Attributes:
        file: The file that was traced.
        sha256, md5: The digests of its bytes.
        tensors: Its weights digest. For an exported file: the weights digest in its description.
        found_by: How the history knows the file:
            "bytes": a dvc.lock, a record or an export.json names its bytes.
            "tensors": its weights are those of a record, or of a file in a dvc.lock.
            "rounded": its weights are those of such a file, rounded.
            "training": a record has the training that the file names, but no record has the file's weights.
            "description": an exported file that names the weights of a record.
            "derived": an exported file as in "description", but its graph was changed after the export.
            None: the history does not know it.
        path: Its name in the pipeline.
        links: The stages that led to it, from the stage that wrote it back to validate.
        lineage: The lineage in its record, else the one that it carries.
        training: The training record in that lineage, else the one that it carries.
        record: Its run record. None if there is none, or if `runs` has several.
        runs: Several run records that may belong to the file: they have its weights, and the file does not say which
            run it is from.
        children: Weights digests of the models that were trained from it.
        notes: The limits of the answer, as sentences.
        contradicted: Whether the file contradicts its record or its own weights.
        exported: The content of an exported file.
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
    def confirmed(self) -> bool:
        """Whether the history confirms the file and its lineage."""
        return self.found_by in ("bytes", "tensors", "rounded") and not self.contradicted and not self.runs


class Archive:
    """The records, evaluations, exports and locks of a history, indexed for look-ups."""

    def __init__(self, history: History) -> None:
        self.history = history
        self._damaged: list[str] = []

    @cached_property
    def runs(self) -> list[dict[str, Any]]:
        """The record of every run, newest first. If a record has several versions, the oldest counts."""
        return list({run_digest(record): record for record in self.all_records}.values())

    @cached_property
    def trainings(self) -> dict[str, dict[str, Any]]:
        """The training record of every run, by its digest."""
        return {files.digest(record["lineage"]["training"]): record["lineage"]["training"] for record in self.runs}

    @cached_property
    def model_md5s(self) -> dict[tuple[str, str | None], str]:
        """The MD5 of the model file of every training.

        Each model file has two keys: (digest of the training record, weights digest) and (digest of the training
        record, None). If several runs have the same key, the newest counts.
        """
        md5s: dict[tuple[str, str | None], str] = {}
        for record in self.runs:
            training = files.digest(record["lineage"]["training"])
            for tensors in (record["lineage"]["tensors"], None):
                md5s.setdefault((training, tensors), record["file"]["md5"])
        return md5s

    def runs_of(self, sha256: str, tensors: str | None, checkpoint: Checkpoint | None) -> list[dict[str, Any]]:
        """The records of the runs that may have produced a file.

        All of these runs have the file's weights. If runs have its bytes, only these are returned. Otherwise, if runs
        have the lineage or training record that the file carries, only these are returned. Otherwise all are returned.

        Args:
            sha256: The digest of the file's bytes.
            tensors: Its weights digest.
            checkpoint: Its content, if it is a model file.
        """
        runs = [record for record in self.runs if record["lineage"]["tensors"] == tensors]
        exact = [record for record in runs if record["file"]["sha256"] == sha256]
        # A record of these bytes must have the lineage that the file carries. Otherwise it is forged, and left out.
        exact = [record for record in exact if checkpoint and record["lineage"] == checkpoint.lineage] or exact
        lineage, training = (checkpoint.lineage, checkpoint.training_record) if checkpoint else (None, None)
        alike = [run for run in runs if lineage == run["lineage"] or training == run["lineage"]["training"]]
        return exact or alike or runs

    @cached_property
    def contradictions(self) -> list[tuple[str, str]]:
        """Pairs of records of one file with different lineages, the older record first.

        A file contains its lineage, so equal files have equal lineages. One record of each pair was forged.
        """
        first: dict[str, dict[str, Any]] = {}
        pairs = ((first.setdefault(record["file"]["sha256"], record), record) for record in reversed(self.runs))
        return [(title_of(old), title_of(new)) for old, new in pairs if old["lineage"] != new["lineage"]]

    @cached_property
    def all_records(self) -> list[dict[str, Any]]:
        """Every version of every intact record, newest first. The file name of a record must match its content."""
        return [record for _, record in self._read((f"{FOLDER}/", RECORD.as_posix()), RecordFile)]

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
        """Notes on unreadable files, which the answer leaves out, and on records that contradict each other."""
        _ = self.all_records, self.evaluations, self.exports
        parsed = (
            (commit, self.history.parsed_locks.get(commit.changed.get(LOCK, ""), True))
            for commit in self.history.commits
        )
        damaged = self._damaged + [f"{LOCK} {_commit_name(commit)}" for commit, lock in parsed if lock is None]
        notes = [f"the answer ignores these files, which cannot be read: {listed(damaged)}"] if damaged else []
        return notes + [f"{old} and {new} are records of the same file with different lineages: one of them was forged"
                       for old, new in self.contradictions]  # fmt: skip

    def first_link(self, md5: str) -> Link | None:
        """The stage with this out, and the oldest commit whose dvc.lock has it."""
        for commit in reversed(self.commits_by_md5.get(md5, [])):
            lock = self.history.lock(commit.changed[LOCK])
            for stage, path, out in lock.outs() if lock else ():
                if lock and out == md5:
                    return Link(stage, commit, lock, path)
        return None

    def first_with(self, md5: str | None) -> Commit | None:
        """The oldest commit whose dvc.lock names an MD5."""
        return self.commits_by_md5[md5][-1] if md5 in self.commits_by_md5 else None

    @cached_property
    def commits_by_md5(self) -> dict[str, list[Commit]]:
        """The commits whose dvc.lock names an MD5 anywhere, newest first. The text is searched, not parsed."""
        commits: dict[str, list[Commit]] = {}
        for commit in self.history.commits:
            for md5 in set(_MD5.findall(self.history.lock_texts.get(commit.changed.get(LOCK, ""), b""))):
                commits.setdefault(md5.decode(), []).append(commit)
        return commits

    @cached_property
    def ages(self) -> dict[str, int]:
        """The age of each commit, by its id: the number of newer commits."""
        return {commit.id: age for age, commit in enumerate(self.history.commits)}

    def _read(self, prefix: str | tuple[str, ...], schema: type[FileSchema]) -> Iterator[tuple[Commit, dict[str, Any]]]:
        """Committed JSON files whose path starts with a prefix, newest first, each with its newest commit.

        Equal files come once. Files that do not match the schema are added to the damaged ones.
        """
        places: dict[str, list[tuple[Commit, str]]] = {}
        for commit in self.history.commits:
            for path, blob in commit.changed.items():
                if path.startswith(prefix):
                    places.setdefault(blob, []).append((commit, path))
        for blob, content in self.history.read(list(places)):
            try:
                parsed = checked(files.parse_json(content or b""), schema, places[blob][0][1])
            except (ValueError, UserError):
                commits = []
            else:
                commits = [
                    commit for commit, path in places[blob] if schema is not RecordFile or _name_matches(path, parsed)
                ]
            yield from ((commit, parsed) for commit in commits[:1])
            self._damaged += [f"{path} {_commit_name(commit)}" for commit, path in places[blob][:1] if not commits]


def trace(path: Path, archive: Archive) -> Trace:
    """Find a file in the history, whatever its name is.

    Facts that cannot be found are None or empty; `notes` says why.

    Raises:
        UserError: The file is missing, or it is a model file that cannot be read.
    """
    if not path.is_file():
        problem = "is not a file" if path.exists() else "does not exist"
        raise UserError(f"{path} {problem}. Give a model file, or another result of the pipeline.")
    sha256, md5 = files.sha256_file(path), files.md5_file(path)
    checkpoint, tensors, exported = _read_model(path)
    runs = archive.runs_of(sha256, tensors, checkpoint)
    search = weights.search_weights(checkpoint, md5, archive) if checkpoint and not exported and not runs else None
    alike = search.likeness if search else None
    runs = archive.runs_of(sha256, alike.tensors, checkpoint) if alike else runs
    record = runs[0] if len(runs) == 1 else None
    carried, training = (checkpoint.lineage, checkpoint.training_record) if checkpoint else (None, None)
    lineage = record["lineage"] if record else carried
    training = lineage["training"] if lineage else alike.checkpoint.training if alike and not runs else training
    contradictions = list(contradictions_of(checkpoint, alike.tensors if alike else tensors, runs))
    contradictions += exports.contradictions(exported, runs) if exported else []
    same_training = [run for run in archive.runs if run["lineage"]["training"] == training and not contradictions]
    export = exports.find_export(sha256, archive)
    name, link = export or (None, None)
    link = link or archive.first_link(md5) or _in_folder(md5, archive)
    has_bytes = (export or link) is not None or any(run["file"]["sha256"] == sha256 for run in runs)
    name = name or (link.path if link else None)
    if link is None and alike:
        link, name = archive.first_link(alike.md5), alike.path
    elif link is None and (record or same_training):
        link = archive.first_link((record or same_training[0])["file"]["md5"])
        name = name or (link.path if link and record and exported is None else None)
        link = replace(link, stage="train") if link and not record and "train" in link.lock.stages else link
    by_content = exports.found_by(exported) if exported else "rounded" if alike and alike.rounded else "tensors"
    traced = Trace(
        file=path,
        sha256=sha256,
        md5=md5,
        tensors=tensors,
        found_by="bytes" if has_bytes else by_content if runs or alike else "training" if same_training else None,
        path=name,
        links=tuple(_links(link, archive)) if link else (),
        lineage=lineage,
        training=training,
        record=record,
        runs=tuple(runs) if record is None else (),
        children=tuple(sorted({run["lineage"]["tensors"] for run in archive.runs if tensors in _parents(run)})),
        notes=contradictions,
        contradicted=bool(contradictions),
        exported=exported,
    )
    traced.notes.extend([*_notes(traced, archive), *weights.limits(search), *archive.notes])
    return traced


def _read_model(path: Path) -> tuple[Checkpoint | None, str | None, Exported | None]:
    """The checkpoint in a model file, its weights digest, and the exported file if it is one.

    An exported file carries the description of its checkpoint and names the digest of the checkpoint's weights.
    """
    # These imports load torch, which a search for an image does not need.
    if path.suffix in exports.SUFFIXES:
        from rfdetr_core.checkpoint.exported import read_exported

        exported = read_exported(path)
        return exported.checkpoint, exported.description.tensors, exported
    if path.suffix in SUFFIXES:
        from rfdetr_core.checkpoint.files import read_checkpoint, tensor_digest

        checkpoint = read_checkpoint(path)
        return checkpoint, tensor_digest(checkpoint.weights), None
    return None, None, None


def _notes(traced: Trace, archive: Archive) -> Iterator[str]:
    """The limits of the answer about a file, as sentences."""
    if traced.exported is not None:
        yield from exports.limits(traced.exported, traced.found_by, traced.file)
    if isinstance(archive.history, NoHistory):
        yield (
            "this folder is not in a git repository, so no commit confirms what the file says about itself. Name a "
            "clone of the file's project: --repo DIR"
        )
        return
    if traced.runs:
        lineages = [flattened(run["lineage"]) for run in traced.runs]
        keys = dict.fromkeys(key for lineage in lineages[1:] for key in differing_keys(lineages[0], lineage))
        yield (
            f"{len(traced.runs)} runs produced these weights: {listed(map(title_of, traced.runs))}. They differ in "
            f"{listed(keys)}. It is not known which of them produced this file"
        )
    elif traced.record is not None:
        runs = [run for run in archive.runs if run["lineage"]["tensors"] == traced.tensors and run != traced.record]
        if runs:
            yield f"another run produced equal weights: {listed(map(title_of, runs))}"
    elif traced.found_by == "training":
        yield "only the file itself says that its training produced these weights: no record and no dvc.lock has them"
    elif traced.lineage or (traced.training and traced.found_by is None):
        yield "only the file itself says what produced it: no run record in this history has its weights"
    if traced.found_by in (None, "description", "derived") or not traced.links:
        yield "no dvc.lock in this history names this file"


def title_of(record: dict[str, Any]) -> str:
    """The path of a run record, as messages name it."""
    return f"{FOLDER}/{record_names(record)[0]}"


def _links(link: Link, archive: Archive) -> Iterator[Link]:
    """The stage that wrote a file and the stages before it, from the deps in the dvc.lock that has the file."""
    lock = link.lock
    writers = {path: stage for stage, path, _ in lock.outs()}
    steps = {link.stage: 0}  # the longest distance of each stage from the file: later stages have smaller numbers
    waiting = [link.stage]
    while waiting:
        name = waiting.pop()
        # STAGE is left out: the lineage has the digests of code.
        for writer in {writers[path] for path in _outs_in(lock.stages[name].deps, writers)} - {STAGE}:
            if steps.get(writer, 0) <= steps[name] < len(lock.stages):
                steps[writer] = steps[name] + 1
                waiting.append(writer)
    for name in sorted(steps, key=lambda name: (steps[name], name)):
        commits = [first.commit for md5 in lock.stages[name].outs.values() if (first := archive.first_link(md5))]
        oldest = min(commits, key=lambda commit: archive.ages[commit.id], default=link.commit)
        yield replace(link, stage=name, commit=oldest)


def _outs_in(deps: dict[str, str], outs: Mapping[str, str]) -> set[str]:
    """The outs of other stages that a stage reads: as a dep, or as part of a folder that is a dep."""
    return {out for out in outs for dep in deps if out == dep or out.startswith(f"{dep}/")}


def _in_folder(md5: str, archive: Archive) -> Link | None:
    """The folder (an out of a stage) that contains this content, found by the folder listings in DVC's cache here."""
    for digest in archive.commits_by_md5:
        if digest.endswith(".dir"):
            listing = cache_path(archive.history.root, digest)
            # A listing must match its digest: otherwise a person who can write into the cache could add any file.
            intact = listing.exists() and f"{files.md5_file(listing)}.dir" == digest
            if intact and f'"md5": "{md5}"'.encode() in files.read_bytes(listing):  # as DVC writes it
                return archive.first_link(digest)
    return None


def _commit_name(commit: Commit) -> str:
    return "of the working tree" if commit.id == NOT_COMMITTED else f"of commit {commit.id}"


def _name_matches(path: str, record: dict[str, Any]) -> bool:
    """Whether the file name of a record in records/ matches its content. The record beside the model always does."""
    return path == RECORD.as_posix() or PurePosixPath(path).name in record_names(record)


def _parents(record: dict[str, Any]) -> set[str]:
    """Weights digests of the models that a record's model started from."""
    return {parent["tensors"] for parent in (record["lineage"]["training"].get("parents") or {}).values()}
