"""What answers mint, where the store is slow or the id is somebody else's: bytes that wait, and whose session it is."""

from __future__ import annotations

import asyncio

from rig import Proxy, Rig, Script, Serving, get, ok, post, until
from wire import Wire

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def saying(name: str, *fields: bytes) -> Serving:
    return Serving(lambda _: ok(name.encode(), *fields))


def event(text: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(text), text)


async def streaming(proxy: Proxy, script: Script, target: str = "/", *fields: str) -> tuple[Wire, Wire]:
    """A client and its agent, with an event stream between them."""
    client = await proxy.connect()
    await client.send(get(target, *fields))
    agent = await script.next()
    await agent.request()
    await agent.send(STREAM)
    await client.head()
    return client, agent


async def test_each_new_id_waits_for_its_own_pin_and_not_for_the_time_of_one_before(rig: Rig) -> None:
    script = Script()
    proxy = await rig.proxy(rig.agent(script), sessions=["sse"], session_options={"pin_write_timeout": 0.4})
    client, agent = await streaming(proxy, script)
    await agent.send(event(b"id: 1\ndata: a\n\n"))
    assert await client.chunk() == b"id: 1\ndata: a\n\n"  # its pin is written, its time runs on
    await asyncio.sleep(0.25)
    rig.pins.open.clear()
    await agent.send(event(b"id: 2\ndata: b\n\n"))
    await asyncio.sleep(0.25)
    assert client.is_silent()
    rig.pins.open.set()
    assert await client.chunk() == b"id: 2\ndata: b\n\n"


async def test_an_id_that_is_somebody_else_s_gives_no_hold_on_that_session(rig: Rig) -> None:
    """An agent of green says an id of a session on blue, and then one of its own."""
    script = Script()
    proxy = await rig.proxy(
        rig.agent(saying("blue")), green=(rig.agent(script),), sessions=["sse"], session_options={"on_rollback": "stay"}
    )
    assert (await proxy.ask(get("/", "Last-Event-ID: theirs"))).body == b"blue"
    [theirs] = rig.pins._pins
    proxy.flip("green")
    client, agent = await streaming(proxy, script)
    await agent.send(event(b"id: theirs\ndata: a\n\n"))
    assert await client.chunk()
    assert theirs not in proxy.plane.busy
    await agent.send(event(b"id: own\ndata: b\n\n"))
    assert await client.chunk()
    await agent.send(b"0\r\n\r\n")
    await until(lambda: not proxy.counts().get("in_flight green"))
    assert (await proxy.ask(get("/", "Last-Event-ID: theirs"))).body == b"blue"
    asking = asyncio.create_task(proxy.ask(get("/", "Last-Event-ID: own")))
    assert (await agent.request()).get(b"last-event-id") == b"own"
    await agent.send(ok(b"green"))
    assert (await asking).body == b"green"


async def test_a_stream_that_names_somebody_else_s_session_does_not_end_it(rig: Rig) -> None:
    script = Script()
    proxy = await rig.proxy(rig.agent(saying("blue")), green=(rig.agent(script),), sessions=["mcp"])
    assert (await proxy.ask(post(b"{}", target="/messages?session_id=S"), b"POST")).body == b"blue"
    proxy.flip("green")
    client, agent = await streaming(proxy, script, "/sse")
    asked = rig.pins.asked
    await agent.send(event(b"event: endpoint\ndata: /messages?session_id=S\n\n"))
    assert await client.chunk()
    await until(lambda: rig.pins.asked > asked)
    await agent.send(b"0\r\n\r\n")
    await until(lambda: not proxy.counts().get("in_flight green"))
    await asyncio.sleep(0.05)
    assert rig.pins._pins
    assert (await proxy.ask(post(b"{}", target="/messages?session_id=S"), b"POST")).body == b"blue"


async def test_a_slow_reader_that_wakes_up_gets_what_waits_for_a_pin_in_its_turn(rig: Rig) -> None:
    """While bytes wait for their pin nothing more is read, whoever wakes up meanwhile."""
    script = Script()
    proxy = await rig.proxy(rig.agent(script), sessions=["sse"], session_options={"pin_write_timeout": 5.0})
    _, agent = await streaming(proxy, script)
    rig.pins.open.clear()
    await agent.send(event(b"id: 1\ndata: a\n\n"))
    await until(lambda: rig.pins.asked)
    [connection] = proxy.plane.connections
    connection.pause_writing()
    connection.resume_writing()
    assert connection.exchange is not None
    assert connection.exchange.connection is not None
    assert not connection.exchange.connection.reading
    rig.pins.open.set()
    await until(lambda: connection.exchange.connection.reading)
