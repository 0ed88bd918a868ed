"""Checks of the journal: entries are unchanged since their commit, and every result in dvc.lock belongs to a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rfdetr_core.audit.history import History
from rfdetr_core.base import files, git
from rfdetr_core.base.code import STAGE
from rfdetr_core.base.environment import unexpected_startup
from rfdetr_core.base.errors import UserError, listed
from rfdetr_core.base.schema import checked
from rfdetr_core.lineage.journal import FOLDER, JournalEntry, contents, entry_path, json_params
from rfdetr_core.lineage.lock import LOCK, Entry
from rfdetr_core.lineage.records import FOLDER as RECORDS
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.lock import Pipeline
from rfdetr_core.verification.report import Report

_WHY_NO_ENTRY = (
    "no entry: the result is older than the journal, a custom stage made it, or its entry is in another clone"
)
_EXPECTED_ENTRY = "the entry that belongs to this file name"
Entries = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Version:
    """A file at a commit: its blob id, and whether this commit added the file (no parent of the commit has it)."""

    commit: str
    blob: str
    added: bool


class Journal:
    """The entries of a working tree, and the versions of entries and records in git. Everything is read once."""

    def __init__(self, report: Report, tree: Contents) -> None:
        """Read the working tree. A damaged entry, or an entry with the name of another, is a mismatch."""
        self.tree = tree
        self.bytes = contents(tree.root)
        self.entries = {name: entry for name, entry in self._read(report) if entry is not None}

    def _read(self, report: Report) -> Iterator[tuple[str, dict[str, Any] | None]]:
        for name, content in self.bytes.items():
            if name.startswith(f"{FOLDER}/"):
                entry = parse_entry(content, name)
                report.equal(name, _EXPECTED_ENTRY, _expected_name_text(entry, name), "its file name")
                yield name, entry

    @cached_property
    def head_versions(self) -> dict[str, list[Version]]:
        """The versions in HEAD and the commits before it, oldest first."""
        return self._versions("HEAD")

    @cached_property
    def all_versions(self) -> dict[str, list[Version]]:
        """The versions in all branches, tags and experiments."""
        return self._versions("--all")

    def _versions(self, *references: str) -> dict[str, list[Version]]:
        # -c: a merge counts only if the file differs from all parents.
        arguments = (
            "log",
            "--topo-order",
            "--reverse",
            "-c",
            "--raw",
            "--no-abbrev",
            "--no-renames",
            "--format=%x01%H",
        )
        text = git.answer(self.tree.root, *arguments, *references, "--", FOLDER.as_posix(), RECORDS.as_posix()) or ""
        prefix = git.text(self.tree.root, "rev-parse", "--show-prefix").rstrip("\n")
        versions = defaultdict[str, list[Version]](list)
        for block in text.split("\x01")[1:]:
            commit, *lines = block.splitlines()
            for meta, _, path in (line.partition("\t") for line in lines if line.startswith(":")):
                *_, blob, status = meta.split()
                if status[0] != "D":
                    versions[path.removeprefix(prefix)].append(Version(commit, blob, set(status) == {"A"}))
        return versions

    @cached_property
    def head_blobs(self) -> dict[str, str]:
        """The blob ids of the entries at HEAD."""
        text = git.answer(self.tree.root, "ls-tree", "-r", "-z", "HEAD", "--", FOLDER.as_posix()) or ""
        rows = (line.partition("\t") for line in text.split("\0") if line)
        return {path: meta.split()[2] for meta, _, path in rows}

    def has(self, versions: Iterable[Version], sha256: str) -> bool:
        """Whether any of these versions has this SHA-256."""
        blobs = {version.blob for version in versions}
        return any(files.sha256_bytes(self.tree.blob(blob) or b"") == sha256 for blob in blobs)

    def entries_of(self, stage: str, versions: Mapping[str, list[Version]]) -> Entries:
        """The entries of a stage that are in the history but not in the working tree."""
        names = [name for name in versions if name.startswith(f"{FOLDER}/{stage}-") and name not in self.bytes]
        blobs = {versions[name][-1].blob: name for name in names}
        read = {blobs[blob]: parse_entry(content or b"", blob) for blob, content in History(self.tree.root).read(blobs)}
        return {name: entry for name, entry in read.items() if entry is not None}


def parse_entry(content: bytes, name: str) -> dict[str, Any] | None:
    """Parse an entry; None if it is damaged."""
    try:
        return checked(files.parse_json(content), JournalEntry, name)
    except (ValueError, UserError):
        return None


def _expected_name_text(entry: dict[str, Any] | None, name: str) -> str:
    """The name that the content of an entry requires, for a message; _EXPECTED_ENTRY if the entry has that name."""
    expected_name = None if entry is None else entry_path(entry)
    return "a damaged entry" if expected_name is None else _EXPECTED_ENTRY if expected_name == name else expected_name


def check_journal(report: Report, tree: Contents, pipeline: Pipeline, *, only_git: bool) -> None:
    """Check the journal.

    1. Each entry matches its file name and is unchanged since its first commit.
    2. Each entry that another entry names exists with the named digest.
    3. Each stage of dvc.lock has an entry with its inputs and results.

    Args:
        report: Receives the mismatches.
        tree: The working tree.
        pipeline: dvc.yaml and dvc.lock.
        only_git: Compare the digests in entries only with files that git tracks.
    """
    journal = Journal(report, tree)
    _check_written_once(report, journal)
    _check_previous(report, journal)
    _check_lock(report, journal, pipeline, only_git=only_git)


def _check_written_once(report: Report, journal: Journal) -> None:
    """Check that entries are unchanged since their first commit, because a stage writes each entry once."""
    changed = journal.tree.differs_from_head(FOLDER.as_posix())
    for name in changed:
        if name in journal.head_blobs:
            report.wrong(
                name, "the committed entry", "other content" if name in journal.bytes else "a deleted file", "git"
            )
    if uncommitted := [name for name in changed if name not in journal.head_blobs]:
        report.note(f"these journal entries are not committed: {listed(uncommitted)}")
    for name in sorted(journal.head_blobs.keys() - {*changed}):
        report.checked += 1
        if commit := _rewritten(journal, name):
            report.wrong(name, "the entry of its first commit", f"changes by commit {commit}", "git log")


def _rewritten(journal: Journal, name: str) -> str | None:
    """The commit that changed an entry; None if it is unchanged since its first commit, here or on a merged branch."""
    versions, blob = journal.head_versions[name], journal.head_blobs[name]
    first = next((version for version in versions if version.added and version.blob == blob), None)
    if first is None:
        return next((version.commit for version in reversed(versions) if version.blob == blob), "unknown")
    others = [version.commit for version in versions if version.added and version.blob != blob]
    # The entry was deleted, and written again with other content.
    rewritten = any(
        git.run(journal.tree.root, "merge-base", "--is-ancestor", commit, first.commit).returncode == 0
        for commit in others
    )
    return first.commit if rewritten else None


def _check_previous(report: Report, journal: Journal) -> None:
    """Check the entries and records that an entry names by digest."""
    digests = {name: files.sha256_bytes(content) for name, content in journal.bytes.items()}
    unknown = set()
    for source, entry in journal.entries.items():
        for name, sha256 in entry["previous"].items():
            report.checked += 1
            if digests.get(name) == sha256:
                continue
            if journal.has(journal.head_versions.get(name, ()), sha256):
                # An existing file came from a merge, or `_check_written_once` has reported it.
                if name not in digests:
                    report.wrong(name, "the committed file", "a deleted file", source)
            elif journal.has(journal.all_versions.get(name, ()), sha256):
                continue
            elif name in digests or name in journal.head_versions:
                report.wrong(f"sha256 of {name}", sha256, digests.get(name, "other versions"), source)
            else:
                unknown.add(name)
    if unknown:
        report.skip(
            f"earlier entries: {listed(sorted(unknown))}",
            "a later entry names them, but no commit in this clone has them",
        )


def _check_lock(report: Report, journal: Journal, pipeline: Pipeline, *, only_git: bool) -> None:
    """Check that each stage of dvc.lock has an entry with the same inputs and results, and check its environment."""
    missing = []
    for stage, lock_entry in pipeline.lock.stages.items():
        if stage == STAGE:  # its results are computed again from the code
            continue
        of_stage = {name: entry for name, entry in journal.entries.items() if entry["stage"] == stage}
        match = _entry_of(of_stage, lock_entry)
        if match is None and (match := _entry_of(journal.entries_of(stage, journal.head_versions), lock_entry)):
            report.wrong(match[0], "the committed entry", "a deleted file", f"git log -- {match[0]}")
        if match is None:
            match = _entry_of(journal.entries_of(stage, journal.all_versions), lock_entry)
        same_inputs = _with_inputs(of_stage, lock_entry)
        if match is not None:
            _check_outs(report, journal.tree, *match, only_git=only_git)
            _check_environment(report, stage, *match)
            if differing := sorted(same_inputs.keys() - {match[0]}):
                report.note(f"another run of {stage} with the same inputs gave other results: {listed(differing)}")
        elif same_inputs:
            name, entry = min(same_inputs.items(), key=lambda item: len(_differing(item[1], lock_entry)))
            for path in _differing(entry, lock_entry):
                expected = entry["outs"].get(path, {}).get("md5")
                report.wrong(f"{path} in {LOCK}", expected, lock_entry.outs.get(path), name)
        else:
            missing.append(stage)
    if missing:
        report.skip(f"journal entries of {listed(missing)}", _WHY_NO_ENTRY)


def _entry_of(entries: Entries, lock_entry: Entry) -> tuple[str, dict[str, Any]] | None:
    """The entry with these inputs and results; None if there is none."""
    same = _with_inputs(entries, lock_entry).items()
    return next(((name, entry) for name, entry in same if not _differing(entry, lock_entry)), None)


def _with_inputs(entries: Entries, lock_entry: Entry) -> Entries:
    inputs = (lock_entry.cmd, json_params(lock_entry.params), lock_entry.deps)
    return {name: entry for name, entry in entries.items() if (entry["cmd"], entry["params"], entry["deps"]) == inputs}


def _differing(entry: Mapping[str, Any], lock_entry: Entry) -> list[str]:
    written = {path: out["md5"] for path, out in entry["outs"].items()}
    return [path for path, _, _ in files.changed_digests(written, lock_entry.outs)]


def _check_outs(report: Report, tree: Contents, name: str, entry: Mapping[str, Any], *, only_git: bool) -> None:
    for path, out in entry["outs"].items():
        if out.get("sha256") and (tree.in_git(path) or not only_git) and (actual := tree.sha256(path)):
            report.equal(f"sha256 of {path}", out["sha256"], actual, name)


def _check_environment(report: Report, stage: str, name: str, entry: Mapping[str, Any]) -> None:
    """Report environment settings, edited packages and startup code of a run: they can change results."""
    environment = entry["run"].get("environment") or {}
    if settings := environment.get("settings"):
        report.note(
            f"{name}: {stage} ran with the environment variables "
            f"{', '.join(f'{key}={value}' for key, value in sorted(settings.items()))}"
        )
    if edited := environment.get("edited"):
        edited_files = listed(f"{file} of {package}" for package, changed in sorted(edited.items()) for file in changed)
        report.wrong(
            f"packages that {stage} used", "the files as they were installed", f"edited files: {edited_files}", name
        )
    for path in unexpected_startup(environment.get("startup") or {}):
        report.note(f"{name}: when {stage} started, Python also ran {path}, a file that no package installed")
