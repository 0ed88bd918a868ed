"""A check for files from another commit: after `git checkout` without `dvc checkout`, DVC's files are not updated."""

from __future__ import annotations

from collections.abc import Iterator

from rfdetr_core.audit.history import History
from rfdetr_core.audit.trace import Archive
from rfdetr_core.base.errors import listed
from rfdetr_core.lineage.lock import LOCK
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.lock import Pipeline
from rfdetr_core.verification.report import Report


def check_checkout(report: Report, contents: Contents, pipeline: Pipeline) -> bool:
    """Report all files from other commits as one mismatch. Returns True if all files are the files of dvc.lock.

    Args:
        report: Receives the mismatch.
        contents: The working tree. The files are added to its `of_other_commits`, so that no other check compares them.
        pipeline: dvc.yaml and dvc.lock.
    """
    commits = dict(_files_of_other_commits(contents, pipeline))
    if commits:
        actual = f"the versions of commit {listed(dict.fromkeys(commits.values()))}"
        report.wrong(f"files that DVC keeps: {listed(commits)}", f"the versions in {LOCK}", actual, "run: dvc checkout")
    for path in commits:
        report.skip(path, "it is from another commit. Run: dvc checkout")
        contents.of_other_commits.add(path)
    return not commits


def _files_of_other_commits(contents: Contents, pipeline: Pipeline) -> Iterator[tuple[str, str]]:
    """Local files and folders that differ from dvc.lock or their .dvc file, each with another commit that has them.

    A .dvc file may name a large dataset, so these are read only if all outs of dvc.lock are right.
    """
    cached = {path for stage in pipeline.stages.values() for path, in_cache in stage.outs.items() if in_cache}
    outs = {path: md5 for _, path, md5 in pipeline.lock.outs() if path in cached}
    differing = {path: actual for path, md5 in outs.items() if (actual := contents.md5(path)) not in (None, md5)}
    if differing:
        history = History(contents.root)
        named = Archive(history).commits_by_md5
        for path, md5 in differing.items():
            locks = ((commit.id, history.lock(commit.changed[LOCK])) for commit in named.get(str(md5), ()))
            if commit := next((name for name, lock in locks if lock and lock.out(path) == md5), None):
                yield path, commit[:10]
        return
    for path, md5 in contents.pointers.items():
        actual = contents.md5(path)
        events = contents.events(f"{path}.dvc", "--all") if actual not in (None, md5) else ()
        for commit, blob in reversed(events):
            if blob and str(actual).encode() in (contents.blob(blob) or b""):
                yield path, commit[:10]
                break
