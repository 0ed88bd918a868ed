"""A result that cannot be delivered is reported as such, and documents that cannot be written are named."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ci import deliver
from ci.steps import ATTACHMENTS, ATTACHMENTS_BRANCH, COMMENT, PLAN, STATE, STATEMENT
from rfdetr_core.base.errors import UserError

RAW = "https://host/owner/name/raw"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a commit and a plan."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RETRAIN_BRANCH", "main")
    subprocess.run(["git", "init", "-q"], check=True)
    user = ["-c", "user.name=ci", "-c", "user.email=ci@localhost"]
    subprocess.run(["git", *user, "commit", "-q", "--allow-empty", "-m", "source"], check=True)
    STATE.mkdir()
    PLAN.write_text('{"certain": {"train": []}}')
    return tmp_path


def answers(monkeypatch: pytest.MonkeyPatch, failing: set[str]) -> None:
    """Replace commands of the core: those in `failing` fail with their name as message, the others do nothing."""

    def core(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        failed = words[0] in failing
        return subprocess.CompletedProcess(words, int(failed), "", f"error: {words[0]} <!--" if failed else "")

    monkeypatch.setattr(deliver, "core", core)


@pytest.mark.parametrize("failing", ["verify", "dvc push"])
def test_a_result_that_cannot_leave_the_machine_is_reported_as_not_delivered(
    state: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    answers(monkeypatch, {failing})
    (state / "dvc.lock").write_text("stages: {}\n")
    refusal = "ERROR: failed to connect to s3 (store) - Unable to locate credentials"
    monkeypatch.setattr(deliver, "show", lambda *words: (1, refusal))
    with pytest.raises(UserError):
        deliver.main()
    comment = COMMENT.read_text()
    assert comment.startswith("## Retrained, but not delivered\n")
    expected = "verify found mismatches" if failing == "verify" else "there are no credentials for the remote"
    assert expected in comment
    assert "Gate" not in comment
    assert not (STATE / "delivery.bundle").exists()


def test_the_comment_lists_documents_and_statement_or_says_why_there_are_none(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver.MODEL.parent.mkdir(parents=True)
    deliver.MODEL.touch()
    answers(monkeypatch, {"document", "attest"})
    text = deliver.write_documents()
    assert "The documents cannot be written" in text
    assert "The statement cannot be written" in text
    assert deliver.list_documents("0123456789abcdef").endswith("There are none.\n")
    answers(monkeypatch, set())
    assert deliver.write_documents() == ""
    (ATTACHMENTS / "documents").mkdir(parents=True)
    (ATTACHMENTS / "documents" / "model_card.md").touch()
    STATEMENT.touch()
    assert "- `.retrain/attachments/documents/model_card.md`\n" in deliver.list_documents("0123456789abcdef")
    monkeypatch.setenv("RETRAIN_RAW", RAW)
    text = deliver.list_documents("0123456789abcdef")
    folder = f"{RAW}/{ATTACHMENTS_BRANCH}/0123456789"
    assert f"- [model_card.md]({folder}/documents/model_card.md)\n" in text
    assert f"- [statement.json]({folder}/statement.json)\n" in text
