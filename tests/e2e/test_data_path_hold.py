"""New admissions that wait for a flip or a pause: a bounded queue, and nobody else waits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from rig import Agent, Proxy, Rig, Script, Serving, get, ok, post, until

from bgproxy.proxy.hold import Door
from bgproxy.rules import barrier
from bgproxy.rules.barrier import Move


def colors(rig: Rig) -> tuple[Agent, Agent]:
    """Two agents that say which they are."""
    return rig.agent(Serving(ok(b"blue"))), rig.agent(Serving(ok(b"green")))


def prepare(proxy: Proxy, to: str = "green") -> None:
    """The first half of a flip: this node holds."""
    assert proxy.plane.state is not None
    terms = {"at": 1.0, "exclude": (), "hold_timeout": 1.0, "key": "", "request": ""}
    change = barrier.prepare(proxy.plane.state, Move("flip", to, "ada", ""), **terms)
    assert change is not None
    proxy.apply(change.state)


def complete(proxy: Proxy) -> None:
    state = proxy.plane.state
    assert state is not None
    assert state.pending is not None
    change = barrier.complete(state, state.pending.revision, at=1.0)
    assert change is not None
    proxy.apply(change.state)


def abandon(proxy: Proxy) -> None:
    state = proxy.plane.state
    assert state is not None
    assert state.pending is not None
    change = barrier.abandon(state, state.pending.revision, actor="a", why="b")
    assert change is not None
    proxy.apply(change.state)


def pause(proxy: Proxy, max_hold: float = 30.0) -> None:
    assert proxy.plane.state is not None
    proxy.apply(barrier.pause(proxy.plane.state, max_hold=max_hold, actor="ada", reason="").state)


def resume(proxy: Proxy) -> None:
    assert proxy.plane.state is not None
    change = barrier.resume(proxy.plane.state, actor="ada", reason="")
    assert change is not None
    proxy.apply(change.state)


def waiting(proxy: Proxy) -> int:
    return len(proxy.plane.hold or ())


@pytest.mark.parametrize(("end", "color"), [(complete, b"green"), (abandon, b"blue")])
async def test_what_is_held_goes_where_the_flip_ends(rig: Rig, end: Callable[[Proxy], None], color: bytes) -> None:
    blue, green = colors(rig)
    proxy = await rig.proxy(blue, green=(green,))
    clients = [await proxy.connect() for _ in range(5)]
    prepare(proxy)
    for number, client in enumerate(clients):
        await client.send(post(b"x" * number) if number % 2 else get())
    await until(lambda: waiting(proxy) == 5)
    end(proxy)
    for client in clients:
        assert (await client.answer()).body == color
    assert proxy.metrics.held == 5
    assert proxy.plane.hold is None
    await clients[0].send(get())
    assert (await clients[0].answer()).body == color


async def test_the_door_is_shut_before_a_state_says_so(rig: Rig) -> None:
    """As the bell has it. What is read of the time before opens nothing, what is read by it keeps who waits."""
    blue, green = colors(rig)
    proxy = await rig.proxy(blue, green=(green,))
    door, state = Door(proxy.plane), proxy.plane.state
    one, two = await proxy.connect(), await proxy.connect()
    assert state is not None
    door.shut()
    await one.send(get())
    await until(lambda: waiting(proxy) == 1)
    proxy.apply(replace(state, revision=state.revision + 1))
    assert door.is_shut
    prepare(proxy)
    door.settle()
    await two.send(get())
    await until(lambda: waiting(proxy) == 2)
    complete(proxy)
    assert not door.is_shut
    assert [(await client.answer()).body for client in (one, two)] == [b"green", b"green"]


async def test_a_door_that_was_shut_for_nothing_opens_at_once(rig: Rig) -> None:
    proxy = await rig.proxy(rig.agent(Serving(ok(b"blue"))))
    door, client = Door(proxy.plane), await proxy.connect()
    door.settle()
    door.shut()
    door.shut()
    await client.send(get())
    await until(lambda: waiting(proxy) == 1)
    door.settle()
    for _ in range(2):
        assert (await client.answer()).body == b"blue"
        await client.send(get())
    assert not door.is_shut


async def test_what_is_under_way_is_not_held(rig: Rig) -> None:
    script = Script()
    proxy = await rig.proxy(rig.agent(script), green=(rig.agent(Serving(ok(b"green"))),))
    client, other = await proxy.connect(), await proxy.connect()
    await client.send(get())
    agent = await script.next()
    await agent.head()
    prepare(proxy)
    await other.send(get())
    await until(lambda: waiting(proxy) == 1)
    await agent.send(ok(b"blue"))
    assert (await client.answer()).body == b"blue"
    complete(proxy)
    assert (await other.answer()).body == b"green"


async def test_a_known_session_goes_on_and_a_new_one_is_placed_by_the_store(rig: Rig) -> None:
    """The store's own pointer says where new sessions begin: they need not wait for a flip."""
    blue, green = colors(rig)
    proxy = await rig.proxy(blue, green=(green,), sessions=("header:X-Session",))
    client = await proxy.connect()
    await client.send(get("/", "X-Session: one"))
    assert (await client.answer()).body == b"blue"
    prepare(proxy)
    for name in ("one", "two"):
        await client.send(get("/", f"X-Session: {name}"))
        assert (await client.answer()).body == b"blue"
    await client.send(get("/"))
    await until(lambda: waiting(proxy) == 1)
    complete(proxy)
    assert (await client.answer()).body == b"green"


