"""Published weights against a server on loopback: right, cut off, corrupted, changed, and absent files."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint import published
from rfdetr_core.checkpoint.published import PUBLISHED, Published, cache_folder, fetch, resolve_weights
from rfdetr_core.model.config import VARIANTS

NAME = "rf-detr-nano.pth"
CONTENT = bytes(range(256)) * 40_000  # 10 MB


@dataclass
class Store:
    """What the server has, and what was asked of it."""

    content: bytes = CONTENT
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)  # bytes after which the next answers end
    status: int = 200
    requests: list[str | None] = field(default_factory=list)
    address: str = ""


def _handler(store: Store) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            store.requests.append(wanted)
            if store.status != 200:
                self.send_error(store.status)
                return
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and store.ranges else 0
            if start and start >= len(store.content):
                self.send_error(416)
                return
            body = store.content[start:]
            self.send_response(206 if wanted and store.ranges else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: store.cuts.pop(0)] if store.cuts else body)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    served = Store()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(served))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    served.address = f"http://127.0.0.1:{server.server_port}/nano.pth"
    monkeypatch.setenv("RF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(
        published, "PUBLISHED", PUBLISHED | {NAME: Published(served.address, hashlib.md5(CONTENT).hexdigest())}
    )
    yield served
    server.shutdown()
    server.server_close()


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_right_file_is_fetched_once(store: Store, tmp_path: Path) -> None:
    path = fetch(NAME)
    assert path == tmp_path / "cache" / NAME
    assert path.read_bytes() == CONTENT
    assert fetch(NAME) == path
    assert store.requests == [None]
    assert _files(path.parent) == [NAME]


def test_a_cut_connection_is_gone_on_with_in_the_same_call(store: Store) -> None:
    store.cuts = [3_000_000, 2_000_000]
    assert fetch(NAME).read_bytes() == CONTENT
    assert store.requests == [None, "bytes=3000000-", "bytes=5000000-"]


def test_what_came_before_a_failure_is_gone_on_with_in_the_next_call(store: Store) -> None:
    store.cuts = [1_000_000, 1_000_000, 1_000_000]
    with pytest.raises(UserError, match=r"could not be downloaded.*cut off after 3000000 of 10240000 bytes.*run again"):
        fetch(NAME)
    assert _files(cache_folder()) == [f"{NAME}.part"]
    assert fetch(NAME).read_bytes() == CONTENT
    assert store.requests[-1] == "bytes=3000000-"


def test_a_server_without_ranges_is_read_from_the_start(store: Store) -> None:
    store.ranges, store.cuts = False, [4_000_000]
    assert fetch(NAME).read_bytes() == CONTENT


def test_a_corrupted_file_is_thrown_away(store: Store) -> None:
    store.content = CONTENT[:-1] + b"x"
    with pytest.raises(UserError, match=r"MD5 [0-9a-f]{32}, but rf-detr-nano.pth has"):
        fetch(NAME)
    assert _files(cache_folder()) == []


@pytest.mark.parametrize("stale", [b"another release", CONTENT + b"longer"])
def test_the_start_of_another_file_does_not_spoil_the_download(store: Store, stale: bytes) -> None:
    cache_folder().mkdir()
    (cache_folder() / f"{NAME}.part").write_bytes(stale)
    assert fetch(NAME).read_bytes() == CONTENT


def test_a_complete_part_is_used_without_a_second_download(store: Store) -> None:
    cache_folder().mkdir()
    (cache_folder() / f"{NAME}.part").write_bytes(CONTENT)
    assert fetch(NAME).read_bytes() == CONTENT
    assert store.requests == [f"bytes={len(CONTENT)}-"]


def test_a_cached_file_with_another_sum_is_neither_used_nor_replaced(store: Store) -> None:
    cache_folder().mkdir()
    (cache_folder() / NAME).write_bytes(b"mine")
    with pytest.raises(UserError, match="is not the published file"):
        fetch(NAME)
    assert (cache_folder() / NAME).read_bytes() == b"mine"
    assert store.requests == []


def test_a_missing_file_is_asked_for_once(store: Store) -> None:
    store.status = 404
    with pytest.raises(UserError, match="404"):
        fetch(NAME)
    assert len(store.requests) == 1


def test_no_server_is_a_message(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(published.PUBLISHED, NAME, Published("http://127.0.0.1:9/nothing", "0" * 32))
    with pytest.raises(UserError, match="could not be downloaded"):
        fetch(NAME)


def test_weights_resolve_to_null_a_local_file_or_a_published_one(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "mine.pth").write_bytes(b"x")
    assert resolve_weights(None, folder) is None
    assert resolve_weights("mine.pth", folder) == folder / "mine.pth"
    assert resolve_weights(NAME, folder) == cache_folder() / NAME


def test_a_published_name_in_the_folder_must_be_the_published_file(store: Store, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(CONTENT)
    assert resolve_weights(NAME, tmp_path) == tmp_path / NAME
    (tmp_path / NAME).write_bytes(CONTENT[1:])
    with pytest.raises(UserError, match="is not the published file"):
        resolve_weights(NAME, tmp_path)
    assert store.requests == []


@pytest.mark.parametrize("name", ["", ".", "..", "no.pth", "../secret.pth", "sub/inner.pth", "/etc/passwd"])
def test_anything_else_is_an_error_that_lists_what_is_there(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "weights"
    (folder / "sub").mkdir(parents=True)
    for path in (folder / "mine.pth", folder / ".gitkeep", folder / "sub" / "inner.pth", tmp_path / "secret.pth"):
        path.write_bytes(b"x")
    with pytest.raises(UserError, match=r"In .*weights/: mine\.pth\. Published: rf-detr-nano\.pth, ") as error:
        resolve_weights(name, folder)
    assert ".gitkeep" not in str(error.value)


def test_the_cache_is_where_upstream_keeps_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RF_HOME", raising=False)
    monkeypatch.delenv("ROBOFLOW_HOME", raising=False)
    assert cache_folder() == tmp_path / ".roboflow" / "models"
    monkeypatch.setenv("ROBOFLOW_HOME", "~/alias")
    assert cache_folder() == tmp_path / "alias"
    monkeypatch.setenv("RF_HOME", str(tmp_path / "first"))
    assert cache_folder() == tmp_path / "first"


def test_every_variant_of_upstream_has_its_published_file() -> None:
    assert {variant.weights_file for variant in VARIANTS.values()} - {None} <= set(PUBLISHED)
