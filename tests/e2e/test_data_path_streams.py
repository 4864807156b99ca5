"""Streams: event by event, at once, for as long as the agent likes; memory that stays flat when a reader is slow."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from rig import Proxy, Rig, Script, get, ok, until
from wire import Wire

EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
BOUND = 700_000  # bytes that one connection may hold: a high-water mark (64 KiB) and one read (256 KiB) on each side


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def stream(rig: Rig, head: bytes, **options: object) -> tuple[Proxy, Wire, Wire]:
    """A stream that has begun: proxy, client, agent."""
    proxy, _, client, agent = await rig.asked(get("/events", "Accept: text/event-stream"), **options)
    await agent.send(head)
    await client.head()
    return proxy, client, agent


async def test_each_event_is_seen_before_the_next_is_sent(rig: Rig) -> None:
    proxy, client, agent = await stream(rig, EVENTS)
    for number in range(50):
        event = f"id: {number}\ndata: token\n\n".encode()
        await agent.send(chunk(event))
        assert await client.chunk() == event
    assert proxy.slot().streams == 1
    await agent.send(b"0\r\n\r\n")
    assert await client.chunk() == b""
    await until(lambda: proxy.slot().streams == 0)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n\r\n",
    ],
)
async def test_a_stream_until_close_goes_event_by_event_too(rig: Rig, head: bytes) -> None:
    proxy, client, agent = await stream(rig, head)
    for _ in range(20):
        await agent.send(b"data: x\n\n")
        assert await client.chunk() == b"data: x\n\n"
    assert proxy.slot().streams == 1
    agent.close()
    assert await client.chunk() == b""


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 7])
async def test_odd_cuts_of_the_agents_chunks_hold_nothing_back(rig: Rig, cut: int) -> None:
    """A chunk's head, payload and end come in pieces: each payload byte is passed on when it is there."""
    _, client, agent = await stream(rig, EVENTS)
    payload = b""
    for number in range(8):
        event = b"data: %d\n\n" % number
        data = chunk(event)
        for at in range(0, len(data), cut):
            await agent.send(data[at : at + cut])
            await asyncio.sleep(0.001)
        while len(payload) < (number + 1) * len(event):
            payload += await client.chunk()
    assert payload == b"".join(b"data: %d\n\n" % number for number in range(8))


async def test_several_chunks_in_one_read_and_one_in_several(rig: Rig) -> None:
    _, client, agent = await stream(rig, EVENTS)
    data = b"".join(chunk(b"data: %d\n\n" % number) for number in range(200))
    await agent.send(data[:777], data[777:] + b"0\r\nX-Sum: 1\r\n\r\n")
    payload = b""
    while part := await client.chunk():
        payload += part
    assert payload == b"".join(b"data: %d\n\n" % number for number in range(200))
    assert await client.until(b"\r\n\r\n") == b"X-Sum: 1\r\n\r\n"


async def test_a_probed_stream_stays_well_framed(rig: Rig) -> None:
    """The zero by which a half-closed client is tried belongs to the next chunk's size, or to the last chunk's."""
    for last in (False, True):
        _, client, agent = await stream(rig, EVENTS.replace(b"HTTP/1.1", b"HTTP/1.1"))
        client.fin()
        await client.until(b"0")
        if not last:
            await agent.send(chunk(b"data: x\n\n"))
            assert await client.chunk() == b"data: x\n\n"
        await agent.send(b"0\r\n\r\n")
        assert await client.chunk() == b""
        assert await client.until(b"\r\n") == b"\r\n"
        assert await client.end() == "fin"


async def test_two_streams_on_two_agents_do_not_wait_for_each_other(rig: Rig) -> None:
    """One client takes nothing; the other's events come as ever."""
    script = Script()
    proxy = await rig.proxy(rig.agent(script))
    slow, quick = await proxy.connect(rcvbuf=4_096), await proxy.connect()
    await slow.send(get())
    flooding = await script.next()
    await flooding.head()
    await quick.send(get())
    agent = await script.next()
    await agent.head()
    flood = asyncio.create_task(flooding.send(EVENTS, *[chunk(b"x" * 50_000)] * 1_000))
    await agent.send(EVENTS)
    await quick.head()
    for number in range(100):
        event = b"data: %d\n\n" % number
        await agent.send(chunk(event))
        assert await quick.chunk() == event
    assert not flood.done()
    flood.cancel()
    await asyncio.gather(flood, return_exceptions=True)


def held(proxy: Proxy) -> int:
    """Bytes of payload that the proxy holds for all connections, wherever they wait."""
    total = 0
    for client in proxy.plane.connections:
        total += client.transport.get_write_buffer_size() + len(client.buffer)
        if client.exchange is not None:
            total += sum(map(len, client.exchange.pending))
            if client.exchange.connection is not None:
                total += client.exchange.connection.transport.get_write_buffer_size()
    return total


async def watch(proxy: Proxy, over: asyncio.Task[None]) -> int:
    """The most that was held until a task was done, looked at in every turn of the loop."""
    most = 0
    while not over.done():
        most = max(most, held(proxy))
        await asyncio.sleep(0)
    return most


