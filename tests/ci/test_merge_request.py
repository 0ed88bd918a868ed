"""Merge requests through GitLab's API, against a stub on loopback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ci import merge_request
from ci.merge_request import REQUEST
from ci.steps import BRANCH, COMMENT, PLAN, STATE, TITLE
from rfdetr_core.base.errors import UserError
from tests.pipeline.gitlab import TOKEN, Api, serving


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """The stub of the API. The current folder has a result whose branch was pushed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ci.merge_request"])
    STATE.mkdir()
    BRANCH.write_text("retrain/main\nmain\n")
    TITLE.write_text("Retrained\n")
    COMMENT.write_text("## Retrained\n")
    PLAN.write_text('{"certain": {"train": ["asked for"]}}')
    with serving() as stub:
        variables = {"CI_API_V4_URL": f"{stub.address}/api/v4", "CI_PROJECT_ID": "1217", "CI_COMMIT_SHA": "c0ffee"}
        for name, value in (variables | {"RETRAIN_TOKEN": TOKEN}).items():
            monkeypatch.setenv(name, value)
        yield stub


def or_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["ci.merge_request", "--or-commit"])
    merge_request.main()


def test_a_request_is_opened_once_and_then_gets_a_note(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    merge_request.main()
    (request,) = api.requests
    assert (request["source_branch"], request["target_branch"]) == ("retrain/main", "main")
    assert (request["title"], request["description"]) == ("Retrained", "## Retrained\n")
    TITLE.write_text("Retrained again\n")
    COMMENT.write_text("## Retrained again\n")
    merge_request.main()
    assert [(request["title"], request["description"]) for request in api.requests] == [
        ("Retrained again", "## Retrained again\n")
    ], "a description of the first result would contradict the title"
    assert api.notes == [("merge_requests/1/notes", "## Retrained again\n")]
    or_commit(monkeypatch)
    assert len(api.notes) == 1


def test_a_request_from_a_fork_with_the_same_branches_is_not_changed(api: Api) -> None:
    merge_request.main()
    api.requests[0].update(source_project_id=5, title="of a fork")
    merge_request.main()
    assert [request["title"] for request in api.requests] == ["of a fork", "Retrained"]
    assert api.notes == []


def test_without_a_branch_the_commit_gets_the_comment_unless_no_stage_was_planned(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    BRANCH.unlink()
    merge_request.main()
    assert api.requests == []
    or_commit(monkeypatch)
    assert api.notes == [("repository/commits/c0ffee/comments", "## Retrained\n")]
    PLAN.write_text('{"certain": {}}')
    or_commit(monkeypatch)
    assert len(api.notes) == 1


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("RETRAIN_TOKEN", None, "RETRAIN_TOKEN is not set"),
        ("RETRAIN_TOKEN", "glpat-expired", "GitLab answered 401 to GET merge_requests"),
        ("CI_PROJECT_ID", "9", "GitLab answered 404 to GET merge_requests"),
        ("CI_API_V4_URL", "http://127.0.0.1:1/api/v4", "no readable answer to GET"),
    ],
)
def test_a_refusal_is_one_message_that_is_also_in_the_comment(
    api: Api, monkeypatch: pytest.MonkeyPatch, variable: str, value: str | None, message: str
) -> None:
    REQUEST.touch()  # from an earlier attempt
    monkeypatch.delenv(variable) if value is None else monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=message) as raised:
        merge_request.main()
    assert value is None or variable != "RETRAIN_TOKEN" or value not in str(raised.value)
    comment = COMMENT.read_text()
    assert comment.startswith("## Retrained, but without a merge request\n")
    assert message in comment
    assert (REQUEST.exists(), api.requests) == (False, [])
