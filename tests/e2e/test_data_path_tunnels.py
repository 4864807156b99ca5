"""After a 101: every byte passes, those glued to the heads too, each half closes by itself, no count stays behind."""

from __future__ import annotations

import asyncio
from itertools import product

import pytest
from rig import Proxy, Rig, Script, Serving, get, ok, until
from wire import Wire

UPGRADE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x")
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: y\r\n\r\n"
)


async def echo(wire: Wire) -> None:
    """Switch, send back what comes, and close when the client has closed its half."""
    await wire.head()
    await wire.send(SWITCH)
    if wire.held:
        await wire.send(wire.held)
    while data := await wire.more():
        await wire.send(data)


async def opened(rig: Rig) -> tuple[Proxy, Wire, Wire]:
    """A tunnel with both of its ends in the test's hands: client, agent."""
    proxy, _, client, agent = await rig.asked(get("/ws", *UPGRADE))
    await agent.send(SWITCH)
    await client.head()
    await until(lambda: proxy.slot().websockets == 1)
    return proxy, client, agent


async def test_both_heads_say_what_an_upgrade_needs(rig: Rig) -> None:
    script = Script()
    proxy = await rig.proxy(rig.agent(script), forwarding={"debug_header": True})
    client = await proxy.connect()
    await client.send(get("/ws", *UPGRADE, "HTTP2-Settings: AAMAAABk"))
    agent = await script.next()
    head = await agent.head()
    assert (head.get(b"connection"), head.get(b"upgrade")) == (b"upgrade", b"websocket")
    assert head.get(b"sec-websocket-key") == b"x"
    assert head.get(b"http2-settings") is None
    await agent.send(SWITCH)
    answer = await client.head()
    assert answer.start == b"HTTP/1.1 101 Switching Protocols"
    assert (answer.get(b"connection"), answer.get(b"upgrade")) == (b"upgrade", b"websocket")
    assert answer.get(b"sec-websocket-accept") == b"y"
    assert (answer.get(b"x-bgproxy-color"), answer.get(b"x-bgproxy-epoch")) == (b"blue", b"1")


async def test_bytes_glued_to_both_heads_are_not_lost(rig: Rig) -> None:
    script = Script()
    proxy = await rig.proxy(rig.agent(script))
    client = await proxy.connect()
    early = b"\x81\x05early\r\n\r\n" * 3
    await client.send(get("/ws", *UPGRADE), early)
    agent = await script.next()
    await agent.head()
    assert agent.held == b""  # not before the 101
    await agent.send(SWITCH + b"glued")
    await client.head()
    assert await client.exactly(5) == b"glued"
    assert await agent.exactly(len(early)) == early


async def test_many_early_bytes_wait_without_filling_the_proxy(rig: Rig) -> None:
    script = Script()
    proxy = await rig.proxy(rig.agent(script))
    client = await proxy.connect()
    early = bytes(range(256)) * 80_000
    sender = asyncio.create_task(client.send(get("/ws", *UPGRADE), early))
    agent = await script.next()
    await agent.head()
    await proxy.reads_no_more()
    (connection,) = proxy.plane.connections
    assert len(connection.buffer) < 1_000_000
    await agent.send(SWITCH)
    assert await agent.exactly(len(early)) == early
    await sender