async def read_slowly(wire: Wire, size: int) -> None:
    """In pieces, with a pause before each tenth of it, so that the writer is always far ahead."""
    for _ in range(10):
        await asyncio.sleep(0.02)
        await wire.exactly(size // 10)


async def most_held(proxy: Proxy, source: Wire, sink: Wire, size: int, *, chunked: bool) -> int:
    """The most that was held while `source` wrote as fast as it could and `sink` read slowly."""
    piece = b"x" * 100_000

    async def write() -> None:
        for _ in range(size // len(piece)):
            await source.send(chunk(piece) if chunked else piece)

    writer = asyncio.create_task(write())
    reader = asyncio.create_task(read_slowly(sink, size))
    most = await watch(proxy, reader)
    await asyncio.gather(writer, reader)
    return most


@pytest.mark.parametrize("framing", ["length", "chunked", "until close"])
async def test_a_slow_reader_of_an_answer_holds_its_agent_back(rig: Rig, framing: str) -> None:
    size = 40_000_000
    heads = {
        "length": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size,
        "chunked": EVENTS,
        "until close": b"HTTP/1.1 200 OK\r\n\r\n",
    }
    proxy, client, agent = await stream(rig, heads[framing])
    assert 0 < await most_held(proxy, agent, client, size, chunked=framing == "chunked") < BOUND
    client.close()


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_slow_reader_of_a_body_holds_its_client_back(rig: Rig, framing: str) -> None:
    size = 40_000_000
    script = Script()
    proxy = await rig.proxy(rig.agent(script))
    client = await proxy.connect()
    field = f"Content-Length: {size}" if framing == "length" else "Transfer-Encoding: chunked"
    await client.send(get("/", field, method="POST"))
    agent = await script.next()
    await agent.head()
    assert 0 < await most_held(proxy, client, agent, size, chunked=framing == "chunked") < BOUND
    client.close()


async def test_a_thousand_stalled_clients_hold_a_bounded_each(rig: Rig) -> None:
    """Nobody reads anything of what is a gigabyte to each of them."""
    count = 1_000

    async def endless(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            await asyncio.get_running_loop().sock_sendall(wire.sock, b"x" * 100_000)

    agent = rig.agent(endless, sndbuf=16_384)  # what the kernel holds besides would be gigabytes
    listening = socket.create_server(("127.0.0.1", 0), backlog=1_024)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
    proxy = await rig.proxy(agent, listening=listening)
    clients = [await proxy.connect(rcvbuf=4_096) for _ in range(count)]
    for client in clients:
        await client.send(get())
    await until(lambda: sum(c.stalled for c in proxy.plane.connections) == count, "all are stalled")
    before = held(proxy)
    await asyncio.sleep(0.2)
    assert held(proxy) == before < count * 350_000


async def test_a_client_that_never_reads_gets_no_further_answers(rig: Rig) -> None:
    """Pipelined requests that are refused one by one cost nothing to send, and would fill the proxy with answers."""
    proxy = await rig.proxy(rig.agent(Script()))
    proxy.flip("green")
    client = await proxy.connect(rcvbuf=4_096)
    sender = asyncio.create_task(client.send(get("/", "X-Pad: " + "p" * 2_000) * 30_000))
    deadline = time.monotonic() + 1.0
    most = 0
    while time.monotonic() < deadline and not sender.done():
        most = max(most, held(proxy))
        await asyncio.sleep(0)
    assert most < BOUND
    assert not sender.done()
    for _ in range(1_000):
        assert (await client.answer()).status == 503
    sender.cancel()
    await asyncio.gather(sender, return_exceptions=True)


async def test_requests_that_are_answered_at_once_are_read_no_faster_than_that(rig: Rig) -> None:
    """The client reads all answers; what it has sent ahead waits in its own kernel."""
    proxy = await rig.proxy(rig.agent(Script()))
    proxy.flip("green")
    client = await proxy.connect()
    count = 4_000
    sender = asyncio.create_task(client.send(get("/", "X-Pad: " + "p" * 3_000) * count))

    async def read() -> None:
        for _ in range(count):
            assert (await client.answer()).status == 503

    most = await watch(proxy, asyncio.create_task(read()))
    assert most < BOUND
    await sender


async def test_backpressure_leaves_the_next_exchange_alone(rig: Rig) -> None:
    """The client was slow at the end of one answer; the agent's connection, used again, must not stay paused."""
    script = Script()
    proxy = await rig.proxy(rig.agent(script))
    slow = await proxy.connect(rcvbuf=4_096)
    await slow.send(get("/big"))
    agent = await script.next()
    await agent.head()
    size = 8_000_000
    sender = asyncio.create_task(agent.send(ok(b"x" * size)))
    await until(lambda: any(c.stalled for c in proxy.plane.connections))
    head = await slow.head()
    assert head.status == 200
    assert len(await slow.exactly(size)) == size
    await sender
    await until(lambda: len(proxy.upstream().idle) == 1)
    other = await proxy.connect()
    await other.send(get("/small"))
    assert (await agent.head()).target == b"/small"
    await agent.send(ok(b"small"))
    assert (await other.answer()).body == b"small"
