"""A server on loopback that answers endlessly slowly, so that the time limit of a single read is never reached."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_PAUSE = 0.2  # seconds between bytes
_BEGINNINGS = {
    "header": b"HTTP/1.1 200 OK\r\nX-Endless: ",
    "body": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{",
    "silence": b"",
}
KINDS = tuple(_BEGINNINGS)


@contextmanager
def slow_server(kind: str) -> Iterator[tuple[str, threading.Event]]:
    """The address of a server that never finishes its header or body, or never answers; and an event for a request."""
    requested, ended = threading.Event(), threading.Event()

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(65536)
            requested.set()
            connection.sendall(_BEGINNINGS[kind])
            while not ended.wait(_PAUSE):
                if kind != "silence":
                    connection.sendall(b" ")

    def accept(listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=[listening.accept()[0]], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=accept, args=[listening], daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", requested
        ended.set()
        listening.shutdown(socket.SHUT_RDWR)
