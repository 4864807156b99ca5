"""An agent that notes what it runs: each execution with the id of its request, by the clock of the clients.

It lives in the process of the clients, so that both read one clock. Three things can be asked of it: `/turn` (answered
at once, or after `?ms=`), `/stream?events=&ms=` (an event stream) and `/socket` (a WebSocket that says back what it is
told, with its release before it). A client that goes away ends what it asked for. A grammar of HTTP it has not: the
proxy in front of it has one.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import time
from collections.abc import Callable
from typing import cast

from bench.history import Execution

_ID = re.compile(rb"\r\nx-rel-id: *([^\r]*)\r\n", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_KEY = re.compile(rb"\r\nsec-websocket-key: *([^\r]*)\r\n", re.IGNORECASE)
_QUERY = re.compile(rb"[?&](\w+)=(\d+)")
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3


class Agent:
    """One release."""

    def __init__(self, release: str, ran: Callable[[Execution], None]) -> None:
        """`ran` hears of each execution when it is over."""
        self.release = release
        self.ran = ran
        self.port = 0
        self.executions = 0
        self._server: asyncio.Server | None = None
        self._lines: set[_Line] = set()

    async def start(self, host: str = "127.0.0.1") -> Agent:
        """Listen."""
        self._server = await asyncio.get_running_loop().create_server(lambda: _Line(self), host, 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Be gone."""
        if self._server is not None:
            self._server.close()
        for line in [*self._lines]:
            line.close()


class _Line(asyncio.Protocol):
    """A connection: one request after the other, or a WebSocket."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._held = b""
        self._run: tuple[str, float] | None = None  # the request that runs, and since when
        self._timer: asyncio.TimerHandle | None = None
        self._is_socket = False
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._agent._lines.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._agent._lines.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        self._ran()

    def close(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._held += data
        if self._is_socket:
            self._frames()
        elif self._run is None:
            self._begin()

    def _begin(self) -> None:
        """The next request, if all of it is there."""
        end = self._held.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._held[: end + 2]
        length = int(found[1]) if (found := _LENGTH.search(head)) else 0
        if len(self._held) < end + 4 + length:
            return
        self._held = self._held[end + 4 + length :]
        name = found[1].decode() if (found := _ID.search(head)) else "?"
        self._run = name, time.monotonic()
        self._agent.executions += 1
        target = head.split(b" ", 2)[1]
        terms = {key: int(value) for key, value in _QUERY.findall(target)}
        if target.startswith(b"/stream"):
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            self._stream(terms.get(b"events", 1), terms.get(b"ms", 10) / 1000, 0)
        elif found := _KEY.search(head):
            self._is_socket = True
            accept = base64.b64encode(hashlib.sha1(found[1] + _GUID).digest())
            self._transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept
            )
        elif ms := terms.get(b"ms"):
            self._timer = self._loop.call_later(ms / 1000, self._answer)
        else:
            self._answer()

    def _answer(self) -> None:
        release = self._agent.release.encode()
        self._ran()
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(release), release))
        self._begin()

    def _stream(self, events: int, seconds: float, number: int) -> None:
        event = b"id: %d\ndata: %b\n\n" % (number, self._agent.release.encode())
        self._transport.write(b"%x\r\n%b\r\n" % (len(event), event))
        if number + 1 < events:
            self._timer = self._loop.call_later(seconds, self._stream, events, seconds, number + 1)
            return
        self._ran()
        self._transport.write(b"0\r\n\r\n")
        self._begin()

    def _frames(self) -> None:
        """Short masked frames (RFC 6455 §5.2); a close is answered by one."""
        while len(self._held) >= 6 and len(self._held) >= (whole := 6 + (self._held[1] & 0x7F)):
            mask, payload = self._held[2:6], self._held[6:whole]
            opcode = self._held[0] & 0x0F
            self._held = self._held[whole:]
            said = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
            if opcode == 8:
                self._transport.write(b"\x88%c%b" % (len(said), said))
                self._ran()
            else:
                said = self._agent.release.encode() + b" " + said
                self._transport.write(b"\x81%c%b" % (len(said), said))

    def _ran(self) -> None:
        """What was run is over."""
        if self._run is not None:
            name, began = self._run
            self._run = None
            self._agent.ran(Execution(name, self._agent.release, began, time.monotonic()))
