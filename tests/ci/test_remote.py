"""The reason why a remote cannot be used, recognised in the output of the real DVC."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from ci import pull_data
from ci.remote import repro_error
from ci.steps import PLAN, STATE
from rfdetr_core.base.errors import UserError

KEYS = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"}
VARIABLES = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


class Refusing(BaseHTTPRequestHandler):
    """An S3 server that refuses every request."""

    def do_HEAD(self) -> None:
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def addresses() -> Iterator[dict[str, str]]:
    """The addresses of a store with the bucket `store`, of a store that refuses all, and of no server."""
    storage = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    storage.start()
    store = "http://{}:{}".format(*storage.get_host_and_port())
    keys = {"aws_access_key_id": "none", "aws_secret_access_key": "none", "region_name": "us-east-1"}
    boto3.resource("s3", endpoint_url=store, **keys).create_bucket(Bucket="store")
    refusing = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=refusing.serve_forever, daemon=True).start()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{unused.getsockname()[1]}"
        yield {"there": store, "refusing": f"http://127.0.0.1:{refusing.server_port}", "away": away}
    refusing.shutdown()
    refusing.server_close()
    storage.stop()


@pytest.mark.slow
def test_the_message_says_why_the_remote_cannot_be_used(
    addresses: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # the real home may have credentials in .aws
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    Path("params.yaml").write_text("data: {dir: data/mine}\n")
    Path("dvc.yaml").write_text("stages: {}\n")
    Path("data/mine").mkdir(parents=True)
    Path("data/mine/a").write_text("a")
    for command in ("git init -q", "dvc init -q", "dvc add -q data/mine"):
        subprocess.run(command.split(), check=True)
    shutil.rmtree(".dvc/cache")
    shutil.rmtree("data/mine")
    STATE.mkdir()
    PLAN.write_text('{"certain": {"validate": []}, "possible": []}')
    cases = [
        ({}, "there", "store", f"there are no credentials for the remote. Set {VARIABLES}"),
        ({"AWS_ACCESS_KEY_ID": "none"}, "there", "store", f"are incomplete. Set {VARIABLES}"),
        (KEYS, "refusing", "store", f"the remote refuses these credentials (403). Correct {VARIABLES}"),
        (KEYS, "there", "absent", "the bucket does not exist"),
        (KEYS, "away", "store", "the remote cannot be reached. Correct the endpointurl"),
        (KEYS, "there", "store", "the remote lacks files. Run: dvc push"),
    ]
    for variables, address, bucket, expected in cases:
        Path(".dvc/config").write_text(
            f"[core]\n    remote = store\n['remote \"store\"']\n    url = s3://{bucket}/dvc\n"
            f"    endpointurl = {addresses[address]}\n"
        )
        with monkeypatch.context() as patched:
            for name, value in variables.items():
                patched.setenv(name, value)
            with pytest.raises(UserError) as error:
                pull_data.main()
        assert str(error.value).startswith("data/mine cannot be pulled: ")
        assert expected in str(error.value)
        missing = (address, bucket, variables) in (("there", "store", KEYS), ("there", "absent", KEYS))
        assert missing or "the remote lacks files" not in str(error.value)


def test_an_error_of_a_stage_is_not_attributed_to_the_remote() -> None:
    output = "Running stage 'train':\nmlflow: Forbidden (403)\nERROR: failed to reproduce 'train': exited with 1"
    assert repro_error(output) is None
    assert repro_error(f"{output}\nERROR: failed to connect to s3 (store) - Unable to locate credentials")
