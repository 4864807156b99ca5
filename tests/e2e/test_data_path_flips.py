"""Flips as the data path sees them: what is in flight stays on its color, the next request goes to the new one, and
nothing is lost, whatever is being sent at that moment."""

from __future__ import annotations

import asyncio
import gc
import random

import pytest
from rig import Agent, Proxy, Rig, Script, Serving, get, ok, post, until
from wire import Message, Wire

from bgproxy.telemetry.metrics import KEPT_RELEASES


def colors(rig: Rig) -> tuple[Agent, Agent]:
    """Two agents that say which they are."""
    return rig.agent(Serving(ok(b"blue"))), rig.agent(Serving(ok(b"green")))


async def test_the_next_request_of_a_kept_connection_goes_to_the_new_color(rig: Rig) -> None:
    blue, green = colors(rig)
    proxy = await rig.proxy(blue, green=(green,))
    client = await proxy.connect()
    for to in ("green", "blue") * 5:
        await client.send(get())
        assert (await client.answer()).body == (b"blue" if to == "green" else b"green")
        proxy.flip(to)
    assert proxy.metrics.connections_total == 1


async def test_releases_that_are_long_gone_leave_no_series_and_the_one_in_use_keeps_its_own(rig: Rig) -> None:
    script, green = Script(), rig.agent(Serving(ok(b"green")))
    proxy = await rig.proxy(rig.agent(script), green=(green,))
    client = await proxy.connect()
    await client.send(get())
    agent = await script.next()
    await agent.head()
    proxy.flip("green")
    for number in range(2 * KEPT_RELEASES):
        proxy.stage("blue", f"w{number}", green)
    await agent.send(ok(b"late"))
    assert (await client.answer()).body == b"late"
    assert proxy.slot("blue", "v1").classes[2] == 1
    proxy.stage("blue", "last", green)
    assert len(proxy.metrics.snapshot()["series"]) == KEPT_RELEASES + 2  # and what stands on the two colors


async def test_an_answer_that_is_waited_for_comes_from_its_own_color(rig: Rig) -> None:
    script, green = Script(), Serving(ok(b"green"))
    proxy = await rig.proxy(rig.agent(script), green=(rig.agent(green),))
    client = await proxy.connect()
    await client.send(get("/1"), get("/2"))
    agent = await script.next()
    await agent.head()
    proxy.flip("green")
    await agent.send(ok(b"blue"))
    assert (await client.answer()).body == b"blue"
    assert (await client.answer()).body == b"green"  # it was read before the flip, and admitted after it


async def test_a_stream_goes_on_and_the_next_request_is_new(rig: Rig) -> None:
    script, green = Script(), Serving(ok(b"green"))
    proxy = await rig.proxy(rig.agent(script), green=(rig.agent(green),))
    client = await proxy.connect()
    await client.send(get())
    agent = await script.next()
    await agent.head()
    await agent.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    await client.head()
    for number in range(10):
        if number == 5:
            proxy.flip("green")
        await agent.send(b"9\r\ndata: %d\n\n\r\n" % number)
        assert await client.chunk() == b"data: %d\n\n" % number
    assert proxy.metrics.by_color("streams") == {"blue": 1, "green": 0}
    await agent.send(b"0\r\n\r\n")
    assert await client.chunk() == b""
    await client.until(b"\r\n")
    await client.send(get())
    assert (await client.answer()).body == b"green"


async def test_an_upload_goes_on_where_it_began(rig: Rig) -> None:
    blue, green = Serving(ok(b"blue")), Serving(ok(b"green"))
    proxy = await rig.proxy(rig.agent(blue), green=(rig.agent(green),))
    client = await proxy.connect()
    body = b"0123456789" * 50_000
    await client.send(post(body)[:-400_000])
    await until(lambda: proxy.slot().in_flight == 1)
    proxy.flip("green")
    await client.send(body[-400_000:])
    assert (await client.answer()).body == b"blue"
    assert blue.seen[0].body == body
    assert not green.seen


async def test_a_request_that_waits_for_a_connection_keeps_its_color(rig: Rig) -> None:
    script, green = Script(), Serving(ok(b"green"))
    proxy = await rig.proxy(rig.agent(script), green=(rig.agent(green),), pool={"max_connections": 1})
    first, second = await proxy.connect(), await proxy.connect()
    await first.send(get("/1"))
    agent = await script.next()
    await agent.head()
    await second.send(get("/2"))
    await until(lambda: len(proxy.plane.upstreams("blue")[0].waiting) == 1)
    proxy.flip("green")
    await agent.send(ok(b"blue"))
    assert (await first.answer()).body == b"blue"
    await agent.head()
    await agent.send(ok(b"blue"))
    assert (await second.answer()).body == b"blue"


