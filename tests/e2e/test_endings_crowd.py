"""A drain's deadline under all the clients that others wrote: each learns at once that its session is over, in its
protocol's words, nobody hangs, and whoever begins anew is on the active color."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from agents import responses, sockets, threads, tools
from clients.talk import Way
from crowd import Agents
from serving import Serve, Town, until
from test_sessions_clients import WAYS, Place

pytestmark = [pytest.mark.redis, pytest.mark.slow]
QUICK = 5.0  # seconds within which a client knows; it is told at once

# What each client makes of it. The message of an A2A error is ours, its class is the protocol's.
TOLD = {
    tools.SESSION: "Session terminated",
    tools.SSE: "Connection closed",  # its stream was the session
    tools.STATE: "MCPError(-32602",
    tools.TASK: "Server returned an error response",  # named in the head: the body was not read for an id to echo
    "a2a 1.0 JSON-RPC": "TaskNotFoundError",
    "a2a 0.3 JSON-RPC": "TaskNotFoundError",
    "a2a 1.0 REST": "HTTP Error 410",
    "a2a 0.3 REST": "HTTP Error 410",
    responses.CHAIN: "410",
    responses.CONVERSATION: "410",
    threads.PROTOCOL: "NotFoundError",
    sockets.CONNECTION: "code=1012",
    sockets.TOKEN: "status_code=410",
}


class Ended:
    """A conversation that has had two turns when its session is ended."""

    def __init__(self, way: Way, url: str, ended: asyncio.Event) -> None:
        self.way = way
        self.begun = asyncio.Event()
        self.told = ""
        self.place = ""
        self._ended = ended
        self.task = asyncio.create_task(self._run(url))

    async def _run(self, url: str) -> None:
        with suppress(Exception):  # what a client says at its close is about a session that is over
            async with self.way.open(url, {}) as turn:
                self.place = (await turn(0))["place"]
                await turn(1)
                self.begun.set()
                await self._ended.wait()
                try:
                    self.told = f"nothing: {await asyncio.wait_for(turn(2), QUICK)}"
                except Exception as error:
                    self.told = repr(error)
                    raise


@pytest.fixture
async def serve(town: Town, redis_server: Any, tmp_path: Path) -> AsyncIterator[Serve]:
    agents = Agents()
    try:
        file = tmp_path / "bgproxy.toml"
        file.write_text(agents.config())
        place = Place(town, redis_server, file)
        await place.start()
        yield place.serve
    finally:
        agents.close()


async def test_every_client_is_told_in_its_protocol_s_words_and_begins_anew(serve: Serve) -> None:
    over = asyncio.Event()
    talks = [Ended(way, serve.url, over) for way in WAYS]
    async with asyncio.timeout(30):
        await asyncio.gather(*(talk.begun.wait() for talk in talks))
    await serve.flip("green", force=True)
    code, body = await serve.api("POST", "/v1/colors/blue/drain", {"deadline": 0.0})
    assert code == 200, body
    await until(lambda: serve.has_ended("blue"), "the deadline has passed, and each worker knows")
    over.set()
    await asyncio.wait([talk.task for talk in talks], timeout=2 * QUICK)
    assert {talk.place[:2] for talk in talks} == {"v1"}
    assert {talk.way.name: talk.told for talk in talks if TOLD[talk.way.name] not in talk.told} == {}
    assert all(talk.task.done() for talk in talks), "a client hangs"
    for way in WAYS:
        async with asyncio.timeout(QUICK), way.open(serve.url, {}) as turn:
            assert (await turn(0))["place"].startswith("v2"), way.name
    assert "cut at the deadline" not in serve.log
