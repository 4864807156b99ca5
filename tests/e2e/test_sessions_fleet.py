"""Sessions over several workers on one Redis, with flips, crashes and restarts in between."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest
from serving import Serve, until

pytestmark = pytest.mark.redis


async def turn(serve: Serve, session: str, field: str = "Mcp-Session-Id") -> str:
    """One turn of a session, on a connection of its own, so that any worker may take it."""
    fields = {field: session, "Connection": "close"}
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


async def test_a_session_moved_by_hand_moves_between_two_turns_and_all_workers_agree(town, agents, shared):
    blue, _ = agents
    serve = await town.serve(*agents, *shared, "--session", "header:X-Session-Id", workers=4)
    assert await turn(serve, "s", "X-Session-Id") == "v1"
    [busy] = await _sessions(serve)
    assert await turn(serve, "idle", "X-Session-Id") == "v1"
    [idle] = await _sessions(serve) - {busy}
    fields = {"X-Session-Id": "s", "Connection": "close"}
    async with serve.session.get(f"{serve.url}/events", headers=fields) as stream:
        told = await stream.content.readuntil(b"\n\n")
        moved = await _move(serve, busy, "green")
        assert (moved["moved"], moved["color"]) == (False, "blue")
        assert moved["goal"] == {"color": "green", "release": "initial"}
        moved = await _move(serve, idle, "green")
        assert (moved["moved"], moved["color"], moved["goal"]) == (True, "green", None)
        assert await turn(serve, "idle", "X-Session-Id") == "v2"
        for _ in range(12):  # while the stream is under way, whichever worker takes them
            assert await turn(serve, "s", "X-Session-Id") == "v1"
        blue.say()
        told += await stream.content.readuntil(b"\n\n")
        assert stream.status == 200
        blue.finish()
        assert told + await stream.content.read() == b"".join(b"id: %d\ndata: v1\n\n" % n for n in (1, 2, 3))

    async def has_moved() -> bool:
        return await turn(serve, "s", "X-Session-Id") == "v2"

    await until(has_moved)
    assert {await turn(serve, "s", "X-Session-Id") for _ in range(12)} == {"v2"}
    [shown] = [one for one in (await serve.api("GET", "/v1/sessions"))[1]["sessions"] if one["id"] == busy]
    assert (shown["color"], shown["moves"], shown["goal"]) == ("green", 1, None)
    await serve.flip("green")
    await serve.flip("blue")
    assert {await turn(serve, "s", "X-Session-Id") for _ in range(12)} == {"v2"}  # it stays there


async def _sessions(serve: Serve) -> set[str]:
    return {one["id"] for one in (await serve.api("GET", "/v1/sessions"))[1]["sessions"]}


async def _move(serve: Serve, session: str, to: str) -> dict[str, Any]:
    status, body = await serve.api("POST", f"/v1/sessions/{session}/move", {"to": to})
    assert status == 200, body
    return dict(body)