async def test_a_head_that_is_not_whole_at_the_flip_goes_to_the_new_color(rig: Rig) -> None:
    blue, green = colors(rig)
    proxy = await rig.proxy(blue, green=(green,))
    client = await proxy.connect()
    request = get("/", "X-Pad: 1")
    await client.send(request[:20])
    await until(lambda: any(c.buffer for c in proxy.plane.connections))
    proxy.flip("green")
    await client.send(request[20:])
    assert (await client.answer()).body == b"green"
    assert not blue.wires


async def test_a_stale_connection_after_a_flip_and_back_is_tried_anew_on_its_own_color(rig: Rig) -> None:
    script = Script()
    blue, green = rig.agent(script), rig.agent(Serving(ok(b"green")))
    proxy = await rig.proxy(blue, green=(green,))
    client = await proxy.connect()
    await client.send(get())
    agent = await script.next()
    await agent.head()
    await agent.send(ok(b"blue"))
    await client.answer()
    await client.send(get("/again"))
    await agent.head()
    proxy.flip("green")
    agent.close()  # stale: the request is sent once more, to the color that admitted it
    agent = await script.next()
    assert (await agent.head()).target == b"/again"
    await agent.send(ok(b"blue"))
    assert (await client.answer()).body == b"blue"


async def test_a_tunnel_goes_on(rig: Rig) -> None:
    script, green = Script(), Serving(ok(b"green"))
    proxy = await rig.proxy(rig.agent(script), green=(rig.agent(green),))
    client = await proxy.connect()
    await client.send(get("/", "Connection: upgrade", "Upgrade: websocket"))
    agent = await script.next()
    await agent.head()
    proxy.flip("green")
    await agent.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert (await client.head()).status == 101
    for _ in range(3):
        await client.send(b"ping")
        assert await agent.exactly(4) == b"ping"
        await agent.send(b"pong")
        assert await client.exactly(4) == b"pong"
    assert proxy.metrics.by_color("websockets") == {"blue": 1, "green": 0}


async def test_a_staged_releases_upstream_is_retired_when_it_is_done(rig: Rig) -> None:
    """The old one finishes what it has, keeps nothing, and is forgotten; its address may come back as a new one."""
    script = Script()
    old, blue = rig.agent(script), rig.agent(Serving(ok(b"blue")))
    new = rig.agent(Serving(ok(b"green v3")))
    proxy = await rig.proxy(blue, green=(old,))
    proxy.flip("green")
    (retired,) = proxy.plane.upstreams("green")
    clients = [await proxy.connect() for _ in range(2)]
    for client in clients:
        await client.send(get())
    agents = [await script.next() for _ in clients]
    for agent in agents:
        await agent.head()
    await agents[0].send(ok(b"green v2"))
    assert (await clients[0].answer()).body == b"green v2"
    proxy.flip("blue")
    proxy.stage("green", "v3", new)
    proxy.flip("green")
    await clients[0].send(get())
    assert (await clients[0].answer()).body == b"green v3"
    await until(lambda: retired.open == 1, "its resting connection is closed")
    await agents[1].send(ok(b"green v2"))
    assert (await clients[1].answer()).body == b"green v2"
    await until(lambda: retired.open == 0, "its last connection is not kept")
    await until(lambda: retired not in proxy.plane._all_upstreams(), "it is forgotten")
    proxy.flip("blue")
    proxy.stage("green", "v4", old)
    (again,) = proxy.plane.upstreams("green")
    assert again is not retired
    assert proxy.slot("green", "v2").classes[2] == 2
    assert proxy.slot("green", "v3").classes[2] == 1


async def test_a_restaged_color_with_the_same_address_keeps_its_connections(rig: Rig) -> None:
    blue, green = colors(rig)
    proxy = await rig.proxy(blue, green=(green,))
    assert await proxy.plane.warm_up("green") == ""
    proxy.stage("green", "v3", green)
    proxy.flip("green")
    assert (await proxy.ask(get())).body == b"green"
    assert len(green.wires) == 2


