"""Retries exactly where RFC 9110 §9.2.2 and RFC 9112 §9.3.1 let a proxy; the agents count what they have seen."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest
from rig import Proxy, Rig, Script, Serving, get, ok, post, until
from wire import Wire


def refusing() -> str:
    """The URL of a port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


class Stale:
    """Answers the first request of a connection, then ends it at the second one's head; executions are counted."""

    def __init__(self, how: str = "fin", word: bytes = b"") -> None:
        self.how = how
        self.word = word  # said before it ends
        self.heads: list[bytes] = []
        self.stale = True

    async def __call__(self, wire: Wire) -> None:
        number = 0
        while True:
            request = await wire.request()
            self.heads.append(request.method)
            number += 1
            if number > 1 and self.stale:
                if self.word:
                    await wire.send(self.word)
                    await asyncio.sleep(0.01)
                if self.how == "reset":
                    wire.reset()
                return
            await wire.send(ok(b"%d" % len(self.heads)))


async def resting(rig: Rig, agent: Stale, **options: object) -> tuple[Proxy, Wire]:
    """A client, and a proxy with one connection that rests."""
    proxy = await rig.proxy(rig.agent(agent), **options)
    client = await proxy.connect()
    await client.send(get())
    assert (await client.answer()).body == b"1"
    assert len(proxy.upstream().idle) == 1
    return proxy, client


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "QUERY"])
async def test_an_idempotent_request_on_a_stale_connection_is_sent_once_more(rig: Rig, how: str, method: str) -> None:
    agent = Stale(how)
    proxy, client = await resting(rig, agent)
    await client.send(post(b"body", method=method) if method in ("PUT", "QUERY") else get(method=method))
    answer = await client.answer()
    assert (answer.status, answer.body) == (200, b"3")
    assert agent.heads == [b"GET", method.encode(), method.encode()]
    assert proxy.slot().retries == 1
    assert proxy.slot().broken_agent == 0


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_a_request_that_may_not_be_repeated_never_is(rig: Rig, how: str, method: str) -> None:
    agent = Stale(how)
    proxy, client = await resting(rig, agent)
    await client.send(post(b"body", method=method))
    answer = await client.answer()
    assert answer.status == 502
    assert json.loads(answer.body)["code"] == "agent_closed"
    assert agent.heads == [b"GET", method.encode()]
    assert proxy.slot().retries == 0
    await client.send(get())
    assert (await client.answer()).status == 200


async def test_it_is_sent_once_more_and_no_third_time(rig: Rig) -> None:
    """The second connection is a new one; what fails there is no accident of a stale one."""
    agent = Stale()
    proxy, client = await resting(rig, agent)
    (server,) = rig.agents

    async def never(wire: Wire) -> None:
        request = await wire.request()
        agent.heads.append(request.method)

    server.handler = never
    await client.send(get())
    answer = await client.answer()
    assert answer.status == 502
    assert len(agent.heads) == 3
    assert proxy.slot().retries == 1


async def test_the_second_try_never_takes_another_resting_connection(rig: Rig) -> None:
    """Four connections rest and all are stale: the retry opens a new one."""
    agent = Stale()
    proxy = await rig.proxy(rig.agent(agent))
    clients = [await proxy.connect() for _ in range(4)]
    for client in clients:
        await client.send(get())
    for client in clients:
        await client.answer()
    assert len(proxy.upstream().idle) == 4
    await clients[0].send(get())
    assert (await clients[0].answer()).status == 200
    assert proxy.slot().retries == 1
    assert len(proxy.upstream().idle) == 4


@pytest.mark.parametrize("word", [b"H", b"HTTP/1.1 103 Early Hints\r\n\r\n", ok(b"long")[:-2]])
async def test_never_after_a_byte_of_an_answer(rig: Rig, word: bytes) -> None:
    agent = Stale(word=word)
    _, client = await resting(rig, agent)
    await client.send(get("/", "Connection: close"))
    assert word[:1] in await client.rest() or word == b"H"
    assert len(agent.heads) == 2


async def test_never_on_a_new_connection(rig: Rig) -> None:
    agent = Stale()
    proxy = await rig.proxy(rig.agent(agent))

    async def never(wire: Wire) -> None:
        agent.heads.append((await wire.request()).method)

    rig.agents[0].handler = never
    assert (await proxy.ask(get())).status == 502
    assert agent.heads == [b"GET"]


async def test_a_body_is_replayed_only_while_it_is_kept(rig: Rig) -> None:
    for size, status in ((1_000, 200), (3_000, 502)):
        agent = Stale()
        _, client = await resting(rig, agent, limits={"replay_bytes": 2_000})
        await client.send(post(b"x" * size, method="PUT"))
        assert (await client.answer()).status == status
        assert len(agent.heads) == (3 if status == 200 else 2)


async def test_a_chunked_body_is_replayed_whole(rig: Rig) -> None:
    bodies: list[bytes] = []

    async def agent(wire: Wire) -> None:
        for _ in range(2):
            request = await wire.request()
            bodies.append(request.body)
            if len(bodies) == 2:
                return
            await wire.send(ok())

    proxy = await rig.proxy(rig.agent(agent))
    client = await proxy.connect()
    await client.send(get())
    await client.answer()
    await client.send(get("/", "Transfer-Encoding: chunked", method="PUT"))
    for part in (b"3\r\none\r\n", b"3\r\ntwo\r\n0\r\n\r\n"):
        await client.send(part)
        await asyncio.sleep(0.01)
    assert (await client.answer()).status == 200
    assert bodies == [b"", b"onetwo", b"onetwo"]


