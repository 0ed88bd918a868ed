"""Images from a server on loopback: correct, refused, missing, cut off, too large, too slow."""

from __future__ import annotations

import io
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rfdetr_core.base import hosts
from rfdetr_core.base.errors import UserError
from rfdetr_core.inference import addresses
from rfdetr_core.inference.addresses import fetch_image, file_name, is_address, printable_address
from rfdetr_core.inference.conversion import to_rgb
from rfdetr_core.inference.predictor import Predictor
from tests.inference.test_predictor import same
from tests.secure import SecureServer, secure_server
from tests.slow import slow_server


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SecureServer]:
    with secure_server(tmp_path, monkeypatch) as served:
        yield served


@pytest.fixture
def content(path: Path) -> bytes:
    return path.read_bytes()


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    return file.getvalue()


def test_an_address_gives_the_same_detections_as_its_file(
    server: SecureServer, predictor: Predictor, path: Path, content: bytes
) -> None:
    address = server.at("/a%20b/x.png?size=1", content=content)
    expected = predictor.predict(path, 0.3)
    assert same(predictor.predict(address, 0.3), expected)
    assert same(predictor.predict(address.replace("https", "HTTPS"), 0.3), expected)
    assert same(predictor.predict(f"{address.replace('%20', ' ')}#part", 0.3), expected)
    mixed: list[Any] = [address, path, np.array(Image.open(path).convert("RGB")), str(path), address]
    assert all(same(detections, expected) for detections in predictor.predict(mixed, 0.3))
    assert server.asked == ["/a%20b/x.png?size=1"] * 5


def test_content_without_a_length_is_taken(server: SecureServer, path: Path, content: bytes) -> None:
    for number, answer in enumerate([{"chunked": True}, {"length": -1}]):
        address = server.at(f"/{number}", content=content, **answer)
        assert np.array_equal(fetch_image(address), to_rgb(path))


def test_a_redirect_to_a_public_host_is_followed(server: SecureServer, path: Path, content: bytes) -> None:
    target = server.at("/there.png", content=content)
    assert np.array_equal(fetch_image(server.at("/moved", status=302, location=target)), to_rgb(path))
    assert np.array_equal(fetch_image(server.at("/near", status=301, location="/there.png")), to_rgb(path))


NOT_PUBLIC = [
    "https://localhost/x", "https://127.0.0.1/x", "https://127.1/x", "https://2130706433/x", "https://0x7f000001/x",
    "https://[::1]/x", "https://10.0.0.1/x", "https://192.168.1.1/x", "https://169.254.169.254/latest/meta-data",
    "https://[::ffff:169.254.169.254]/x", "https://[fd00:ec2::254]/x", "https://0.0.0.0/x",
]  # fmt: skip


@pytest.mark.parametrize("address", NOT_PUBLIC)
@pytest.mark.parametrize("proxy", [None, "http://127.0.0.1:9"])
def test_a_host_that_is_not_public_is_not_asked(
    address: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    if proxy:
        monkeypatch.setenv("https_proxy", proxy)
    with pytest.raises(UserError, match=r"is an address whose host \(.*\) is not public\. Download the image yourself"):
        fetch_image(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_a_redirect_to_a_host_that_is_not_public_is_refused(server: SecureServer, address: str) -> None:
    address = address.replace("127.0.0.1", "127.0.0.2").replace("localhost", "[::1]")  # the server itself passes
    address = address.replace("127.1", "127.2").replace("2130706433", "2130706434").replace("7f000001", "7f000002")
    with pytest.raises(UserError, match=r"/moved redirects to https://.*, whose host \(.*\) is not public\."):
        fetch_image(server.at("/moved", status=302, location=address))
    assert server.asked == ["/moved"]


def test_a_redirect_away_from_https_is_refused(server: SecureServer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"/moved redirects to http://.*, which is not https"):
        fetch_image(server.at("/moved", status=302, location=server.address.replace("https", "http") + "/x"))
    with pytest.raises(UserError, match="/file cannot be downloaded"):
        fetch_image(server.at("/file", status=302, location=(tmp_path / "loopback.pem").as_uri()))


def test_a_name_is_refused_for_any_number_that_is_not_public(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = ["8.8.8.8", "10.0.0.7"]
    monkeypatch.setattr(
        hosts.socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", (number, 0)) for number in numbers]
    )
    with pytest.raises(UserError, match=r"images\.example/x\.png is an address whose host \(10\.0\.0\.7\)"):
        fetch_image("https://images.example/x.png")


def test_a_second_look_up_that_gives_another_number_reaches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """The name passes the check, and then gets another IP address: the connection leads to loopback."""
    with secure_server(tmp_path, monkeypatch, public=False) as server:
        monkeypatch.setattr(hosts, "refusal", lambda _: None)
        with pytest.raises(UserError, match=r"host \(127\.0\.0\.1\) is not public"):
            fetch_image(server.at("/x.png", content=content))
        assert server.asked == []


@pytest.mark.parametrize(
    "address",
    ["http://images.example/x.png", "file:///etc/passwd", "ftp://images.example/x.png", "data:image/png;base64,AAAA"],
)
def test_other_schemes_are_refused(predictor: Predictor, address: str) -> None:
    with pytest.raises(UserError, match=r"is an address which is not https\. Download the image yourself"):
        predictor.predict(address)


def test_an_untrusted_certificate_is_refused(
    server: SecureServer, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = server.at("/x.png", content=content)
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(UserError, match=r"/x\.png cannot be downloaded: .*certificate verify failed"):
        fetch_image(address)
    assert server.asked == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"status": 404}, r"cannot be downloaded: the server answers 404 Not Found\. Download the image yourself"),
        ({"status": 403}, "the server answers 403 Forbidden"),
        ({"status": 500}, "the server answers 500"),
        ({"status": 302, "location": "/x.png"}, "the server answers 302 .*infinite loop"),
        ({"status": 302, "location": "https://[::1"}, "cannot be downloaded"),
        (
            {"content": b"<html>", "kind": "text/html"},
            r"is not an image \(JPEG.*The server gives its type as 'text/html'",
        ),
        ({"content": b""}, r"is not an image \(JPEG"),
        ({"content": png(50, 40)[:-30]}, r"is not an image \(JPEG"),
        ({"content": png(50, 40), "cut": 70}, r"cannot be downloaded: cut off after 70 of \d+ bytes"),
        ({"content": png(50, 40), "cut": 70, "chunked": True}, "cannot be downloaded: IncompleteRead"),
        ({"content": png(20_000, 10_000)}, "is too large: 20000 x 10000 pixels"),
        ({"length": 2_000_000}, "has 2,000,000 bytes or more, but 1,000,000 are allowed"),
        ({"content": bytes(1_500_000), "length": -1}, "bytes or more, but 1,000,000 are allowed"),
        ({"content": bytes(1_500_000), "chunked": True}, "bytes or more, but 1,000,000 are allowed"),
    ],
)
def test_an_image_that_cannot_be_downloaded_is_one_message_that_names_it(
    server: SecureServer, answer: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "MOST_BYTES", 1_000_000)
    with pytest.raises(UserError, match=message) as error:
        fetch_image(server.at("/x.png", **answer))
    assert str(error.value).startswith(f"{server.address}/x.png ")
    assert "weights" not in str(error.value)


