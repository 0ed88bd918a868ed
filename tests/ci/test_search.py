"""Artifacts are searched for the secrets of all steps of a job, and a comment fits the limit of the platform."""

from __future__ import annotations

from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from ci import search
from ci.steps import COMMENT, FULL_COMMENT, MAX_LENGTH, PLAN, RAN, REPORTS, STATE, shorten, step, write_comment
from rfdetr_core.base.markdown import block

VALUE = "hunter2-is-the-password"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that a failed training leaves. None contains a secret."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", VALUE)
    paths = [REPORTS / "training" / "page.html", PLAN, COMMENT, RAN, STATE / "attachments" / "card.md"]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    return paths


def test_without_a_secret_every_file_is_kept(kept: list[Path]) -> None:
    step(search.main)
    assert [path.read_text() for path in kept] == ["{}"] * len(kept)


@pytest.mark.parametrize("number", range(5))
def test_a_file_with_a_secret_and_all_reports_are_removed_and_the_comment_names_the_file(
    kept: list[Path], number: int
) -> None:
    path = kept[number]
    path.write_text(f"before {VALUE} after")
    with pytest.raises(SystemExit):
        step(search.main)
    assert not path.exists() or path == COMMENT
    assert not REPORTS.exists()
    comment = COMMENT.read_text()
    assert f"{path} contains the value of the secret variable MLFLOW_TRACKING_PASSWORD" in comment
    assert VALUE not in comment
    assert PLAN.exists() == (path != PLAN), "the last job reads it"


@pytest.mark.parametrize("fence", ["```", "`" * 700])
def test_a_long_comment_is_cut_after_a_line_with_its_fence_closed_and_the_full_text_is_kept(
    kept: list[Path], fence: str
) -> None:
    lines = "\n".join(f"line {number} of the output of a program" for number in range(5000))
    text = f"## Retrained\n\n{block(f'{fence[:-1]}{chr(10)}{lines}')}\n\n| a |\n"
    write_comment(text)
    comment = COMMENT.read_text()
    assert FULL_COMMENT.read_text() == text
    assert MAX_LENGTH - 3000 < len(comment) <= MAX_LENGTH < 65_536
    heading, fenced, last = [token for token in MarkdownIt().parse(comment) if token.type in ("fence", "inline")]
    assert (heading.content, fenced.type) == ("Retrained", "fence")
    assert set(fenced.content.splitlines()[1:]) <= set(lines.splitlines()), "whole lines"
    assert str(FULL_COMMENT) in last.content
    write_comment("short\n")
    assert (COMMENT.read_text(), FULL_COMMENT.exists()) == ("short\n", False)


@pytest.mark.parametrize("length", [MAX_LENGTH - 1, MAX_LENGTH, MAX_LENGTH + 1, 3 * MAX_LENGTH])
def test_a_text_is_cut_only_if_it_is_too_long(length: int) -> None:
    for text in ("x" * length, "y\n" * (length // 2)):
        cut = shorten(text, "there")
        assert len(cut) <= MAX_LENGTH
        assert (cut == text) == (len(text) <= MAX_LENGTH)