async def test_during_a_pause_new_sessions_wait_too(rig: Rig) -> None:
    blue, green = colors(rig)
    proxy = await rig.proxy(blue, green=(green,), sessions=("header:X-Session",))
    known, new, none = [await proxy.connect() for _ in range(3)]
    await known.send(get("/", "X-Session: one"))
    assert (await known.answer()).body == b"blue"
    pause(proxy)
    await new.send(get("/", "X-Session: two"))
    await none.send(get("/"))
    await until(lambda: waiting(proxy) == 2)
    await known.send(get("/", "X-Session: one"))
    assert (await known.answer()).body == b"blue"
    resume(proxy)
    assert (await new.answer()).body == b"blue"
    assert (await none.answer()).body == b"blue"


async def test_a_node_that_has_not_heard_of_the_pause_yet_asks_again(rig: Rig) -> None:
    blue, green = colors(rig)
    proxy = await rig.proxy(blue, green=(green,), sessions=("header:X-Session",))
    state = proxy.plane.state
    assert state is not None
    paused = barrier.pause(state, max_hold=9.0, actor="ada", reason="").state
    heard = asyncio.Event()

    async def refresh() -> None:
        proxy.apply(paused)
        heard.set()

    proxy.plane.refresh = refresh
    proxy.known.state = paused  # what the store holds
    client = await proxy.connect()
    await client.send(get("/", "X-Session: two"))
    await heard.wait()
    await until(lambda: waiting(proxy) == 1)
    resume(proxy)
    assert (await client.answer()).body == b"blue"


async def test_a_full_queue_is_an_honest_refusal(rig: Rig) -> None:
    blue, green = colors(rig)
    proxy = await rig.proxy(blue, green=(green,), hold={"max_requests": 2})
    clients = [await proxy.connect() for _ in range(3)]
    prepare(proxy)
    for number, client in enumerate(clients):
        await client.send(get())
        await until(lambda number=number: waiting(proxy) == min(number + 1, 2))
    refused = await clients[2].answer()
    assert (refused.status, json.loads(refused.body)["code"]) == (503, "hold_full")
    assert refused.get(b"retry-after") == b"1"
    clients[0].reset()  # who has gone makes room
    await until(lambda: proxy.metrics.connections == 2)
    await clients[2].send(get())
    await until(lambda: waiting(proxy) == 2)
    complete(proxy)
    for client in clients[1:]:
        assert (await client.answer()).body == b"green"


async def test_a_client_that_gave_up_makes_room_and_one_that_closed_its_half_is_answered(rig: Rig) -> None:
    """A client that times out closes with a FIN, which looks like a half: its place was taken until the flip ended."""
    blue, green = colors(rig)
    proxy = await rig.proxy(blue, green=(green,), hold={"max_requests": 2})
    gone, half, late = [await proxy.connect() for _ in range(3)]
    prepare(proxy)
    for number, client in enumerate((gone, half), 1):
        await client.send(get())
        await until(lambda number=number: waiting(proxy) == number)
    half.fin()
    gone.close()
    await until(lambda: proxy.metrics.connections == 2)
    await late.send(get())
    await until(lambda: waiting(proxy) == 2)
    complete(proxy)
    assert (await late.answer()).body == b"green"
    assert (await half.rest()).endswith(b"green")


async def test_the_queue_is_bounded_in_bytes_too(rig: Rig) -> None:
    blue, green = colors(rig)
    proxy = await rig.proxy(blue, green=(green,), hold={"max_bytes": 10_000})
    small, large = await proxy.connect(), await proxy.connect()
    prepare(proxy)
    await small.send(get())
    await until(lambda: waiting(proxy) == 1)
    await large.send(post(b"x" * 11_000))
    refused = await large.answer()
    assert (refused.status, json.loads(refused.body)["code"]) == (503, "hold_full")
    complete(proxy)
    assert (await small.answer()).body == b"green"


