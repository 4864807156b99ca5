"""The connections to the agents: kept, limited, waited for, balanced, ejected, re-resolved, let go."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from pathlib import Path
from time import monotonic

from rig import Rig, Script, Serving, get, ok, until
from wire import Wire


async def test_idle_timeout(rig: Rig) -> None:
    agent = rig.agent(Serving())
    proxy = await rig.proxy(agent, pool={"idle_timeout": 0.1})
    await proxy.ask(get())
    assert proxy.upstream().open == 1
    assert await agent.wires[0].gone() >= 0.0
    await until(lambda: proxy.upstream().open == 0)


async def test_max_idle(rig: Rig) -> None:
    script = Script()
    proxy = await rig.proxy(rig.agent(script), pool={"max_idle": 2})
    clients = [await proxy.connect() for _ in range(5)]
    for client in clients:
        await client.send(get())
    for _ in clients:
        agent = await script.next()
        await agent.head()
        await agent.send(ok())
    for client in clients:
        await client.answer()
    await until(lambda: proxy.upstream().open == 2)
    assert len(proxy.upstream().idle) == 2


async def test_max_connections_is_never_passed(rig: Rig) -> None:
    agent = rig.agent(Serving())
    proxy = await rig.proxy(agent, pool={"max_connections": 3})
    clients = [await proxy.connect() for _ in range(30)]
    for _ in range(5):
        for client in clients:
            await client.send(get())
        for client in clients:
            assert (await client.answer()).status == 200
    assert len(agent.wires) == 3


async def test_a_connection_given_back_serves_who_waited_longest(rig: Rig) -> None:
    script = Script()
    proxy = await rig.proxy(rig.agent(script), pool={"max_connections": 1})
    clients = [await proxy.connect() for _ in range(4)]
    for number, client in enumerate(clients):
        await client.send(get(f"/{number}"))
        await until(lambda n=number: proxy.slot().in_flight == n + 1)
    agent = await script.next()
    for number, client in enumerate(clients):
        assert (await agent.head()).target == b"/%d" % number
        await agent.send(ok())
        await client.answer()


async def test_a_retry_waits_no_longer_than_others_where_the_pool_is_full(rig: Rig) -> None:
    """It needs a new connection, others in the queue do not; the place for it is made, not waited for."""

    script = Script()
    pool = {"max_connections": 1, "idle_timeout": 60.0, "wait_timeout": 3.0}
    proxy = await rig.proxy(rig.agent(script), pool=pool)
    clients = [await proxy.connect() for _ in range(3)]
    await clients[0].send(get("/first"))
    first = await script.next()
    await first.head()
    await first.send(ok(b"/first"))
    await clients[0].answer()
    for number, client in enumerate(clients):
        await client.send(get(f"/{number}"))
        await until(lambda n=number: proxy.slot().in_flight == n + 1)
    await first.head()
    first.close()
    second = await script.next()
    for number in (1, 2):
        assert (await second.head()).target == b"/%d" % number
        await second.send(ok(b"/%d" % number))
    third = await script.next()
    assert (await third.head()).target == b"/0"
    await third.send(ok(b"/0"))
    for number, client in enumerate(clients):
        assert (await client.answer()).body == b"/%d" % number
    assert proxy.slot().retries == 1


async def test_opening_is_capped(rig: Rig) -> None:
    """A flip, or a burst, is no flood of connects."""
    agent = rig.agent(Serving())
    proxy = await rig.proxy(agent, pool={"max_opening": 4})
    upstream = proxy.upstream()
    clients = [await proxy.connect() for _ in range(40)]
    most = 0
    for client in clients:
        await client.send(get())
    while sum(slot.classes[2] for slot in [proxy.slot()]) < 40:
        most = max(most, upstream.opening)
        await asyncio.sleep(0)
    assert 0 < most <= 4


async def test_round_robin(rig: Rig) -> None:
    agents = [Serving(ok(b"%d" % number)) for number in range(3)]
    proxy = await rig.proxy(*[rig.agent(agent) for agent in agents], balance={"policy": "round_robin"})
    bodies = [(await proxy.ask(get())).body for _ in range(9)]
    assert bodies == bodies[:3] * 3
    assert Counter(bodies) == {b"0": 3, b"1": 3, b"2": 3}


async def test_two_choices_prefer_the_less_loaded(rig: Rig) -> None:
    """One agent hangs; with it in flight, nearly everything goes to the other two."""
    script, quick = Script(), [Serving(), Serving()]
    proxy = await rig.proxy(rig.agent(script), *[rig.agent(agent) for agent in quick])
    slow = proxy.plane.upstreams()[0]
    held = []
    while slow.in_flight < 1:
        client = await proxy.connect()
        held.append(client)
        await client.send(get())
        await until(lambda: slow.in_flight or proxy.slot().classes[2] == len(held))
    for _ in range(60):
        assert (await proxy.ask(get())).status == 200
    assert slow.in_flight == 1
    assert all(len(agent.seen) > 10 for agent in quick)
    agent = await script.next()
    await agent.send(ok())


async def test_an_upstream_that_fails_is_ejected_and_comes_back(rig: Rig) -> None:
    agent, good = rig.agent(Serving(ok(b"bad"))), rig.agent(Serving(ok(b"good")))
    url, handler = agent.url, agent.handler
    health = {"eject_after": 2, "eject_timeout": 0.4}
    proxy = await rig.proxy(url, good, balance={"policy": "round_robin"}, health=health, pool={"max_idle": 0})
    bad = proxy.plane.upstreams()[0]
    await agent.close()
    for _ in range(8):
        assert (await proxy.ask(get())).body == b"good"
    assert bad.failures == 2
    assert not bad.report(asyncio.get_running_loop().time())["healthy"]
    rig.agent(handler, address=url.removeprefix("http://"))
    seen = set()
    while seen != {b"good", b"bad"}:
        seen.add((await proxy.ask(get())).body)
        await asyncio.sleep(0.02)
    assert bad.failures == 2


async def test_failures_of_requests_eject_too_and_an_answer_breaks_their_row(rig: Rig) -> None:
    async def breaking(wire: Wire) -> None:
        request = await wire.request()
        if request.target == b"/good":
            await wire.send(ok())

    proxy = await rig.proxy(rig.agent(breaking), health={"eject_after": 3, "eject_timeout": 60.0})
    upstream = proxy.upstream()
    for target in ("/bad", "/bad", "/good", "/bad", "/bad"):
        await proxy.ask(get(target))
    assert upstream.health.usable(monotonic())
    await proxy.ask(get("/bad"))
    assert not upstream.health.usable(monotonic())
    # Where it is the only one, an honest failure is better than a refusal by memory.
    assert (await proxy.ask(get("/good"))).status == 200


async def test_what_a_client_does_is_never_counted_against_an_upstream(rig: Rig) -> None:
    script = Script()
    proxy = await rig.proxy(rig.agent(script), health={"eject_after": 1})
    for request in (get(), get("/", "Content-Length: 9", method="POST")):
        client = await proxy.connect()
        await client.send(request)
        agent = await script.next()
        await agent.head()
        client.reset()
        await agent.gone()
    await until(lambda: proxy.slot().broken_client == 2)
    assert proxy.upstream().health.usable(monotonic())
    assert proxy.upstream().failures == 0


async def test_unix_sockets(rig: Rig, tmp_path: Path) -> None:
    agent = Serving()
    server = rig.agent(agent, path=str(tmp_path / "agent.sock"))
    proxy = await rig.proxy(server)
    client = await proxy.connect()
    for _ in range(3):
        await client.send(get())
        assert (await client.answer()).body == b"hello"
    assert len(server.wires) == 1
    assert (await proxy.ask(get(version="1.0", host=""))).status == 200
    assert agent.seen[-1].get(b"host") == b"localhost"


async def test_a_unix_socket_that_is_not_there(rig: Rig, tmp_path: Path) -> None:
    proxy = await rig.proxy(f"unix:{tmp_path}/nobody.sock")
    answer = await proxy.ask(get())
    assert answer.status == 502
    assert b"no such file" in answer.body


async def test_clients_on_a_unix_socket(rig: Rig, tmp_path: Path) -> None:
    agent = Serving()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "proxy.sock"))
    listening.listen(64)
    proxy = await rig.proxy(rig.agent(agent), listening=listening)
    assert (await proxy.ask(get())).body == b"hello"
    assert agent.seen[0].get(b"x-forwarded-for") is None
    script = Script()
    rig.agents[0].handler = script
    proxy.upstream().expire(float("inf"))
    client = await proxy.connect()
    await client.send(get())
    wire = await script.next()
    await wire.head()
    client.close()
    assert await wire.gone() < 1.0
