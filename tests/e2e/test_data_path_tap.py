"""Copies of what passes: whole, bounded, and never in the way of the exchange that they are of."""

from __future__ import annotations

import asyncio

import pytest
from rig import Rig, Script, Serving, get, ok, post, until

from bgproxy.http1.head import RequestHead
from bgproxy.proxy import tap as module
from bgproxy.proxy.tap import Tap
from bgproxy.telemetry.taken import Taken, fields_of, value_of


class Eyes:
    """An observer that wishes for everything, or what it is told."""

    def __init__(self, wants: bool = True) -> None:
        self.wants = wants
        self.taken: list[Taken] = []
        self.asked = 0

    def wishes(self, _: RequestHead) -> bool:
        self.asked += 1
        return self.wants

    def look_at(self, plane) -> Tap:
        tap = Tap(plane)
        tap.add("eyes", self.wishes, self.taken.append)
        return tap


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/plain\r\n\r\n"


async def test_a_copy_has_all_of_a_plain_exchange(rig: Rig):
    proxy = await rig.proxy(rig.agent(Serving(ok(b'{"a": 1}', b"Content-Type: application/json"))))
    eyes = Eyes()
    tap = eyes.look_at(proxy.plane)
    client = await proxy.connect()
    await client.send(post(b"question", "X-Own: 1", "Connection: x-hop", "X-Hop: 1", target="/a?b=c"))
    assert (await client.answer()).body == b'{"a": 1}'
    (taken,) = eyes.taken
    assert (taken.method, taken.target, taken.path, taken.body) == ("POST", "/a?b=c", "/a", b"question")
    assert (taken.status, taken.answer, taken.whole) == (200, b'{"a": 1}', True)
    assert (taken.route, taken.color, taken.release) == ("default", "blue", "v1")
    fields = fields_of(taken.request_head)
    assert value_of(fields, "x-own") == "1"
    assert value_of(fields, "x-forwarded-for") == "127.0.0.1", "as it went to the agent"
    assert "x-hop" not in [name.lower() for name, _ in fields]
    assert value_of(fields_of(taken.answer_head), "content-type") == "application/json"
    assert 0 < taken.latency < 5
    assert (tap.held, tap.held_bytes, tap.dropped) == (0, 0, 0)


async def test_framing_is_off_both_bodies_and_the_client_gets_what_it_would(rig: Rig):
    proxy, script, client, agent = await rig.asked(get(), timeouts={"stream_idle_timeout": 5.0})
    await agent.send(ok())
    await client.answer()
    eyes = Eyes()
    eyes.look_at(proxy.plane)
    await client.send(get("/x", "Transfer-Encoding: chunked", method="POST"), b"3\r\nabc\r\n")
    await agent.head()
    await client.send(b"2\r\nde\r\n0\r\n\r\n")
    await until(lambda: proxy.plane.connections and next(iter(proxy.plane.connections)).exchange.request_done)
    await agent.send(CHUNKED, b"5\r\nhello\r\n")
    assert (await client.head()).status == 200
    await agent.send(b"1;ext=1\r\n \r\n1", b"0\r\n0123456789abcdef\r\n0\r\n\r\n")
    found = [await client.chunk() for _ in range(4)]
    assert found == [b"hello", b" ", b"0123456789abcdef", b""]
    (taken,) = eyes.taken
    assert (taken.body, taken.answer) == (b"abcde", b"hello 0123456789abcdef")
    assert script is not None


async def test_what_is_not_wished_for_or_not_whole_is_not_copied(rig: Rig):
    proxy, _, client, agent = await rig.asked(get())
    eyes = Eyes()
    tap = eyes.look_at(proxy.plane)
    await agent.send(ok())
    await client.answer()
    assert not eyes.taken, "it was under way before"
    await client.send(get())
    await agent.head()
    await agent.send(CHUNKED, b"5\r\nhel")
    await client.head()
    agent.close()
    assert await client.rest() == b"3\r\nhel\r\n"
    assert eyes.asked == 1
    (broken,) = eyes.taken
    assert (broken.complete, broken.status, broken.answer) == (False, 200, b""), "its answer broke off"
    assert (tap.held, tap.held_bytes) == (0, 0)
    eyes.wants = False
    other = await proxy.connect()
    await other.send(get())
    await until(lambda: eyes.asked == 2)
    assert tap.held == 0
    tap.remove("eyes")
    assert proxy.plane.tap is None
    other.close()