async def test_right_after_a_flip_the_new_color_is_warm_and_its_connects_are_capped(rig: Rig) -> None:
    blue, green = colors(rig)
    proxy = await rig.proxy(blue, green=(green,), pool={"warm_connections": 3, "max_opening": 4})
    (upstream,) = proxy.plane.upstreams("green")
    assert await proxy.plane.warm_up("green") == ""
    assert len(upstream.idle) == 3
    clients = [await proxy.connect() for _ in range(40)]
    await until(lambda: proxy.metrics.connections == 40)
    proxy.flip("green")
    most = 0
    for client in clients:
        await client.send(get())
    while proxy.slot("green", "v2").classes[2] < 40:
        most = max(most, upstream.opening)
        await asyncio.sleep(0)
    assert most <= 4
    assert [(await client.answer()).body for client in clients] == [b"green"] * 40


async def test_warming_opens_no_more_than_the_pool_may_have(rig: Rig) -> None:
    blue = rig.agent(script := Script())
    proxy = await rig.proxy(blue, pool={"warm_connections": 3, "max_connections": 2, "idle_timeout": 60.0})
    client = await proxy.connect()
    await client.send(get())
    agent = await script.next()
    await agent.head()
    for _ in range(2):
        assert await proxy.plane.warm_up("blue") == ""
        assert (proxy.upstream().open, len(proxy.upstream().idle), len(blue.wires)) == (2, 1, 2)
    await agent.send(ok(b"blue"))
    assert (await client.answer()).body == b"blue"


async def test_two_that_warm_at_once_open_no_more_than_one_may(rig: Rig) -> None:
    proxy = await rig.proxy(rig.agent(Serving(ok())), pool={"warm_connections": 2, "max_connections": 2})
    upstream = proxy.upstream()
    assert await asyncio.gather(*(upstream.warm(2) for _ in range(4))) == [""] * 4
    assert (upstream.open, upstream.opening) == (2, 0)


async def test_a_request_that_comes_while_its_place_is_taken_by_warming_is_served_by_that_connection(rig: Rig) -> None:
    agent = rig.agent(Serving(ok(b"blue")))
    proxy = await rig.proxy(agent, pool={"warm_connections": 0, "max_connections": 1})
    client = await proxy.connect()
    await until(lambda: proxy.metrics.connections == 1)
    warming = asyncio.ensure_future(proxy.upstream().warm(1))
    await asyncio.sleep(0)
    assert proxy.upstream().opening == 1
    await client.send(get())
    assert (await client.answer()).body == b"blue"
    assert await warming == ""
    assert len(agent.wires) == 1


async def test_warming_says_why_a_color_cannot_take_the_traffic(rig: Rig) -> None:
    blue, green = colors(rig)
    proxy = await rig.proxy(blue, green=(green,))
    await green.close()
    assert "connection refused" in await proxy.plane.warm_up("green")
    assert "no healthy upstream" in await proxy.plane.warm_up("green")


