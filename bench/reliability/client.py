"""Clients that note all that they see: requests one after the other, sessions, event streams and WebSockets.

Each request carries its name to the agent. What is sent and what comes is stamped by one monotonic clock; an answer's
color and epoch are what the proxy says of it (`debug_header`), its release what the agent says. A connection that
breaks is replaced; what was on it stays without an answer, and the judge asks why.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import random
import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from bench.history import Execution, Request

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked\r\n", re.IGNORECASE)
_COLOR = re.compile(rb"\r\nx-bgproxy-color: *([^\r]*)\r\n", re.IGNORECASE)
_EPOCH = re.compile(rb"\r\nx-bgproxy-epoch: *(\d+)\r\n", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close\r\n", re.IGNORECASE)
_DATA = re.compile(rb"data: (\w+)\n\n")
_ECHO = re.compile(rb"(\w+) hello")
_NORMAL = b"\x03\xe8"  # 1000, as a WebSocket's close has it (RFC 6455 §7.4.1)
_CLOSED = b"\x88\x02" + _NORMAL
RELEASES = {"blue": "v1", "green": "v2"}
LONG_MS = 700  # of a turn beside which others run
PATIENCE = 60.0  # seconds for one answer: whoever waits longer has been forgotten


class Notes:
    """What all clients and agents have noted, and which connections a fault took away."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.executions: list[Execution] = []
        self.dead: dict[int, float] = {}
        self.ends: dict[tuple[int, int], int] = {}  # the numbers of open connections, by their own port and the other
        self.killed: dict[tuple[int, int], float] = {}  # when a fault took the other end of these away
        self.waiting: dict[str, Asked] = {}  # by name, what has no answer yet
        self.numbers = itertools.count(1)
        self.over = False

    def name(self) -> str:
        """Of a next request."""
        return f"q{next(self.numbers)}"

    def kill(self, ends: set[tuple[int, int]], at: float) -> None:
        """These connections died at that time."""
        for end in ends:
            self.killed[end] = at
            if (line := self.ends.get(end)) is not None:
                self.dead[line] = at


class Wire(asyncio.Protocol):
    """A connection with one question on it at a time."""

    def __init__(self, notes: Notes, port: int, since: float) -> None:
        """`port`: to which it goes; `since`: when it was begun. A worker may take it, and be killed, before anybody
        here hears that it stands."""
        self.notes = notes
        self.since = since
        self.number = next(notes.numbers)
        self.end = 0, port
        self.closed = False
        self._held = b""
        self._asked: Asked | None = None
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def open(cls, notes: Notes, address: tuple[str, int]) -> Wire:
        """A connection, as soon as there can be one."""
        while True:
            since = time.monotonic()
            try:
                made = partial(cls, notes, address[1], since)
                _, wire = await asyncio.get_running_loop().create_connection(made, *address)
            except OSError:
                await asyncio.sleep(0.01)
            else:
                return wire

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.end = transport.get_extra_info("sockname")[1], self.end[1]  # one that is broken already has no peername
        self.notes.ends[self.end] = self.number
        if (at := self.notes.killed.get(self.end, 0.0)) >= self.since:
            self.notes.dead[self.number] = at

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self.notes.ends.get(self.end) == self.number:
            del self.notes.ends[self.end]
        if self._asked is not None:
            self._asked.broken()
            self._asked = None

    def eof_received(self) -> bool:
        if self._asked is not None and not self._asked.has_length:
            self._asked.ends()
            self._asked = None
        return False

    def close(self) -> None:
        self.closed = True
        self.transport.close()

    def ask(self, data: bytes, name: str, session: str = "", *, repeatable: bool = False) -> Asked:
        """Send a request; its `done` is what came of it, noted already."""
        asked = Asked(self, name, session, repeatable)
        self._asked = asked
        if self.closed:
            asked.broken()
        else:
            self.transport.write(data)
        return asked

    def data_received(self, data: bytes) -> None:
        self._held += data
        asked = self._asked
        if asked is None:
            self._extra()
            return
        self._held = asked.takes(self._held)
        if asked.done.done():
            self._asked = None
            if asked.closes:
                self.close()
            if self._held:
                self._extra()

    def _extra(self) -> None:
        """Something came that nobody has asked for: noted as a second answer of what was asked last."""
        held, self._held = self._held, b""
        if held.startswith(b"HTTP/") and self.notes.requests:
            for at in range(len(self.notes.requests) - 1, -1, -1):
                if self.notes.requests[at].line == self.number:
                    self.notes.requests[at] = self.notes.requests[at]._replace(answers=2)
                    break


