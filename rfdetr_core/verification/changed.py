"""The stages that differ from dvc.lock, and what differs: params, code, data, files. Nothing is run or pulled.

`dvc repro --dry` cannot tell where the data is not here.
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
_PIPELINE = ("command of ", "deps of ", "outs of ", "stage ")  # what `check_pipeline` names beside params
_LONGEST = 60  # characters of a value


@dataclass(frozen=True)
class Difference:
    """Something that a stage reads or wrote, and that is not as in dvc.lock.

    what: a param, module, file or folder, as `verify` names it. before, after: values of a param, numbers of files of a
    folder, else digests or words; None where there is none. files: how many of a folder were added, changed, removed,
    where git or DVC's cache knows.
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
            return f"{self.what.rpartition(' in ')[2]} changed{self._numbers()}"
        if self.kind == "pipeline":
            return self._of_pipeline()
        if self.kind == "code":
            return f"{self.what} {'added' if self.before is None else 'removed' if self.after is None else 'changed'}"
        return self.what if self.kind == "other" else f"{self.what} changed"

    def _numbers(self) -> str:
        parts = [f"{self.before} -> {self.after} files"] if self.before and self.after else []
        counts = [f"{count} {word}" for word, count in (self.files or {}).items() if count]
        parts += [", ".join(counts)] if counts else []
        return f" ({': '.join(parts)})" if parts else ""

    def _of_pipeline(self) -> str:
        kind, _, path = self.what.partition(": ")
        if path:
            return f"{path} {'is no longer' if self.after is None else 'is now'} one of its {kind.partition(' ')[0]}"
        if kind.startswith("command of "):
            return "its command changed"
        return "it has not run yet"


def certain(root: Path) -> dict[str, list[str]]:
    """The stages that differ from dvc.lock, each with the names of what differs, where the data need not be here."""
    found = differing(Contents(root), read_pipeline(root))
    return {name: [one.what for one in differences] for name, differences in found.items()}


def read_pipeline(root: Path) -> Pipeline:
    """dvc.yaml and dvc.lock; before the first run the latter has no entry. Raises what `Pipeline.read` does."""
    return Pipeline.read(root) if (root / LOCK).exists() else Pipeline(read_stages(root), Lock({}))


def differing(contents: Contents, pipeline: Pipeline, *, at_hand: bool = False) -> dict[str, list[Difference]]:
    """The stages that differ from dvc.lock, each with what differs.

    at_hand: compare the data and the results that DVC tracks, too, where they are here, as `dvc repro` will. Otherwise
    the .dvc files count, as after a pull.

    Raises:
        UserError: params.yaml or the code cannot be read.
    """
    if not pipeline.lock.stages:
        return {name: [Difference("other", f"there is no {LOCK}")] for name in pipeline.stages}
    outs = {path: md5 for _, path, md5 in pipeline.lock.outs()}
    digests, code = CodeDigests(contents), pipeline.lock.stages.get(STAGE)
    # Where DVC will not run `code`, the other stages see the files that are there.
    anew = digests if code is None or digests.will_run(code) else None
    found = {}
    for name, stage in pipeline.stages.items():
        entry = pipeline.lock.stages.get(name)
        alone, report = Pipeline({name: stage}, Lock({name: entry} if entry else {})), Report()
        check_pipeline(report, contents, alone)
        check_contents(report, contents, alone, leave="", only_git=True, code=anew)
        if at_hand and entry:
            _check_tracked_by_dvc(report, contents, entry, outs)
        rows: dict[str, Difference] = {}
        for what, before, after in _mismatches(report, entry, outs):
            if name != STAGE and entry and what in digests.stages and what in entry.deps:  # name the modules behind it
                modules = [
                    Difference("code", module.removeprefix("code "), old, new)
                    for module, old, new in digests.differences(what, entry.deps[what])
                ]
                rows |= {one.what: one for one in modules or [Difference("file", what)]}
            else:
                one = _difference(contents, what, before, after, stage, entry, outs)
                rows.setdefault(one.what, one)
        if name == STAGE and entry and at_hand and not rows:  # DVC runs it, and no other stage, for a comment
            edited = [path for path in PACKAGES if contents.md5(path) != entry.deps.get(path)]
            rows = {path: Difference("code", path, entry.deps.get(path), contents.md5(path)) for path in edited}
        if rows:
            found[name] = list(rows.values())
    return found


