"""A drain's deadline and the flips' ledgers, of proxies as they are run, on either store: what an operator is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from typing import Any

import pytest
from serving import Agent, Serve, Town, cli, until

OUTCOMES = ("kept", "moved", "ended", "lost", "turns_cut")


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
async def serve(request: pytest.FixtureRequest, town: Town, agents: tuple[Agent, Agent]) -> Serve:
    """One process on its own store; two on Redis."""
    if request.param == "memory":
        return await town.serve(*agents)
    url = request.getfixturevalue("redis_server").url
    return await town.serve(*agents, "--store", url, "--fleet", town.fleet, workers=2)


async def turn(serve: Serve, session: str) -> str:
    """One turn of a session, on a connection of its own, so that any worker may take it."""
    fields = {"Mcp-Session-Id": session, "Connection": "close"}
    async with serve.session.post(f"{serve.url}/mcp", json={"jsonrpc": "2.0"}, headers=fields) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.text()


async def begin(serve: Serve, name: str, count: int) -> list[str]:
    sessions = [f"{name}-{number}" for number in range(count)]
    await asyncio.gather(*(turn(serve, session) for session in sessions))
    return sessions


async def ledger(serve: Serve, epoch: int) -> tuple[int, ...]:
    """Kept, moved, ended, lost, turns cut."""
    status, body = await serve.api("GET", f"/v1/flips/{epoch}")
    assert status == 200, body
    return tuple(body[name] for name in OUTCOMES)


async def drain(serve: Serve) -> dict[str, Any]:
    status, body = await serve.api("GET", "/v1/colors/blue/drain")
    assert status == 200
    return dict(body)


async def verb(serve: Serve, *words: str) -> tuple[int, Any, str]:
    """One verb with --json."""
    status, out, err = await cli(*words, "--json", BGPROXY_ADMIN=serve.admin)
    return status, json.loads(out), err


async def test_a_deadline_is_set_cancelled_and_passes_and_each_session_is_accounted_for(serve):
    await begin(serve, "s", 6)
    await serve.flip("green")
    await begin(serve, "t", 2)
    assert await ledger(serve, 2) == (6, 0, 0, 0, 0)

    status, body, _ = await verb(serve, "drain", "blue", "--deadline", "600", "--reason", "v1 is old")
    assert (status, body["ended"], body["sessions"], body["drained"]) == (0, False, 6, False)
    assert 500 < body["seconds_left"] <= 600
    status, body, _ = await verb(serve, "drain", "blue", "--no-deadline")
    assert (status, body["deadline"], body["seconds_left"]) == (0, None, None)

    status, body, _ = await verb(serve, "drain", "blue", "--wait", "--timeout", "1")
    assert (status, [(one["kind"], one["count"]) for one in body["blockers"]]) == (1, [("sessions", 6)])

    status, body, _ = await verb(serve, "drain", "blue", "--wait", "--timeout", "15", "--deadline", "0.5")
    assert (status, body["drained"], body["ended"], body["sessions"], body["blockers"]) == (0, True, True, 0, [])
    assert await serve.phase("blue") == "drained"
    assert await ledger(serve, 2) == (0, 0, 6, 0, 0)

    _, record = await serve.api("GET", "/v1/audit?limit=20")
    evidence = [entry["facts"]["evidence"] for entry in record["entries"] if "evidence" in entry["facts"]]
    ended, drained = evidence[1], evidence[0]
    assert (ended["sessions"], drained["sessions"]) == (6, 0)
    assert [[one["flip"][name] for name in OUTCOMES] for one in (ended, drained)] == [[0, 0, 6, 0, 0]] * 2
    given = [entry["facts"]["deadline"] for entry in record["entries"] if "deadline" in entry["facts"]]
    assert given == [0.5, None, 600]
    assert [entry["reason"] for entry in record["entries"] if entry["verb"] == "drain"][-1] == "v1 is old"


async def test_a_rollback_lifts_a_deadline_and_its_ledger_counts_who_moved(serve):
    old = await begin(serve, "s", 5)
    await serve.flip("green")
    new = await begin(serve, "t", 4)
    assert (await serve.api("POST", "/v1/colors/blue/drain", {"deadline": 600}))[0] == 200
    assert (await serve.api("POST", "/v1/rollback", {"reason": "bad"}))[0] == 200
    assert await ledger(serve, 3) == (4, 0, 0, 0, 0)
    assert (await drain(serve))["deadline"] is None
    assert (await serve.api("POST", "/v1/colors/blue/drain", {"deadline": 5}))[0] == 409

    async def moved(session: str) -> bool:
        return await turn(serve, session) == "v1"

    for session in new[:3]:
        await until(lambda session=session: moved(session))
    for session in old:
        assert await turn(serve, session) == "v1"
    assert await ledger(serve, 3) == (1, 3, 0, 0, 0)
    assert await ledger(serve, 2) == (5, 0, 0, 0, 0)
    status = await serve.status()
    assert tuple(status["flip"][name] for name in OUTCOMES) == (1, 3, 0, 0, 0)
    assert await serve.counted("bgproxy_flip_sessions", outcome="moved") == 3
    code, body, _ = await verb(serve, "flips")
    assert (code, [(one["epoch"], one["verb"]) for one in body["flips"]]) == (0, [(3, "rollback"), (2, "flip")])
    assert (await verb(serve, "flips", "3"))[1] == status["flip"]
    assert (await verb(serve, "flips", "1"))[0] == 1


async def test_what_is_refused_of_a_deadline_ends_the_verb_with_1(serve):
    for words in (("blue",), ("blue", "--wait"), ("red",)):
        code, body, _ = await verb(serve, "drain", *words, "--deadline", "5")
        assert (code, body["code"]) == (1, "unknown_color" if "red" in words else "refused")
    assert (await serve.status())["flip"] is None


async def test_what_a_dead_worker_held_is_told_as_cut(serve, agents):
    await serve.flip("green")
    held = [asyncio.create_task(serve.ask("/hold")) for _ in range(3)]
    await until(lambda: agents[1].held == 3)
    oldest = [node["oldest"].get("green", 0.0) for node in (await serve.status())["nodes"]]
    assert max(oldest) > 0
    before = serve.log.count(" serves fleet ")
    killed = serve.workers
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    await asyncio.gather(*held, return_exceptions=True)
    await serve.ready(workers=before + len(killed))

    async def told() -> bool:
        return await ledger(serve, 2) == (0, 0, 0, 0, 3)

    await until(told)
    assert await serve.counted("bgproxy_flip_turns_cut") == 3
    agents[1].finish()


async def test_how_long_the_oldest_has_held_it(serve, agents):
    held = asyncio.create_task(serve.ask("/hold"))
    await until(lambda: agents[0].held == 1)
    await serve.flip("green")

    async def seen() -> Any:
        body = await drain(serve)
        return body if body["oldest"] is not None and body["oldest"] > 0.5 else None

    body = await until(seen)
    [blocker] = [one for one in body["blockers"] if one["kind"] == "in_flight"]
    assert (blocker["count"], blocker["oldest"]) == (1, body["oldest"])
    agents[0].finish()
    assert (await held)[0] == 200


@pytest.mark.redis
async def test_what_a_shutdown_had_to_cut_is_told_before_the_end(town, agents, redis_server):
    """What can be ended politely is not cut: only the stream in the middle of an event is."""
    shared = ("--store", redis_server.url, "--fleet", town.fleet)
    serve = await town.serve(*agents, *shared, BGPROXY_GRACE_TIMEOUT="0.2")
    await serve.flip("green")
    half, whole = await serve.connect(), await serve.connect()
    for line, path in ((half, "/half"), (whole, "/events")):
        await line.send(f"GET {path} HTTP/1.1\r\nHost: agents.test\r\n\r\n".encode())
        assert (await line.head()).status == 200
    serve.signal(signal.SIGTERM)
    assert await serve.ended() == 0
    half.close()
    whole.close()
    again = await town.serve(*agents, *shared)
    assert await ledger(again, 2) == (0, 0, 0, 0, 1)


class Way:
    """The way from one host to Redis, which can be cut."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        their_reader, their_writer = await asyncio.open_connection("127.0.0.1", self._to)
        self._writers |= {writer, their_writer}
        await asyncio.gather(self._pass(reader, their_writer), self._pass(their_reader, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
        writer.close()
        self._writers.discard(writer)


@pytest.mark.redis
async def test_sessions_that_strayed_while_a_host_was_alone_are_told_as_lost(town, agents, redis_server):
    """One host hears nothing of a flip and takes new sessions that the other takes too: who wrote them first wins."""
    way = Way(redis_server.port)
    await way.mend()
    alone = await town.serve(*agents, "--store", f"redis://127.0.0.1:{way.port}/0", "--fleet", town.fleet)
    other = await town.serve(*agents, "--store", redis_server.url, "--fleet", town.fleet)
    await way.cut()
    await until(lambda: _is_away(alone))
    await other.flip("green", strategy="swap")  # a barrier would not leave it behind
    sessions = [f"s-{number}" for number in range(3)]
    assert {await turn(other, session) for session in sessions} == {"v2"}
    assert {await turn(alone, session) for session in sessions} == {"v1"}
    await way.mend()

    async def told() -> bool:
        return await ledger(other, 2) == (0, 0, 0, 3, 0)

    await until(told)
    assert {await turn(alone, session) for session in sessions} == {"v2"}
    await way.cut()


@pytest.mark.redis
async def test_with_the_store_away_the_status_has_no_ledger_and_does_not_fail(town, agents, own_redis):
    serve = await town.serve(*agents, "--store", own_redis.url, "--fleet", town.fleet)
    await serve.flip("green")
    assert (await serve.status())["flip"]["epoch"] == 2
    own_redis.kill()
    await until(lambda: _is_away(serve))
    assert (await serve.status())["flip"] is None
    assert (await serve.api("GET", "/v1/flips/2"))[0] == 503
    assert "bgproxy_flip" not in (await serve.api("GET", "/metrics"))[1]


async def _is_away(serve: Serve) -> bool:
    return bool((await serve.status())["store"]["state"] == "down")
