"""Sessions over several workers on one Redis, with flips, crashes and restarts in between."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest
from serving import Agent, Serve, Town, until

pytestmark = pytest.mark.redis


@pytest.fixture
async def agents(town: Town) -> tuple[Agent, Agent]:
    return await town.agent("v1"), await town.agent("v2")


@pytest.fixture
def shared(town: Town, redis_server: Any) -> tuple[str, ...]:
    """The flags by which proxies become one fleet."""
    return "--store", redis_server.url, "--fleet", town.fleet


async def turn(serve: Serve, session: str) -> str:
    """One turn of a session, on a connection of its own, so that any worker may take it."""
    fields = {"Mcp-Session-Id": session, "Connection": "close"}
    async with serve.session.post(f"{serve.url}/mcp", json={"jsonrpc": "2.0"}, headers=fields) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.text()


async def turns(serve: Serve, sessions: list[str]) -> dict[str, str]:
    """A turn of each session, all at once."""
    return dict(zip(sessions, await asyncio.gather(*(turn(serve, session) for session in sessions)), strict=True))


async def test_sessions_that_hop_between_workers_stay_on_their_release(town, agents, shared):
    serve = await town.serve(*agents, *shared, workers=4)
    began: dict[str, str] = {}
    for number in range(10):
        new = [f"s-{number}-{each}" for each in range(8)]
        first = await turns(serve, new)
        assert set(first.values()) == {("v1", "v2")[number % 2]}
        began |= first
        assert await turns(serve, list(began)) == began
        await serve.flip(("green", "blue")[number % 2])
        assert await turns(serve, list(began)) == began
    status = await serve.status()
    assert status["colors"]["blue"]["sessions"] == 40
    assert status["colors"]["green"]["sessions"] == 40


async def test_sessions_outlive_a_worker_that_is_killed_and_a_restart(town, agents, shared):
    serve = await town.serve(*agents, *shared, workers=2)
    began = await turns(serve, [f"a-{each}" for each in range(8)])
    await serve.flip("green")
    began |= await turns(serve, [f"b-{each}" for each in range(8)])
    os.kill(serve.workers[0], signal.SIGKILL)
    await serve.ready(workers=3)
    assert await turns(serve, list(began)) == began
    serve.signal(signal.SIGTERM)
    assert await serve.ended() == 0
    again = await town.serve(*agents, *shared, workers=2)
    assert await turns(again, list(began)) == began
    assert set(began.values()) == {"v1", "v2"}


async def test_the_same_new_session_on_all_workers_at_once_is_one_session(town, agents, shared):
    serve = await town.serve(*agents, *shared, workers=4)
    for number in range(20):
        flip = asyncio.create_task(serve.flip(("green", "blue")[number % 2]))
        said = await asyncio.gather(*(turn(serve, f"s-{number}") for _ in range(8)))
        await flip
        assert len(set(said)) == 1, said
        assert await turn(serve, f"s-{number}") == said[0]


async def test_after_a_rollback_sessions_leave_the_bad_release_and_all_workers_agree(town, agents, shared):
    serve = await town.serve(*agents, *shared, workers=2)
    await serve.flip("green")
    sessions = [f"s-{each}" for each in range(6)]
    assert set((await turns(serve, sessions)).values()) == {"v2"}
    status, _ = await serve.api("POST", "/v1/rollback", {"reason": "bad"})
    assert status == 200

    async def all_have_left() -> bool:
        return set((await turns(serve, sessions)).values()) == {"v1"}

    await until(all_have_left)
    for _ in range(5):
        assert await all_have_left()


async def test_known_sessions_stay_and_new_ones_are_pinned_while_redis_is_away(town, agents, own_redis):
    serve = await town.serve(*agents, "--store", own_redis.url, "--fleet", town.fleet, workers=1)
    began = await turns(serve, ["a", "b"])
    await serve.flip("green")
    own_redis.kill()
    await until(lambda: _is_away(serve))
    began |= await turns(serve, ["c"])
    assert began == {"a": "v1", "b": "v1", "c": "v2"}
    assert await turns(serve, ["a", "b", "c"]) == began


async def _is_away(serve: Serve) -> bool:
    return bool((await serve.status())["store"]["state"] == "down")
