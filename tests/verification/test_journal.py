"""Changes of the journal, or of results that it names, are reported; honest work is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rfdetr_core.base import files
from rfdetr_core.lineage import journal
from rfdetr_core.lineage.lock import Entry
from tests.verification.runs import EVALUATE, TRAIN, Runs


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """Two results with a record each, both committed, of a project in a folder of a repository."""
    runs = Runs(tmp_path / "repository", "project")
    for seed in range(2):
        files.write_text(runs.folder / "records" / f"{seed}.json", f'{{"run": {seed}}}\n')
        runs.run(seed)
        runs.commit()
    assert runs.printed_lines() == ([], [])
    return runs


def entry(runs: Runs, stage: str, seed: int = 1) -> Path:
    """The entry of a stage of the result of a seed."""
    wrote = {"train": TRAIN, "evaluate": EVALUATE}[stage]
    md5 = files.md5_bytes({"train": f"loss\n{seed}\n", "evaluate": f'{{"of": {seed}}}\n'}[stage].encode())
    every = journal.entries(runs.folder).items()
    (name,) = [name for name, entry in every if entry["outs"].get(wrote, {}).get("md5") == md5]
    return runs.folder / name


def another_run(path: Path) -> None:
    """Change an entry: its run takes a second more."""
    content = json.loads(path.read_text())
    content["run"]["seconds"] += 1
    files.write_json(path, content)


def amended(runs: Runs, path: Path) -> None:
    """Rewrite history, so that a file was different from the first commit on."""
    another_run(path) if path.parent.name == "journal" else path.write_text('{"run": 7}\n')
    runs.git("checkout", "-q", "--orphan", "forged")
    runs.commit()


def moved(runs: Runs) -> None:
    path = entry(runs, "train", 0)
    path.rename(path.with_name(f"train-{'0' * 16}.json"))


def damaged(runs: Runs) -> None:
    path = entry(runs, "train")
    path.write_text(path.read_text().replace('"previous"', '"preceding"'))


def other_outs(runs: Runs, name: str = TRAIN) -> None:
    """Replace a result and its MD5 in dvc.lock, as `dvc commit -f` does."""
    files.write_text(runs.folder / name, "loss\n0.1\n")
    stage = {TRAIN: "train", EVALUATE: "evaluate"}[name]
    runs.lock(stage, runs.locked(stage) | {"outs": [runs.output_entry(name)]})


def deleted_and_written_again(runs: Runs) -> None:
    path = entry(runs, "train")
    text = path.read_text()
    path.unlink()
    runs.commit()
    path.write_text(text)
    another_run(path)
    runs.commit()


def changed_by_a_merge(runs: Runs) -> None:
    runs.git("checkout", "-q", "-b", "side")
    runs.commit("side")
    runs.git("checkout", "-q", "main")
    runs.commit("main")
    runs.git("merge", "-q", "--no-ff", "--no-commit", "side")
    another_run(entry(runs, "train"))
    runs.commit("Merge branch 'side'")


def committed(change: Callable[[Runs], object]) -> Callable[[Runs], object]:
    return lambda runs: (change(runs), runs.commit())


FORGERIES: dict[str, tuple[Callable[[Runs], object], str]] = {
    "the run in an entry": (
        lambda runs: another_run(entry(runs, "train")),
        "expected the committed entry, found other content",
    ),
    "an entry deleted": (
        lambda runs: entry(runs, "train", 0).unlink(),
        "expected the committed entry, found a deleted file",
    ),
    "an entry under another name": (
        moved,
        f"journal/train-{'0' * 16}.json: expected the entry that belongs to this file name",
    ),
    "a damaged entry": (damaged, "expected the entry that belongs to this file name, found a damaged entry"),
    "history.csv": (lambda runs: (runs.folder / TRAIN).write_text("loss\n0.1\n"), f"sha256 of {TRAIN}: expected"),
    "history.csv and dvc.lock": (other_outs, f"{TRAIN} in dvc.lock: expected"),
    "history.csv and dvc.lock, committed": (committed(other_outs), f"{TRAIN} in dvc.lock: expected"),
    "detections and dvc.lock, committed": (
        committed(lambda runs: other_outs(runs, EVALUATE)),
        f"{EVALUATE} in dvc.lock: expected",
    ),
    "the run in an entry, committed": (
        committed(lambda runs: another_run(entry(runs, "train"))),
        "expected the entry of its first commit, found changes by commit",
    ),
    "the run in an entry, in a commit that deletes it and one that writes it again": (
        deleted_and_written_again,
        "expected the entry of its first commit, found changes by commit",
    ),
    "the run in an entry, in a merge commit": (
        changed_by_a_merge,
        "expected the entry of its first commit, found changes by commit",
    ),
    "the entry of a result deleted, committed": (
        committed(lambda runs: entry(runs, "evaluate").unlink()),
        "expected the committed entry, found a deleted file",
    ),
    "an older entry deleted, committed": (
        committed(lambda runs: entry(runs, "train", 0).unlink()),
        "expected the committed file, found a deleted file",
    ),
    "the whole journal deleted, committed": (
        committed(lambda runs: shutil.rmtree(runs.folder / "journal")),
        "expected the committed entry, found a deleted file",
    ),
    "a record deleted, committed": (
        committed(lambda runs: (runs.folder / "records" / "0.json").unlink()),
        "records/0.json: expected the committed file, found a deleted file",
    ),
    "an older entry in a rewritten history": (
        lambda runs: amended(runs, entry(runs, "train", 0)),
        "sha256 of journal/train-",
    ),
    "a record in a rewritten history": (
        lambda runs: amended(runs, runs.folder / "records" / "0.json"),
        "sha256 of records/0.json: expected",
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forgery_is_named(runs: Runs, forgery: str) -> None:
    forge, expected = FORGERIES[forgery]
    forge(runs)
    if "rewritten history" in forgery:  # else the honest branch would still have it
        runs.git("branch", "-q", "-D", "main")
        runs.git("reflog", "expire", "--expire=now", "--all")
    wrong, _ = runs.printed_lines()
    assert any(expected in line for line in wrong), wrong


def test_a_history_that_is_rewritten_up_to_its_end_shows_in_the_heads_alone(runs: Runs) -> None:
    """`verify` prints nothing about it. But the heads, which `attest` signs, are different."""
    before = journal.heads(runs.folder)
    last = entry(runs, "evaluate")
    assert before.keys() == {f"journal/{last.name}"}
    amended(runs, last)
    runs.git("branch", "-q", "-D", "main")
    assert runs.printed_lines() == ([], [])
    assert journal.heads(runs.folder) != before


def test_another_result_of_the_same_inputs_with_an_entry_is_noted(runs: Runs) -> None:
    """Another machine computed other results, or a person wrote an entry for an edited result."""
    honest = entry(runs, "train")
    other_outs(runs)
    journal.write(runs.folder, "train", Entry.of(runs.locked("train")), 0.0)
    runs.commit()
    assert runs.printed_lines()[0] == []
    assert f"another run of train with the same inputs gave other results: journal/{honest.name}" in runs.check().notes


def nothing(runs: Runs) -> None:
    """Nothing."""


def from_another_branch(runs: Runs) -> None:
    """What a stage wrote on another branch is restored by DVC: no stage runs."""
    runs.git("checkout", "-q", "-b", "other")
    runs.run(5)
    runs.commit()
    runs.git("checkout", "-q", "main")
    runs.run(5, note=False)
    runs.commit()


def other_results_of_another_branch(runs: Runs) -> None:
    """Another machine had another result for the same inputs, which DVC restores here."""
    runs.git("checkout", "-q", "-b", "other")
    other_outs(runs, EVALUATE)
    journal.write(runs.folder, "evaluate", Entry.of(runs.locked("evaluate")), 0.0)
    runs.commit()
    runs.git("checkout", "-q", "main")
    other_outs(runs, EVALUATE)
    runs.commit()


def both_branches_ran_it(runs: Runs) -> None:
    """The same run on two branches: the entries have one name, and the merge takes one of them."""
    for began, branch in ((1.0, "one"), (2.0, "two")):
        runs.git("checkout", "-q", "-b", branch, "main")
        runs.run(5, began=began)
        runs.commit()
        runs.run(6 + int(began), began=began)
        runs.commit()
    runs.git("merge", "-q", "one", check=False)
    conflicts = runs.git("diff", "--name-only", "--diff-filter=U", "--relative").split()
    assert [name for name in conflicts if name.startswith("journal/")]
    runs.git("checkout", "--ours", *conflicts)
    runs.commit("merged")
    runs.git("branch", "-q", "-D", "one")


def ran_within_a_merge(runs: Runs) -> None:
    """`dvc repro` before the commit of a merge, as docs/reruns.md says."""
    runs.git("checkout", "-q", "-b", "side")
    runs.commit("side")
    runs.git("checkout", "-q", "main")
    runs.commit("main")
    runs.git("merge", "-q", "--no-ff", "--no-commit", "side")
    runs.run(5)
    runs.commit("merged")
    runs.run(6)
    runs.commit()


def reverted_and_run_again(runs: Runs) -> None:
    runs.git("revert", "--no-edit", "HEAD")
    runs.run(1, began=9.0)
    runs.commit()


def rebased(runs: Runs) -> None:
    runs.git("checkout", "-q", "-b", "other", "HEAD~1")
    (runs.folder / "words").write_text("words\n")
    runs.commit()
    runs.git("rebase", "-q", "other", "main")
    runs.git("branch", "-q", "-D", "other")


def ran_twice_before_a_commit(runs: Runs) -> None:
    runs.run(5)
    runs.run(6)
    runs.commit()


def went_back(runs: Runs) -> None:
    """The older result checked out: a tag, a branch or a commit."""
    runs.git("checkout", "-q", "HEAD~1")


def checked_out_by_windows(runs: Runs) -> None:
    (runs.folder / ".gitattributes").write_text("* text=auto eol=lf\n")
    runs.commit()
    runs.git("config", "core.autocrlf", "true")
    shutil.rmtree(runs.folder / "journal")
    runs.git("checkout", "-q", "--", "journal")


def moved_elsewhere(runs: Runs) -> None:
    renamed = runs.top.with_name("another name")
    inside = runs.folder.relative_to(runs.top)
    runs.top.rename(renamed)
    runs.top, runs.folder = renamed, renamed / inside


def copied_by_another_user(runs: Runs) -> None:
    """Other modes, times and owners of files, and what an editor leaves."""
    for path in (runs.folder / "journal").iterdir():
        path.chmod(0o600)
        path.touch()
    path = entry(runs, "train")
    shutil.copy(path, path.with_name(f"{path.name}~"))
    shutil.copy(path, path.with_name(f"{path.name}.orig"))


HONEST: dict[str, Callable[[Runs], object]] = {
    "nothing": nothing,
    "a result of another branch that DVC restored": from_another_branch,
    "another result of the same inputs, of another branch": other_results_of_another_branch,
    "one run on two branches that are merged": both_branches_ran_it,
    "a run within a merge": ran_within_a_merge,
    "a result reverted and run again": reverted_and_run_again,
    "a rebase": rebased,
    "two runs before a commit": ran_twice_before_a_commit,
    "an older commit checked out": went_back,
    "line ends of another system": checked_out_by_windows,
    "a clone that is moved": moved_elsewhere,
    "modes, times and backups": copied_by_another_user,
}


@pytest.mark.parametrize("situation", HONEST)
def test_an_honest_situation_has_no_mismatch(runs: Runs, situation: str) -> None:
    HONEST[situation](runs)
    assert runs.printed_lines() == ([], [])


def without_journal(runs: Runs) -> None:
    """Results of an older version."""
    runs.git("checkout", "-q", "--orphan", "old")
    shutil.rmtree(runs.folder / "journal")
    runs.commit()
    runs.git("branch", "-q", "-D", "main")


def restored_from_nowhere(runs: Runs) -> None:
    """A result of another clone, which DVC restored from a remote."""
    runs.run(5, note=False)
    runs.commit()


def picked(runs: Runs) -> None:
    """One commit of a branch, whose earlier entries are not here."""
    runs.git("checkout", "-q", "-b", "side")
    runs.run(5)
    runs.commit()
    runs.run(6)
    runs.commit()
    runs.git("checkout", "-q", "main")
    runs.git("cherry-pick", "-X", "theirs", "side")
    runs.git("branch", "-q", "-D", "side")


def a_custom_stage(runs: Runs) -> None:
    runs.lock("split", {"cmd": "python split.py", "outs": [runs.output_entry(TRAIN)]})


def shallow(runs: Runs) -> None:
    """A shallow clone. Its working tree has the files of the missing commits, except those that were reverted."""
    runs.git("revert", "--no-edit", "HEAD")
    runs.run(5)
    runs.commit()
    clone = runs.top.with_name("clone")
    runs.git("clone", "-q", "--depth", "1", f"file://{runs.top}", str(clone))
    runs.folder = clone / runs.folder.relative_to(runs.top)
    runs.run(6, note=False)


UNCHECKED: dict[str, tuple[Callable[[Runs], object], str]] = {
    "a result from before there was a journal": (without_journal, "journal entries of train, evaluate"),
    "a result that DVC restored from another clone": (restored_from_nowhere, "journal entries of train, evaluate"),
    "a commit picked from a branch": (picked, "earlier entries: journal/evaluate-"),
    "a custom stage": (a_custom_stage, "journal entries of split"),
    "a shallow clone": (shallow, "journal entries of train, evaluate"),
}


@pytest.mark.parametrize("situation", UNCHECKED)
def test_unknown_results_are_unchecked_and_not_a_mismatch(runs: Runs, situation: str) -> None:
    arrange, expected = UNCHECKED[situation]
    arrange(runs)
    wrong, unchecked = runs.printed_lines()
    assert wrong == []
    assert [line for line in unchecked if line.startswith(f"not checked: {expected}")], unchecked


def test_git_alone_answers_for_what_it_tracks(runs: Runs) -> None:
    runs.git("rm", "-q", "--cached", EVALUATE)
    (runs.folder / ".gitignore").write_text(f"/{EVALUATE}\n")
    runs.commit()
    for name in (EVALUATE, TRAIN):
        (runs.folder / name).write_text("other")
    wrong = {subject for subject, _, _ in runs.check(only_git=True).mismatches}
    assert wrong == {f"sha256 of {TRAIN}"}
    assert {subject for subject, _, _ in runs.check().mismatches} == {f"sha256 of {TRAIN}", f"sha256 of {EVALUATE}"}


def test_settings_of_libraries_that_change_results_are_noted(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "observe_environment", lambda packages: {"settings": {"MKL_CBWR": "COMPATIBLE"}})
    runs.run(5)
    assert [
        note
        for note in runs.check().notes
        if note.endswith(": train ran with the environment variables MKL_CBWR=COMPATIBLE")
    ]


def test_a_run_with_edited_files_of_packages_is_named(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        journal,
        "observe_environment",
        lambda packages: {"edited": {"torch": ["torch/nn/modules/linear.py"]}} if packages else {},
    )
    runs.run(5)
    (line, _) = runs.printed_lines()[0]
    assert line.startswith(
        "packages that train used: expected the files as they were installed, found edited files: "
        "torch/nn/modules/linear.py of "
    )
