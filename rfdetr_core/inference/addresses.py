"""Images by their https address: from public hosts, of limited size, in limited time."""

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
SECONDS = 60.0  # for all of it: names, redirects, the content
_READ = 20.0  # seconds for a single read
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://|(https?|ftps?|file|data|blob|javascript):", re.IGNORECASE)
_INSTEAD = "Download the image yourself, and give the path of the file."
_LONGEST = 200  # characters of an address in a message: a data: address holds a whole picture
_FAILURES = (OSError, http.client.HTTPException, ValueError)  # of the network, or what a server says
_HEADERS = {"User-Agent": "rfdetr_core", "Accept": "image/*"}  # some servers refuse Python's own name


def is_address(text: str) -> bool:
    """Whether a text begins as an address does (https://, file:), and not as a path."""
    return _SCHEME.match(text) is not None


def printable_address(address: str) -> str:
    """An address as messages name it: without a password, and without its query, which may hold a key."""
    try:
        parts = urlsplit(address)
        host = parts.netloc.rpartition("@")[2]
        text = urlunsplit((parts.scheme, host, parts.path, "", "")) + "?..." * bool(parts.query)
    except ValueError:
        text = address
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def file_name(address: str) -> str:
    """A plain file name for what is made of an image: the last part of its address, of harmless characters alone."""
    path = re.split("[?#]", address)[0]  # not by urlsplit, which raises an error of what is no address
    name = unquote(path.rstrip("/").rpartition("/")[2])
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".-")[-100:] or "image"


def fetch_image(address: str) -> Image.Image:
    """The upright RGB image of an https address, by the rules of `images.decode`.

    Raises:
        UserError: another scheme, a host that is not public, a server that refuses, stalls or is cut off; more than
            MOST_BYTES; no image, or one of too many pixels. Names the address.
    """
    data, kind = _fetch(address)
    try:
        return images.decode(data, printable_address(address))
    except images.TooLargeError:
        raise
    except UserError as error:
        problem = (
            f"{printable_address(address)} is not an image of {', '.join(images.FORMATS)}: {error.__cause__ or error}"
        )
        raise UserError(f"{problem}. The server calls it {kind!r}. Look at the address in a browser.") from error


def _fetch(address: str) -> tuple[bytes, str]:
    """The content of an address, and the type that the server gives for it."""
    name = printable_address(address)
    try:
        return TimeLimit(SECONDS).call(lambda: _read(address, time.monotonic() + SECONDS))
    except OutOfTimeError:
        reason = f"it did not come within {SECONDS:.0f} seconds"
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
            if time.monotonic() > end:  # nobody waits for it any more
                raise TimeoutError(f"it did not come within {SECONDS:.0f} seconds")
        if total_size is not None and content.tell() != total_size:
            raise ConnectionError(f"cut off after {content.tell()} of {total_size} bytes")
        return content.getvalue(), response.headers.get_content_type()


def _check_size(address: str, size: int) -> None:
    if size > MOST_BYTES:
        raise UserError(
            f"{printable_address(address)} has {size:,} bytes or more, {MOST_BYTES:,} are allowed. {_INSTEAD}"
        )


def _quoted(address: str) -> str:
    """An address with what browsers write in it, such as blanks and umlauts, as a server takes it."""
    parts = urlsplit(address)
    path, query = (quote(text, safe="/%:@!$&'()*+,;=~?") for text in (parts.path, parts.query))
    return urlunsplit((parts.scheme, parts.netloc, path, query, ""))


def _require_public(address: str, origin: str | None = None) -> None:
    """Raise a UserError of what may not be asked. origin: the address that sends on to it."""
    sent = (
        f"{printable_address(origin)} sends on to {printable_address(address)}"
        if origin
        else printable_address(address)
    )
    if "@" in urlsplit(address).netloc:
        raise UserError(f"{sent}, which has a user name in it. {_INSTEAD}")
    if (reason := hosts.refusal(address)) is not None:
        raise UserError(f"{sent}, {reason}. {_INSTEAD}" if origin else f"{sent} is an address {reason}. {_INSTEAD}")


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Follow a redirect to a public host over https."""
        _require_public(newurl, req.full_url)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _PublicConnection(http.client.HTTPSConnection):
    """A connection that ends before a request is sent if it leads to a host that is not public.

    By then TLS has been set up with it: the host knows the name that was asked for, and nothing else.

    The name was looked up before, yet a second look-up may give another number. A proxy looks it up itself.
    """

    through_proxy = False

    def set_tunnel(self, *arguments: Any, **named: Any) -> None:
        """Connect through a proxy."""
        self.through_proxy = True
        super().set_tunnel(*arguments, **named)

    def connect(self) -> None:
        """Connect, and look where to."""
        super().connect()
        number = str(self.sock.getpeername()[0])
        if not self.through_proxy and not hosts.is_public(number):
            self.close()
            raise UserError(f"https://{self.host} is an address whose host ({number}) is not public. {_INSTEAD}")


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Open an https address by a connection that looks where it leads."""
        return self.do_open(_PublicConnection, req)
