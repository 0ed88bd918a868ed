"""The push of a result over HTTP to a real server of git that asks for a password."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rfdetr_core.base.code import ROOT

TOKEN = "t0ken-of-the-test\\n$(x) %s"
# Runs while git waits for the answer, and so sees the processes of the push.
HOOK = """#!/bin/sh
cat > /dev/null
for file in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < "$file" 2>/dev/null; echo; done > processes
"""


class Git(BaseHTTPRequestHandler):
    """`git http-backend` behind Basic authentication."""

    root: Path

    def do_GET(self) -> None:
        expected = base64.b64encode(f"x-access-token:{TOKEN}".encode()).decode()
        if self.headers.get("Authorization") != f"Basic {expected}":
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        env = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REMOTE_USER": "ci",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=env, capture_output=True, check=True)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        lines = dict(line.split(": ", 1) for line in head.decode().splitlines())
        self.send_response(int(lines.pop("Status", "200").split()[0]))
        for name, value in lines.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Path]:
    """A clone with a commit whose origin is the server, on a machine where git would keep a password."""
    Git.root = tmp_path
    origin, clone = tmp_path / "origin.git", tmp_path / "clone"
    subprocess.run(["git", "init", "-q", "--bare", str(origin)], check=True)
    (origin / "hooks" / "pre-receive").write_text(HOOK)
    (origin / "hooks" / "pre-receive").chmod(0o755)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Git)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    subprocess.run(["git", "init", "-q", str(clone)], check=True)
    for command in (
        ("config", "user.name", "ci"),
        ("config", "user.email", "ci@localhost"),
        ("config", "credential.helper", f"store --file {tmp_path / 'kept'}"),
        ("commit", "-q", "--allow-empty", "-m", "result"),
        ("remote", "add", "origin", f"http://127.0.0.1:{server.server_port}/origin.git"),
    ):
        subprocess.run(["git", *command], cwd=clone, check=True)
    yield clone
    server.shutdown()
    server.server_close()


def push(clone: Path, token: str | None) -> subprocess.CompletedProcess[str]:
    code = "X"
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")} | {"PYTHONPATH": str(ROOT)}
    env |= {"GIT_TERMINAL_PROMPT": "0"} | ({} if token is None else {"RETRAIN_TOKEN": token})
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=clone, env=env, capture_output=True, text=True, timeout=120, check=False)


def test_the_token_reaches_git_and_no_file_no_list_of_processes_and_no_output(clone: Path) -> None:
    done = push(clone, TOKEN)
    assert done.returncode == 0, done.stderr
    origin = clone.parent / "origin.git"
    refs = subprocess.run(["git", "show-ref"], cwd=origin, capture_output=True, text=True, check=True).stdout
    assert refs.split() == [
        subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=clone, capture_output=True, text=True, check=True
        ).stdout.strip(),
        "refs/heads/retrain/main",
    ]
    processes = (origin / "processes").read_text()
    assert "HEAD:refs/heads/retrain/main" in processes, "the push itself is in the list"
    for text in (processes, done.stdout, done.stderr, *(p.read_text(errors="replace") for p in files(clone.parent))):
        assert TOKEN not in text
        assert base64.b64encode(TOKEN.encode()).decode()[:12] not in text
    assert not (clone.parent / "kept").exists()


@pytest.mark.parametrize("token", ["another-token", None])
def test_a_push_that_is_refused_is_one_message_and_names_no_token(clone: Path, token: str | None) -> None:
    done = push(clone, token)
    assert done.returncode == 1
    assert "error: retrain/main cannot be pushed" in done.stderr
    assert "Traceback" not in done.stderr
    assert "another-token" not in done.stdout + done.stderr
    assert not (clone.parent / "origin.git" / "processes").exists()


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
