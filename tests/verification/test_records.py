"""Run records are compared with each other, their names and the history, with any git setup of the clone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rfdetr_core.base import files
from rfdetr_core.lineage.lock import Lock
from rfdetr_core.lineage.records import record_names
from rfdetr_core.verification.claims import find_record
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.lock import Pipeline
from rfdetr_core.verification.report import Report
from tests.audit.repository import RUN, Repository, audit
from tests.verification.conftest import IMAGES


def check(folder: Path) -> Report:
    """Check the records. dvc.yaml only marks the root of the project; its stages are not read."""
    (folder / "dvc.yaml").touch()
    report = Report()
    find_record(report, Contents(folder), Pipeline({}, Lock.read(folder)))
    return report


def wrong(folder: Path) -> list[str]:
    return [subject for subject, _, _ in check(folder).mismatches]


def record_in(repository: Repository) -> Path:
    """The record of the first training."""
    return next((repository.folder / "records").glob("*.json"))


def edit(path: Path, **changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    for key, value in changes.items():
        place = content["lineage"]["training"] if key == "machine" else content
        place[key] = value
    files.write_json(path, content)
    return content


def forge_machine(repository: Repository, path: Path) -> Path:
    """Give the record another machine and rename it to match its new content."""
    content = edit(path, machine={"device": "a machine that never was"})
    return path.rename(path.with_name(record_names(content)[0]))


def a_lineage_under_an_older_name(repository: Repository) -> None:
    old = record_in(repository)
    old = old.rename(old.with_name(record_names(json.loads(old.read_text()))[1]))
    repository.git("add", "-A", "records")
    repository.git("commit", "-q", "-m", "As older histories name it")
    edit(old, machine={"device": "a machine that never was"})
    repository.git("commit", "-q", "-a", "-m", "forged")


def a_lineage_in_place_of_the_record(repository: Repository) -> None:
    old = record_in(repository)
    repository.train(2, IMAGES)
    repository.commit("Retrain")
    forge_machine(repository, old)
    repository.git("add", "-A", "records")
    repository.git("commit", "-q", "-m", "forged")


def a_lineage_beside_the_record(repository: Repository) -> None:
    old = record_in(repository)
    content = old.read_bytes()
    forge_machine(repository, old)
    old.write_bytes(content)


def a_run_in_a_merge(repository: Repository) -> None:
    repository.git("checkout", "-q", "-b", "other")
    repository.git("commit", "-q", "--allow-empty", "-m", "other")
    repository.git("checkout", "-q", "main")
    repository.git("merge", "-q", "--no-ff", "--no-commit", "other")
    edit(record_in(repository), run={"host": "forged"})
    repository.git("commit", "-q", "-a", "-m", "Merge other")


def a_run(repository: Repository) -> None:
    edit(record_in(repository), run={"host": "forged"})
    repository.git("commit", "-q", "-a", "-m", "forged")


def a_run_behind_a_graft(repository: Repository) -> None:
    a_run(repository)
    graft = repository.folder / ".git" / "info" / "grafts"
    graft.parent.mkdir(exist_ok=True)
    graft.write_text(repository.git("rev-parse", "HEAD") + "\n")


def a_run_behind_a_clean_filter(repository: Repository) -> None:
    attributes = repository.folder / ".git" / "info" / "attributes"
    attributes.parent.mkdir(exist_ok=True)
    attributes.write_text("records/*.json filter=hide\n")
    repository.git("config", "filter.hide.clean", "git cat-file blob HEAD:%f")
    edit(record_in(repository), run=RUN | {"host": "forged"})  # of equal length: git looks at sizes first
    assert repository.git("status", "--porcelain", "records") == ""


FORGED: dict[str, tuple[Callable[[Repository], None], str]] = {
    "a lineage under an older name": (a_lineage_under_an_older_name, "lineage in records/"),
    "a lineage in place of the record": (a_lineage_in_place_of_the_record, "lineage in records/"),
    "a lineage beside the record": (a_lineage_beside_the_record, "records with the MD5 of output/"),
    "a run": (a_run, "run of records/"),
    "a run in a merge commit": (a_run_in_a_merge, "run of records/"),
    "a run behind a graft": (a_run_behind_a_graft, "run of records/"),
    "a run behind a clean filter": (a_run_behind_a_clean_filter, "content of records/"),
}


@pytest.mark.parametrize("case", FORGED)
def test_a_record_that_was_rewritten_is_named(repository: Repository, case: str) -> None:
    assert wrong(repository.folder) == []
    forge, named = FORGED[case]
    forge(repository)
    assert any(subject.startswith(named) for subject in wrong(repository.folder)), wrong(repository.folder)


def test_after_a_lineage_was_forged_the_audit_of_bare_weights_is_in_doubt(
    repository: Repository, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_lineage_in_place_of_the_record(repository)
    for arguments in ((model,), (model, "--images"), ("--image", "0" * 64)):
        audit(capsys, repository, *arguments, status=1)
    assert "one of them was forged" in audit(capsys, repository, model, status=1)
    answer = json.loads(audit(capsys, repository, model, "--json", status=1))
    assert answer["lineage"]["training"]["machine"] == {"device": "cpu"}  # as in the file: the history has its bytes


def merged(repository: Repository) -> None:
    repository.git("checkout", "-q", "-b", "other")
    repository.train(2, IMAGES)
    repository.commit("Train on a branch")
    repository.git("checkout", "-q", "main")
    repository.git("commit", "-q", "--allow-empty", "-m", "Meanwhile")
    repository.git("merge", "-q", "--no-ff", "other", "-m", "Merge")


def rebased(repository: Repository) -> None:
    repository.git("checkout", "-q", "-b", "other", "HEAD")
    repository.train(2, IMAGES)
    repository.commit("Train on a branch")
    repository.git("checkout", "-q", "main")
    (repository.folder / "notes.txt").write_text("notes")
    repository.git("add", "notes.txt")
    repository.git("commit", "-q", "-m", "Meanwhile")
    repository.git("checkout", "-q", "other")
    repository.git("rebase", "-q", "main")


def another_run_with_equal_weights(repository: Repository) -> None:
    repository.train(1, IMAGES, notes="again")
    repository.commit("Train again")


def a_tag_checked_out(repository: Repository) -> None:
    repository.git("tag", "v1")
    repository.train(2, IMAGES)
    repository.commit("Retrain")
    repository.git("checkout", "-q", "v1")


def an_author_in_windows_1252(repository: Repository) -> None:
    repository.git("config", "i18n.commitEncoding", "windows-1252")
    repository.git("config", "i18n.logOutputEncoding", "windows-1252")
    message = repository.folder / "message"
    message.write_bytes("Für später\n".encode("windows-1252"))
    repository.git("commit", "-q", "--allow-empty", "-F", str(message))
    message.unlink()


def settings_that_change_what_git_prints(repository: Repository) -> None:
    settings = {"color.ui": "always", "log.showSignature": "true", "diff.renames": "copies", "log.date": "relative",
                "format.pretty": "oneline", "log.decorate": "full", "core.fileMode": "false"}  # fmt: skip
    for key, value in settings.items():
        repository.git("config", key, value)


def a_commit_graph(repository: Repository) -> None:
    repository.git("commit-graph", "write", "--reachable", "--changed-paths")


HONEST = [merged, rebased, another_run_with_equal_weights, a_tag_checked_out, an_author_in_windows_1252,
          settings_that_change_what_git_prints, a_commit_graph]  # fmt: skip


@pytest.mark.parametrize("change", HONEST, ids=lambda change: change.__name__)
def test_an_honest_history_raises_no_alarm(repository: Repository, change: Callable[[Repository], None]) -> None:
    change(repository)
    report = check(repository.folder)
    assert report.mismatches == {}
    assert "older commits" not in report.unchecked


def test_a_shallow_clone_raises_no_alarm_and_says_what_it_cannot_check(repository: Repository, tmp_path: Path) -> None:
    repository.train(2, IMAGES)
    repository.commit("Retrain")
    repository.git("clone", "-q", "--depth", "1", repository.folder.as_uri(), str(tmp_path / "shallow"))
    report = check(tmp_path / "shallow")
    assert report.mismatches == {}
    assert report.unchecked["older commits"] == "this clone is shallow. Run: git fetch --unshallow"


def test_a_hook_of_git_asks_the_repository_of_the_folder(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Repository(tmp_path / "other")
    for name, value in {"GIT_DIR": other.folder / ".git", "GIT_INDEX_FILE": other.folder / ".git" / "index"}.items():
        monkeypatch.setenv(name, str(value))
    assert wrong(repository.folder) == []
    assert check(repository.folder).notes == []
