"""A drain's deadline on a fleet of workers: what lives on the color ends on every worker, in its protocol's words."""

from __future__ import annotations

from typing import Any

import pytest
from serving import Serve, Town, until

from tests.e2e.in_flight import asking, closed, one_of_each

pytestmark = pytest.mark.redis
NAMED = "header:X-Session-Id"


@pytest.fixture
def fleet(town: Town, redis_server: Any) -> tuple[str, ...]:
    return "--store", redis_server.url, "--fleet", town.fleet, "--session", NAMED


async def end(serve: Serve, color: str, seconds: float = 0.0) -> None:
    code, body = await serve.api("POST", f"/v1/colors/{color}/drain", {"deadline": seconds, "reason": "enough"})
    assert code == 200, body


async def test_every_worker_tells_every_session_once_and_the_color_is_drained(town, agents, fleet):
    serve = await town.serve(*agents, *fleet, workers=2)
    sessions = [f"X-Session-Id: s-{number}" for number in range(12)]
    assert {await serve.ask("/", session) for session in sessions} == {(200, "v1")}
    await serve.flip("green")
    others = [f"X-Session-Id: o-{number}" for number in range(6)]
    assert {await serve.ask("/", session) for session in others} == {(200, "v2")}
    await end(serve, "blue")
    await until(lambda: serve.has_ended("blue"), "the deadline has passed, and each worker knows")
    for session in sessions:
        status, text = await serve.ask("/", session)
        assert (status, "urn:bgproxy:problem:session_ended" in text) == (410, True)
        assert await serve.ask("/", session) == (200, "v2")
    assert {await serve.ask("/", session) for session in others} == {(200, "v2")}
    await until(lambda: _in_phase(serve, "blue", "drained"), "it is drained, for nothing holds it any more")
    assert await serve.counted("bgproxy_refused_total", code="session_ended") == len(sessions)


async def test_what_is_in_flight_ends_in_its_protocol_s_words_and_the_agent_is_let_go(town, agents, fleet):
    blue, _ = agents
    serve = await town.serve(*agents, *fleet, workers=2)
    async with one_of_each(serve, blue) as (request, stream, line):
        await line.send("one")
        assert await line.recv() == "v1 one"
        await serve.flip("green")
        await end(serve, "blue")
        assert await closed(line) == (1012, "the release was ended; connect again")
        assert [await stream.chunk(), await stream.chunk()] == [b"retry: 1000\n", b""]
        answer = await request.answer()
        assert (answer.status, answer.get(b"retry-after")) == (503, b"1")
        assert b"urn:bgproxy:problem:release_ended" in answer.body
    await until(lambda: blue.held == blue.streams == 0, "the agent works for nobody any more")
    await until(lambda: blue.closes == [1012], "its WebSocket was closed in the same way")
    await until(lambda: _in_phase(serve, "blue", "drained"))
    assert "cut at the deadline" not in serve.log


async def test_what_offers_no_boundary_is_cut_in_the_end_and_that_is_told(town, agents, fleet):
    serve = await town.serve(*agents, *fleet, BGPROXY_TIMEOUTS__END_GRACE="0.5")
    async with asking(serve, "/half") as stream:
        assert (await stream.head()).status == 200
        assert await stream.chunk() == b"data: ha"
        await serve.flip("green")
        await end(serve, "blue")
        assert await stream.end() == "fin"  # and no last chunk
    await serve.said("cut at the deadline of initial on blue")
    assert await serve.counted("bgproxy_broken_total", side="proxy", color="blue") == 1
    await until(lambda: _in_phase(serve, "blue", "drained"))


async def _in_phase(serve: Serve, color: str, phase: str) -> bool:
    return await serve.phase(color) == phase
