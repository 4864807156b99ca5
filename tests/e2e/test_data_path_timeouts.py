"""Every timeout and the other limits by their names, each set small in a test of its own, and what they leave alone."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from pathlib import Path

import pytest
from rig import Rig, Script, Serving, get, ok, post, until
from wire import Ended, Message, Wire

SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def code(answer: Message) -> str:
    """The problem's code."""
    return str(json.loads(answer.body)["code"])


async def test_client_head_timeout(rig: Rig) -> None:
    agent = rig.agent(Serving())
    proxy = await rig.proxy(agent, timeouts={"client_head_timeout": 0.2})
    client = await proxy.connect()
    await client.send(b"GET / HTTP/1.1\r\n")
    answer = await client.answer()
    assert (answer.status, code(answer)) == (408, "request_timeout")
    assert await client.end() == "fin"
    assert not agent.wires


async def test_client_head_timeout_is_not_put_off_by_single_bytes(rig: Rig) -> None:
    proxy = await rig.proxy(rig.agent(Serving()), timeouts={"client_head_timeout": 0.3})
    client = await proxy.connect()
    began = time.monotonic()
    answered = asyncio.create_task(client.answer())
    for byte in get("/", "X-Pad: " + "p" * 10_000):
        if answered.done():
            break
        await client.send(bytes([byte]))
        await asyncio.sleep(0.01)
    assert (await answered).status == 408
    assert time.monotonic() - began < 2.0


async def test_client_head_timeout_of_a_later_request(rig: Rig) -> None:
    """Its time begins with its own first byte, not with the connection or the request before."""
    _, _, client, agent = await rig.asked(
        get("/slow"), b"GET /next HTTP/1.1\r\n", timeouts={"client_head_timeout": 0.4}
    )
    await asyncio.sleep(0.8)
    await agent.send(ok(b"slow"))
    assert (await client.answer()).body == b"slow"
    await client.send(b"Host: a\r\n\r\n")
    assert (await agent.head()).target == b"/next"
    await agent.send(ok(b"next"))
    assert (await client.answer()).body == b"next"


async def test_client_body_timeout(rig: Rig) -> None:
    script = Script()
    for framing in ("Content-Length: 10", "Transfer-Encoding: chunked"):
        for part in (b"", b"1\r\nx\r\n"):
            proxy = await rig.proxy(rig.agent(script), timeouts={"client_body_timeout": 0.2})
            client = await proxy.connect()
            await client.send(get("/", framing, method="POST"), part)
            answer = await client.answer()
            assert (answer.status, code(answer)) == (408, "request_timeout")
            agent = await script.next()
            await agent.gone()
            assert await client.end() == "fin"
            assert proxy.slot().broken_agent == 0
            assert proxy.upstream().failures == 0


async def test_client_body_timeout_is_between_two_reads(rig: Rig) -> None:
    agent = Serving()
    proxy = await rig.proxy(rig.agent(agent), timeouts={"client_body_timeout": 0.6})
    client = await proxy.connect()
    await client.send(get("/", "Content-Length: 5", method="POST"))
    for _ in range(5):
        await asyncio.sleep(0.2)
        await client.send(b"x")
    assert (await client.answer()).status == 200


async def test_client_body_timeout_waits_for_100_continue(rig: Rig) -> None:
    """A client that asked to be told when to send is not slow before it was told."""
    _, _, client, agent = await rig.asked(
        get("/", "Content-Length: 4", "Expect: 100-continue", method="POST"), timeouts={"client_body_timeout": 0.2}
    )
    await asyncio.sleep(0.8)
    await agent.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert (await client.answer()).status == 100
    assert (await client.answer()).status == 408  # now it is


async def test_keepalive_timeout(rig: Rig) -> None:
    proxy = await rig.proxy(rig.agent(Serving()), timeouts={"keepalive_timeout": 0.2})
    client = await proxy.connect()
    assert await client.end() == "fin"
    client = await proxy.connect()
    await client.send(get())
    assert (await client.answer()).status == 200
    assert await client.end() == "fin"


async def test_an_empty_line_behind_a_body_is_no_slow_head(rig: Rig) -> None:
    """Old clients send one; it must not earn the next request a 408."""
    proxy = await rig.proxy(rig.agent(Serving()), timeouts={"client_head_timeout": 0.1})
    client = await proxy.connect()
    await client.send(post(b"body") + b"\r\n")
    assert (await client.answer()).status == 200
    await asyncio.sleep(0.5)
    await client.send(get())
    assert (await client.answer()).status == 200


async def test_response_head_timeout(rig: Rig) -> None:
    script = Script()
    proxy = await rig.proxy(rig.agent(script), timeouts={"response_head_timeout": 0.2})
    client = await proxy.connect()
    await client.send(get())
    answer = await client.answer()
    assert (answer.status, code(answer), answer.get(b"connection")) == (504, "response_timeout", None)
    agent = await script.next()
    await agent.gone()
    await client.send(post(b"x"))
    assert (await client.answer()).status == 504
    assert proxy.slot().broken_agent == 2


