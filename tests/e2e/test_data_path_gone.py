"""Clients and agents that close a half, close at once, or vanish, at every stage: what must still be answered is, and
what nobody waits for any more is ended within a second."""

from __future__ import annotations

import asyncio
from itertools import product

import pytest
from rig import Once, Rig, Script, Serving, get, ok, post, until
from wire import Ended, Wire

SOON = 1.0  # seconds within which an agent must see that nobody waits for its answer
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b"9\r\ndata: x\n\n\r\n"

# How a client goes away: (its name, what it does).
LEAVE = {"fin": Wire.close, "reset": Wire.reset}


@pytest.mark.parametrize("way", LEAVE)
async def test_gone_while_it_waits_for_the_answer(rig: Rig, way: str) -> None:
    proxy, _, client, agent = await rig.asked(get())
    LEAVE[way](client)
    assert await agent.gone() < SOON
    await until(lambda: proxy.slot().broken_client == 1)
    assert proxy.slot().classes[0] == 1


@pytest.mark.parametrize("way", LEAVE)
async def test_gone_while_a_stream_is_silent(rig: Rig, way: str) -> None:
    proxy, _, client, agent = await rig.asked(get())
    await agent.send(SSE, EVENT)
    await client.head()
    await client.chunk()
    LEAVE[way](client)
    assert await agent.gone() < SOON
    await until(lambda: proxy.slot().broken_client == 1)


@pytest.mark.parametrize("way", LEAVE)
async def test_gone_while_a_stream_flows(rig: Rig, way: str) -> None:
    """Nothing but the failing writes tells; the agent is asked to stop all the same."""
    ended = asyncio.get_running_loop().create_future()

    async def stream(wire: Wire) -> None:
        await wire.head()
        await wire.send(SSE)
        try:
            while True:
                await wire.send(EVENT)
                await asyncio.sleep(0.001)
        except ConnectionError:
            ended.set_result(None)

    proxy = await rig.proxy(rig.agent(stream))
    client = await proxy.connect()
    await client.send(get())
    await client.head()
    await client.chunk()
    LEAVE[way](client)
    async with asyncio.timeout(SOON):
        await ended


@pytest.mark.parametrize("way", LEAVE)
@pytest.mark.parametrize("framing", ["Content-Length: 10", "Transfer-Encoding: chunked"])
async def test_gone_in_the_middle_of_its_body(rig: Rig, way: str, framing: str) -> None:
    """The agent sees the end of the connection, and never a complete request."""
    _, _, client, agent = await rig.asked(
        get("/", framing, method="POST"), b"5\r\nhello\r\n" if "chunked" in framing else b"hello"
    )
    await agent.until(b"hello")
    LEAVE[way](client)
    with pytest.raises(Ended) as end:
        await agent.until(b"never")
    assert end.value.args[0] in (b"", b"\r\n")


async def test_a_fin_in_the_middle_of_a_body_is_an_abort_not_an_end(rig: Rig) -> None:
    _, _, client, agent = await rig.asked(get("/", "Transfer-Encoding: chunked", method="POST"), b"5\r\nhello\r\n")
    client.fin()
    with pytest.raises(Ended):
        await agent.until(b"0\r\n\r\n")
    assert await client.end() == "fin"


async def test_gone_while_its_upload_is_held_back(rig: Rig) -> None:
    """Reading from it is paused, for its agent takes nothing; its reset is noticed all the same."""
    script = Script()
    proxy = await rig.proxy(rig.agent(script, rcvbuf=4_096))
    client = await proxy.connect()
    sender = asyncio.create_task(client.send(get("/", "Content-Length: 90000000", method="POST"), b"x" * 20_000_000))
    agent = await script.next()
    await proxy.reads_no_more()
    sender.cancel()
    await asyncio.gather(sender, return_exceptions=True)
    client.reset()
    await until(lambda: not proxy.plane.connections, "the client is let go", patience=SOON)
    await agent.gone()


async def test_gone_behind_too_many_pipelined_requests(rig: Rig) -> None:
    proxy, _, client, agent = await rig.asked(get("/0"), limits={"max_pipelined": 2})
    await client.send(get("/1") * 5)
    await proxy.reads_no_more()
    client.reset()
    assert await agent.gone() < SOON


