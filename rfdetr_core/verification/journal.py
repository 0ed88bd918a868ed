"""The journal against its names, git's history and dvc.lock: results that nothing computes again are those of a run."""

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
from rfdetr_core.lineage.journal import FOLDER, JournalEntry, contents, name_of, plain
from rfdetr_core.lineage.lock import LOCK, Entry
from rfdetr_core.lineage.records import FOLDER as RECORDS
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.lock import Pipeline
from rfdetr_core.verification.report import Report

_NONE = "none was written: made before there was a journal or by a stage of your own, or its entry is in another clone"
Entries = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Version:
    """A file as a commit left it. added: no parent of the commit had the file."""

    commit: str
    blob: str
    added: bool


class Journal:
    """The entries of a working tree, and what git's history has of them and of the records. Read once."""

    def __init__(self, report: Report, tree: Contents) -> None:
        """Read the working tree; a damaged entry, or one that has the name of another, is a mismatch."""
        self.tree = tree
        self.bytes = contents(tree.root)
        self.entries = {name: entry for name, entry in self._read(report) if entry is not None}

    def _read(self, report: Report) -> Iterator[tuple[str, dict[str, Any] | None]]:
        for name, content in self.bytes.items():
            if name.startswith(f"{FOLDER}/"):
                entry = parsed(content, name)
                report.equal(name, "the entry that its name says", _named(entry, name), "its name")
                yield name, entry

    @cached_property
    def past(self) -> dict[str, list[Version]]:
        """The versions that the commits before HEAD have, oldest first."""
        return self._versions("HEAD")

    @cached_property
    def elsewhere(self) -> dict[str, list[Version]]:
        """The versions that all branches, tags and experiments have."""
        return self._versions("--all")

    def _versions(self, *references: str) -> dict[str, list[Version]]:
        # -c: a merge counts where its file is that of no parent.
        asked = ("log", "--topo-order", "--reverse", "-c", "--raw", "--no-abbrev", "--no-renames", "--format=%x01%H")
        text = git.answer(self.tree.root, *asked, *references, "--", FOLDER.as_posix(), RECORDS.as_posix()) or ""
        prefix = git.text(self.tree.root, "rev-parse", "--show-prefix").rstrip("\n")
        found = defaultdict[str, list[Version]](list)
        for one in text.split("\x01")[1:]:
            commit, *lines = one.splitlines()
            for meta, _, path in (line.partition("\t") for line in lines if line.startswith(":")):
                *_, blob, status = meta.split()
                if status[0] != "D":
                    found[path.removeprefix(prefix)].append(Version(commit, blob, set(status) == {"A"}))
        return found

    @cached_property
    def head(self) -> dict[str, str]:
        """The blobs of the entries at HEAD."""
        text = git.answer(self.tree.root, "ls-tree", "-r", "-z", "HEAD", "--", FOLDER.as_posix()) or ""
        rows = (one.partition("\t") for one in text.split("\0") if one)
        return {path: meta.split()[2] for meta, _, path in rows}

    def has(self, versions: Iterable[Version], sha256: str) -> bool:
        """Whether one of these versions has this SHA-256."""
        blobs = {one.blob for one in versions}
        return any(files.sha256_bytes(self.tree.blob(blob) or b"") == sha256 for blob in blobs)

    def entries_of(self, stage: str, versions: Mapping[str, list[Version]]) -> Entries:
        """The entries of a stage that are in the history and not in the working tree."""
        names = [name for name in versions if name.startswith(f"{FOLDER}/{stage}-") and name not in self.bytes]
        blobs = {versions[name][-1].blob: name for name in names}
        read = {blobs[blob]: parsed(content or b"", blob) for blob, content in History(self.tree.root).read(blobs)}
        return {name: entry for name, entry in read.items() if entry is not None}


def parsed(content: bytes, name: str) -> dict[str, Any] | None:
    """An entry; None where it is damaged."""
    try:
        return checked(files.parse_json(content), JournalEntry, name)
    except (ValueError, UserError):
        return None


def _named(entry: dict[str, Any] | None, name: str) -> str:
    own = None if entry is None else name_of(entry)
    return "a damaged one" if own is None else "the entry that its name says" if own == name else own


def check_journal(report: Report, tree: Contents, pipeline: Pipeline, *, only_git: bool) -> None:
    """Compare each entry with its name, with its first commit and with those that name it; and dvc.lock with them.

    only_git: of what the entries say of files, that of files which git tracks.
    """
    journal = Journal(report, tree)
    _check_written_once(report, journal)
    _check_previous(report, journal)
    _check_lock(report, journal, pipeline, only_git=only_git)


def _check_written_once(report: Report, journal: Journal) -> None:
    """Entries as they were first committed: a stage writes one once, and never again."""
    changed = journal.tree.differs_from_head(FOLDER.as_posix())
    for name in changed:
        if name in journal.head:
            report.wrong(name, "as committed", "changed" if name in journal.bytes else "deleted", "git")
    if fresh := [name for name in changed if name not in journal.head]:
        report.note(f"not committed: {listed(fresh)}")
    for name in sorted(journal.head.keys() - {*changed}):
        report.checked += 1
        if commit := _rewritten(journal, name):
            report.wrong(name, "as it was first committed", f"changed in commit {commit}", "git log")


