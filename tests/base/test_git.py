from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rfdetr_core.base import git
from rfdetr_core.base.errors import UserError
from rfdetr_core.config.preflight import check_project
from rfdetr_core.ingest.folder import check_folder
from rfdetr_core.observers.runs import source_tags


@pytest.fixture
def foreign_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository that seems to belong to another user, with an ignored dataset."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "data" / "mine").mkdir(parents=True)
    (tmp_path / "data" / "mine" / "a.png").touch()
    (tmp_path / ".gitignore").write_text("/data/mine\n")
    (tmp_path / "params.yaml").write_text("data: {dir: data/mine}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    return tmp_path


@pytest.mark.parametrize(
    "ask",
    [
        lambda: git.answer(Path(), "check-ignore", "data"),
        lambda: git.text(Path(), "log"),
        lambda: check_folder(Path("data/mine"), ()),
        check_project,
        source_tags,
    ],
)
@pytest.mark.parametrize("language", ["C", "de_DE.UTF-8"])
def test_a_repository_that_git_refuses_is_an_error_and_not_the_answer_no(
    foreign_repository: Path, ask: Callable[[], object], language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", language)
    with pytest.raises(UserError, match=f"git config --global --add safe.directory {foreign_repository}$"):
        ask()


def test_a_missing_repository_and_a_missing_commit_are_the_answer_no(tmp_path: Path) -> None:
    assert git.answer(tmp_path, "rev-parse", "HEAD") is None
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert git.answer(tmp_path, "rev-parse", "-q", "--verify", "HEAD") is None
    assert git.answer(tmp_path, "rev-parse", "--is-inside-work-tree") == "true\n"
