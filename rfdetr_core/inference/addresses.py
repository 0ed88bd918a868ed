"""Downloads images from https addresses: only from public hosts, with limits of size and time."""

from __future__ import annotations

import http.client
import io
import re
import time
import urllib.error
import urllib.request
from typing import IO, Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from PIL import Image

from rfdetr_core.base import hosts, images
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.printing import printable
from rfdetr_core.base.waiting import OutOfTimeError, TimeLimit

MOST_BYTES = 100 * 2**20
SECONDS = 60.0  # for the complete download, with name look-ups and redirects
_READ = 20.0  # seconds for a single read
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://|(https?|ftps?|file|data|blob|javascript):", re.IGNORECASE)
_INSTEAD = "Download the image yourself, and give the path of the file."
_LONGEST = 200  # characters of an address in a message: a data: address contains a complete picture
_FAILURES = (OSError, http.client.HTTPException, ValueError)  # errors of the network or of a server's answer
_HEADERS = {"User-Agent": "rfdetr_core", "Accept": "image/*"}  # some servers refuse Python's own name


def is_address(text: str) -> bool:
    """Whether a text begins like an address (https://, file:) and not like a path."""
    return _SCHEME.match(text) is not None


def printable_address(address: str) -> str:
    """An address for messages: without user, password and query, which may contain a key. Long ones are shortened."""
    try:
        parts = urlsplit(address)
        host = parts.netloc.rpartition("@")[2]
        text = urlunsplit((parts.scheme, host, parts.path, "", "")) + "?..." * bool(parts.query)
    except ValueError:
        text = address
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def file_name(address: str) -> str:
    """A file name for the results of an image: the last part of its address, with unusual characters replaced by _."""
    path = re.split("[?#]", address)[0]  # not urlsplit(), which raises an error if the text is not an address
    name = unquote(path.rstrip("/").rpartition("/")[2])
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".-")[-100:] or "image"


def fetch_image(address: str) -> Image.Image:
    """Download an image from an https address and decode it (see `images.decode`).

    Raises:
        UserError: the address is not https, or its host is not public; the server refuses, stalls or cuts the file off;
            the file has more than MOST_BYTES, is not an image, or has too many pixels. The message names the address.
    """
    data, kind = _fetch(address)
    try:
        return images.decode(data, printable_address(address))
    except images.TooLargeError:
        raise
    except UserError as error:
        problem = (
            f"{printable_address(address)} is not an image ({', '.join(images.FORMATS)}): {error.__cause__ or error}"
        )
        raise UserError(f"{problem}. The server gives its type as {kind!r}. Open the address in a browser.") from error


def _fetch(address: str) -> tuple[bytes, str]:
    """The content of an address, and the Content-Type that the server gives."""
    name = printable_address(address)
    try:
        return TimeLimit(SECONDS).call(lambda: _read(address, time.monotonic() + SECONDS))
    except OutOfTimeError:
        reason = f"the download took longer than {SECONDS:.0f} seconds"
    except urllib.error.HTTPError as error:
        error.close()
        reason = f"the server answers {error.code} {error.reason}"
    except urllib.error.URLError as error:
        reason = str(error.reason)
    except _FAILURES as error:
        reason = str(error) or type(error).__name__
    raise UserError(f"{name} cannot be downloaded: {printable(' '.join(reason.split())).rstrip('.')}. {_INSTEAD}")


def _read(address: str, end: float) -> tuple[bytes, str]:
    _require_public(address)
    opener = urllib.request.build_opener(_Redirects, _Https)
    with opener.open(urllib.request.Request(_quoted(address), headers=_HEADERS), timeout=_READ) as response:
        length = response.headers.get("Content-Length")
        total_size, content = int(length) if length else None, io.BytesIO()
        _check_size(address, total_size or 0)
        while piece := response.read1(1 << 20):
            _check_size(address, content.tell() + len(piece))
            content.write(piece)
            if time.monotonic() > end:  # the caller has stopped waiting
                raise TimeoutError(f"the download took longer than {SECONDS:.0f} seconds")
        if total_size is not None and content.tell() != total_size:
            raise ConnectionError(f"cut off after {content.tell()} of {total_size} bytes")
        return content.getvalue(), response.headers.get_content_type()


def _check_size(address: str, size: int) -> None:
    if size > MOST_BYTES:
        raise UserError(
            f"{printable_address(address)} has {size:,} bytes or more, but {MOST_BYTES:,} are allowed. {_INSTEAD}"
        )


def _quoted(address: str) -> str:
    """An address as servers accept it. Blanks and umlauts, which browsers allow, are escaped."""
    parts = urlsplit(address)
    path, query = (quote(text, safe="/%:@!$&'()*+,;=~?") for text in (parts.path, parts.query))
    return urlunsplit((parts.scheme, parts.netloc, path, query, ""))


def _require_public(address: str, source: str | None = None) -> None:
    """Raise a UserError if an address must not be fetched. source: the address that redirects to it."""
    name = printable_address(address)
    sent = f"{printable_address(source)} redirects to {name}" if source else name
    if "@" in urlsplit(address).netloc:
        raise UserError(f"{sent}, which has a user name in it. {_INSTEAD}")
    if (reason := hosts.refusal(address)) is not None:
        raise UserError(f"{sent}, {reason}. {_INSTEAD}" if source else f"{sent} is an address {reason}. {_INSTEAD}")


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Follow a redirect to a public host over https."""
        _require_public(newurl, req.full_url)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _PublicConnection(http.client.HTTPSConnection):
    """A connection that checks the IP address of its host before it sends a request.

    The name was looked up and checked before. But the second look-up, by this connection, may give another IP address
    (DNS rebinding). TLS is set up before the check, so a host that is not public learns the requested host name, but
    nothing else. With a proxy there is no check, because the proxy looks up the name.
    """

    through_proxy = False

    def set_tunnel(self, *arguments: Any, **named: Any) -> None:
        """Connect through a proxy."""
        self.through_proxy = True
        super().set_tunnel(*arguments, **named)

    def connect(self) -> None:
        """Connect, and close the connection if the host is not public."""
        super().connect()
        number = str(self.sock.getpeername()[0])
        if not self.through_proxy and not hosts.is_public(number):
            self.close()
            raise UserError(f"https://{self.host} is an address whose host ({number}) is not public. {_INSTEAD}")


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Open an https address with a _PublicConnection."""
        return self.do_open(_PublicConnection, req)