class Asked:
    """One request on its way, and its answer as it comes in."""

    has_length = True

    def __init__(self, wire: Wire, name: str, session: str, repeatable: bool) -> None:
        self.wire = wire
        self.name = name
        self.session = session
        self.repeatable = repeatable
        self.done: asyncio.Future[Request] = asyncio.get_running_loop().create_future()
        self.begun = self.done.get_loop().create_future()  # the answer's head has come
        wire.notes.waiting[name] = self
        self.sent = time.monotonic()
        self.answered = 0.0
        self.head = b""
        self.body = b""
        self.left = 0  # of the body, where its length is known
        self.status = 0

    def takes(self, held: bytes) -> bytes:
        """What has come; what is left of it belongs to somebody else."""
        if not self.head:
            end = held.find(b"\r\n\r\n")
            if end < 0:
                return held
            self.answered = time.monotonic()
            self.begun.set_result(None)
            self.head, held = held[: end + 2], held[end + 4 :]
            self.status = int(self.head[9:12])
            if self.status == 101:
                self.left = 2**62
            elif found := _LENGTH.search(self.head):
                self.left = int(found[1])
            elif _CHUNKED.search(self.head):
                self.left = -1
            else:
                self.has_length, self.left = False, 2**62
        if self.left < 0:
            return self._chunks(held)
        taken, rest = held[: self.left], held[self.left :]
        self.body += taken
        self.left -= len(taken)
        if not self.left or (self.status == 101 and self.body.endswith(_CLOSED)):
            self.ends()
        return rest

    def _chunks(self, held: bytes) -> bytes:
        while (at := held.find(b"\r\n")) >= 0:
            size = int(held[:at], 16)
            if len(held) < at + 4 + size:
                break
            chunk, held = held[at + 2 : at + 2 + size], held[at + 4 + size :]
            self.body += chunk
            if not size:
                self.ends()
                break
        return held

    def ends(self) -> None:
        """The answer is whole."""
        self._note(time.monotonic(), whole=True)

    def broken(self) -> None:
        """The connection has ended with this on it."""
        self._note(time.monotonic(), whole=False)

    def _note(self, now: float, *, whole: bool) -> None:
        if self.done.done():
            return
        self.wire.notes.waiting.pop(self.name, None)
        color, epoch = _COLOR.search(self.head), _EPOCH.search(self.head)
        served = color is not None and 100 < self.status < 300
        pattern = _ECHO if self.status == 101 else _DATA
        said = tuple(dict.fromkeys(text.decode() for text in pattern.findall(self.body)))
        if served and not said and whole:
            said = (self.body.decode(),) if len(self.body) < 20 else ()
        release = RELEASES.get(color[1].decode(), "?") if served and color else ""
        one = Request(
            id=self.name,
            sent=self.sent,
            answered=self.answered or now,
            ended=now,
            status=self.status,
            color=color[1].decode() if served and color else "",
            release=release,
            epoch=int(epoch[1]) if served and epoch else 0,
            session=self.session,
            said=said if served else (),
            whole=whole or not self.status,
            repeatable=self.repeatable,
            line=self.wire.number,
            code="" if served else _code(self.body),
        )
        self.wire.notes.requests.append(one)
        self.done.set_result(one)

    @property
    def closes(self) -> bool:
        """Whether the proxy wants to be asked on another connection next."""
        return _CLOSE.search(self.head) is not None


def _code(body: bytes) -> str:
    try:
        return str(json.loads(body)["code"])
    except (ValueError, KeyError, TypeError):
        return ""


