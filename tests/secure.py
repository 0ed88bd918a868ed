"""An https server on loopback. This process trusts its certificate."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from rfdetr_core.base import hosts


@dataclass(frozen=True)
class Answer:
    """The answer for a path. cut: the number of bytes that are sent. length: the Content-Length; -1: none."""

    content: bytes = b""
    status: int = 200
    kind: str = "image/png"
    location: str | None = None
    cut: int | None = None
    length: int | None = None
    chunked: bool = False
    trickled: bool = False


@dataclass
class SecureServer:
    """The answers by path, and the requested paths."""

    address: str
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def at(self, path: str, **answer: object) -> str:
        """Set the answer of a path, and return its address."""
        self.answers[path] = Answer(**answer)  # type: ignore[arg-type]
        return self.address + path


@contextmanager
def secure_server(folder: Path, monkeypatch: pytest.MonkeyPatch, *, public: bool = True) -> Iterator[SecureServer]:
    """A running server. public: whether loopback counts as a public address."""
    pem = _certificate(folder / "loopback.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    if public:
        monkeypatch.setattr(hosts, "is_public", lambda number: number == "127.0.0.1")
    state = SecureServer("")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    state.address = f"https://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.ended.set()
        server.shutdown()
        server.server_close()


def _handler(state: SecureServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            state.asked.append(self.path)
            answer = state.answers.get(self.path, Answer(b"no such image", 404, "text/plain"))
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.kind)
            if answer.location:
                self.send_header("Location", answer.location)
            if answer.chunked:
                self.send_header("Transfer-Encoding", "chunked")
            elif answer.length != -1:
                self.send_header("Content-Length", str(answer.length or len(answer.content)))
            self.end_headers()
            self.close_connection = True
            with suppress(OSError):
                self._send(answer)

        def _send(self, answer: Answer) -> None:
            content = answer.content[: answer.cut]
            if answer.trickled:
                while not state.ended.wait(0.02):
                    self.wfile.write(b" ")
            for start in range(0, len(content), 1 << 16):
                piece = content[start : start + (1 << 16)]
                self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" if answer.chunked else piece)
            if answer.chunked and answer.cut is None:
                self.wfile.write(b"0\r\n\r\n")

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def _certificate(path: Path) -> Path:
    """A self-signed certificate of 127.0.0.1 and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).add_extension(names, critical=False)
    builder = builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(
        now + datetime.timedelta(days=1)
    )
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM) + key.private_bytes(*form)
    path.write_bytes(pem)
    return path
