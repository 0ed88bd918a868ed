"""Which addresses may be asked where another decides: https alone, and hosts of the public internet alone."""

from __future__ import annotations

import ipaddress
import socket
import urllib.request
from contextlib import suppress
from urllib.parse import unquote, urlsplit

_TRANSLATED, _PROTOCOLS = ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("192.0.0.0/24")


def refusal(address: str) -> str | None:
    """Why an address may not be asked, such as "which is not https"; None: it may.

    Raises:
        OSError: its host is unknown.
        ValueError: it is not an address.
    """
    parts = urlsplit(address)
    if parts.scheme != "https":
        return "which is not https"
    numbers = _numbers(parts.hostname or "", unquote(parts.netloc))
    return next((f"whose host ({number}) is not public" for number in numbers if not is_public(number)), None)


def is_public(number: str) -> bool:
    """Whether a numeric address of a host is one of the public internet."""
    parsed = ipaddress.ip_address(number.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        within = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF) if parsed in _TRANSLATED else None
        parsed = parsed.ipv4_mapped or parsed.sixtofour or within or parsed
    return parsed.is_global and not parsed.is_multicast and parsed not in _PROTOCOLS


def _numbers(host: str, host_and_port: str) -> list[str]:
    """The numeric addresses of a host, as far as this machine has to know them: a proxy resolves names itself.

    place: the host with its port, as urllib names it when it asks whether to go without the proxy.
    """
    with suppress(ValueError):
        return [str(ipaddress.ip_address(host))]
    with suppress(OSError):
        return [socket.inet_ntoa(socket.inet_aton(host))]  # 127.1, 2130706433, 0x7f000001: a proxy knows them, too
    if "https" in urllib.request.getproxies() and not urllib.request.proxy_bypass(host_and_port):
        return ["127.0.0.1"] if host.rstrip(".") == "localhost" else []
    return [str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