def _rewritten(journal: Journal, name: str) -> str | None:
    """The commit that changed an entry; None where it is as it was first committed, on this branch or a merged one."""
    versions, blob = journal.past[name], journal.head[name]
    first = next((one for one in versions if one.added and one.blob == blob), None)
    if first is None:
        return next((one.commit for one in reversed(versions) if one.blob == blob), "unknown")
    others = [one.commit for one in versions if one.added and one.blob != blob]
    # Deleted, and written again in other words.
    again = any(
        git.run(journal.tree.root, "merge-base", "--is-ancestor", other, first.commit).returncode == 0
        for other in others
    )
    return first.commit if again else None


def _check_previous(report: Report, journal: Journal) -> None:
    """The entries and records that an entry names, with their digests."""
    here = {name: files.sha256_bytes(content) for name, content in journal.bytes.items()}
    unknown = set()
    for by, entry in journal.entries.items():
        for name, sha256 in entry["previous"].items():
            report.checked += 1
            if here.get(name) == sha256:
                continue
            if journal.has(journal.past.get(name, ()), sha256):
                # If the file is there, it is one that a merge took, or `_check_written_once` has named it.
                if name not in here:
                    report.wrong(name, "as it was committed", "it was deleted", by)
            elif journal.has(journal.elsewhere.get(name, ()), sha256):
                continue
            elif name in here or name in journal.past:
                report.wrong(f"sha256 of {name}", sha256, here.get(name, "other versions"), by)
            else:
                unknown.add(name)
    if unknown:
        report.skip(f"earlier entries: {listed(sorted(unknown))}", "named by a later one, and in no commit here")


def _check_lock(report: Report, journal: Journal, pipeline: Pipeline, *, only_git: bool) -> None:
    """Each stage of dvc.lock has an entry: what was read, what was written, and in which environment."""
    missing = []
    for stage, done in pipeline.lock.stages.items():
        if stage == STAGE:  # what it writes is computed again from the code
            continue
        of_stage = {name: entry for name, entry in journal.entries.items() if entry["stage"] == stage}
        found = _entry_of(of_stage, done)
        if found is None and (found := _entry_of(journal.entries_of(stage, journal.past), done)):
            report.wrong(found[0], "as it was committed", "it was deleted", f"git log -- {found[0]}")
        if found is None:
            found = _entry_of(journal.entries_of(stage, journal.elsewhere), done)
        others = _with_inputs(of_stage, done)
        if found is not None:
            _check_outs(report, journal.tree, *found, only_git=only_git)
            _check_environment(report, stage, *found)
            if differing := sorted(others.keys() - {found[0]}):
                report.note(f"other results of {stage} for the same inputs, by another run: {listed(differing)}")
        elif others:
            name, entry = min(others.items(), key=lambda item: len(_differing(item[1], done)))
            for path in _differing(entry, done):
                expected = entry["outs"].get(path, {}).get("md5")
                report.wrong(f"{path} in {LOCK}", expected, done.outs.get(path), name)
        else:
            missing.append(stage)
    if missing:
        report.skip(f"journal entries of {listed(missing)}", _NONE)


def _entry_of(found: Entries, done: Entry) -> tuple[str, dict[str, Any]] | None:
    """The entry with these inputs and results."""
    same = _with_inputs(found, done).items()
    return next(((name, entry) for name, entry in same if not _differing(entry, done)), None)


def _with_inputs(found: Entries, done: Entry) -> Entries:
    inputs = (done.cmd, plain(done.params), done.deps)
    return {name: one for name, one in found.items() if (one["cmd"], one["params"], one["deps"]) == inputs}


def _differing(entry: Mapping[str, Any], done: Entry) -> list[str]:
    written = {path: out["md5"] for path, out in entry["outs"].items()}
    return [path for path, _, _ in files.changed_digests(written, done.outs)]


def _check_outs(report: Report, tree: Contents, name: str, entry: Mapping[str, Any], *, only_git: bool) -> None:
    for path, out in entry["outs"].items():
        if out.get("sha256") and (tree.in_git(path) or not only_git) and (found := tree.sha256(path)):
            report.equal(f"sha256 of {path}", out["sha256"], found, name)


def _check_environment(report: Report, stage: str, name: str, entry: Mapping[str, Any]) -> None:
    """What the environment of a run had that decides results beside the packages that the record names."""
    environment = entry["run"].get("environment") or {}
    if settings := environment.get("settings"):
        report.note(
            f"{stage} ran with {', '.join(f'{key}={value}' for key, value in sorted(settings.items()))}: {name}"
        )
    if edited := environment.get("edited"):
        told = listed(f"{file} of {package}" for package, changed in sorted(edited.items()) for file in changed)
        report.wrong(f"packages that {stage} ran with", "as they were installed", f"edited: {told}", name)
    for path in unexpected_startup(environment.get("startup") or {}):
        report.note(f"{stage} ran with {path}, which no package installed and Python runs at its start: {name}")