@pytest.mark.parametrize("size", [1, 100_000, 3_000_000])
async def test_bytes_pass_both_ways(rig: Rig, size: int) -> None:
    proxy = await rig.proxy(rig.agent(echo))
    client = await proxy.connect()
    await client.send(get("/ws", *UPGRADE))
    await client.head()
    data = bytes(range(256)) * (size // 256) + b"." * (size % 256)
    sender = asyncio.create_task(client.send(data))
    assert await client.exactly(size) == data
    await sender
    client.fin()
    assert await client.end() == "fin"
    await until(lambda: proxy.slot().classes[1] == 1)
    assert proxy.slot().bytes_in == proxy.slot().bytes_out == size


async def test_an_upgrade_to_something_else_passes_too(rig: Rig) -> None:
    async def agent(wire: Wire) -> None:
        head = await wire.head()
        assert head.get(b"upgrade") == b"raw-tcp"
        await wire.send(b"HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: raw-tcp\r\n\r\n")
        while data := await wire.more():
            await wire.send(data[::-1])

    proxy = await rig.proxy(rig.agent(agent))
    client = await proxy.connect()
    await client.send(get("/", "Connection: upgrade", "Upgrade: Raw-TCP"))
    assert (await client.head()).get(b"upgrade") == b"raw-tcp"
    await client.send(b"abc")
    assert await client.exactly(3) == b"cba"


@pytest.mark.parametrize("upgrade", ["h2c", "h2c, HTTP/2.0"])
async def test_an_upgrade_to_http_2_is_not_offered(rig: Rig, upgrade: str) -> None:
    agent = Serving()
    proxy = await rig.proxy(rig.agent(agent))
    answer = await proxy.ask(
        get("/", "Connection: Upgrade, HTTP2-Settings", f"Upgrade: {upgrade}", "HTTP2-Settings: AAMAAABk")
    )
    assert answer.status == 200
    for name in (b"upgrade", b"connection", b"http2-settings"):
        assert agent.seen[0].get(name) is None


@pytest.mark.parametrize("status", [b"200 OK", b"403 Forbidden", b"426 Upgrade Required"])
async def test_an_agent_that_does_not_switch_answers_as_ever(rig: Rig, status: bytes) -> None:
    agent = rig.agent(Serving(ok(b"no", status=status)))
    proxy = await rig.proxy(agent)
    client = await proxy.connect()
    for _ in range(2):
        await client.send(get("/ws", *UPGRADE))
        answer = await client.answer()
        assert (answer.start, answer.body) == (b"HTTP/1.1 " + status, b"no")
    assert proxy.slot().websockets == 0
    assert len(agent.wires) == 1


@pytest.mark.parametrize(
    "switch",
    [
        SWITCH.replace(b"Upgrade: websocket\r\n", b""),
        SWITCH.replace(b"Upgrade: websocket", b"Upgrade: h2c"),
    ],
)
async def test_a_101_that_does_not_answer_the_upgrade_is_an_error(rig: Rig, switch: bytes) -> None:
    proxy = await rig.proxy(rig.agent(Serving(switch)))
    assert (await proxy.ask(get("/ws", *UPGRADE))).status == 502


async def test_a_101_that_nobody_asked_for_is_an_error(rig: Rig) -> None:
    proxy = await rig.proxy(rig.agent(Serving(SWITCH + b"evil")))
    client = await proxy.connect()
    await client.send(get(), get())
    assert (await client.answer()).status == 502


async def test_each_half_closes_by_itself(rig: Rig) -> None:
    _, client, agent = await opened(rig)
    client.fin()
    assert await agent.end() == "fin"
    await agent.send(b"still talking")
    assert await client.exactly(13) == b"still talking"
    agent.close()
    assert await client.end() == "fin"

    _, client, agent = await opened(rig)
    agent.fin()
    assert await client.end() == "fin"
    await client.send(b"still talking")
    assert await agent.exactly(13) == b"still talking"
    client.close()
    assert await agent.end() == "fin"


async def test_a_client_that_closed_its_half_before_the_101(rig: Rig) -> None:
    script = Script()
    proxy = await rig.proxy(rig.agent(script))
    client = await proxy.connect()
    await client.send(get("/ws", *UPGRADE), b"all I have to say")
    client.fin()
    agent = await script.next()
    await agent.head()
    await until(lambda: any(c.half_closed for c in proxy.plane.connections))
    await agent.send(SWITCH)
    assert await agent.rest() == b"all I have to say"
    await agent.send(b"answer")
    agent.close()
    assert (await client.head()).status == 101
    assert await client.rest() == b"answer"


@pytest.mark.parametrize(("who", "way"), [*product(["client", "agent"], ["reset", "close"])])
async def test_one_end_goes_and_the_other_hears_of_it(rig: Rig, who: str, way: str) -> None:
    proxy, client, agent = await opened(rig)
    leaving, staying = (client, agent) if who == "client" else (agent, client)
    getattr(leaving, way)()
    if way == "close":  # a FIN might be a half: only what is sent afterwards tells
        assert await staying.end() == "fin"
        await staying.send(b"x")
        await until(lambda: not proxy.plane.tunnels)
    assert await staying.gone() < 1.0
    await until(lambda: not proxy.plane.tunnels)


async def test_what_was_sent_before_a_close_still_arrives(rig: Rig) -> None:
    _, client, agent = await opened(rig)
    data = b"x" * 3_000_000
    sender = asyncio.create_task(agent.send(data))
    assert await client.exactly(len(data)) == data
    await sender
    await agent.send(data[:200_000])
    agent.close()
    assert await client.rest() == data[:200_000]


async def test_tunnels_give_their_place_in_the_pool_back(rig: Rig) -> None:
    proxy = await rig.proxy(rig.agent(echo), pool={"max_connections": 2})
    for number in range(6):
        client = await proxy.connect()
        await client.send(get("/ws", *UPGRADE))
        assert (await client.head()).status == 101, number
        client.fin()
        assert await client.end() == "fin"
    await until(lambda: proxy.upstream().open == 0)
    for leave in (Wire.close, Wire.reset) * 2:
        client = await proxy.connect()
        await client.send(get("/ws", *UPGRADE))
        assert (await client.head()).status == 101
        leave(client)
        await until(lambda: not proxy.plane.tunnels)
    await until(lambda: proxy.upstream().open == 0)


async def test_a_tunnel_counts_as_in_flight_until_it_ends(rig: Rig) -> None:
    proxy, client, agent = await opened(rig)
    assert proxy.slot().in_flight == 1
    assert proxy.upstream().in_flight == 1
    assert proxy.metrics.connections == 0
    assert len(proxy.plane.tunnels) == 1
    client.reset()
    await agent.gone()
    await until(lambda: not proxy.counts())


async def test_a_reader_that_stalls_holds_the_other_side_back_and_is_given_up(rig: Rig) -> None:
    """`write_stall_timeout` holds in a tunnel as it does for answers."""
    script = Script()
    proxy = await rig.proxy(rig.agent(script), timeouts={"write_stall_timeout": 0.3})
    client = await proxy.connect(rcvbuf=4_096)
    await client.send(get("/ws", *UPGRADE))
    agent = await script.next()
    await agent.head()
    await agent.send(SWITCH)
    with pytest.raises(ConnectionError):
        await agent.send(b"x" * 50_000_000)
    await until(lambda: not proxy.plane.tunnels)


async def test_a_reader_that_stalls_behind_a_close_is_given_up(rig: Rig) -> None:
    """The agent is gone, its last words wait for a client that never reads: the socket is not kept for good.

    They are fewer than would hold the agent back, so nothing but the close says that they wait.
    """
    script = Script()
    limits, timeouts = {"high_water_bytes": 100_000_000}, {"write_stall_timeout": 0.3}
    proxy = await rig.proxy(rig.agent(script), timeouts=timeouts, limits=limits)
    client = await proxy.connect(rcvbuf=4_096)
    await client.send(get("/ws", *UPGRADE))
    agent = await script.next()
    await agent.head()
    await agent.send(SWITCH + b"x" * 20_000_000)
    client.fin()
    assert await agent.end() == "fin"
    agent.close()
    await until(lambda: proxy.upstream().open == 0)
    assert proxy.plane.tunnels
    await until(lambda: not proxy.plane.tunnels)


async def test_a_deadline_says_so_once(rig: Rig) -> None:
    proxy, client, agent = await opened(rig)
    (tunnel,) = proxy.plane.tunnels
    assert tunnel.end(1001, "the proxy is shutting down")
    assert not tunnel.end(1001, "the proxy is shutting down")
    assert len(await client.rest()) == 2 + 28
    assert len(await agent.rest()) == 2 + 4 + 28


async def test_silence_in_a_tunnel_is_no_reason_to_end_it(rig: Rig) -> None:
    short = {"stream_idle_timeout": 0.1, "response_head_timeout": 0.1, "keepalive_timeout": 0.1}
    _, _, client, agent = await rig.asked(get("/ws", *UPGRADE), timeouts=short)
    await agent.send(SWITCH)
    await client.head()
    await asyncio.sleep(0.8)
    await client.send(b"still here")
    assert await agent.exactly(10) == b"still here"


async def test_a_deadline_ends_a_half_closed_tunnel_without_an_error(rig: Rig) -> None:
    """Nothing can be written any more to a side to which the other one's FIN was passed on."""
    proxy, client, agent = await opened(rig)
    client.fin()
    assert await agent.end() == "fin"
    ending = asyncio.create_task(proxy.plane.end_politely())
    assert (await client.rest())[:4] == b"\x88\x1c\x03\xe9"  # a close frame: 1001
    assert await agent.end() == "fin"
    await ending
