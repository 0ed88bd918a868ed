"""Find the stages that differ from dvc.lock, and what differs: params, code, data, files. Runs and pulls nothing.

Unlike `dvc repro --dry`, this works if the data was not pulled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rfdetr_core.base import git
from rfdetr_core.base.code import PACKAGES, STAGE
from rfdetr_core.base.files import changed_digests
from rfdetr_core.base.params import PARAMS_FILE, load_yaml
from rfdetr_core.lineage.lock import LOCK, Entry, Lock
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.lock import CodeDigests, Pipeline, Stage, check_contents, check_pipeline, read_stages
from rfdetr_core.verification.report import Report

Kind = Literal["param", "code", "data", "file", "pipeline", "other"]
_PIPELINE = ("command of ", "deps of ", "outs of ", "stage ")  # the subjects of `check_pipeline` other than params
_LONGEST = 60  # longer values are cut, in characters


@dataclass(frozen=True)
class Difference:
    """An input or result of a stage that differs from dvc.lock.

    Attributes:
        kind: "param", "code" (a module), "data" (a folder, or what a .dvc file tracks), "file", "pipeline" (the stage's
            command, deps or outs in dvc.yaml) or "other" (`what` is a sentence).
        what: The param, module, file or folder, as `verify` names it.
        before: What dvc.lock has: the value of a param, the number of files in a folder, else a digest or a text. None
            if dvc.lock has nothing.
        after: The present value, in the same form.
        files: How many files of a folder were added, changed and removed; None if neither git nor DVC's cache knows.
    """

    kind: Kind
    what: str
    before: str | None = None
    after: str | None = None
    files: dict[str, int] | None = None

    @property
    def text(self) -> str:
        """The difference in words."""
        if self.kind == "param":
            name = self.what.removeprefix(f"{PARAMS_FILE}: ")
            return f"{name} {_short(self.before)} -> {_short(self.after)}"
        if self.kind == "data":
            return f"{self.what.rpartition(' in ')[2]} changed{self._file_counts_text()}"
        if self.kind == "pipeline":
            return self._pipeline_text()
        if self.kind == "code":
            return f"{self.what} {'added' if self.before is None else 'removed' if self.after is None else 'changed'}"
        return self.what if self.kind == "other" else f"{self.what} changed"

    def _file_counts_text(self) -> str:
        parts = [f"{self.before} -> {self.after} files"] if self.before and self.after else []
        counts = [f"{count} {word}" for word, count in (self.files or {}).items() if count]
        parts += [", ".join(counts)] if counts else []
        return f" ({': '.join(parts)})" if parts else ""

    def _pipeline_text(self) -> str:
        kind, _, path = self.what.partition(": ")
        if path:
            return f"{path} {'is no longer' if self.after is None else 'is now'} one of its {kind.partition(' ')[0]}"
        if kind.startswith("command of "):
            return "its command changed"
        return "it has not run yet"


def changed_stages(root: Path) -> dict[str, list[str]]:
    """The stages that differ from dvc.lock, each with what differs. The data need not be pulled."""
    by_stage = differences_by_stage(Contents(root), read_pipeline(root))
    return {name: [difference.what for difference in differences] for name, differences in by_stage.items()}


def read_pipeline(root: Path) -> Pipeline:
    """dvc.yaml and dvc.lock. Before the first run, dvc.lock has no entries. Raises what `Pipeline.read` does."""
    return Pipeline.read(root) if (root / LOCK).exists() else Pipeline(read_stages(root), Lock({}))


def differences_by_stage(
    contents: Contents, pipeline: Pipeline, *, compare_local: bool = False
) -> dict[str, list[Difference]]:
    """The stages that differ from dvc.lock, each with what differs.

    Args:
        contents: The working tree.
        pipeline: dvc.yaml and dvc.lock.
        compare_local: Also compare local data and results that DVC tracks, as `dvc repro` will. False: use the MD5s in
            .dvc files, as after a pull.

    Raises:
        UserError: params.yaml or the code cannot be read.
    """
    if not pipeline.lock.stages:
        return {name: [Difference("other", f"there is no {LOCK}")] for name in pipeline.stages}
    outs = {path: md5 for _, path, md5 in pipeline.lock.outs()}
    digests, code = CodeDigests(contents), pipeline.lock.stages.get(STAGE)
    # If DVC will not run `code`, the other stages read the existing files in digests/.
    new_digests = digests if code is None or digests.will_run(code) else None
    by_stage = {}
    for name, stage in pipeline.stages.items():
        entry = pipeline.lock.stages.get(name)
        alone, report = Pipeline({name: stage}, Lock({name: entry} if entry else {})), Report()
        check_pipeline(report, contents, alone)
        check_contents(report, contents, alone, leave="", only_git=True, code=new_digests)
        if compare_local and entry:
            _check_tracked_by_dvc(report, contents, entry, outs)
        rows: dict[str, Difference] = {}
        for subject, before, after in _mismatches(report, entry, outs):
            if (
                name != STAGE and entry and subject in digests.stages and subject in entry.deps
            ):  # name the modules instead of the digests file
                modules = [
                    Difference("code", module.removeprefix("code "), old, new)
                    for module, old, new in digests.differences(subject, entry.deps[subject])
                ]
                rows |= {difference.what: difference for difference in modules or [Difference("file", subject)]}
            else:
                difference = _difference(contents, subject, before, after, stage, entry, outs)
                rows.setdefault(difference.what, difference)
        if (
            name == STAGE and entry and compare_local and not rows
        ):  # only a comment changed: DVC runs this stage and no other
            edited = [path for path in PACKAGES if contents.md5(path) != entry.deps.get(path)]
            rows = {path: Difference("code", path, entry.deps.get(path), contents.md5(path)) for path in edited}
        if rows:
            by_stage[name] = list(rows.values())
    return by_stage


def later_stages(stages: Mapping[str, Stage], start: set[str]) -> list[str]:
    """The stages that read results of the stages in `start`, directly or not, in an order in which they can run.

    Stage `code` is ignored: its new digests are known before it runs, so the stages that read them already differ.
    """
    later = start - {STAGE}
    for name, stage in stages.items():
        later |= {name} if stage.after & later else set()
    return [name for name in stages if name in later - start]


def _check_tracked_by_dvc(report: Report, contents: Contents, entry: Entry, outs: dict[str, str]) -> None:
    """Compare the local outs of a stage, and its deps that no stage writes, except files that git tracks.

    Of the outs that git tracks, report those that were deleted.
    """
    expected = {path: md5 for path, md5 in entry.deps.items() if path not in outs} | entry.outs
    for path, md5 in expected.items():
        actual = contents.md5(path)
        lost = actual is None and path in entry.outs and contents.in_git(path)
        if lost or (actual is not None and not contents.in_git(path)):
            report.equal(path, md5, actual, LOCK)


def _mismatches(
    report: Report, entry: Entry | None, outs: dict[str, str]
) -> Iterator[tuple[str, str | None, str | None]]:
    """Each difference as (subject, value in dvc.lock, present value). Of a folder that differs, no files are listed."""
    named = [subject for subject, _, _ in report.mismatches]
    for subject, before, after in report.mismatches:
        if not any(subject.startswith(f"{folder}/") for folder in named):
            yield subject, None if before == "nothing" else before, None if after == "nothing" else after
    yield from ((path, None, None) for path, md5 in (entry.deps if entry else {}).items() if outs.get(path, md5) != md5)


def _difference(
    contents: Contents,
    subject: str,
    before: str | None,
    after: str | None,
    stage: Stage,
    entry: Entry | None,
    outs: dict[str, str],
) -> Difference:
    if any(subject.startswith(f"{file}: ") for file in stage.params):
        return Difference("param", subject, before, after)
    if subject.startswith(_PIPELINE):
        return Difference("pipeline", subject, before, after)
    if subject.startswith("code "):
        return Difference("code", subject.removeprefix("code "), before, after)
    path = subject.partition(" in ")[0] if subject.endswith(".dvc") else subject
    md5 = entry.deps.get(path) if entry and path not in outs else None
    if md5 is None or not (path in contents.pointers or (contents.root / path).is_dir()):
        return Difference("file", subject, before, after)
    assert entry is not None
    numbers = [entry.files[path].get("nfiles"), _files_now(contents, path, pointer=path != subject)]
    old, new = (None if number is None else str(number) for number in numbers)
    return Difference("data", subject, old, new, _changes_in(contents, path, md5, pointer=path != subject))


def _files_now(contents: Contents, path: str, *, pointer: bool) -> int | None:
    """The number of files in a folder: from its .dvc file, or of the local folder."""
    if not pointer:
        return len(contents.listing(path) or ()) or None
    file = contents.root / f"{path}.dvc"  # a .dvc file with another name is not searched
    outs = load_yaml(file).get("outs") if file.is_file() else None
    number = outs[0].get("nfiles") if outs else None
    return number if isinstance(number, int) else None


def _changes_in(contents: Contents, path: str, md5: str, *, pointer: bool) -> dict[str, int] | None:
    """How many files of a folder were added, changed and removed; None if neither DVC's cache nor git knows."""
    old = contents.cached_listing(md5)
    new = contents.cached_listing(contents.pointers[path]) if pointer else contents.listing(path)
    if old is not None and new is not None:
        kinds = [
            "added" if a is None else "removed" if b is None else "changed" for _, a, b in changed_digests(old, new)
        ]
    else:
        kinds = list(_changes_in_git(contents, path))
    return {kind: kinds.count(kind) for kind in ("added", "changed", "removed")} if kinds else None


def _changes_in_git(contents: Contents, path: str) -> Iterator[str]:
    """`added`, `removed` or `changed` for each file of a folder that differs since the commit of dvc.lock."""
    commits = contents.events(LOCK) if contents.in_git(path) else []
    if not commits:
        return
    text = git.text(contents.root, "diff", "--name-status", "--no-renames", "-z", commits[-1][0], "--", path)
    yield from ({"A": "added", "D": "removed"}.get(letter, "changed") for letter in text.split("\0")[:-1:2])
    yield from ("added" for _ in git.names(contents.root, "ls-files", "-oz", "--exclude-standard", "--", path))


def _short(value: str | None) -> str:
    text = "not set" if value is None else " ".join(value.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
