"""A server on loopback that stands for the server of the published files."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch

from rfdetr_core.checkpoint.files import make_checkpoint, write_checkpoint
from rfdetr_core.model.config import VARIANTS
from rfdetr_core.model.detector import build_detector

DOG = 18  # the id of COCO


@dataclass
class Store:
    """The content of the server, and the requests that it got."""

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
            requested = self.headers.get("Range")
            store.requests.append(requested)
            if store.redirect and self.path != "/followed":
                self.send_response(302)
                self.send_header("Location", store.redirect)
                self.end_headers()
                return
            if store.status != 200:
                self.send_error(store.status)
                return
            start = int(requested.removeprefix("bytes=").rstrip("-")) if requested and store.ranges else 0
            if start and start >= len(store.content):
                self.send_error(416)
                return
            body = store.content[start:]
            self.send_response(206 if requested and store.ranges else 200)
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


def dog_everywhere(folder: Path) -> bytes:
    """The content of a checkpoint of Nano whose random weights detect a dog (COCO's id DOG) everywhere."""
    path, architecture = folder / "nano.pth", replace(VARIANTS["nano"], classes=90)
    torch.manual_seed(0)
    detector = build_detector(architecture)
    with torch.no_grad():
        detector.class_head.bias[DOG] = 5.0
    write_checkpoint(path, make_checkpoint(architecture, detector.state_dict(), class_names=[], args={}))
    return path.read_bytes()
