"""Downloads a file: only from public hosts, with a size limit, and only while enough bytes arrive."""

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

FAILURES = (OSError, http.client.HTTPException, ValueError)  # errors of the network, the disk or a server's answer
_ATTEMPTS = 3
_READ = 30.0  # seconds for one read
_ANSWER = 60.0  # seconds until the content begins
_WINDOW = 60.0  # seconds over which the speed is measured
_SLOWEST = 1_000  # bytes per second; a slower download is an error
_YOURSELF = "Put the right file into weights/ yourself."


class _NoAnswerError(TimeoutError):
    """The content did not begin in time."""


def check_public(address: str) -> None:
    """Check the target of a redirect.

    Raises:
        UserError: it is not https, or its host is not public.
    """
    if (reason := refusal(address)) is not None:
        raise UserError(f"redirects to {address}, {reason}. {_YOURSELF}")


def reason(error: BaseException) -> str:
    """The reason why a download failed: the error text of the system or server, without urllib's prefix."""
    inner = _inner(error)
    return printable(str(getattr(inner, "strerror", None) or inner))  # the text may come from a server


def _inner(error: BaseException) -> object:
    """The error inside a URLError, which urllib raises if it cannot connect; else the error itself."""
    return error.reason if type(error) is urllib.error.URLError else error


def download(address: str, part: Path, most_bytes: int, check: Callable[[str], None]) -> None:
    """Download the rest of a file. Each attempt resumes where the last one ended.

    There is only one attempt if the server cannot be found or does not answer: without a network, the error must not
    take minutes.

    Args:
        address: Of the complete file.
        part: The file to complete; it may be empty, but must exist.
        most_bytes: The limit of the complete file.
        check: Called with the target of each redirect. Raises if the redirect must not be followed.

    Raises:
        UserError: the file is larger than `most_bytes`, or `check` refuses a redirect.
        FAILURES: the server refuses, is unreachable, or sends too slowly.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _download_rest(address, part, most_bytes, check)
            return
        except FAILURES as error:
            refused = isinstance(error, urllib.error.HTTPError) and error.code < http.HTTPStatus.INTERNAL_SERVER_ERROR
            if refused or attempt == _ATTEMPTS or _is_unreachable(error):
                raise


def _is_unreachable(error: BaseException) -> bool:
    """Whether no server was found at the address, or it did not answer in time."""
    inner = _inner(error)
    # A time-out while receiving is not inside a URLError. It does not count: the server answered.
    timed_out = isinstance(inner, TimeoutError) and inner is not error
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
            return  # the server has nothing more to send; the MD5 is checked later
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
            f"{address} sends {size:,} bytes or more; the limit is {most_bytes:,}. The download was discarded. "
            f"{_YOURSELF}"
        )


class _Redirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, check: Callable[[str], None]) -> None:
        self.check = check

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Follow a redirect if its target passes the check."""
        try:
            self.check(newurl)
        except UserError as error:
            raise UserError(f"{req.full_url} {error}") from None
        return super().redirect_request(req, fp, code, msg, headers, newurl)
