"""Which addresses no release may be staged on: a cloud's metadata service, our own listeners, the store.

Who may stage could otherwise read through the proxy what only this machine may read. Names are resolved and each of
their addresses is looked at. A name that cannot be resolved now is let through: nothing is sent to it before it can be.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

from bgproxy.admin.options import split_address
from bgproxy.errors import BadInput
from bgproxy.rules.release import Release

RESOLVE_TIMEOUT = 2.0  # s for all names of a release together

Address = IPv4Address | IPv6Address

# Outside of the link-local range, where all the others are.
_METADATA = frozenset({ip_address("fd00:ec2::254"), ip_address("100.100.100.200"), ip_address("168.63.129.16")})


async def refuse_targets(release: Release, reserved: Iterable[str]) -> None:
    """Raise BadInput where an upstream of the (checked) release is an address that none may be."""
    taken = set(reserved)
    urls = dict.fromkeys((*release.upstreams, *(url for some in release.routes.values() for url in some)))
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT):
            for url in urls:
                await _check(url, taken)
    except TimeoutError:
        return  # like a name that cannot be resolved


async def _check(url: str, reserved: set[str]) -> None:
    if url.startswith("unix:"):
        if url in reserved:
            raise BadInput(f"upstream {url!r} is a socket of this proxy or its store, not an agent's")
        return
    host, port = _host_port(url.removeprefix("http://"))
    for address in await _addresses(host, port):
        if address.is_link_local or address in _METADATA:
            raise BadInput(f"upstream {url!r} is a metadata or link-local address ({address}), not an agent's")
        if address.is_multicast or address.is_unspecified:
            raise BadInput(f"upstream {url!r} is no address of one machine ({address}): name the agent's own")
        if any(_same(address, port, one) for one in reserved):
            raise BadInput(f"upstream {url!r} is an address of this proxy or its store, not an agent's")


def _host_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


async def _addresses(host: str, port: int) -> list[Address]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return [_plain(ip_address(str(entry[4][0]).partition("%")[0])) for entry in found]


def _plain(address: Address) -> Address:
    """An IPv4 address in IPv6 clothes is dialled as what it is."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _same(address: Address, port: int, listen: str) -> bool:
    """Whether the address reaches a listener; one on all addresses is reached by the loopback ones at least."""
    parts = split_address(listen)
    if parts is None or parts[1] != port:
        return False
    try:
        other = ip_address("127.0.0.1" if parts[0] == "localhost" else parts[0])
    except ValueError:
        return False
    return address == other or (address.is_loopback and (other.is_loopback or other.is_unspecified))
