"""Sessions under clients and agents that end in every odd way, with flips, deadlines, outages: nothing stays."""

from __future__ import annotations

import asyncio
import gc
import json
from contextlib import suppress
from random import Random

import pytest
from rig import Proxy, Rig, get, ok, until
from wire import Wire

from bgproxy.errors import Problem
from bgproxy.proxy.answer import Answer
from bgproxy.proxy.client import ClientConnection
from bgproxy.proxy.exchange import Exchange
from bgproxy.proxy.turn import Turn
from bgproxy.sessions.learn import Learner
from bgproxy.sessions.sighting import BodyReader

ROUNDS, AT_ONCE, IDS = 30, 25, 30
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


class OddAgent:
    """Answers each request in one of many ways, most of which mint an id."""

    def __init__(self, random: Random) -> None:
        self._random = random

    async def __call__(self, wire: Wire) -> None:
        while True:
            await wire.asked()
            how, number = self._random.randrange(9), b"%d" % self._random.randrange(IDS)
            if how == 0:
                wire.reset()
                return
            if how == 1:
                await self._stream(wire, number)
            elif how == 2:
                await wire.send(STREAM + b"\r\nevent: endpoint\ndata: /m?session_id=s%b\n\n" % number)
                return
            elif how == 3:
                await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nabc")
                return
            elif how == 4:
                await wire.send(b"garbage\r\n\r\n")
                return
            else:
                task = b'{"result":{"id":"T%b","contextId":"C%b","status":{"state":"done"}}}' % (number, number)
                answers = (ok(b"", status=b"404 Not Found"), ok(task, b"Content-Type: application/json"), ok(b"late"))
                await asyncio.sleep(0.005 * (how == 7))
                await wire.send(answers[how - 5] if how < 8 else ok(b"begun", b"Mcp-Session-Id: m%b" % number))

    async def _stream(self, wire: Wire, number: bytes) -> None:
        await wire.send(STREAM + b"Transfer-Encoding: chunked\r\n\r\n")
        for event in range(3):
            text = b'id: e%b-%d\ndata: {"result":{"task":{"id":"T%b","contextId":"C"}}}\n\n' % (number, event, number)
            await wire.send(b"%x\r\n%b\r\n" % (len(text), text))
            await asyncio.sleep(0.001)
        await wire.send(b"0\r\n\r\n")


def request(random: Random) -> bytes:
    number = random.randrange(IDS)
    names = (f"Mcp-Session-Id: m{number}", f"Last-Event-ID: e{number}-1", f"Cookie: bgproxy_session=c{number}")
    fields = [name for name in names if random.random() < 0.25]
    method = random.choice(("GET", "POST", "POST", "DELETE", "HEAD"))
    if method != "POST":
        return get(random.choice(("/mcp", f"/m?session_id=s{number}")), *fields, method=method)
    message = {"role": "user", "taskId": f"T{number}", "contextId": f"C{number}"}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "message/send", "params": {"message": message}}).encode()
    fields.append("Content-Type: application/json")
    if random.random() < 0.3:
        pieces = b"".join(
            b"%x\r\n%b\r\n" % (len(body[at : at + 7]), body[at : at + 7]) for at in range(0, len(body), 7)
        )
        return get("/mcp", "Transfer-Encoding: chunked", *fields, method=method) + pieces + b"0\r\n\r\n"
    return get("/mcp", f"Content-Length: {len(body)}", *fields, method=method) + body


async def odd_client(proxy: Proxy, random: Random) -> None:
    """A few requests at once, and an end that may come at any moment."""
    client = await proxy.connect()
    data = b"".join(request(random) for _ in range(random.choice((1, 1, 3))))
    with suppress(ConnectionError, TimeoutError):
        how = random.randrange(5)
        if how == 0:
            await client.send(data[: random.randrange(len(data))])
        elif how == 1:
            await client.send_each(data[at : at + 40] for at in range(0, len(data), 40))
            client.fin()
        else:
            await client.send(data)
        if how < 3:
            await client.more(0.03)
        await asyncio.sleep(random.random() * 0.01)
    client.reset()


async def unrest(rig: Rig, proxy: Proxy, random: Random) -> None:
    """A store that comes and goes, flips, rollbacks, deadlines."""
    while True:
        await asyncio.sleep(random.random() * 0.02)
        state = proxy.plane.state
        assert state is not None
        (idle,) = {"blue", "green"} - {state.pointer.active}
        with suppress(Problem, AssertionError):
            match random.randrange(8):
                case 0 | 1:
                    rig.pins.open.clear()
                case 2 | 3 | 4:
                    rig.pins.open.set()
                case 5:
                    proxy.flip(idle)
                case 6:
                    rig.known.connected = not rig.known.connected
                case _ if random.random() < 0.5:
                    proxy.roll_back()
                case _:
                    proxy.end_sessions(idle)


@pytest.mark.parametrize("seed", [1, 2])
async def test_of_thousands_of_odd_ends_nothing_is_left(rig: Rig, seed: int) -> None:
    random = Random(seed)
    proxy = await rig.proxy(
        rig.agent(OddAgent(random)),
        green=(rig.agent(OddAgent(random)),),
        sessions=["mcp", "a2a", "sse", "cookie"],
        session_options={"pin_write_timeout": 0.01, "policy": "follow"},
    )
    gc.collect()
    gc.disable()  # what only the collector can find would show
    try:
        unresting = asyncio.create_task(unrest(rig, proxy, random))
        for _ in range(ROUNDS):
            await asyncio.gather(*(odd_client(proxy, random) for _ in range(AT_ONCE)))
        unresting.cancel()
        rig.pins.open.set()
        rig.known.connected = True
        await until(lambda: not proxy.counts())
        pins = proxy.plane.pins
        assert pins is not None
        assert await pins.tell()
        # Whether one that has left may go on is perhaps still being asked: only the answer ends that turn.
        await until(lambda: not pins.counted()["gauges"]["turns"], "no turn holds a session on this node")
        await until(lambda: not rig.pins._turns.under_way)
        assert not proxy.plane.attended
        assert (pins._asked, pins._learning, pins._overheard._questions) == ({}, {}, {})
        kinds = (Exchange, Turn, Answer, Learner, BodyReader, ClientConnection)
        await until(lambda: not [it for it in gc.get_objects() if isinstance(it, kinds)], "all of it is forgotten")
    finally:
        gc.enable()
