"""A raw end of a connection: exact bytes out, exact bytes in, nothing read unless asked for.

It stands on plain sockets, not on streams, so that a test decides when its kernel's buffer fills, when a FIN goes out
and when a reset does.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

PATIENCE = 8.0  # seconds until a step that never comes fails its test


class Ended(Exception):
    """The other side was gone before what was asked for had come; `args[0]` is what had come."""


@dataclass
class Message:
    """A head, and the body once it was read."""

    start: bytes
    fields: list[tuple[bytes, bytes]]
    raw: bytes
    body: bytes = b""
    chunks: list[bytes] = field(default_factory=list)
    trailers: list[bytes] = field(default_factory=list)

    @property
    def status(self) -> int:
        return int(self.start.split(b" ")[1])

    @property
    def method(self) -> bytes:
        return self.start.split(b" ")[0]

    @property
    def target(self) -> bytes:
        return self.start.split(b" ")[1]

    def all(self, name: bytes) -> list[bytes]:
        """Every value of a field, in order."""
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def get(self, name: bytes) -> bytes | None:
        """The one value of a field, or None; several fail the test."""
        found = self.all(name)
        assert len(found) < 2, f"{name!r} came {len(found)} times: {found}"
        return found[0] if found else None


def parse_head(raw: bytes) -> Message:
    """A head, its empty line included, taken apart without forgiveness."""
    start, *lines = raw.removesuffix(b"\r\n\r\n").split(b"\r\n")
    fields = []
    for line in lines:
        name, colon, value = line.partition(b":")
        assert colon == b":", f"not a field line: {line!r}"
        assert name.strip() == name != b"", f"not a field name: {name!r}"
        fields.append((name, value.strip(b" \t")))
    return Message(start, fields, raw)


class Wire:
    """One end of a connection."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.held = b""  # read from the socket, not yet asked for
        self.received = 0  # bytes read from the socket, all in all

    async def send(self, *data: bytes) -> None:
        """All of it; waits for room in the kernel's buffer as long as the test has patience."""
        async with asyncio.timeout(PATIENCE):
            await asyncio.get_running_loop().sock_sendall(self.sock, b"".join(data))

    async def send_each(self, parts: Iterable[bytes]) -> None:
        """Every part in a packet of its own, the loop running in between."""
        for part in parts:
            await self.send(part)
            await asyncio.sleep(0)

    async def more(self, patience: float | None = PATIENCE) -> bytes:
        """What comes next; nothing at a FIN. Raises ConnectionResetError at a reset."""
        async with asyncio.timeout(patience):
            data = await asyncio.get_running_loop().sock_recv(self.sock, 262_144)
        self.received += len(data)
        return data

    async def _fill(self, patience: float | None = PATIENCE) -> None:
        try:
            data = await self.more(patience)
        except ConnectionResetError:
            raise Ended(self.held) from None
        if not data:
            raise Ended(self.held)
        self.held += data

    async def until(self, mark: bytes) -> bytes:
        """Everything up to and with the mark."""
        while (at := self.held.find(mark)) < 0:
            await self._fill()
        end = at + len(mark)
        found, self.held = self.held[:end], self.held[end:]
        return found

    async def exactly(self, count: int) -> bytes:
        """So many bytes."""
        parts, left = [self.held[:count]], count - len(self.held)
        self.held = self.held[count:]
        while left > 0:
            await self._fill()
            parts.append(self.held[:left])
            self.held, left = self.held[left:], left - len(self.held)
        return b"".join(parts)

    async def head(self) -> Message:
        """The next head."""
        return parse_head(await self.until(b"\r\n\r\n"))

    async def request(self) -> Message:
        """The next request, body included."""
        return await self._body(await self.head())

    async def asked(self) -> Message:
        """The next request, however long the connection rests before it comes."""
        if not self.held:
            await self._fill(None)
        return await self.request()

    async def answer(self, method: bytes = b"GET") -> Message:
        """The next answer, body included, an interim one too."""
        message = await self.head()
        if method == b"HEAD" or message.status < 200 or message.status in (204, 304):
            return message
        if not message.all(b"content-length") and not message.all(b"transfer-encoding"):
            message.body = await self.rest()
            return message
        return await self._body(message)

    async def _body(self, message: Message) -> Message:
        if message.get(b"transfer-encoding") == b"chunked":
            while chunk := await self.chunk():
                message.chunks.append(chunk)
            while line := (await self.until(b"\r\n"))[:-2]:
                message.trailers.append(line)
            message.body = b"".join(message.chunks)
        else:
            message.body = await self.exactly(int(message.get(b"content-length") or 0))
        return message

    async def chunk(self) -> bytes:
        """The payload of one chunk; nothing for the last one, whose trailer section is left to be read."""
        size = int((await self.until(b"\r\n"))[:-2], 16)
        if not size:
            return b""
        payload = await self.exactly(size + 2)
        assert payload.endswith(b"\r\n"), payload[-20:]
        return payload[:-2]

    async def rest(self) -> bytes:
        """Everything up to a FIN."""
        with_held, self.held = self.held, b""
        parts = [with_held]
        while data := await self.more():
            parts.append(data)
        return b"".join(parts)

    async def end(self) -> str:
        """How the other side ends it: "fin" or "reset"; bytes that still come fail the test."""
        try:
            rest = await self.rest()
        except ConnectionResetError:
            return "reset"
        assert not rest, f"more came: {rest[:200]!r}"
        return "fin"

    async def gone(self, patience: float = PATIENCE) -> float:
        """Wait until the other side has ended it, whatever still comes; how many seconds that took."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            while await self.more(patience):
                pass
        except ConnectionResetError:
            pass
        return loop.time() - began

    def is_silent(self) -> bool:
        """Whether nothing has come that was not asked for, and the connection stands."""
        if self.held:
            return False
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def fin(self) -> None:
        """Close our half, if the other side is there to see it."""
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Tear it down with an RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()
