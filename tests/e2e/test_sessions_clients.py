"""Sessions of clients and servers that others wrote, through flips, rollbacks, crashes and a restart of the proxy.

Whether a session was split is told by the agents: each process keeps its sessions in its own memory, fails on one that
it has not begun, and counts it. The same crowd in front of a proxy that knows no sessions must be found out.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from agents import responses, sockets, tasks, threads, tools
from clients import a2as, mcps, npm, others
from clients.talk import PATIENCE, Way
from crowd import Agents, Crowd
from serving import Serve, Town, is_alive, until

pytestmark = [pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(180)]

_TIMEOUT = 120.0  # seconds for all that one crowd goes through, on a machine that is busy with other tests

WAYS = (
    Way(tools.SESSION, mcps.session),
    Way(tools.SSE, mcps.sse, bound=True),
    Way(tools.STATE, mcps.state),
    Way(tools.TASK, mcps.task),
    Way("a2a 1.0 JSON-RPC", a2as.over("JSONRPC", "1.0")),
    Way("a2a 1.0 REST", a2as.over("HTTP+JSON", "1.0")),
    Way("a2a 0.3 JSON-RPC", a2as.over("JSONRPC", "0.3")),
    Way("a2a 0.3 REST", a2as.over("HTTP+JSON", "0.3")),
    Way(responses.CHAIN, others.responses),
    Way(responses.CONVERSATION, others.conversations),
    Way(threads.PROTOCOL, others.threads),
    Way(sockets.CONNECTION, others.connection, bound=True),
    Way(sockets.TOKEN, others.token),
)

# What the agents count by: all of A2A is one agent.
KEPT = {way.name for way in WAYS if not way.name.startswith("a2a")} | {tasks.PROTOCOL}


@pytest.fixture(scope="module")
def agents() -> Iterator[Agents]:
    agents = Agents()
    yield agents
    agents.close()


class Place:
    """Where a fleet stands: every start of its proxy is on the same address and the same store."""

    def __init__(self, town: Town, redis_server: Any, config: Path) -> None:
        self._town = town
        self._flags = ("--config", str(config), "--store", redis_server.url, "--fleet", town.fleet)
        self.serve: Serve

    async def start(self, address: str = "127.0.0.1:0") -> None:
        flags = (*self._flags, "--listen", address, "--admin", "127.0.0.1:0")
        self.serve = await self._town.start(*flags).ready(workers=4)

    async def restart(self) -> None:
        """End all of it, as a service manager would, and start it again."""
        self.serve.signal(signal.SIGTERM)
        assert await self.serve.ended() == 0
        await self.start(f"127.0.0.1:{self.serve.port}")

    async def ledgers(self) -> list[dict[str, Any]]:
        """What the proxy itself says became of the sessions at each flip and rollback."""
        code, body = await self.serve.api("GET", "/v1/flips?limit=100")
        assert code == 200, body
        return list(body["flips"])

    async def crash(self) -> None:
        """All of it, at once: supervisor, and with it the workers."""
        workers = self.serve.workers
        self.serve.signal(signal.SIGKILL)
        self.serve.process.wait()
        await until(lambda: not any(is_alive(worker) for worker in workers), "the workers' end")
        await self.start(f"127.0.0.1:{self.serve.port}")

    async def reload(self) -> None:
        self.serve.signal(signal.SIGHUP)
        await self.serve.said("reloaded")

    async def kill(self) -> None:
        """One worker, at once; its supervisor starts another."""
        os.kill(self.serve.workers[0], signal.SIGKILL)
        await self.serve.ready(workers=5)

    async def flip(self) -> None:
        """To the other color, rolled back or not."""
        active = (await self.serve.status())["active"]
        await self.serve.flip("green" if active == "blue" else "blue", force=True)

    async def rollback(self) -> None:
        code, body = await self.serve.api("POST", "/v1/rollback", {"reason": "bad"})
        assert code == 200, body


@asynccontextmanager
async def standing(
    agents: Agents, town: Town, redis_server: Any, tmp_path: Path, ways: Sequence[Way], patience: float, **config: Any
) -> AsyncIterator[tuple[Place, Crowd]]:
    """A proxy of four workers before the agents, and a crowd that is not there yet."""
    file = tmp_path / "bgproxy.toml"
    file.write_text(agents.config(**config))
    place = Place(town, redis_server, file)
    await place.start()
    crowd = Crowd(ways, place.serve.url, patience)
    try:
        async with asyncio.timeout(_TIMEOUT):  # which leaves time to end what was started
            yield place, crowd
    finally:
        await crowd.close()


DAY = (
    *("flip", "begin", "flip", "rollback", "flip", "kill", "flip", "begin", "flip", "restart", "begin"),
    *("flip", "rollback", "flip", "reload", "flip", "crash", "begin", "flip", "flip"),
)


async def live_through(agents: Agents, place: Place, crowd: Crowd) -> None:
    """All of that day; nobody comes to a stranger, and only what was bound to a cut connection ends."""
    before = await agents.count("strangers")
    await crowd.begin()
    for step in DAY:
        if step == "begin":
            await crowd.begin()
            continue
        crowd.broken = step in {"kill", "restart", "crash"}
        await crowd.round(getattr(place, step)())
        await crowd.round()
        crowd.broken = False
    assert crowd.faults == []
    assert await agents.count("strangers") - before == {}
    flips = await place.ledgers()
    assert len(flips) == DAY.count("flip") + DAY.count("rollback") == 12
    assert [flip for flip in flips if flip["lost"] or flip["moved"] or flip["ended"]] == []
    for way in crowd.ways:
        talks = [talk for talk in crowd.all if talk.way is way]
        assert {talk.place[:2] for talk in talks} == {"v1", "v2"}, way.name
        assert way.bound or max(talk.turns for talk in talks) > 20, way.name


async def test_every_turn_lands_where_its_session_began(agents, town, redis_server, tmp_path):
    async with standing(agents, town, redis_server, tmp_path, WAYS, PATIENCE) as (place, crowd):
        await live_through(agents, place, crowd)
        counted = await agents.count("begun")
        assert min(counted.values()) >= 4, counted


@pytest.mark.skipif(bool(npm.missing()), reason=npm.missing())
async def test_every_turn_of_the_npm_clients_lands_there_too(agents, town, redis_server, tmp_path):
    node = await npm.start()
    try:
        ways = [Way(tools.SESSION, node.way("session")), Way(tools.STATE, node.way("state"))]
        async with standing(agents, town, redis_server, tmp_path, ways, PATIENCE) as (place, crowd):
            await live_through(agents, place, crowd)
    finally:
        await node.close()


async def test_without_sessions_the_same_crowd_meets_strangers(agents, town, redis_server, tmp_path):
    before = await agents.count("strangers")
    async with standing(agents, town, redis_server, tmp_path, WAYS, 5.0, sessions=False) as (place, crowd):
        await crowd.begin()
        for _ in range(2):
            await crowd.round(place.flip())
            await crowd.round()
    lost = {talk.way.name for talk in crowd.all if talk.faults}
    assert lost == {way.name for way in WAYS} - {sockets.CONNECTION}
    assert set(await agents.count("strangers") - before) == KEPT - {sockets.CONNECTION}


async def test_a_rollback_moves_the_sessions_of_the_bad_release_where_it_is_told_to(
    agents, town, redis_server, tmp_path
):
    ways = [way for way in WAYS if not way.bound]
    async with standing(agents, town, redis_server, tmp_path, ways, PATIENCE, on_rollback="move") as (place, crowd):
        await crowd.begin()
        await crowd.round(place.flip())
        await crowd.begin()
        await crowd.round()
        assert crowd.faults == []
        before = await agents.count("strangers")
        await place.rollback()

        def met() -> set[tuple[str, str]]:
            return {(talk.way.name, talk.place[:2]) for talk in crowd.all if talk.faults}

        for _ in range(20):  # one that may not move yet, as a worker has not heard of it, does so at a later turn
            if met() < (moved := {(way.name, "v2") for way in ways}):
                await crowd.round()
        assert (await place.ledgers())[0]["moved"] >= len(ways)
    assert met() == moved
    assert set(await agents.count("strangers") - before) == KEPT - {sockets.CONNECTION, tools.SSE}
