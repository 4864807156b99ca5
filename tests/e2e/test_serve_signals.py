"""The end of a proxy: nobody new gets in, what is in flight finishes, and what cannot ends the way of its protocol."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest
from serving import Agent, Serve, Town, until

from tests.e2e.in_flight import asking, closed, event, one_of_each, talking

LONG, SHORT = "30", "0.7"


@pytest.fixture
async def agent(town: Town) -> Agent:
    return await town.agent("v1")


async def refused(serve: Serve) -> bool:
    """Whether a new client cannot get in."""
    try:
        wire = await serve.connect()
    except (ConnectionRefusedError, ConnectionResetError):  # reset: it stood in the queue of a socket that was closed
        return True
    wire.close()
    return False


async def test_what_is_in_flight_finishes_and_nobody_new_gets_in(town, agent):
    serve = await town.serve(agent, BGPROXY_GRACE_TIMEOUT=LONG)
    async with one_of_each(serve, agent) as (request, stream, line):
        serve.signal(signal.SIGTERM)
        await until(lambda: refused(serve), "new clients are refused")
        assert (await serve.api("GET", "/livez"))[0] == 200
        code, problem = await serve.api("GET", "/readyz")
        assert (code, problem["ready"], problem["draining"]) == (503, False, True)

        agent.say()
        await event(stream, 2)
        await line.send("still")
        assert await line.recv() == "v1 still"
        assert serve.process.poll() is None

        agent.finish()
        answer = await request.answer()
        assert (answer.status, answer.body, answer.get(b"connection")) == (200, b"v1", b"close")
        assert await request.end() == "fin"
        await line.close()
        while await stream.chunk():
            pass
    assert await serve.ended() == 0
    assert "still open at the deadline" not in serve.log


async def test_idle_clients_hold_nothing_up_and_a_last_request_is_answered(town, agent):
    serve = await town.serve(agent, BGPROXY_GRACE_TIMEOUT=LONG)
    async with asking(serve, "/") as idle, asking(serve, "/") as late:
        assert (await idle.answer()).body == (await late.answer()).body == b"v1"
        serve.signal(signal.SIGTERM)
        await until(lambda: refused(serve))
        await late.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")  # it was on its way already
        answer = await late.answer()
        assert (answer.status, answer.get(b"connection")) == (200, b"close")
        assert await idle.end() == "fin"
        assert await late.end() == "fin"
    assert await serve.ended() == 0


async def test_at_the_deadline_each_protocol_ends_in_its_own_way(town, agent):
    serve = await town.serve(agent, BGPROXY_GRACE_TIMEOUT=SHORT)
    async with one_of_each(serve, agent) as (request, stream, line):
        await line.send("one")
        assert await line.recv() == "v1 one"

        serve.signal(signal.SIGTERM)
        assert await closed(line) == (1001, "the proxy is shutting down")
        assert await stream.chunk() == b"retry: 1000\n"
        assert await stream.chunk() == b""  # the last chunk: a client sees an end, not a break
        assert await stream.until(b"\r\n") == b"\r\n"
        assert await stream.end() == "fin"
        answer = await request.answer()
        assert answer.status == 503
        assert b"urn:bgproxy:problem:shutting_down" in answer.body
        assert await request.end() == "fin"
    assert await serve.ended() == 0
    await until(lambda: agent.closes == [1001], "the agent is told the same")
    await until(lambda: agent.held == agent.streams == 0, "the agent works for nobody any more")
    assert "3 connections were still open at the deadline" in serve.log


async def test_a_stream_in_the_middle_of_an_event_is_given_a_moment_to_end_it(town, agent):
    """What cannot end between two events is broken off such that its client can tell."""
    serve = await town.serve(agent, BGPROXY_GRACE_TIMEOUT=SHORT)
    async with asking(serve, "/half") as stream:
        assert (await stream.head()).status == 200
        assert await stream.chunk() == b"data: ha"
        serve.signal(signal.SIGTERM)
        assert await stream.end() in ("fin", "reset")  # and no last chunk before it: the event never ended
    assert await serve.ended() == 0


async def test_a_second_signal_hurries(town, agent):
    serve = await town.serve(agent, BGPROXY_GRACE_TIMEOUT=LONG)
    async with asking(serve, "/events") as stream, talking(serve) as line:
        await stream.head()
        await event(stream, 1)
        serve.signal(signal.SIGTERM)
        await until(lambda: refused(serve))
        serve.signal(signal.SIGTERM)
        assert await closed(line) == (1001, "the proxy is shutting down")
        assert [await stream.chunk(), await stream.chunk()] == [b"retry: 1000\n", b""]
    assert await serve.ended() == 0
    assert "told once more to end" in serve.log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_ctrl_c_on_a_terminal_is_one_signal_although_every_process_gets_it(town, agent, number):
    """A terminal sends SIGINT, and systemd SIGTERM, to all processes at once: that is no hurry."""
    serve = await town.serve(agent, BGPROXY_GRACE_TIMEOUT=LONG)
    async with asking(serve, "/hold") as request:
        await until(lambda: agent.held == 1)
        serve.signal(number, group=True)
        await until(lambda: refused(serve))
        agent.finish()
        assert (await request.answer()).body == b"v1"
    assert await serve.ended() == 0
    assert "told once more" not in serve.log


async def test_told_to_end_while_it_starts_it_ends_well(town, agent):
    serve = town.start("--blue", agent.url)
    await serve.said("listening on")
    serve.signal(signal.SIGTERM)
    assert await serve.ended() == 0


@pytest.mark.redis
async def test_all_workers_drain(town, agent, redis_server):
    serve = await town.serve(
        agent, None, "--store", redis_server.url, "--fleet", town.fleet, workers=2, BGPROXY_GRACE_TIMEOUT=LONG
    )
    async with contextlib.AsyncExitStack() as stack:
        requests = [await stack.enter_async_context(asking(serve, "/hold")) for _ in range(10)]
        await until(lambda: agent.held == 10)
        nodes = (await serve.status())["nodes"]
        assert sorted(node["in_flight"].get("blue", 0) > 0 for node in nodes) == [True, True], "not spread: ask more"
        serve.signal(signal.SIGTERM)
        await until(lambda: refused(serve))
        agent.finish()
        assert [(await request.answer()).body for request in requests] == [b"v1"] * 10
    assert await serve.ended() == 0


async def test_a_worker_that_hangs_is_killed_at_last(town, agent):
    serve = await town.serve(agent, BGPROXY_GRACE_TIMEOUT="0")
    os.kill(serve.workers[0], signal.SIGSTOP)
    serve.signal(signal.SIGTERM)
    assert await serve.ended() == 1
    assert not serve.workers
