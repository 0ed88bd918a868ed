"""Which addresses may be fetched if a user or a server chose them: only https, only hosts of the public internet."""

from __future__ import annotations

import ipaddress
import socket
import urllib.request
from contextlib import suppress
from urllib.parse import unquote, urlsplit

_TRANSLATED, _PROTOCOLS = ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("192.0.0.0/24")


def refusal(address: str) -> str | None:
    """The reason why an address must not be fetched, such as "which is not https". None: it may be fetched.

    Raises:
        OSError: its host is unknown.
        ValueError: the text is not an address.
    """
    parts = urlsplit(address)
    if parts.scheme != "https":
        return "which is not https"
    numbers = _numbers(parts.hostname or "", unquote(parts.netloc))
    return next((f"whose host ({number}) is not public" for number in numbers if not is_public(number)), None)


def is_public(number: str) -> bool:
    """Whether an IP address belongs to the public internet."""
    parsed = ipaddress.ip_address(number.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        within = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF) if parsed in _TRANSLATED else None
        parsed = parsed.ipv4_mapped or parsed.sixtofour or within or parsed
    return parsed.is_global and not parsed.is_multicast and parsed not in _PROTOCOLS


def _numbers(host: str, host_and_port: str) -> list[str]:
    """The IP addresses of a host. Empty if a proxy will look up the name.

    host_and_port: in urllib's spelling, to ask whether the proxy is bypassed for it.
    """
    with suppress(ValueError):
        return [str(ipaddress.ip_address(host))]
    # Other spellings of an IP address, such as 127.1, 2130706433 and 0x7f000001. A proxy accepts them, too.
    with suppress(OSError):
        return [socket.inet_ntoa(socket.inet_aton(host))]
    if "https" in urllib.request.getproxies() and not urllib.request.proxy_bypass(host_and_port):
        return ["127.0.0.1"] if host.rstrip(".") == "localhost" else []
    return [str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
