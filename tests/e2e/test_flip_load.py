"""The main job: flips and rollbacks under load through several workers. Nothing is lost, and no stream is cut.

Every client checks what it gets and counts what is wrong; the test fails with the first few complaints.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import Any

import pytest
from serving import Agent, Serve, Town, until
from websockets.asyncio.client import connect
from wire import Ended, Wire

pytestmark = [pytest.mark.redis, pytest.mark.timeout(120)]

MOVES = 20
LABELS = {b"v1", b"v2"}


class Load:
    """Clients that go on until they are told to stop."""

    def __init__(self, serve: Serve) -> None:
        self.serve = serve
        self.over = False
        self.requests = self.streams = self.messages = 0
        self.seen: set[bytes] = set()
        self.lost: list[str] = []

    async def keep_asking(self, body: bytes, method: str) -> None:
        """Requests one after the other on connections that are kept for a while."""
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        request = f"{method} /ask HTTP/1.1\r\nHost: a\r\n{length}\r\n".encode() + body
        while not self.over:
            wire = await self.serve.connect()
            try:
                for _ in range(random.randint(1, 40)):
                    await wire.send(request)
                    answer = await wire.answer()
                    self._count(answer.status, answer.body)
                    if self.over:
                        break
            except (Ended, ConnectionError, TimeoutError) as error:
                self.lost.append(f"{method}: {error!r}")
            finally:
                wire.close()

    def _count(self, status: int, body: bytes) -> None:
        self.requests += 1
        self.seen.add(body)
        if status != 200 or body not in LABELS:
            self.lost.append(f"{status} {body!r}")

    async def keep_streaming(self) -> None:
        """Streams of a hundred events, each of one release from its first to its last."""
        while not self.over:
            wire = await self.serve.connect()
            try:
                await self._stream(wire)
            except (Ended, ConnectionError, TimeoutError, ValueError) as error:
                self.lost.append(f"stream: {error!r}")
            finally:
                wire.close()

    async def _stream(self, wire: Wire) -> None:
        await wire.send(b"GET /events?count=100&every=0.02 HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = await wire.answer()
        label = answer.body.rpartition(b"data: ")[2].strip()
        whole = b"".join(b"id: %d\ndata: %b\n\n" % (number, label) for number in range(1, 101))
        self.streams += 1
        if answer.status != 200 or label not in LABELS or answer.body != whole:
            self.lost.append(f"stream: {answer.status}, {len(answer.body)} bytes, last from {label!r}")

    async def keep_talking(self) -> None:
        """One WebSocket for all the time, answered by the release on which it began."""
        async with connect(f"ws://127.0.0.1:{self.serve.port}/socket", ping_interval=None) as line:
            await line.send("first")
            label = str(await line.recv()).partition(" ")[0]
            for number in itertools.count():
                await line.send(f"message {number}")
                said, wanted = await asyncio.wait_for(line.recv(), 10), f"{label} message {number}"
                self.messages += 1
                if said != wanted:
                    self.lost.append(f"websocket: {said!r}, not {wanted!r}")
                if self.over:
                    return
                await asyncio.sleep(0.005)


@pytest.mark.parametrize("workers", [1, 2])
async def test_flips_and_rollbacks_under_load_lose_nothing(town: Town, redis_server: Any, workers: int):
    agents: tuple[Agent, Agent] = (await town.agent("v1"), await town.agent("v2"))
    serve = await town.serve(*agents, "--store", redis_server.url, "--fleet", town.fleet, workers=workers)
    load = Load(serve)
    clients = [
        *(asyncio.create_task(load.keep_asking(b"", "GET")) for _ in range(6)),
        *(asyncio.create_task(load.keep_asking(b"x" * 1000, "POST")) for _ in range(6)),
        *(asyncio.create_task(load.keep_streaming()) for _ in range(6)),
        *(asyncio.create_task(load.keep_talking()) for _ in range(6)),
    ]
    await until(lambda: load.requests > 50 and load.messages > 20, "load")
    for number in range(MOVES):
        path, body = ("/v1/rollback", {}) if number % 4 == 3 else ("/v1/flip", {"to": ("green", "blue")[number % 2]})
        code, answer = await serve.api("POST", path, body)
        assert (code, answer["epoch"]) == (200, number + 2), answer
        before = load.requests
        await until(lambda before=before: load.requests > before + 30, "load between two moves")
    await until(lambda: load.streams >= 6, "streams that began before the flips and ended after them")
    load.over = True
    await asyncio.wait_for(asyncio.gather(*clients), 30)

    assert not load.lost, f"{len(load.lost)} lost: {load.lost[:5]}"
    assert load.seen == LABELS, "both releases have answered"
    await until(lambda: _is_idle(serve), "nothing is left in flight on any worker")
    # The agents and the proxy have counted the same as the clients.
    assert await serve.counted("bgproxy_requests_total", **{"class": "2xx"}) == load.requests + load.streams
    assert await serve.counted("bgproxy_requests_total", **{"class": "5xx"}) == 0
    for side in ("client", "agent", "proxy"):
        assert await serve.counted("bgproxy_broken_total", side=side) == 0
    assert sum(agent.asked for agent in agents) == load.requests, "no request was executed twice"
    print(f"{load.requests} requests, {load.streams} streams, {load.messages} messages, {MOVES} moves")


async def _is_idle(serve: Serve) -> bool:
    return await serve.counted("bgproxy_in_flight") == 0