@pytest.mark.parametrize("kind", ["silence", "trickled"])
def test_a_server_that_stalls_is_given_up(kind: str, server: SecureServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One server never completes the TLS handshake. The other sends little by little and never ends."""
    monkeypatch.setattr(addresses, "SECONDS", 0.5)
    with slow_server("silence") as (silent, _):
        trickled = server.at("/x", trickled=True, length=1_000_000)
        address = silent.replace("http:", "https:") if kind == "silence" else trickled
        with pytest.raises(UserError, match=r"the download took longer than \d+ seconds"):
            fetch_image(address)


def test_no_server_and_no_address_are_messages(server: SecureServer) -> None:
    for address in (
        "https://127.0.0.1:9/x",
        "https://[::1",
        f"https://{'a' * 70}.example/x",
        "https://",
        "https://a b/",
    ):
        with pytest.raises(UserError, match=r"cannot be downloaded|is not public"):
            fetch_image(address)


def test_a_reason_of_a_server_cannot_command_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise urllib.error.HTTPError("https://images.example/x.png", 404, "gone\x1b[2J", Message(), None)

    monkeypatch.setattr(addresses, "_read", fail)
    with pytest.raises(UserError, match=r"the server answers 404 gone\\x1b\[2J\."):
        fetch_image("https://images.example/x.png")


def test_the_proxy_is_left_out_for_the_addresses_that_urllib_leaves_it_out_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_hosts = []
    monkeypatch.setattr(hosts.urllib.request, "getproxies", lambda: {"https": "http://127.0.0.1:9"})
    monkeypatch.setattr(hosts.urllib.request, "proxy_bypass", lambda host: asked_hosts.append(host))
    assert hosts.refusal("https://images.example:8443/x.png") is None
    assert asked_hosts == [urllib.request.Request("https://images.example:8443/x.png").host]


def test_messages_hold_neither_a_password_nor_a_key(server: SecureServer) -> None:
    with pytest.raises(UserError, match=r"^https://images.example/x\.png, which has a user name in it") as error:
        fetch_image("https://me:secret@images.example/x.png")
    assert "secret" not in str(error.value)
    with pytest.raises(UserError, match=r"/missing\.png\?\.\.\. cannot be downloaded") as error:
        fetch_image(f"{server.address}/missing.png?key=secret")
    assert "secret" not in str(error.value)
    assert len(printable_address(f"data:image/png;base64,{'A' * 10_000}")) < 300


def test_an_image_of_a_list_that_cannot_be_downloaded_is_named(
    server: SecureServer, predictor: Predictor, path: Path, content: bytes
) -> None:
    with pytest.raises(UserError, match=r"/missing\.png cannot be downloaded"):
        predictor.predict([path, server.at("/x.png", content=content), f"{server.address}/missing.png"])


def test_an_address_in_a_path_is_a_message(predictor: Predictor) -> None:
    with pytest.raises(UserError, match=r"is an address in a Path, which removes one of its slashes\. Give .* a str"):
        predictor.predict(Path("https://images.example/x.png"))


@pytest.mark.parametrize("name", ["photo.jpg", "photo:1.jpg", "C:\\photo.jpg", "/https://x/photo.jpg", "https", ""])
def test_a_file_name_is_not_an_address(name: str) -> None:
    assert not is_address(name)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://images.example/a/photo.jpg?size=..%2F2", "photo.jpg"),
        ("https://images.example/%2e%2e%2fetc%2fpasswd", "_etc_passwd"),
        ("https://images.example/..", "image"),
        ("https://images.example/a\x1b[31m%0Ab.png/", "a_31m_b.png"),
        ("https://images.example/-rf", "rf"),
        ("https://[::1", "_1"),
    ],
)
def test_the_file_name_of_an_address_is_harmless(address: str, expected: str) -> None:
    assert file_name(address) == expected
    assert len(file_name(f"https://images.example/{'a' * 500}.png")) == 100
