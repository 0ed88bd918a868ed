"""A server on loopback in place of the one that has the published files."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Store:
    """What the server has, and what was asked of it."""

    content: bytes
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)  # bytes after which the next answers end
    status: int = 200
    redirect: str | None = None
    told_length: bool = True
    together: threading.Barrier | None = None  # answers wait for each other
    sent: int = 0
    requests: list[str | None] = field(default_factory=list)
    address: str = ""


def _handler(store: Store) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            store.requests.append(wanted)
            if store.redirect and self.path != "/followed":
                self.send_response(302)
                self.send_header("Location", store.redirect)
                self.end_headers()
                return
            if store.status != 200:
                self.send_error(store.status)
                return
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and store.ranges else 0
            if start and start >= len(store.content):
                self.send_error(416)
                return
            body = store.content[start:]
            self.send_response(206 if wanted and store.ranges else 200)
            if store.told_length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if store.together is not None:
                store.together.wait(30)
            body = body[: store.cuts.pop(0)] if store.cuts else body
            with suppress(ConnectionError):
                for begin in range(0, len(body), 1 << 18):
                    store.sent += self.wfile.write(body[begin : begin + (1 << 18)])
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def serving(store: Store) -> Iterator[Store]:
    """Serve it at its `address` while the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(store))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    store.address = f"http://127.0.0.1:{server.server_port}/nano.pth"
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