async def test_a_copy_is_bounded_and_the_live_answer_is_not(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "ANSWER_BYTES", 1_000)
    monkeypatch.setattr(module, "REQUEST_BYTES", 100)
    monkeypatch.setattr(module, "HELD", 2)
    if module.ANSWER_BYTES != 1_000 or "tap.cpython" in str(module.__file__):
        pytest.skip("compiled constants stay as they are")
    big = b"x" * 5_000
    proxy = await rig.proxy(rig.agent(Serving(ok(big))))
    eyes = Eyes()
    tap = eyes.look_at(proxy.plane)
    client = await proxy.connect()
    await client.send(get())
    assert (await client.answer()).body == big
    assert (len(eyes.taken[0].answer), eyes.taken[0].whole) == (1_000, False)
    await client.send(post(b"y" * 101))
    assert (await client.answer()).body == big
    assert ([one.complete for one in eyes.taken], tap.dropped) == ([True, False], 1)
    await client.send(get("/", "Transfer-Encoding: chunked", method="POST"), b"65\r\n" + b"y" * 101 + b"\r\n0\r\n\r\n")
    assert (await client.answer()).body == big
    assert (len(eyes.taken), tap.dropped, tap.held, tap.held_bytes) == (3, 2, 0, 0)
    tap.held = 2
    await client.send(get())
    assert (await client.answer()).body == big
    assert ([one.complete for one in eyes.taken], tap.dropped) == ([True, False, False, False], 3)


async def test_a_copy_that_was_dropped_has_no_place(rig: Rig):
    script = Script()
    proxy = await rig.proxy(rig.agent(script))
    eyes = Eyes()
    tap = eyes.look_at(proxy.plane)
    tap.held = module.HELD - 1  # by others: one place is left
    clients, agents = [await proxy.connect() for _ in range(3)], []
    for client in clients[:2]:
        await client.send(post(b"question"))
        agents.append(await script.next())
        await agents[-1].head()
    assert (tap.held, tap.dropped) == (module.HELD, 1), "the second came too late"
    await agents[0].send(ok(b"one"))
    await clients[0].answer()
    assert tap.held == module.HELD - 1
    await clients[0].send(post(b"question"))
    await agents[0].head()
    assert (tap.held, tap.dropped) == (module.HELD, 1), "the place is free, though the second is still under way"
    await agents[0].send(ok(b"three"))
    await clients[0].answer()
    await agents[1].send(ok(b"two"))
    await clients[1].answer()
    assert [(one.complete, one.answer) for one in eyes.taken] == [(True, b"one"), (True, b"three"), (False, b"")]
    assert (tap.held, tap.held_bytes, tap.dropped) == (module.HELD - 1, 0, 1)


@pytest.mark.parametrize(
    ("method", "kind", "is_ear"),
    [
        ("GET", b"text/event-stream; charset=utf-8", True),
        ("GET", b"Text/Event-Stream", True),
        ("GET", b"application/x-ndjson", False),
        ("POST", b"text/event-stream", False),
    ],
)
async def test_who_listens_takes_no_place_from_who_asks(rig: Rig, method: str, kind: bytes, is_ear: bool):
    script = Script()
    proxy = await rig.proxy(rig.agent(script))
    eyes = Eyes()
    tap = eyes.look_at(proxy.plane)
    tap.held = module.HELD - 1  # by others: one place is left
    ear, client = await proxy.connect(), await proxy.connect()
    await ear.send(post(b"all of it", method=method))
    stream = await script.next()
    await stream.head()
    assert (tap.held, tap.held_bytes) == (module.HELD, len(b"all of it"))
    await stream.send(CHUNKED.replace(b"text/plain", kind), b"9\r\ndata: 1\n\n\r\n")
    await ear.head()
    assert await ear.chunk() == b"data: 1\n\n"
    assert (tap.held == module.HELD - 1, tap.held_bytes == 0) == (is_ear, is_ear)
    await client.send(post(b"question"))
    agent = await script.next()
    await agent.head()
    await agent.send(ok(b"answer"))
    await client.answer()
    assert (eyes.taken[0].complete, tap.dropped) == (is_ear, 0 if is_ear else 1)
    await stream.send(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")
    assert [await ear.chunk(), await ear.chunk()] == [b"data: 2\n\n", b""]
    heard = eyes.taken[1]
    assert (heard.method, heard.status, heard.complete) == (method, 200, not is_ear)
    assert heard.answer == (b"" if is_ear else b"data: 1\n\ndata: 2\n\n")
    assert value_of(fields_of(heard.answer_head), "content-type") == kind.decode()
    assert (tap.held, tap.held_bytes) == (module.HELD - 1, 0)


async def test_an_observer_that_fails_harms_nobody(rig: Rig):
    proxy = await rig.proxy(rig.agent(Serving(ok(b"fine"))))

    def fail(_: object) -> bool:
        raise ValueError("this one is broken")

    tap = Tap(proxy.plane)
    tap.add("wants", fail, lambda _: None)
    client = await proxy.connect()
    await client.send(get())
    assert (await client.answer()).body == b"fine"
    tap.add("wants", lambda _: True, fail)
    await client.send(get())
    assert (await client.answer()).body == b"fine"
    await asyncio.sleep(0)
    assert [error for error in rig.errors if "who looks at the traffic failed" in error] == rig.errors
    assert len(rig.errors) == 2
    rig.errors.clear()