class Clients:
    """All of them, until `stop`."""

    def __init__(
        self,
        notes: Notes,
        addresses: list[tuple[str, int]],
        *,
        think: float = 0.02,
        turns: int = 20,
        rest: float = 0.0,
    ) -> None:
        """`addresses`: the doors of the hosts; `think`: seconds between an answer and the next request, on average;
        `turns`: of a session at most; `rest`: seconds between two of them now and then."""
        self.notes = notes
        self.addresses = addresses
        self.think = think
        self.turns = turns
        self.rest = rest
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, *, asking: int, conversing: int, streaming: int, talking: int) -> None:
        """So many connections of each kind."""
        kinds: list[tuple[int, Callable[[tuple[str, int]], Any]]] = [
            (asking, self._keep_asking),
            (conversing, self._keep_conversing),
            (streaming, self._keep_streaming),
            (talking, self._keep_talking),
        ]
        for count, keep in kinds:
            for number in range(count):
                address = self.addresses[number % len(self.addresses)]
                self._tasks.append(asyncio.get_running_loop().create_task(keep(address)))

    async def stop(self) -> None:
        """Let each finish what it has begun. What has no answer by then is noted as without one."""
        self.notes.over = True
        await asyncio.wait(self._tasks, timeout=PATIENCE)
        for asked in [*self.notes.waiting.values()]:
            asked.broken()
            asked.wire.close()
        _, late = await asyncio.wait(self._tasks, timeout=1.0)
        for task in late:  # no connection could be had
            task.cancel()
        await asyncio.wait(self._tasks)
        for task in self._tasks:
            if not task.cancelled():
                task.result()

    async def _pause(self) -> None:
        await asyncio.sleep(random.uniform(0.5, 1.5) * self.think)

    def _request(self, name: str, method: str, target: str, *fields: str, body: bytes = b"") -> bytes:
        length = (f"Content-Length: {len(body)}",) if body or method == "POST" else ()
        lines = [f"{method} {target} HTTP/1.1", "Host: agents.test", f"X-Rel-Id: {name}", *fields, *length]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    async def _keep_asking(self, address: tuple[str, int]) -> None:
        """Requests of no session, on one connection as long as it stands; every other one may not run twice."""
        wire = await Wire.open(self.notes, address)
        for number in itertools.count():
            if self.notes.over:
                break
            if wire.closed:
                wire = await Wire.open(self.notes, address)
            name = self.notes.name()
            method = ("GET", "POST")[number % 2]
            data = self._request(name, method, "/turn", body=b"x" * 64 if number % 2 else b"")
            await wire.ask(data, name, repeatable=method == "GET").done
            await self._pause()
        wire.close()

    async def _keep_conversing(self, _door: tuple[str, int]) -> None:
        """Sessions, whose turns hop between connections, and so between workers and hosts; now and then two turns at
        once, or a long one beside several that follow one another."""
        while not self.notes.over:
            session = f"s{next(self.notes.numbers)}"
            async with asyncio.TaskGroup() as beside:
                for _ in range(random.randint(3, self.turns)):
                    if self.notes.over:
                        break
                    if random.random() < 0.05:
                        beside.create_task(self._turn(session, LONG_MS))
                    turns = 2 if random.random() < 0.1 else 1
                    await asyncio.gather(*(self._turn(session) for _ in range(turns)))
                    await self._pause()
                    if self.rest and random.random() < 0.2:
                        await asyncio.sleep(self.rest)

    async def _turn(self, session: str, ms: int = -1) -> None:
        wire = await Wire.open(self.notes, random.choice(self.addresses))
        name = self.notes.name()
        ms = random.choice((0, 0, 5, 30, 200)) if ms < 0 else ms
        fields = (f"X-Session-Id: {session}", "Connection: close")
        await wire.ask(self._request(name, "POST", f"/turn?ms={ms}", *fields, body=b"{}"), name, session).done
        wire.close()

    async def _keep_streaming(self, address: tuple[str, int]) -> None:
        """Event streams of two to four seconds."""
        while not self.notes.over:
            wire = await Wire.open(self.notes, address)
            name, events = self.notes.name(), random.randint(40, 80)
            await wire.ask(self._request(name, "GET", f"/stream?events={events}&ms=50"), name, repeatable=True).done
            wire.close()
            await self._pause()

    async def _keep_talking(self, address: tuple[str, int]) -> None:
        """WebSockets, each a session of its own by `presets = [websocket]`, of two to four seconds."""
        while not self.notes.over:
            wire = await Wire.open(self.notes, address)
            name = self.notes.name()
            key = base64.b64encode(os.urandom(16)).decode()
            upgrade = ("Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {key}")
            request = self._request(name, "GET", "/socket", *upgrade, "Sec-WebSocket-Version: 13")
            await self._talk(wire, wire.ask(request, name, f"w{name}"))
            wire.close()
            await self._pause()

    async def _talk(self, wire: Wire, asked: Asked) -> None:
        """Say something, hear it back, and close politely; unless it was refused or breaks."""
        await asyncio.wait({asked.done, asked.begun}, return_when=asyncio.FIRST_COMPLETED)
        turns = iter(range(random.randint(20, 40)))
        while not asked.done.done():
            if next(turns, None) is None:
                wire.transport.write(_frame(8, _NORMAL))
                await asked.done
            else:
                wire.transport.write(_frame(1, b"hello"))
                await asyncio.sleep(0.1)


def _frame(opcode: int, payload: bytes) -> bytes:
    """A masked frame (RFC 6455 §5.2), by a mask of zeros."""
    return bytes((0x80 | opcode, 0x80 | len(payload))) + b"\0\0\0\0" + payload