async def test_response_head_timeout_begins_with_the_end_of_the_request(rig: Rig) -> None:
    script = Script()
    proxy = await rig.proxy(rig.agent(script), timeouts={"response_head_timeout": 0.4})
    client = await proxy.connect()
    await client.send(get("/", "Content-Length: 4", method="POST"))
    agent = await script.next()
    for byte in b"slow":
        await asyncio.sleep(0.25)
        await client.send(bytes([byte]))
    await agent.until(b"slow")
    await agent.send(ok(b"fine"))
    assert (await client.answer()).body == b"fine"


async def test_stream_idle_timeout(rig: Rig) -> None:
    _, _, client, agent = await rig.asked(get(), timeouts={"stream_idle_timeout": 0.4})
    await agent.send(SSE)
    await client.head()
    for _ in range(4):  # each event puts it off
        await asyncio.sleep(0.2)
        await agent.send(b"9\r\ndata: x\n\n\r\n")
        assert await client.chunk() == b"data: x\n\n"
    with pytest.raises(Ended):
        await client.chunk()
    await agent.gone()


async def test_stream_idle_timeout_is_off_by_default_and_so_are_all_others_for_a_stream(rig: Rig) -> None:
    short = dict.fromkeys(
        ("client_head_timeout", "client_body_timeout", "keepalive_timeout", "response_head_timeout", "connect_timeout"),
        0.2,
    )
    _, _, client, agent = await rig.asked(get(), timeouts=short)
    await agent.send(SSE)
    await client.head()
    await asyncio.sleep(0.9)
    await agent.send(b"9\r\ndata: x\n\n\r\n")
    assert await client.chunk() == b"data: x\n\n"


