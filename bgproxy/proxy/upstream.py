"""One connection to an agent: it carries one exchange at a time and waits in its pool between two."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
import termios
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from bgproxy.proxy.exchange import Exchange
    from bgproxy.proxy.pool import Upstream

# A connection that has just been used cannot have been closed unseen for long; an older one is looked at before reuse.
LOOK_AFTER: Final = 0.5  # seconds

LAST_WORDS: Final = 65_536  # bytes of an early answer that are still looked for when its connection was reset

_ESTABLISHED: Final = 1  # of the kernel's TCP states
TCP_CLOSED: Final = 7


def keep_alive(sock: socket.socket) -> None:
    """Let the kernel find out about a peer that vanished without a word: streams have no idle timeout by default."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)  # seconds of silence before the first probe
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)  # seconds between two probes
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)


def tcp_state(transport: asyncio.Transport) -> int | None:
    """The kernel's state of a TCP connection, seen without reading from it; None where there is none to see."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family == socket.AF_UNIX or not hasattr(socket, "TCP_INFO"):
        return None
    state: int = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return state


def untaken(transport: asyncio.Transport) -> int:
    """Bytes on their way that the peer's kernel has not taken yet: those that wait here, and those in our kernel.

    The latter may be megabytes, which a slow reader takes for minutes before the first of ours is gone.
    """
    waiting: int = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    try:
        (queued,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))
    except (OSError, AttributeError):
        return waiting
    return waiting + int(queued)


def reset_when_closed(transport: asyncio.Transport) -> None:
    """Let the next close or abort send an RST: an error for the peer, where a FIN would look like a good end."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class UpstreamConnection:
    """The protocol on an agent's socket. No base class: attribute access on the data path is cheaper without one."""

    # Per exchange.
    exchange: Exchange | None = None
    # Per connection.
    transport: asyncio.Transport
    reused = False  # has carried an exchange before: it may be stale
    closed = False
    reading = True  # not paused for a slow client
    idle_since = 0.0
    address = ""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream

    def __repr__(self) -> str:
        state = "closed" if self.closed else "busy" if self.exchange else "idle"
        return f"<UpstreamConnection {self.upstream.url} {state}>"

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        transport.set_write_buffer_limits(high=self.upstream.high_water)
        if (sock := transport.get_extra_info("socket")) is not None and sock.family != socket.AF_UNIX:
            keep_alive(sock)

    def data_received(self, data: bytes) -> None:
        if self.exchange is not None:
            self.exchange.agent_data(data)
        else:
            # Nobody asked: whatever it is, it must never become the next request's answer (RFC 9112 §9.2).
            self.close()

    def eof_received(self) -> bool:
        """The agent has said all; what that means is decided in `connection_lost`, which follows."""
        self.closed = True
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        exchange = self.exchange
        if error is not None and exchange is not None and exchange.answer is None and not exchange.request_done:
            self._hear_last_words(exchange)
        self.upstream.lost(self)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.agent_lost(error)

    def _hear_last_words(self, exchange: Exchange) -> None:
        """An agent that says no before it has the whole body, and closes: its reset may end one of our writes before
        its answer was read, which still lies in the kernel."""
        with suppress(OSError):
            sock = self.transport.get_extra_info("socket")
            if data := os.read(sock.fileno(), LAST_WORDS):
                exchange.agent_data(data)

    def pause_writing(self) -> None:
        """The agent reads slowly: its client waits."""
        if self.exchange is not None:
            self.exchange.agent_slow()

    def resume_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.agent_ready()

    def pause_reading(self) -> None:
        """The client reads slowly: its agent waits, and the bytes stay with it."""
        if self.reading and not self.closed:
            self.reading = False
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if not self.reading and not self.closed:
            self.reading = True
            self.transport.resume_reading()

    def usable(self, now: float) -> bool:
        """Whether the next exchange may have it: open, and (if it has rested) not closed by the agent unseen."""
        if self.closed or self.transport.is_closing():  # the latter alone between a reset and `connection_lost`
            return False
        if now - self.idle_since < LOOK_AFTER:
            return True
        return tcp_state(self.transport) in (_ESTABLISHED, None)

    def close(self) -> None:
        """At once: what still waits to be written is the rest of a request that is over."""
        self.closed = True
        self.transport.abort()
