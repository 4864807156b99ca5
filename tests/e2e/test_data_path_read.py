"""Requests whose bodies are read for their session, sent in ways that could stop that, or make it dear."""

from __future__ import annotations

import json

import pytest
from rig import Proxy, Rig, Script, Serving, get, ok, post, until

from bgproxy.rules.route import Route, RouteTable
from bgproxy.sessions.sighting import BodyReader

JSON = "Content-Type: application/json"


def turn(context: str) -> bytes:
    message = {"role": "user", "parts": [{"text": "x" * 100}], "contextId": context}
    return json.dumps({"jsonrpc": "2.0", "id": 7, "method": "message/send", "params": {"message": message}}).encode()


async def two_colors(rig: Rig) -> tuple[Proxy, Serving, Serving]:
    blue, green = Serving(ok(b"blue")), Serving(ok(b"green"))
    proxy = await rig.proxy(rig.agent(blue), green=(rig.agent(green),), sessions=["a2a"])
    return proxy, blue, green


async def test_a_client_that_waits_for_100_continue_is_told_to_send_and_its_session_found(rig: Rig) -> None:
    """To know which agent to ask for the 100, its session must be known, which stands in the body."""
    proxy, blue, _ = await two_colors(rig)
    assert (await proxy.ask(post(turn("C-1"), JSON), b"POST")).body == b"blue"
    proxy.flip("green")
    client = await proxy.connect()
    body = turn("C-1")
    await client.send(
        get(
            "/",
            JSON,
            f"Content-Length: {len(body)}",
            "Expect: 100-continue",
            "X-Told: Expect: 100-continue",
            method="POST",
        )
    )
    assert (await client.answer()).status == 100
    await client.send(body)
    assert (await client.answer(b"POST")).body == b"blue"
    seen = blue.seen[-1]
    assert (seen.body, seen.get(b"expect"), seen.get(b"x-told")) == (body, None, b"Expect: 100-continue")


@pytest.mark.parametrize("fields", [("Content-Type: text/plain",), (JSON, "Content-Encoding: gzip")])
async def test_where_the_body_is_not_read_the_agent_says_whether_to_send_it(rig: Rig, fields: tuple[str, ...]) -> None:
    script = Script()
    proxy = await rig.proxy(rig.agent(script), sessions=["a2a"])
    client = await proxy.connect()
    await client.send(get("/", *fields, "Content-Length: 4", "Expect: 100-continue", method="POST"))
    agent = await script.next()
    assert (await agent.head()).get(b"expect") == b"100-continue"
    await agent.send(ok(status=b"401 Unauthorized"))
    assert (await client.answer(b"POST")).status == 401


async def test_chunks_of_a_byte_each_are_read_together(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look has its price, and a client is not to say how often it is paid."""
    looks = []
    feed = BodyReader.feed

    def counted(self: BodyReader, data: bytes) -> bool:
        looks.append(len(data))
        return feed(self, data)

    monkeypatch.setattr(BodyReader, "feed", counted)
    proxy, blue, _ = await two_colors(rig)
    body = turn("C-1")
    chunked = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    answer = await proxy.ask(get("/", JSON, "Transfer-Encoding: chunked", method="POST") + chunked, b"POST")
    assert (answer.body, blue.seen[0].body) == (b"blue", body)
    assert len(looks) < 10


async def test_a_head_with_a_body_gets_an_answer_without_one_though_its_session_was_ended(rig: Rig) -> None:
    proxy, _, _ = await two_colors(rig)
    assert (await proxy.ask(post(turn("C-1"), JSON), b"POST")).body == b"blue"
    proxy.flip("green")
    proxy.end_sessions("blue")
    client = await proxy.connect()
    await client.send(post(turn("C-1"), JSON, method="HEAD"))
    assert (await client.answer(b"HEAD")).status == 410
    await client.send(get())
    assert (await client.answer()).body == b"green"


@pytest.mark.parametrize("waits_for", ["its body", "the store"])
async def test_a_request_whose_route_a_reload_takes_away_is_served_by_it(rig: Rig, waits_for: str) -> None:
    proxy, blue, _ = await two_colors(rig)
    client = await proxy.connect()
    body = turn("C-1") if waits_for == "the store" else b'{"jsonrpc":"2.0","method":"message/send"}'
    rig.pins.open.clear()
    head = get("/", JSON, f"Content-Length: {len(body)}", method="POST")
    await client.send(head + (body if waits_for == "the store" else body[:10]))
    await until(lambda: rig.pins.asked if waits_for == "the store" else proxy.counts().get("in_flight blue"))
    proxy.plane.routes = RouteTable((Route("other", path="/other"),))
    assert proxy.plane.state is not None
    proxy.apply(proxy.plane.state)
    if waits_for == "its body":
        await client.send(body[10:])
    rig.pins.open.set()
    assert (await client.answer(b"POST")).body == b"blue"
    assert blue.seen[0].body == body
    assert (await proxy.ask(get())).status == 404
