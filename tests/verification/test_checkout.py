"""Files from another commit give one line, as after `git checkout` without `dvc checkout`. A changed file does not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from rfdetr_core.base import files
from rfdetr_core.verification.checkout import check_checkout
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.lock import Pipeline
from rfdetr_core.verification.report import Report


class Versions:
    """Two commits, v1 and v2, of a project whose outs one.txt and two.txt are in DVC's cache, as is the dataset."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.git("init", "-q")
        stages = {"a": {"cmd": "run a", "outs": ["one.txt", "two.txt"]}}
        (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
        (folder / ".gitignore").write_text("*.txt\n")
        for version in ("v1", "v2"):
            self.write(version, data=version)
            self.git("add", "-A")
            self.git("-c", "user.name=a", "-c", "user.email=b", "commit", "-q", "-m", version)
            self.git("tag", version)

    def git(self, *arguments: str) -> None:
        subprocess.run(["git", *arguments], cwd=self.folder, check=True)

    def write(self, version: str, data: str) -> None:
        for name in ("one.txt", "two.txt", "data.txt"):
            (self.folder / name).write_text(f"{name} {data if name == 'data.txt' else version}")
        digests = {name: files.md5_file(self.folder / name) for name in ("one.txt", "two.txt", "data.txt")}
        outs = [{"path": name, "hash": "md5", "md5": digests[name]} for name in ("one.txt", "two.txt")]
        lock = {"schema": "2.0", "stages": {"a": {"cmd": "run a", "outs": outs}}}
        (self.folder / "dvc.lock").write_text(yaml.safe_dump(lock))
        pointer = {"outs": [{"md5": digests["data.txt"], "path": "data.txt"}]}
        (self.folder / "data.txt.dvc").write_text(yaml.safe_dump(pointer))

    def mismatches(self) -> list[str]:
        report = Report()
        holds = check_checkout(report, Contents(self.folder), Pipeline.read(self.folder))
        assert holds == (not report.mismatches)
        return [line for line in report.lines()[:-1] if not line.startswith("not checked: ")]


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    return Versions(tmp_path / "project")


def test_files_of_the_commit_are_silent(versions: Versions) -> None:
    assert versions.mismatches() == []


def test_after_a_checkout_of_git_alone_one_line_says_what_to_run(versions: Versions) -> None:
    versions.git("checkout", "-q", "v1")
    (line,) = versions.mismatches()
    assert line.startswith(
        "files that DVC keeps: one.txt, two.txt: expected the versions in dvc.lock, found the versions of commit "
    )
    assert line.endswith("(run: dvc checkout)")


def test_a_dataset_of_another_commit_is_the_same_line(versions: Versions) -> None:
    (versions.folder / "data.txt").write_text("data.txt v1")
    (line,) = versions.mismatches()
    assert line.startswith("files that DVC keeps: data.txt: ")


@pytest.mark.parametrize("forged", ["changed", "those of each other", "a dataset that no commit has"])
def test_files_of_no_commit_are_left_to_the_other_checks(versions: Versions, forged: str) -> None:
    first, two = versions.folder / "one.txt", versions.folder / "two.txt"
    if forged == "changed":
        first.write_text("changed")
    elif forged == "those of each other":
        first.write_text("two.txt v2")
        two.write_text("one.txt v2")
    else:
        (versions.folder / "data.txt").write_text("changed")
    assert versions.mismatches() == []
