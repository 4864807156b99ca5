"""Listen addresses as they are written: `host:port`, `[v6]:port` or `unix:/path`.

Pure: nothing is resolved and nothing is bound here.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

_HOST = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})*\.?")
_REMEDY = 'write "127.0.0.1:8080", "[::1]:8080" or "unix:/run/bgproxy.sock"'


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a host and a port (0: the kernel chooses), or the absolute path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """The address that `text` names. Raises ValueError with the problem and the remedy."""
    if text.startswith("unix:"):
        return _socket_path(text.removeprefix("unix:"))
    if "://" in text:
        raise ValueError(f"an address to listen on has no scheme; {_REMEDY}")
    host, colon, port = text.rpartition(":")
    if not colon or not port:
        raise ValueError(f"there is no port; {_REMEDY}")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f'"{port}" is not a port from 0 to 65535; {_REMEDY}')
    return Address(host=_host(host), port=int(port))


def _socket_path(path: str) -> Address:
    path = path.removeprefix("//")
    if not path.startswith("/"):
        raise ValueError('the path of a Unix socket is absolute; write "unix:/run/bgproxy.sock"')
    if len(path.encode()) > 107:
        raise ValueError("the path of a Unix socket has at most 107 bytes; use a shorter directory")
    return Address(path=path)


def _host(host: str) -> str:
    if not host:
        raise ValueError(
            'there is no host; write "0.0.0.0:8080" for every IPv4 address or "127.0.0.1:8080" for this host'
        )
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise ValueError(f'"{host}" is not an IPv6 address; {_REMEDY}') from None
    if ":" in host:
        raise ValueError(f"an IPv6 address stands in brackets; {_REMEDY}")
    if not _HOST.fullmatch(host):
        raise ValueError(f'"{host}" is not a host name or address; {_REMEDY}')
    if host.replace(".", "").isdigit():
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise ValueError(f'"{host}" is not an IPv4 address; {_REMEDY}') from None
    return host
