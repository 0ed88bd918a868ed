"""A file of a server: of limited size, from a public host, and given up when it stalls."""

from __future__ import annotations

import http.client
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.hosts import refusal
from rfdetr_core.base.printing import printable
from rfdetr_core.base.waiting import OutOfTimeError, TimeLimit

FAILURES = (OSError, http.client.HTTPException, ValueError)  # of the network, the disk, or what a server says
_ATTEMPTS = 3
_READ, _ANSWER = 30.0, 60.0  # seconds for a read; for all that precedes the content
_WINDOW, _SLOWEST = 60.0, 1_000  # in so many seconds so many bytes a second have to come
_YOURSELF = "Put the right file into weights/ yourself."


class _NoAnswerError(TimeoutError):
    """All that precedes the content took too long."""


def check_public(address: str) -> None:
    """Check an address that a server sends on to.

    Raises:
        UserError: it is not https, or its host has an address that is not public.
    """
    if (reason := refusal(address)) is not None:
        raise UserError(f"sends on to {address}, {reason}. {_YOURSELF}")


def reason(error: BaseException) -> str:
    """Why a download failed, in a few words: those of the system, without what urllib puts around them."""
    inner = _inner(error)
    return printable(str(getattr(inner, "strerror", None) or inner))  # a server can have written it


def _inner(error: BaseException) -> object:
    """What urllib put a URLError around, where it could not connect; else the error itself."""
    return error.reason if type(error) is urllib.error.URLError else error


def download(address: str, part: Path, most_bytes: int, check: Callable[[str], None]) -> None:
    """Bring `part` to its full length; each attempt goes on where the last one ended.

    A server that cannot be found or does not answer is asked once: without a network an error must not take minutes.

    check: raises if a redirect may not be followed to the address that it is given.

    Raises:
        UserError: more than `most_bytes`, or a redirect that `check` refuses.
        FAILURES: the server refuses, is away, or sends too little in too long a time.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _download_rest(address, part, most_bytes, check)
            return
        except FAILURES as error:
            refused = isinstance(error, urllib.error.HTTPError) and error.code < http.HTTPStatus.INTERNAL_SERVER_ERROR
            if refused or attempt == _ATTEMPTS or _away(error):
                raise


def _away(error: BaseException) -> bool:
    """Whether no server was found at the address, or none answered in time."""
    inner = _inner(error)
    timed_out = isinstance(inner, TimeoutError) and inner is not error  # while connecting, not while receiving
    return timed_out or isinstance(inner, socket.gaierror | _NoAnswerError)


def _download_rest(address: str, part: Path, most_bytes: int, check: Callable[[str], None]) -> None:
    have = part.stat().st_size
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    opener = urllib.request.build_opener(_Redirects(check))
    try:
        response = TimeLimit(_ANSWER).call(lambda: opener.open(request, timeout=_READ))
    except OutOfTimeError:
        raise _NoAnswerError(f"no answer in {_ANSWER:.0f} s") from None
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is left to send; the MD5 tells whether that is so
        raise
    with response:
        goes_on = response.status == http.HTTPStatus.PARTIAL_CONTENT
        length = response.headers.get("Content-Length")
        total_size = int(length) + have * goes_on if length else None
        _check_size(address, total_size or 0, most_bytes)
        with part.open("ab" if goes_on else "wb") as file:
            _receive(address, response, file, most_bytes)
            size = file.tell()
    if total_size is not None and size != total_size:
        raise ConnectionError(f"cut off after {size} of {total_size} bytes")


def _receive(address: str, response: Any, file: IO[bytes], most_bytes: int) -> None:
    begun, received = time.monotonic(), 0
    while piece := response.read1(1 << 20):
        _check_size(address, file.tell() + len(piece), most_bytes)
        file.write(piece)
        received += len(piece)
        if (passed := time.monotonic() - begun) > _WINDOW:
            if received < passed * _SLOWEST:
                raise TimeoutError(f"only {received} bytes came in {passed:.0f} s")
            begun, received = time.monotonic(), 0


def _check_size(address: str, size: int, most_bytes: int) -> None:
    if size > most_bytes:
        raise UserError(
            f"{address} sends {size:,} bytes or more, but the file has {most_bytes:,} at most; it was thrown away. "
            f"{_YOURSELF}"
        )


class _Redirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, check: Callable[[str], None]) -> None:
        self.check = check

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Follow a redirect to what passes the check."""
        try:
            self.check(newurl)
        except UserError as error:
            raise UserError(f"{req.full_url} {error}") from None
        return super().redirect_request(req, fp, code, msg, headers, newurl)