@pytest.mark.parametrize("way", LEAVE)
async def test_gone_in_the_middle_of_its_pipelined_requests(rig: Rig, way: str) -> None:
    """One is answered, the agent thinks about the second, the third waits its turn."""
    _, _, client, agent = await rig.asked(get("/1"), get("/2"), get("/3"))
    await agent.send(ok())
    await client.answer()
    assert (await agent.head()).target == b"/2"
    LEAVE[way](client)
    assert await agent.gone() < SOON


async def test_gone_while_it_waits_for_a_connection(rig: Rig) -> None:
    script = Script()
    proxy = await rig.proxy(rig.agent(script), pool={"max_connections": 1})
    first, second = await proxy.connect(), await proxy.connect()
    await first.send(get("/first"))
    agent = await script.next()
    await agent.head()
    await second.send(get("/second"))
    await until(lambda: len(proxy.upstream().waiting) == 1)
    second.reset()
    await until(lambda: not proxy.upstream().waiting, "it leaves the queue")
    await agent.send(ok(b"first"))
    assert (await first.answer()).body == b"first"
    assert agent.is_silent()


async def test_gone_in_the_middle_of_its_head(rig: Rig) -> None:
    agent = rig.agent(Serving())
    proxy = await rig.proxy(agent)
    for leave in LEAVE.values():
        client = await proxy.connect()
        await client.send(b"GET / HT")
        await until(lambda: proxy.metrics.connections == 1)
        leave(client)
        await until(lambda: proxy.metrics.connections == 0)
    assert not agent.wires


# Half-closed clients


async def test_a_client_that_closed_its_half_is_still_answered(rig: Rig) -> None:
    script = Script()
    proxy = await rig.proxy(rig.agent(script))
    agent: Wire | None = None
    for request in (get(), post(b"body"), get(version="1.0")):
        client = await proxy.connect()
        await client.send(request)
        client.fin()
        agent = agent or await script.next()
        await agent.request()
        await asyncio.sleep(0.6)  # longer than the proxy takes to look whether the client is gone for good
        await agent.send(ok(b"still here"))
        answer = await client.answer()
        if answer.status == 100:
            answer = await client.answer()
        assert answer.body == b"still here"
        assert await client.end() == "fin"


async def test_a_client_that_closes_its_half_during_the_answer_gets_all_of_it(rig: Rig) -> None:
    script = Script()
    proxy = await rig.proxy(rig.agent(script))
    for framing in (b"Content-Length: 10", b"Transfer-Encoding: chunked"):
        client = await proxy.connect()
        await client.send(get())
        agent = await script.next()
        await agent.head()
        await agent.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n", framing, b"\r\n\r\n")
        first, last = (b"hello", b"world") if b"Length" in framing else (b"5\r\nhello\r\n", b"5\r\nworld\r\n0\r\n\r\n")
        await agent.send(first)
        await client.until(b"hello")
        client.fin()
        await until(lambda: any(c.half_closed for c in proxy.plane.connections))
        await asyncio.sleep(0.6)
        await agent.send(last)
        rest = await client.rest()
        assert b"world" in rest
        assert rest.endswith(b"world" if b"Length" in framing else b"0\r\n\r\n")


async def test_a_half_closed_client_is_closed_after_its_answer_at_once(rig: Rig) -> None:
    """Its FIN came after the answer had begun, whose head promised to keep the connection."""
    proxy, _, client, agent = await rig.asked(get())
    await agent.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
    await client.until(b"ab")
    client.fin()
    await until(lambda: any(c.half_closed for c in proxy.plane.connections))
    await agent.send(b"cd")
    assert await client.until(b"cd") == b"cd"
    assert await client.end() == "fin"


async def test_every_pipelined_request_before_a_fin_is_answered(rig: Rig) -> None:
    """`printf … | nc` sends them all, then closes its half."""
    proxy = await rig.proxy(rig.agent(Serving(lambda request: ok(request.target))))
    client = await proxy.connect()
    await client.send(*[get(f"/{n}") for n in range(8)])
    client.fin()
    assert [(await client.answer()).body for _ in range(8)] == [b"/%d" % n for n in range(8)]
    assert await client.end() == "fin"


async def test_half_a_pipelined_request_before_a_fin_is_dropped(rig: Rig) -> None:
    agent = Serving()
    proxy = await rig.proxy(rig.agent(agent))
    client = await proxy.connect()
    await client.send(get(), b"GET / HTTP/1.1\r\nHo")
    client.fin()
    assert (await client.answer()).body == b"hello"
    assert await client.end() == "fin"
    assert len(agent.seen) == 1


# Agents that go