def possible(stages: Mapping[str, Stage], start: set[str]) -> list[str]:
    """The stages after those of `start`, without them, in an order in which they can run.

    What `code` writes anew is known beforehand: the stages that read it are among those that differ.
    """
    found = start - {STAGE}
    for name, stage in stages.items():
        found |= {name} if stage.after & found else set()
    return [name for name in stages if name in found - start]


def _check_tracked_by_dvc(report: Report, contents: Contents, entry: Entry, outs: dict[str, str]) -> None:
    """What is here of an entry and not in git: results, and deps that no stage writes; results in git that are gone."""
    expected = {path: md5 for path, md5 in entry.deps.items() if path not in outs} | entry.outs
    for path, md5 in expected.items():
        found = contents.md5(path)
        lost = found is None and path in entry.outs and contents.in_git(path)
        if lost or (found is not None and not contents.in_git(path)):
            report.equal(path, md5, found, LOCK)


def _mismatches(
    report: Report, entry: Entry | None, outs: dict[str, str]
) -> Iterator[tuple[str, str | None, str | None]]:
    """What differs, with both values; of a folder that differs, no single file."""
    named = [what for what, _, _ in report.mismatches]
    for what, before, after in report.mismatches:
        if not any(what.startswith(f"{folder}/") for folder in named):
            yield what, None if before == "nothing" else before, None if after == "nothing" else after
    yield from ((path, None, None) for path, md5 in (entry.deps if entry else {}).items() if outs.get(path, md5) != md5)


def _difference(
    contents: Contents,
    what: str,
    before: str | None,
    after: str | None,
    stage: Stage,
    entry: Entry | None,
    outs: dict[str, str],
) -> Difference:
    if any(what.startswith(f"{file}: ") for file in stage.params):
        return Difference("param", what, before, after)
    if what.startswith(_PIPELINE):
        return Difference("pipeline", what, before, after)
    if what.startswith("code "):
        return Difference("code", what.removeprefix("code "), before, after)
    path = what.partition(" in ")[0] if what.endswith(".dvc") else what
    md5 = entry.deps.get(path) if entry and path not in outs else None
    if md5 is None or not (path in contents.pointers or (contents.root / path).is_dir()):
        return Difference("file", what, before, after)
    assert entry is not None
    numbers = [entry.files[path].get("nfiles"), _files_now(contents, path, pointer=path != what)]
    old, new = (None if number is None else str(number) for number in numbers)
    return Difference("data", what, old, new, _changes_in(contents, path, md5, pointer=path != what))


def _files_now(contents: Contents, path: str, *, pointer: bool) -> int | None:
    """The number of files in a folder: of its .dvc file, or as it is here."""
    if not pointer:
        return len(contents.listing(path) or ()) or None
    file = contents.root / f"{path}.dvc"  # one of another name has no numbers here
    outs = load_yaml(file).get("outs") if file.is_file() else None
    number = outs[0].get("nfiles") if outs else None
    return number if isinstance(number, int) else None


def _changes_in(contents: Contents, path: str, md5: str, *, pointer: bool) -> dict[str, int] | None:
    """How many files of a folder were added, changed and removed; None where neither DVC's cache nor git knows."""
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
    """What happened to each tracked or new file of a folder since the commit that wrote dvc.lock."""
    commits = contents.events(LOCK) if contents.in_git(path) else []
    if not commits:
        return
    text = git.text(contents.root, "diff", "--name-status", "--no-renames", "-z", commits[-1][0], "--", path)
    yield from ({"A": "added", "D": "removed"}.get(letter, "changed") for letter in text.split("\0")[:-1:2])
    yield from ("added" for _ in git.names(contents.root, "ls-files", "-oz", "--exclude-standard", "--", path))


def _short(value: str | None) -> str:
    text = "not set" if value is None else " ".join(value.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
