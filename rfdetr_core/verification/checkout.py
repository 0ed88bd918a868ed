"""Whether the files that DVC keeps are those of this commit, or of another one, as after a `git checkout` alone."""

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
    """Name in one mismatch the files that are those of another commit, which then are not compared with anything else;
    whether there are none."""
    found = dict(_of_other_commits(contents, pipeline))
    if found:
        others = f"those of commit {listed(dict.fromkeys(found.values()))}"
        report.wrong(f"files that DVC keeps: {listed(found)}", f"those of {LOCK}", others, "run: dvc checkout")
    for path in found:
        report.skip(path, "that of another commit: dvc checkout")
        contents.of_other_commits.add(path)
    return not found


def _of_other_commits(contents: Contents, pipeline: Pipeline) -> Iterator[tuple[str, str]]:
    """The files and folders at hand that are not those of dvc.lock and .dvc files, and that another commit has at the
    same path, with that commit. What .dvc files name may be a large dataset: it is read only if all outs are right."""
    cached = {path for stage in pipeline.stages.values() for path, in_cache in stage.outs.items() if in_cache}
    outs = {path: md5 for _, path, md5 in pipeline.lock.outs() if path in cached}
    differing = {path: now for path, md5 in outs.items() if (now := contents.md5(path)) not in (None, md5)}
    if differing:
        history = History(contents.root)
        named = Archive(history).commits_by_md5
        for path, md5 in differing.items():
            locks = ((commit.id, history.lock(commit.changed[LOCK])) for commit in named.get(str(md5), ()))
            if commit := next((name for name, lock in locks if lock and lock.out(path) == md5), None):
                yield path, commit[:10]
        return
    for path, md5 in contents.pointers.items():
        now = contents.md5(path)
        past = contents.events(f"{path}.dvc", "--all") if now not in (None, md5) else ()
        for commit, blob in reversed(past):
            if blob and str(now).encode() in (contents.blob(blob) or b""):
                yield path, commit[:10]
                break
