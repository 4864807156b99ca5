"""What the agent is told about the client: X-Forwarded-*, Forwarded (RFC 7239), Via (RFC 9110 §7.6.3)."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address, ip_network

from bgproxy.errors import ConfigError
from bgproxy.http1.head import RequestHead
from bgproxy.proxy.options import Forwarding

UNKNOWN = "0.0.0.0"  # noqa: S104 - nothing is bound to it: it stands for a peer without an address


class Forwarder:
    """Writes the fields of our own hop, in front of which a trusted proxy's words are kept."""

    __slots__ = ("_forwarded", "_networks", "_unix", "_via")

    def __init__(self, options: Forwarding) -> None:
        self._forwarded = options.forwarded
        self._via = b"Via: 1.1 %b\r\n\r\n" % options.via.encode()
        self._unix = "unix" in options.trusted_proxies
        self._networks = []
        for text in options.trusted_proxies:
            try:
                if text != "unix":
                    self._networks.append(ip_network(text, strict=False))
            except ValueError:
                raise ConfigError(
                    f'forwarding.trusted_proxies: "{text}" is no network; write for example "10.0.0.0/8" or "unix"'
                ) from None

    def trusts(self, peer: str) -> bool:
        """Whether a peer's word about the client counts; `peer` is an address, empty for a Unix socket."""
        if not peer:
            return self._unix
        return bool(self._networks) and any(ip_address(peer.partition("%")[0]) in net for net in self._networks)

    def fields(self, request: RequestHead, peer: str) -> bytes:
        """Our fields for one request, and the empty line behind them."""
        client = peer.encode()
        chain = [part for part in (request.forwarded_for, client) if part]
        parts = [b"X-Forwarded-For: %b\r\n" % b", ".join(chain)] if chain else []
        parts.append(b"X-Forwarded-Proto: %b\r\n" % (request.forwarded_proto or b"http"))
        if host := request.forwarded_host or request.host:
            parts.append(b"X-Forwarded-Host: %b\r\n" % host)
        if self._forwarded:
            hops = [part for part in (request.forwarded, _hop(peer, request.host)) if part]
            parts.append(b"Forwarded: %b\r\n" % b", ".join(hops))
        elif request.forwarded:
            parts.append(b"Forwarded: %b\r\n" % request.forwarded)
        parts.append(self._via)
        return b"".join(parts)


def address_of(transport: asyncio.BaseTransport) -> str:
    """A peer's address as networks and agents know it; empty for a Unix socket, and for that alone.

    A client that reaches an IPv6 socket over IPv4 is `::ffff:192.0.2.1` to the kernel. One that has reset its
    connection already has no address any more, while its request can still be read.
    """
    peer = transport.get_extra_info("peername")
    if isinstance(peer, tuple):
        address = str(peer[0])
        return address.removeprefix("::ffff:") if "." in address else address
    sock = transport.get_extra_info("socket")
    return "" if sock is not None and sock.family == socket.AF_UNIX else UNKNOWN


def _hop(peer: str, host: bytes) -> bytes:
    """One element of Forwarded; IPv6 addresses and ports make a value that must be quoted (RFC 7239 §4, §6)."""
    if not peer:
        node = "unknown"
    elif ":" in peer:
        node = f'"[{peer.partition("%")[0]}]"'  # a zone means something on one machine only
    else:
        node = peer
    return b"for=%b;proto=http" % node.encode() + (b';host="%b"' % host if host else b"")
