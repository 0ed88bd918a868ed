"""A replacement for GitLab: gitlab-ci-local runs the pipeline in local shells, and a stub serves the REST API."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import yaml

from tests.node import node_modules
from tests.pipeline.project import Project

PROJECT = "group/name"
TOKEN = "glpat-of-the-test"


@dataclass
class Api:
    """A stub of GitLab's REST API on loopback: merge requests, their notes, and comments on commits."""

    address: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)  # the path and the text
    refuse: int = 0  # a status to answer with

    def answer(self, method: str, path: str, fields: dict[str, str]) -> tuple[int, Any]:
        """The status and the content of an answer. The paths come from GitLab's documentation."""
        path = path.partition("/api/v4/projects/1217/")[2]
        if self.refuse:
            return self.refuse, {"message": f"{self.refuse} refused"}
        if (method, path) == ("GET", "merge_requests"):
            query = {key: fields[key] for key in ("source_branch", "target_branch", "state")}
            return 200, [request for request in self.requests if query.items() <= request.items()]
        if (method, path) == ("POST", "merge_requests"):
            number = len(self.requests) + 1
            ids = {"iid": number, "source_project_id": 1217, "target_project_id": 1217, "state": "opened"}
            address = f"{self.address}/{PROJECT}/-/merge_requests/{number}"
            self.requests.append(fields | ids | {"web_url": address})
            return 201, self.requests[-1]
        if method == "PUT" and path.startswith("merge_requests/"):
            self.requests[int(path.rpartition("/")[2]) - 1].update(fields)
            return 200, {}
        if method == "POST" and path.endswith(("/notes", "/comments")):
            self.notes.append((path, fields["body" if path.endswith("/notes") else "note"]))
            return 201, {}
        return 404, {"message": "404 Not Found"}


@contextmanager
def serving() -> Iterator[Api]:
    """Serve the stub. It accepts only TOKEN."""
    api = Api()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            path, fields = urlsplit(self.path), dict[str, str]()
            if length := int(self.headers.get("Content-Length", 0)):
                fields = json.loads(self.rfile.read(length))
            allowed = self.headers.get("PRIVATE-TOKEN") == TOKEN
            fields |= dict(parse_qsl(path.query))
            status, content = api.answer(self.command, path.path, fields) if allowed else (401, {"message": "401"})
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = answer  # noqa: N815

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    api.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield api
    server.shutdown()
    server.server_close()


def prepare(clone: Project, api: Api, bare_repository: Path) -> None:
    """Make a clone look like the folder of a runner.

    Its remote `origin` has an address of GitLab, and `make setup` finds everything installed.

    Args:
        clone: the clone.
        api: the stub, for its address.
        bare_repository: git uses it instead of that address.
    """
    # GitLab compares `changes` with the commit before the push. gitlab-ci-local compares with the default branch.
    clone.run("git", "update-ref", "refs/remotes/origin/before", "HEAD~")
    clone.run("git", "symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/before")
    clone.run("git", "remote", "set-url", "origin", f"{api.address}/{PROJECT}.git")
    clone.run("git", "config", f"url.{bare_repository}.insteadOf", f"{api.address}/{PROJECT}.git")
    clone.run("git", "remote", "add", "gcl-origin", f"{api.address}/{PROJECT}")  # only gitlab-ci-local reads it
    installed, environment = Path(sys.prefix), clone.folder / ".venv"
    (environment / "lib").mkdir(parents=True)
    for name in ("bin", "pyvenv.cfg", *(f"lib/{path.name}" for path in (installed / "lib").iterdir())):
        (environment / name).symlink_to(installed / name)
    # make takes this file as the sign that the project is installed. The test's own environment does not get the file.
    marker = environment / "lib" / "none" / "site-packages" / "__editable__.rfdetr_dvc-0.pth"
    marker.parent.mkdir(parents=True)
    for path in (marker, environment / ".runtime", environment / ".project"):
        path.touch()


def run(clone: Project, home: Path, secrets: dict[str, dict[str, str]], *arguments: str) -> tuple[int, str]:
    """Run the pipeline of a clone. Returns the exit status and the log.

    Args:
        clone: the clone.
        home: a folder for the settings and the stubs of programs.
        secrets: variables by environment scope, as in GitLab's settings.
        *arguments: of gitlab-ci-local, such as the names of jobs.
    """
    variables = {key: {"values": {scope: value}} for scope, keys in secrets.items() for key, value in keys.items()}
    path = home / ".gitlab-ci-local" / "variables.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"global": variables}))
    tools = {
        # rsync copies files into and out of containers. There are none: all jobs run in the folder of the clone.
        "rsync": "#!/bin/sh\n",
        # The packages that a job installs are already in the environment of the test.
        "python": f'#!/bin/sh\n[ "$1 $2 $3" = "-m pip install" ] || exec "{sys.executable}" "$@"\n',
    }
    for name, text in tools.items():
        (home / name).write_text(text)
        (home / name).chmod(0o755)
    program = node_modules() / "gitlab-ci-local" / "dist" / "index.js"
    options = ["--force-shell-executor", "--home", str(home), *arguments]
    env = {
        "PATH": f"{home}{os.pathsep}{clone.environment()['PATH']}",
        "PIP_NO_INDEX": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "FORCE_COLOR": "0",
    }
    done = clone.run("node", str(program), *options, check=False, env=env)
    return done.returncode, done.stdout + done.stderr


def readable(log: str, names: dict[str, str]) -> str:
    """A log without colours, durations, addresses and folders. names: the replacement for each address and folder."""
    log = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", log)
    for text, name in sorted(names.items(), key=lambda item: -len(item[0])):
        log = log.replace(text, name)
    log = re.sub(r"\b\d+(\.\d+)? (ns|μs|ms|s|min|m)\b( \d+(\.\d+)? (ms|s)\b)*", "... s", log)
    log = re.sub(r"\b\d\d?:\d\d:\d\d(\.\d+)?\b", "...", log)
    log = re.sub(r"/jobs/\d+", "/jobs/1", log)
    return "".join(f"{line.rpartition(chr(13))[2].rstrip()}\n" for line in log.splitlines())


def keep(name: str, log: str, names: dict[str, str]) -> None:
    """Write a log to the folder GITLAB_LOGS, if that is set. This made docs/examples/gitlab/.

    Args:
        name: of the file, without `.log`.
        log: the output of `run`.
        names: the replacement for each address and folder.
    """
    if folder := os.environ.get("GITLAB_LOGS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, f"{name}.log").write_text(readable(log, names))