async def test_who_waits_too_long_is_told_so(rig: Rig) -> None:
    blue, green = colors(rig)
    proxy = await rig.proxy(blue, green=(green,), hold={"max_age": 0.05})
    client = await proxy.connect()
    prepare(proxy)
    await client.send(get())
    refused = await client.answer()
    assert (refused.status, json.loads(refused.body)["code"]) == (503, "held_too_long")
    complete(proxy)
    await client.send(get())
    assert (await client.answer()).body == b"green"


def _reading(proxy: Proxy) -> bool:
    return any(client.reading for client in proxy.plane.connections)


async def test_a_large_body_waits_with_its_client(rig: Rig) -> None:
    blue, green = colors(rig)
    proxy = await rig.proxy(blue, green=(green,), limits={"high_water_bytes": 65_536})
    client = await proxy.connect()
    prepare(proxy)
    body = b"x" * 30_000_000
    sending = asyncio.ensure_future(client.send(post(body)))
    await until(lambda: waiting(proxy) == 1)
    await until(lambda: not _reading(proxy), "its client is not read from")
    assert proxy.plane.hold is not None
    [exchange] = proxy.plane.hold._held
    assert sum(map(len, exchange.pending)) < 65_536 + 256_000, "the mark, and one read"
    complete(proxy)
    await sending
    assert (await client.answer()).body == b"green"


async def test_a_next_flip_begins_while_the_last_ones_are_let_go(rig: Rig) -> None:
    """Hundreds are let go in batches: those that still wait then must not slip to the color that is being left."""
    blue, green = colors(rig)
    proxy = await rig.proxy(blue, green=(green,))
    clients = [await proxy.connect() for _ in range(150)]
    prepare(proxy)
    for client in clients:
        await client.send(get())
    await until(lambda: waiting(proxy) == 150)
    complete(proxy)
    await asyncio.sleep(0)
    prepare(proxy, "blue")
    await until(lambda: waiting(proxy) == 150 - 64)
    complete(proxy)
    bodies = [(await client.answer()).body for client in clients]
    assert bodies == [b"green"] * 64 + [b"blue"] * 86


async def test_a_pause_outlasts_the_flip_in_it(rig: Rig) -> None:
    blue, green = colors(rig)
    proxy = await rig.proxy(blue, green=(green,), hold={"max_age": 0.05})
    client = await proxy.connect()
    pause(proxy)
    await client.send(get())
    await until(lambda: waiting(proxy) == 1)
    prepare(proxy)
    complete(proxy)
    await asyncio.sleep(0.3)
    assert waiting(proxy) == 1, "it waits as long as the pause may last"
    resume(proxy)
    assert (await client.answer()).body == b"green"


async def test_a_worker_that_is_fenced_admits_nothing_new_and_known_sessions_go_on(rig: Rig) -> None:
    script = Script()
    proxy = await rig.proxy(rig.agent(Serving(ok(b"blue"))), green=(rig.agent(script),), sessions=("header:X-Session",))
    known, stream, other = [await proxy.connect() for _ in range(3)]
    await known.send(get("/", "X-Session: one"))
    assert (await known.answer()).body == b"blue"
    proxy.flip("green")
    await stream.send(get())
    agent = await script.next()
    await agent.head()
    closed = True
    proxy.plane.fenced = lambda: closed
    proxy.known.connected, proxy.known.fenced = False, True
    for fields in ((), ("X-Session: two",)):
        await other.send(get("/", *fields))
        answer = await other.answer()
        assert (answer.status, answer.get(b"Retry-After")) == (503, b"1")
        assert json.loads(answer.body)["code"] == "fenced"
    await other.send(post(b"x" * 100))
    assert (await other.answer()).status == 503
    await known.send(get("/", "X-Session: one"))
    assert (await known.answer()).body == b"blue"
    await agent.send(ok(b"green"))
    assert (await stream.answer()).body == b"green"
    assert proxy.metrics.refused == {"fenced": 3}
    closed = False
    await other.send(get())
    await agent.head()
    await agent.send(ok(b"green"))
    assert (await other.answer()).body == b"green"


async def test_what_was_held_is_not_let_go_by_a_fenced_worker(rig: Rig) -> None:
    blue, green = colors(rig)
    proxy = await rig.proxy(blue, green=(green,))
    client = await proxy.connect()
    prepare(proxy)
    await client.send(get())
    await until(lambda: waiting(proxy) == 1)
    proxy.plane.fenced = lambda: True
    complete(proxy)
    assert json.loads((await client.answer()).body)["code"] == "fenced"