async def test_write_stall_timeout_of_a_client_that_reads_nothing(rig: Rig) -> None:
    async def endless(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            await wire.send(b"x" * 100_000)

    proxy = await rig.proxy(rig.agent(endless), timeouts={"write_stall_timeout": 0.3})
    client = await proxy.connect(rcvbuf=4_096)
    await client.send(get())
    await until(lambda: proxy.slot().broken_client == 1, "the client is given up")
    await until(lambda: not proxy.plane.connections)


async def test_write_stall_timeout_leaves_a_slow_reader_alone(rig: Rig) -> None:
    size = 3_000_000
    proxy = await rig.proxy(rig.agent(Serving(ok(b"x" * size))), timeouts={"write_stall_timeout": 0.5})
    client = await proxy.connect(rcvbuf=4_096)
    await client.send(get())
    await client.head()
    for _ in range(10):
        await asyncio.sleep(0.12)
        await client.exactly(60_000)
    assert len(await client.exactly(size - 600_000)) == size - 600_000


async def test_write_stall_timeout_leaves_an_agent_alone_that_takes_a_body_slowly(rig: Rig) -> None:
    script = Script()
    proxy = await rig.proxy(rig.agent(script, rcvbuf=4_096), timeouts={"write_stall_timeout": 0.5})
    client = await proxy.connect()
    size = 20_000_000
    sender = asyncio.create_task(client.send(post(b"x" * size)))
    agent = await script.next()
    await agent.head()
    for _ in range(10):
        await asyncio.sleep(0.12)
        await agent.exactly(30_000)
    await agent.exactly(size - 300_000)
    await agent.send(ok(b"all of it"))
    assert (await client.answer()).body == b"all of it"
    await sender


async def test_write_stall_timeout_of_an_agent_that_takes_nothing(rig: Rig) -> None:
    script = Script()
    proxy = await rig.proxy(rig.agent(script, rcvbuf=4_096), timeouts={"write_stall_timeout": 0.3})
    client = await proxy.connect()
    sender = asyncio.create_task(client.send(post(b"x" * 20_000_000)))
    answer = await client.answer()
    assert (answer.status, code(answer)) == (504, "response_timeout")
    sender.cancel()
    await asyncio.gather(sender, return_exceptions=True)


async def test_write_stall_timeout_of_a_client_that_never_takes_its_last_answer(rig: Rig) -> None:
    proxy = await rig.proxy(rig.agent(Serving(ok(b"x" * 60_000))), timeouts={"write_stall_timeout": 0.3})
    client = await proxy.connect(rcvbuf=1_024)
    await client.send(*[get()] * 99, get("/", "Connection: close"))
    await until(lambda: proxy.plane.connections)
    await until(lambda: not proxy.plane.connections)


async def test_linger_timeout(rig: Rig) -> None:
    proxy = await rig.proxy(rig.agent(Serving()), timeouts={"linger_timeout": 0.2})
    client = await proxy.connect()
    await client.send(b"nonsense\r\n\r\n")
    assert (await client.answer()).status == 400
    assert await client.end() == "fin"
    await until(lambda: not proxy.plane.connections, "dropped though the client keeps it open")


async def test_wait_timeout_and_max_connections(rig: Rig) -> None:
    script = Script()
    proxy = await rig.proxy(rig.agent(script), pool={"max_connections": 1, "wait_timeout": 0.2})
    first, second = await proxy.connect(), await proxy.connect()
    await first.send(get("/first"))
    agent = await script.next()
    await agent.head()
    await second.send(post(b"x"))
    answer = await second.answer()
    assert (answer.status, code(answer), answer.get(b"retry-after")) == (503, "no_connection", b"1")
    await agent.send(ok(b"first"))
    assert (await first.answer()).body == b"first"
    await second.send(get("/second"))
    assert (await agent.head()).target == b"/second"
    await agent.send(ok(b"second"))
    assert (await second.answer()).body == b"second"


async def test_wait_timeout_is_not_put_off_by_a_body_that_comes_meanwhile(rig: Rig) -> None:
    script = Script()
    proxy = await rig.proxy(rig.agent(script), pool={"max_connections": 1, "wait_timeout": 0.3})
    first, second = await proxy.connect(), await proxy.connect()
    await first.send(get("/first"))
    agent = await script.next()
    await agent.head()
    await second.send(get("/", "Content-Length: 1000", method="POST"))
    answered = asyncio.create_task(second.answer())
    began = time.monotonic()
    while not answered.done():
        await second.send(b"x")
        await asyncio.sleep(0.02)
        assert time.monotonic() - began < 3.0
    assert (await answered).status == 503


async def test_a_waiting_body_is_bounded_and_goes_on_at_the_agents_pace(rig: Rig, tmp_path: Path) -> None:
    """What had come is more than the agent takes at once: the client must stay paused when the connection stands."""
    script = Script()
    pool = {"max_connections": 1, "wait_timeout": 30.0}
    limits = {"high_water_bytes": 1_024}
    proxy = await rig.proxy(rig.agent(script, path=str(tmp_path / "agent.sock")), pool=pool, limits=limits)
    first, second = await proxy.connect(), await proxy.connect()
    await first.send(get("/first"))
    agent = await script.next()
    await agent.head()
    size = 30_000_000
    sender = asyncio.create_task(second.send(post(b"x" * size)))
    await proxy.reads_no_more()
    await agent.send(ok(b"first"))
    await first.answer()
    (connection,) = [c.exchange.connection for c in proxy.plane.connections if c.exchange is not None]
    assert connection is not None
    for _ in range(100):
        await asyncio.sleep(0)
        assert connection.transport.get_write_buffer_size() < 1_000_000
    assert not sender.done()
    assert (await agent.head()).get(b"content-length") == b"%d" % size
    await agent.exactly(size)
    await agent.send(ok(b"second"))
    assert (await second.answer()).body == b"second"
    await sender


async def test_max_waiting(rig: Rig) -> None:
    script = Script()
    proxy = await rig.proxy(rig.agent(script), pool={"max_connections": 1, "max_waiting": 2, "wait_timeout": 30.0})
    clients = [await proxy.connect() for _ in range(4)]
    for number, client in enumerate(clients[:3]):
        await client.send(get(f"/{number}"))
        await until(lambda n=number: proxy.slot().in_flight == n + 1)
    agent = await script.next()
    await agent.head()
    await clients[3].send(get())
    answer = await clients[3].answer()
    assert (answer.status, code(answer)) == (503, "no_connection")
    for number in range(3):
        await agent.send(ok(b"%d" % number))
        assert (await clients[number].answer()).body == b"%d" % number
        if number < 2:
            assert (await agent.head()).target == b"/%d" % (number + 1)


async def test_max_connections_hold_for_a_burst_too(rig: Rig) -> None:
    proxy = await rig.proxy(rig.agent(Serving()), limits={"max_connections": 5})
    burst = [socket.create_connection(proxy.address) for _ in range(40)]  # all of them wait when the first is accepted
    for sock in burst:
        sock.setblocking(False)
    clients = [Wire(sock) for sock in burst]
    proxy.clients += clients
    refused = proxy.metrics.refused
    await until(lambda: proxy.metrics.connections_total + refused.get("too_many_connections", 0) == 40)
    assert (proxy.metrics.connections, refused.get("too_many_connections")) == (5, 35)
    clients[0].close()
    await until(lambda: proxy.metrics.connections == 4)
    assert (await proxy.ask(get())).status == 200


async def test_max_connections_of_clients(rig: Rig) -> None:
    proxy = await rig.proxy(rig.agent(Serving()), limits={"max_connections": 2})
    clients = [await proxy.connect() for _ in range(2)]
    for client in clients:
        await client.send(get())
        assert (await client.answer()).status == 200
    for request in (b"", get()):  # whether its request was faster than we, or comes when we have answered
        third = await proxy.connect()
        await third.send(request)
        await asyncio.sleep(0.05)
        await third.send(get())
        answer = await third.answer()
        assert (answer.status, code(answer), answer.get(b"retry-after")) == (503, "too_many_connections", b"1")
        assert await third.end() == "fin"
    clients[0].close()
    await until(lambda: proxy.metrics.connections == 1)
    assert (await proxy.ask(get())).status == 200
