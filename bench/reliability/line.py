"""A line to the store that fails on command: a TCP proxy that delays, holds back, resets, and swallows Redis' messages.

What a cut line is given it keeps, as a network does that will send it again: it arrives once the line is mended. Must
not know who stands at its ends, but for the shape of a message to subscribers (RESP3 push, or RESP2 array).
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from typing import cast

# A subscriber's message: three bulk strings, the first of which is `message`.
_MESSAGE = re.compile(rb"[>*]3\r\n\$7\r\nmessage\r\n\$(\d+)\r\n")


Sees = Callable[[int, bytes, bool], bool]
"""The port of a node's end, what passes there, and whether the node says it; False: it is not passed on."""


class FaultyLine:
    """Listens on a port of its own, and connects each client to the target."""

    def __init__(self, host: str, port: int) -> None:
        self.target = host, port
        self.delay = 0.0  # seconds that each way takes
        self.is_cut = False  # nothing comes through, and nobody is told so
        self.is_deaf = False  # messages to subscribers are swallowed
        self.swallowed = 0
        self.sees: Sees | None = None  # what passes
        self.port = 0
        self._ends: set[_End] = set()
        self._reaching: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, host: str = "127.0.0.1") -> FaultyLine:
        """Listen."""
        self._server = await asyncio.get_running_loop().create_server(lambda: _Near(self), host, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Be gone."""
        if self._server is not None:
            self._server.close()
        self.reset()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def cut(self) -> None:
        """From now on nothing comes through."""
        self.is_cut = True

    def mend(self) -> None:
        """All is well again; what was held back goes on its way."""
        self.is_cut = self.is_deaf = False
        self.delay = 0.0
        for end in [*self._ends]:
            end.pass_on()
            if end.is_gone:  # it was closed meanwhile, which its other side hears only now
                end.ends()

    def reset(self) -> None:
        """Break every connection with an RST."""
        for end in [*self._ends]:
            end.reset()

    def passes(self, port: int, data: bytes, *, asks: bool) -> bytes:
        """What comes through of what a node at that port asks, or is told."""
        if self.sees is not None and not self.sees(port, data, asks):
            return b""
        return data if asks else self.heard(data)

    def heard(self, data: bytes) -> bytes:
        """What the store says, without messages to subscribers while it is deaf. They come in packets of their own."""
        if not self.is_deaf:
            return data
        kept, at = b"", 0
        for found in _MESSAGE.finditer(data):
            end = found.end() + int(found[1]) + 2
            length = re.match(rb"\$(\d+)\r\n", data[end:])
            if length is None:
                continue
            kept += data[at : found.start()]
            at = end + length.end() + int(length[1]) + 2
            self.swallowed += 1
        return kept + data[at:]


class _End(asyncio.Protocol):
    """One side of a connection; `other` is where its bytes go."""

    asks = False  # whether what comes in here is asked of the store, rather than told by it
    port = 0  # the node's
    other: _End | None = None
    is_gone = False

    def __init__(self, line: FaultyLine) -> None:
        self.line = line
        self.transport: asyncio.Transport | None = None
        self._waiting: deque[tuple[float, bytes]] = deque()  # what came, and when it is due at the other side
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.line._ends.add(self)

    def data_received(self, data: bytes) -> None:
        self._waiting.append((self._loop.time() + self.line.delay, data))
        self.pass_on()

    def eof_received(self) -> bool:
        self._waiting.append((self._loop.time() + self.line.delay, b""))
        self.pass_on()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_gone = True
        if not self.line.is_cut:
            self.ends()

    def ends(self) -> None:
        """It is over, and its other side is to know."""
        self.line._ends.discard(self)
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    def pass_on(self) -> None:
        """What is due, in order."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        other = self.other.transport if self.other is not None else None
        if other is not None and other.is_closing():
            self._waiting.clear()  # a reset, of which this side has yet to hear
        while self._waiting and not self.line.is_cut and other is not None:
            due, data = self._waiting[0]
            now = self._loop.time()
            if due > now:
                self._timer = self._loop.call_later(due - now, self.pass_on)
                return
            self._waiting.popleft()
            if data:
                other.write(self.line.passes(self.port, data, asks=self.asks))
            elif other.can_write_eof():
                other.write_eof()

    def reset(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class _Near(_End):
    """A node's side."""

    asks = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.port = transport.get_extra_info("peername")[1]
        reaching = self._loop.create_task(self._reach())
        self.line._reaching.add(reaching)
        reaching.add_done_callback(self.line._reaching.discard)

    async def _reach(self) -> None:
        try:
            _, far = await self._loop.create_connection(lambda: _Far(self.line), *self.line.target)
        except OSError:
            if not self.line.is_cut:
                self.reset()
            return
        self.other, far.other, far.port = far, self, self.port
        self.pass_on()


class _Far(_End):
    """The store's side."""