class Load:
    """Clients that ask all the time; every answer must name the color that its request was admitted to."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.answers: dict[bytes, int] = {b"blue": 0, b"green": 0}
        self.over = False

    async def client(self, number: int) -> None:
        """One client's life: gets, posts, chunked posts, pipelined pairs, and now and then a new connection."""
        dice = random.Random(number)
        wire = await self.proxy.connect()
        while not self.over:
            body = b"x" * dice.choice((0, 10, 70_000))
            requests = dice.choice(
                [
                    [get("/get")],
                    [post(body, target="/post")],
                    [get("/1"), get("/2")],
                    [get("/", "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n0\r\n\r\n"],
                ]
            )
            await wire.send_each(requests)
            for _ in requests:
                self.count(await wire.answer())
            if dice.random() < 0.05:
                wire.close()
                wire = await self.proxy.connect()

    def count(self, answer: Message) -> None:
        assert answer.status == 200, answer
        self.answers[answer.body] += 1


async def test_fifty_flips_under_load_lose_nothing(rig: Rig) -> None:
    blue, green = colors(rig)
    proxy = await rig.proxy(blue, green=(green,))
    load = Load(proxy)
    clients = [asyncio.create_task(load.client(number)) for number in range(16)]
    for number in range(50):
        total = sum(load.answers.values())
        await until(lambda t=total: sum(load.answers.values()) >= t + 40 or any(c.done() for c in clients))
        proxy.flip("blue" if number % 2 else "green")
    load.over = True
    await asyncio.gather(*clients)
    served = sum(len(agent.handler.seen) for agent in (blue, green) if isinstance(agent.handler, Serving))
    assert served == sum(load.answers.values()) >= 2_000
    assert min(load.answers.values()) > 500
    slots = [proxy.slot("blue", "v1"), proxy.slot("green", "v2")]
    assert sum(slot.classes[2] for slot in slots) == served
    assert all(slot.retries == slot.broken_agent == slot.broken_client == 0 for slot in slots)


async def test_each_request_is_routed_by_the_pointer_of_its_moment(rig: Rig) -> None:
    """Flip, ask, flip, ask, without a pause: no answer is ever of the color before."""
    blue, green = colors(rig)
    proxy = await rig.proxy(blue, green=(green,))
    client = await proxy.connect()
    for number in range(200):
        to = "blue" if number % 2 else "green"
        proxy.flip(to)
        await client.send(get())
        assert (await client.answer()).body == to.encode()


async def test_exchanges_leave_no_cycles_for_the_collector(rig: Rig) -> None:
    """Its threshold is high in production: what a request makes must go by itself."""
    blue, green = colors(rig)
    proxy = await rig.proxy(blue, green=(green,))
    client = await proxy.connect()

    async def some(wire: Wire) -> None:
        for request in (get(), post(b"x" * 70_000), get("/", "Transfer-Encoding: chunked", method="PUT")):
            await wire.send(request + (b"1\r\nx\r\n0\r\n\r\n" if b"chunked" in request else b""))
            await wire.answer()

    await some(client)
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            await some(client)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        kinds = {type(one).__name__ for one in gc.garbage if type(one).__module__.startswith("bgproxy")}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not kinds


@pytest.mark.parametrize("cut", [b"", b"GET / HTTP/1.1\r\n"])
async def test_a_drain_waits_for_what_is_in_flight_and_closes_what_rests(rig: Rig, cut: bytes) -> None:
    script = Script()
    proxy = await rig.proxy(rig.agent(script))
    busy, idle = await proxy.connect(), await proxy.connect()
    await busy.send(get())
    await idle.send(cut)
    agent = await script.next()
    await agent.head()
    await until(lambda: proxy.metrics.connections == 2)
    drain = asyncio.create_task(proxy.plane.drain(10.0))
    if cut:
        await idle.send(b"Host: a\r\n\r\n")
        other = await script.next()
        await other.head()
        await other.send(ok(b"last"))
        assert (await idle.answer()).get(b"connection") == b"close"
    assert await idle.end() == "fin"
    assert not drain.done()
    await agent.send(ok(b"done"))
    answer = await busy.answer()
    assert (answer.body, answer.get(b"connection")) == (b"done", b"close")
    assert await busy.end() == "fin"
    assert await drain


async def test_who_rests_while_others_take_over_has_one_more_answer_and_no_close_crosses_its_request(rig: Rig) -> None:
    """It learns from that answer that it must connect anew; what it has sent ahead is answered before."""
    agent = rig.agent(Serving(lambda request: ok(request.target)))
    proxy = await rig.proxy(agent)
    idle, ahead = await proxy.connect(), await proxy.connect()
    for client in (idle, ahead):
        await client.send(get("/first"))
        assert (await client.answer()).body == b"/first"
    finish = asyncio.create_task(proxy.plane.finish())
    await asyncio.sleep(0)
    await ahead.send(get("/1"), get("/2"), get("/3"))
    answers = [await ahead.answer() for _ in range(3)]
    assert [(answer.body, answer.get(b"connection")) for answer in answers] == [
        (b"/1", None),
        (b"/2", None),
        (b"/3", b"close"),
    ]
    assert await ahead.end() == "fin"
    await asyncio.sleep(0.6)  # longer than a shutdown has patience with it
    assert not finish.done()
    await idle.send(get("/last"))
    answer = await idle.answer()
    assert (answer.body, answer.get(b"connection")) == (b"/last", b"close")
    assert await idle.end() == "fin"
    await asyncio.wait_for(finish, 5)


@pytest.mark.parametrize("keepalive", [0.0, 0.3])
async def test_who_sends_nothing_more_holds_the_end_of_an_upgrade_up_no_longer_than_ever(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, keepalive: float
) -> None:
    monkeypatch.setattr("bgproxy.proxy.plane.LONGEST_IDLE", 0.3)
    proxy = await rig.proxy(rig.agent(Serving()), timeouts={"keepalive_timeout": keepalive})
    idle = await proxy.connect()
    await until(lambda: proxy.metrics.connections == 1)
    await asyncio.wait_for(proxy.plane.finish(), 5)
    assert await idle.end() == "fin"
