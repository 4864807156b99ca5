"""Which addresses no release may be staged on: a cloud's metadata service, our own listeners, the store.

Who may stage could otherwise read through the proxy what only this machine may read. Names are resolved and each of
their addresses is looked at. A name that cannot be resolved now is let through: nothing is sent to it before it can be.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

from bgproxy.errors import BadInput
from bgproxy.rules.release import Release
from bgproxy.store.address import store_hosts

RESOLVE_TIMEOUT = 2.0  # s for all names of a release together

Address = IPv4Address | IPv6Address
Place = tuple[str, int]

# Outside of the link-local range, where all the others are.
_METADATA = frozenset({ip_address("fd00:ec2::254"), ip_address("100.100.100.200"), ip_address("168.63.129.16")})


async def refuse_targets(release: Release, reserved: Iterable[str]) -> None:
    """Raise BadInput where an upstream of the (checked) release is an address that none may be.

    `reserved`: listen addresses (`host:port`, `unix:/path`) and store URLs.
    """
    urls = dict.fromkeys((*release.upstreams, *(url for some in release.routes.values() for url in some)))
    taken = [place for text in reserved for place in store_hosts(text) or (_place(text),) if place is not None]
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT):
            ours = {(address, port) for host, port in taken for address in await _addresses(host, port)}
            for url in urls:
                await _check(url, taken, ours)
    except TimeoutError:
        return  # like a name that cannot be resolved


async def _check(url: str, taken: list[Place], ours: set[tuple[Address, int]]) -> None:
    place = _place(url)
    assert place is not None, "a checked upstream has a host or a path"
    if place in taken:
        raise _ours(url)
    for address in await _addresses(*place):
        if address.is_link_local or address in _METADATA:
            raise BadInput(f"upstream {url!r} is a metadata or link-local address ({address}), not an agent's")
        if address.is_multicast or address.is_unspecified:
            raise BadInput(f"upstream {url!r} is no address of one machine ({address}): name the agent's own")
        if any(place[1] == port and _reaches(address, other) for other, port in ours):
            raise _ours(url)


def _ours(url: str) -> BadInput:
    return BadInput(f"upstream {url!r} is an address of this proxy or of its store, not an agent's")


def _place(text: str) -> Place | None:
    """Host and port, or a socket's path and 0; None where it is neither (`memory://`)."""
    if text.startswith("unix:"):
        return urlsplit(text).path, 0
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        port = parts.port
    except ValueError:
        return None
    if not parts.hostname or parts.scheme == "memory":
        return None
    return parts.hostname, 80 if port is None else port


async def _addresses(host: str, port: int) -> list[Address]:
    if host.startswith("/"):
        return []
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return [_plain(ip_address(str(entry[4][0]).partition("%")[0])) for entry in found]


def _plain(address: Address) -> Address:
    """An IPv4 address in IPv6 clothes is dialled as what it is."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _reaches(address: Address, listener: Address) -> bool:
    """Whether dialling the address comes out at a listener; one on all addresses has at least the loopback ones."""
    return address == listener or (address.is_loopback and (listener.is_loopback or listener.is_unspecified))