@pytest.mark.parametrize("way", LEAVE)
async def test_an_agent_gone_before_its_answer(rig: Rig, way: str) -> None:
    async def leave(wire: Wire) -> None:
        await wire.head()
        LEAVE[way](wire)

    proxy = await rig.proxy(rig.agent(leave))
    answer = await proxy.ask(post(b"x"))
    assert answer.status == 502
    assert b"agent_closed" in answer.body
    assert proxy.slot().broken_agent == 1


@pytest.mark.parametrize("way", LEAVE)
async def test_an_agent_gone_in_the_middle_of_its_head(rig: Rig, way: str) -> None:
    async def leave(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Le")
        await asyncio.sleep(0.01)
        LEAVE[way](wire)

    proxy = await rig.proxy(rig.agent(leave))
    answer = await proxy.ask(get())
    assert answer.status == 502


BROKEN_OFF = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "an open chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhello",
    "until close": b"HTTP/1.1 200 OK\r\n\r\nhello",
}


# A FIN is the good end of an answer that goes until close.
@pytest.mark.parametrize(("framing", "way"), [*product(BROKEN_OFF, ["reset"]), *product([*BROKEN_OFF][:3], ["fin"])])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_a_client_can_tell_that_the_answer_broke_off(rig: Rig, way: str, framing: str, version: str) -> None:
    """Short of its length, without its last chunk; where the framing tells nothing, by a reset."""

    async def leave(wire: Wire) -> None:
        await wire.head()
        await wire.send(BROKEN_OFF[framing])
        await go.wait()
        LEAVE[way](wire)

    go = asyncio.Event()
    proxy = await rig.proxy(rig.agent(leave))
    client = await proxy.connect()
    await client.send(get(version=version))
    await client.head()
    await client.until(b"hello")
    go.set()
    if framing != "length" and version == "1.0":
        assert await client.end() == "reset"
        return
    try:
        rest = await client.rest()
    except ConnectionResetError:
        rest = b""
    assert not rest.endswith(b"0\r\n\r\n")
    assert proxy.slot().broken_agent == 1


async def test_an_agent_that_closes_right_after_accept(rig: Rig) -> None:
    async def leave(wire: Wire) -> None:
        return

    proxy = await rig.proxy(rig.agent(leave))
    for _ in range(5):
        assert (await proxy.ask(post(b"x"))).status == 502


async def test_an_agent_that_resets_right_after_accept(rig: Rig) -> None:
    async def leave(wire: Wire) -> None:
        wire.reset()

    proxy = await rig.proxy(rig.agent(leave))
    for _ in range(5):
        assert (await proxy.ask(post(b"x"))).status == 502


async def test_an_agent_that_answers_and_closes_its_half_at_once(rig: Rig) -> None:
    async def answer(wire: Wire) -> None:
        await wire.head()
        await wire.send(ok(b"bye"))
        wire.fin()
        await wire.gone()

    proxy = await rig.proxy(rig.agent(answer))
    client = await proxy.connect()
    for _ in range(5):
        await client.send(get())
        assert (await client.answer()).body == b"bye"


async def test_everyone_goes_at_once(rig: Rig) -> None:
    """The two ends close in the same moment, in either order, many times; no count may be left behind."""
    proxy = await rig.proxy(rig.agent(Once(SSE + EVENT)))
    for number in range(60):
        client = await proxy.connect()
        await client.send(get())
        await client.head()
        await client.chunk()
        agent = next(iter(proxy.plane.connections)).exchange
        assert agent is not None
        leave = LEAVE["reset" if number % 2 else "fin"]
        if number % 3:
            leave(client)
        for upstream in proxy.plane.upstreams():
            for connection in [c.exchange.connection for c in proxy.plane.connections if c.exchange is not None]:
                assert connection is not None
                if connection.upstream is upstream:
                    connection.transport.abort()
        if not number % 3:
            leave(client)
        await until(lambda: not proxy.plane.connections)


async def test_a_client_that_has_gone_while_the_store_was_asked_is_noticed_once_its_agent_works(rig: Rig) -> None:
    script = Script()
    proxy = await rig.proxy(rig.agent(script), sessions=["header:X-Session-Id"])
    rig.pins.open.clear()
    client = await proxy.connect()
    await client.send(get("/", "X-Session-Id: s-1"))
    await until(lambda: rig.pins.asked)
    client.close()
    await asyncio.sleep(0.6)  # longer than between two sweeps
    rig.pins.open.set()
    agent = await script.next()
    await agent.request()
    assert await agent.gone() < 2.0