async def test_a_connection_that_closed_while_it_rested_is_not_used(rig: Rig) -> None:
    """Its FIN is seen before the next request: a POST finds a new connection, and loses nothing."""
    proxy, script, client, agent = await rig.asked(get())
    await agent.send(ok())
    await client.answer()
    agent.close()
    await until(lambda: proxy.upstream().open == 0)
    await client.send(post(b"x"))
    agent = await script.next()
    await agent.request()
    await agent.send(ok(b"new"))
    assert (await client.answer()).body == b"new"


async def test_a_reset_of_a_resting_connection_in_the_same_moment_as_a_post(rig: Rig) -> None:
    """The loop has read the reset but not yet called back; nothing must be written to that connection."""
    proxy = await rig.proxy(rig.agent(Serving()))
    client = await proxy.connect()
    await client.send(get())
    await client.answer()
    (resting,) = proxy.upstream().idle
    (connection,) = proxy.plane.connections
    resting.transport.abort()  # what the loop does at a reset: `connection_lost` follows in its next turn
    connection.data_received(post(b"x"))
    assert (await client.answer()).status == 200


# Nothing was sent: any method, another upstream


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("policy", ["p2c", "round_robin"])
async def test_a_refused_connect_goes_to_another_upstream(rig: Rig, method: str, policy: str) -> None:
    agent = Serving()
    proxy = await rig.proxy(
        refusing(), rig.agent(agent), refusing(), balance={"policy": policy}, health={"eject_after": 0}
    )
    client = await proxy.connect()
    for _ in range(20):
        await client.send(post(b"body", method=method))
        answer = await client.answer()
        assert (answer.status, answer.body) == (200, b"hello")
    assert len(agent.seen) == 20
    assert proxy.slot().retries > 0


async def test_connect_attempts_bound_it(rig: Rig) -> None:
    proxy = await rig.proxy(*[refusing() for _ in range(5)], pool={"connect_attempts": 3})
    answer = await proxy.ask(post(b"x"))
    assert (answer.status, json.loads(answer.body)["code"]) == (502, "agent_unreachable")
    assert proxy.slot().retries == 2
    assert sum(upstream.failures for upstream in proxy.plane.upstreams()) == 3


async def test_a_single_upstream_that_refuses_is_tried_once(rig: Rig) -> None:
    proxy = await rig.proxy(refusing())
    client = await proxy.connect()
    for _ in range(3):
        await client.send(get())
        answer = await client.answer()
        assert (answer.status, answer.get(b"connection")) == (502, None)
    assert proxy.slot().retries == 0


async def test_a_connect_that_times_out_goes_to_another_upstream(rig: Rig) -> None:
    """A listening socket whose queue is full takes no more connections; the kernel drops what comes."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = []
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
            fillers.append(filler)
        hanging = f"http://127.0.0.1:{full.getsockname()[1]}"
        proxy = await rig.proxy(hanging, timeouts={"connect_timeout": 0.2})
        answer = await proxy.ask(post(b"x"))
        assert (answer.status, json.loads(answer.body)["code"]) == (504, "connect_timeout")
        agent = Serving()
        proxy = await rig.proxy(
            hanging, rig.agent(agent), timeouts={"connect_timeout": 0.2}, balance={"policy": "round_robin"}
        )
        answers = [await proxy.ask(post(b"x")) for _ in range(2)]
        assert [answer.status for answer in answers] == [200, 200]
        assert len(agent.seen) == 2
        assert proxy.slot().retries == 1
        for filler in fillers:
            filler.close()


async def test_the_body_that_came_meanwhile_goes_to_the_other_upstream_whole(rig: Rig) -> None:
    agent = Serving()
    proxy = await rig.proxy(refusing(), rig.agent(agent), balance={"policy": "round_robin"}, health={"eject_after": 0})
    body = b"0123456789" * 20_000
    for _ in range(4):
        client = await proxy.connect()
        await client.send(post(body))
        assert (await client.answer()).status == 200
    assert [request.body for request in agent.seen] == [body] * 4


async def test_an_upstream_whose_queue_is_full_leaves_the_request_to_another(rig: Rig) -> None:
    script, other = Script(), Serving()
    proxy = await rig.proxy(
        rig.agent(script),
        rig.agent(other),
        balance={"policy": "round_robin"},
        pool={"max_connections": 1, "max_waiting": 1, "wait_timeout": 30.0},
    )
    clients = [await proxy.connect() for _ in range(12)]
    hanging = proxy.plane.upstreams()[0]
    for number, client in enumerate(clients):
        await client.send(post(b"x"))
        await until(lambda n=number: hanging.in_flight + proxy.slot().classes[2] == n + 1)
    assert (hanging.in_flight, len(other.seen)) == (2, 10)
    agent = await script.next()
    for _ in range(2):
        await agent.request()
        await agent.send(ok(b"slow"))
    assert [(await client.answer()).status for client in clients] == [200] * 12
