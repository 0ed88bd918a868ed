"""Downloads of published weights from a server on loopback: correct, cut off, corrupted, changed and missing files."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rfdetr_core.base import files
from rfdetr_core.base.code import ROOT
from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint import download, published
from rfdetr_core.checkpoint.download import check_public
from rfdetr_core.checkpoint.published import PUBLISHED, Published, cache_folder, fetch, resolve_weights
from rfdetr_core.model.config import VARIANTS
from tests.checkpoint.store import Store, serving
from tests.slow import KINDS, slow_server

NAME = "rf-detr-nano.pth"
CONTENT = bytes(range(256)) * 40_000  # 10 MB


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("RF_HOME", str(tmp_path / "cache"))
    with serving(Store(CONTENT)) as served:
        entry = Published(served.address, hashlib.md5(CONTENT).hexdigest())
        monkeypatch.setattr(published, "PUBLISHED", PUBLISHED | {NAME: entry})
        yield served


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_correct_file_is_downloaded_once(store: Store, tmp_path: Path) -> None:
    path = fetch(NAME)
    assert path == tmp_path / "cache" / NAME
    assert path.read_bytes() == CONTENT
    assert fetch(NAME) == path
    assert store.requests == [None]
    assert _files(path.parent) == [NAME, f"{NAME}.sha256"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~files.umask()


def test_a_download_is_resumed_in_the_same_call_after_a_cut_connection(store: Store) -> None:
    store.cuts = [3_000_000, 2_000_000]
    assert fetch(NAME).read_bytes() == CONTENT
    assert store.requests == [None, "bytes=3000000-", "bytes=5000000-"]


def test_a_download_is_resumed_in_the_next_call_after_a_failure(store: Store) -> None:
    store.cuts = [1_000_000, 1_000_000, 1_000_000]
    with pytest.raises(UserError, match=r"could not be downloaded.*cut off after 3000000 of 10240000 bytes.*Run again"):
        fetch(NAME)
    assert _files(cache_folder()) == [f"{NAME}.part"]
    assert fetch(NAME).read_bytes() == CONTENT
    assert store.requests[-1] == "bytes=3000000-"


def test_a_server_without_ranges_is_read_from_the_start(store: Store) -> None:
    store.ranges, store.cuts = False, [4_000_000]
    assert fetch(NAME).read_bytes() == CONTENT


def test_a_corrupted_file_is_discarded(store: Store) -> None:
    store.content = CONTENT[:-1] + b"x"
    with pytest.raises(UserError, match=r"MD5 [0-9a-f]{32}, but that of rf-detr-nano.pth is"):
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


def test_a_cached_file_with_another_md5_is_neither_used_nor_replaced(store: Store) -> None:
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
    assert _files(cache_folder()) == []


def test_no_server_is_a_message(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(published.PUBLISHED, NAME, Published("http://127.0.0.1:9/nothing", "0" * 32))
    with pytest.raises(UserError, match="could not be downloaded"):
        fetch(NAME)


@pytest.mark.parametrize("told_length", [True, False])
def test_a_file_that_is_too_large_is_refused_before_it_is_complete(
    store: Store, told_length: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.content, store.told_length = bytes(200_000_000), told_length
    monkeypatch.setitem(published.PUBLISHED, NAME, Published(store.address, "0" * 32, most_bytes=1_000_000))
    with pytest.raises(UserError, match=r"the limit is 1,000,000\. The download was discarded\. .*weights/"):
        fetch(NAME)
    assert _files(cache_folder()) == []
    assert store.sent < 50_000_000
    assert len(store.requests) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_download_that_stalls_is_given_up_with_a_message(
    kind: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in {"_READ": 0.5, "_ANSWER": 0.5, "_WINDOW": 0.5}.items():
        monkeypatch.setattr(download, name, seconds)
    with slow_server(kind) as (address, _):
        monkeypatch.setitem(published.PUBLISHED, NAME, Published(address, "0" * 32))
        with pytest.raises(UserError, match=r"could not be downloaded.*(no answer in|bytes came in|timed out)"):
            fetch(NAME)


@pytest.mark.parametrize(
    "target",
    [
        "http://storage.googleapis.com/rfdetr/nano.pth", "https://localhost/x", "https://127.0.0.1/x",
        "https://127.1/x", "https://2130706433/x", "https://[::1]/x", "https://[::ffff:127.0.0.1]/x",
        "https://10.0.0.1/x", "https://192.168.1.1/x", "https://169.254.169.254/latest/meta-data",
        "https://[64:ff9b::7f00:1]/x", "https://[2002:7f00:1::]/x", "https://192.0.0.8/x",
        "https://[fe80::1]/x", "https://[fd00::1]/x", "https://0.0.0.0/x", "https://224.0.0.1/x",
    ],
)  # fmt: skip
def test_a_redirect_is_followed_only_to_a_public_host_over_https(store: Store, target: str) -> None:
    store.redirect = target
    with pytest.raises(UserError, match=r"nano.pth redirects to .*, (which is not https|whose host .* not public)"):
        fetch(NAME)
    assert len(store.requests) == 1
    assert _files(cache_folder()) == []


@pytest.mark.parametrize("target", [f"https://{'a' * 70}.example/x", "https://[::1", "https://a b/x"])
def test_a_redirect_to_a_text_that_is_not_an_address_is_a_message(store: Store, target: str) -> None:
    store.redirect = target
    with pytest.raises(UserError, match=r"could not be downloaded|is not public"):
        fetch(NAME)


def test_a_redirect_to_a_file_is_not_followed(store: Store, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(CONTENT)
    store.redirect = (tmp_path / "secret").as_uri()
    with pytest.raises(UserError, match="could not be downloaded"):
        fetch(NAME)


def test_a_redirect_that_passes_is_followed_and_a_public_address_passes(store: Store) -> None:
    store.redirect = store.address.replace("nano.pth", "followed")
    checked_addresses: list[str] = []
    assert fetch(NAME, check=checked_addresses.append).read_bytes() == CONTENT
    assert checked_addresses == [store.redirect]
    check_public("https://8.8.8.8/nano.pth")
    check_public("https://[2001:4860:4860::8888]/nano.pth")


def test_processes_that_fetch_one_file_at_once_end_well_with_one_file(store: Store) -> None:
    store.together = threading.Barrier(2)
    md5 = hashlib.md5(CONTENT).hexdigest()
    program = (
        "from rfdetr_core.checkpoint import published\n"
        f"published.PUBLISHED[{NAME!r}] = published.Published({store.address!r}, {md5!r})\n"
        f"published.fetch({NAME!r})"
    )
    cache_folder().mkdir()
    (cache_folder() / f"{NAME}.part").write_bytes(CONTENT[:1000])  # only one process resumes it
    command = [sys.executable, "-c", program]
    processes = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        output = process.communicate(timeout=60)[1]
        assert process.returncode == 0, output
    assert sorted(map(str, store.requests)) == ["None", "bytes=1000-"]
    assert _files(cache_folder()) == [NAME, f"{NAME}.sha256"]
    assert (cache_folder() / NAME).read_bytes() == CONTENT


def test_the_partial_file_of_a_killed_download_is_removed_and_that_of_a_running_one_is_not(store: Store) -> None:
    cache_folder().mkdir()
    dead, alive = (cache_folder() / f".{NAME}.{end}" for end in ("dead", "alive"))
    dead.write_bytes(b"x")
    alive.write_bytes(b"y")
    os.utime(dead, (0, 0))
    os.utime(cache_folder() / f".{NAME}.alive")
    fetch(NAME)
    assert _files(cache_folder()) == [f".{NAME}.alive", NAME, f"{NAME}.sha256"]


def test_an_interrupted_download_keeps_its_partial_file(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(address: str, size: int, most: int) -> None:
        if size > 2_000_000 and size < len(CONTENT):
            raise KeyboardInterrupt

    monkeypatch.setattr(download, "_check_size", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(NAME)
    assert _files(cache_folder()) == [f"{NAME}.part"]


def test_a_file_with_the_published_md5_is_refused_if_its_sha256_differs_from_the_first(
    store: Store, tmp_path: Path
) -> None:
    path = fetch(NAME)
    note = path.with_name(f"{NAME}.sha256")
    assert note.read_text() == f"{hashlib.sha256(CONTENT).hexdigest()}  {NAME}\n"
    note.write_text(f"{'0' * 64}  {NAME}\n")  # as if an earlier file had the same MD5
    with pytest.raises(UserError, match=rf"{NAME} is a file with the published MD5, but its SHA-256 .*'0+'.*is forged"):
        fetch(NAME)
    path.unlink()
    with pytest.raises(UserError, match="sent a file with the published MD5, but its SHA-256"):
        fetch(NAME)
    assert _files(cache_folder()) == [f"{NAME}.sha256"]
    (tmp_path / NAME).write_bytes(CONTENT)
    with pytest.raises(UserError, match="is a file with the published MD5, but its SHA-256"):
        resolve_weights(NAME, tmp_path)
    assert note.read_text().startswith("000")


def test_the_first_file_that_is_seen_in_the_cache_is_remembered(store: Store) -> None:
    cache_folder().mkdir()
    (cache_folder() / NAME).write_bytes(CONTENT)
    fetch(NAME)
    assert (cache_folder() / f"{NAME}.sha256").read_text().split()[0] == hashlib.sha256(CONTENT).hexdigest()


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
def test_an_unknown_name_is_an_error_that_lists_the_existing_files(tmp_path: Path, name: str) -> None:
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
