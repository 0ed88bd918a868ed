"""Open a merge request with the result on GitLab, or update the open one, through GitLab's REST API.

Needs the variables that GitLab sets (CI_API_V4_URL, CI_PROJECT_ID, CI_COMMIT_SHA) and RETRAIN_TOKEN.
"""

from __future__ import annotations

import argparse
import json
import os
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlencode

from ci.push import prepend_reason
from ci.secrets import redacted
from ci.steps import BRANCH, COMMENT, STATE, TITLE, nothing_to_do, step
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.markdown import block
from rfdetr_core.base.printing import say

REQUEST = STATE / "pull_request"  # written when a merge request has the comment


def ask(method: str, path: str, **fields: str) -> Any:
    """Send a request about this project to GitLab's API, and return the answer.

    Args:
        method: GET, POST or PUT.
        path: the part of the address after `projects/<id>/`.
        **fields: the query of a GET; of the other methods, the JSON body.

    Raises:
        UserError: a variable is not set, GitLab cannot be reached, or GitLab refuses the request.
    """
    try:
        address = f"{os.environ['CI_API_V4_URL']}/projects/{os.environ['CI_PROJECT_ID']}/{path}"
        token = os.environ["RETRAIN_TOKEN"]
    except KeyError as error:
        raise UserError(f"{error.args[0]} is not set. See the first lines of ci/gitlab.yml") from error
    query, body = (f"?{urlencode(fields)}", None) if method == "GET" else ("", json.dumps(fields).encode())
    request = urllib.request.Request(f"{address}{query}", body, {"Content-Type": "application/json"}, method=method)
    request.add_unredirected_header("PRIVATE-TOKEN", token)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        text = redacted(error.read().decode(errors="replace"))
        raise UserError(
            f"GitLab answered {error.code} to {method} {path}: {text}\n"
            "RETRAIN_TOKEN must be a project access token with the role Developer and the scope api"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(redacted(f"no readable answer to {method} {address}: {error}")) from error


def request(source: str, target: str) -> str:
    """Open the merge request of two branches. If it is open already, replace its description and add a note.

    Returns its address.

    Raises:
        UserError: see `ask`.
    """
    title, comment = TITLE.read_text().strip(), COMMENT.read_text()
    branches = {"source_branch": source, "target_branch": target}
    # The list also has merge requests from forks, whose branch may have the same name.
    open_requests = [
        merge_request
        for merge_request in ask("GET", "merge_requests", state="opened", **branches)
        if merge_request["source_project_id"] == merge_request["target_project_id"]
    ]
    if not open_requests:
        return str(ask("POST", "merge_requests", title=title, description=comment, **branches)["web_url"])
    path = f"merge_requests/{open_requests[0]['iid']}"
    ask("PUT", path, title=title, description=comment)
    ask("POST", f"{path}/notes", body=comment)
    return str(open_requests[0]["web_url"])


def main() -> None:
    """Open or update the merge request. With --or-commit: comment on the commit if there is no merge request.

    Raises:
        UserError: see `ask`. The comment then says that the result has no merge request.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--or-commit", action="store_true", help="if there is no merge request, write the comment to the commit"
    )
    if parser.parse_args().or_commit:
        if not REQUEST.exists() and not nothing_to_do():
            ask("POST", f"repository/commits/{os.environ['CI_COMMIT_SHA']}/comments", note=COMMENT.read_text())
            say("the comment was written to the commit")
        return
    REQUEST.unlink(missing_ok=True)
    if not BRANCH.exists():
        say("no branch was pushed: no merge request")
    else:
        source, target = BRANCH.read_text().splitlines()
        try:
            address = request(source, target)
        except UserError as error:
            reason = f"The branch of the result was pushed. The merge request failed:\n\n{block(redacted(str(error)))}"
            prepend_reason("without a merge request", reason)
            raise
        REQUEST.touch()
        say(f"merge request with the result: {address}")


if __name__ == "__main__":
    step(main)
