"""What counts as an error of a release: what its agents did, never what a client or the proxy itself did."""

from __future__ import annotations

import socket

import pytest
from rig import Proxy, Rig, Serving, get, ok, until

from bgproxy.rules.watch import Watch
from bgproxy.rules.window import Window
from bgproxy.telemetry.windows import Windows

UPGRADE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x")
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: y\r\n\r\n"
)
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: x\n\n\r\n"


async def seen(proxy: Proxy, answers: int, errors: int) -> Window:
    """The window, once all that was in flight is over."""
    windows = Windows(proxy.metrics)
    windows.begin(Watch("all", baseline=60.0))
    await until(lambda: not proxy.slot().in_flight)
    windows.begin(Watch("all", baseline=60.0))
    found = windows.report().before["blue", "v1"]
    assert (found.answers, found.errors) == (answers, errors)
    return found


@pytest.mark.parametrize(
    ("status", "errors"), [(b"200 OK", 0), (b"404 Not Found", 0), (b"500 Oops", 1), (b"503 Later", 1)]
)
async def test_of_whole_answers_those_of_5xx(rig: Rig, status: bytes, errors: int) -> None:
    proxy = await rig.proxy(rig.agent(Serving(ok(b"x", status=status))))
    await proxy.ask(get())
    found = await seen(proxy, 1, errors)
    assert (found.latency.count, found.first_byte.count) == (1, 1)


async def test_a_connection_closed_before_the_answer(rig: Rig) -> None:
    proxy, _, client, agent = await rig.asked(get())
    agent.reset()
    assert (await client.answer()).status == 502
    await seen(proxy, 1, 1)


async def test_a_stream_broken_off(rig: Rig) -> None:
    proxy, _, client, agent = await rig.asked(get())
    await agent.send(SSE)
    await client.head()
    await client.chunk()
    agent.reset()
    await client.end()
    await seen(proxy, 1, 1)


async def test_an_error_that_is_broken_off_is_one_error(rig: Rig) -> None:
    proxy, _, client, agent = await rig.asked(get())
    await agent.send(SSE.replace(b"200 OK", b"500 Oops"))
    await client.head()
    await client.chunk()
    agent.reset()
    await client.end()
    await seen(proxy, 1, 1)


async def test_agents_that_are_not_there(rig: Rig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    proxy = await rig.proxy(f"http://127.0.0.1:{port}")
    for _ in range(4):  # the later ones find that none is left to try
        assert (await proxy.ask(get())).status in (502, 503)
    await seen(proxy, 4, 4)


async def test_a_reset_websocket_is_one_and_a_closed_one_is_none(rig: Rig) -> None:
    for close, errors in (("reset", 1), ("close", 0)):
        proxy, _, client, agent = await rig.asked(get("/ws", *UPGRADE))
        await agent.send(SWITCH)
        await client.head()
        await until(lambda proxy=proxy: proxy.slot().websockets == 1)
        getattr(agent, close)()
        await client.end()
        client.close()
        await seen(proxy, 1, errors)


async def test_a_client_that_goes_away_is_none(rig: Rig) -> None:
    proxy, _, client, agent = await rig.asked(get())
    client.reset()
    await agent.gone()
    await seen(proxy, 0, 0)
    proxy, _, client, agent = await rig.asked(get())
    await agent.send(SSE)
    await client.head()
    client.reset()
    await agent.gone()
    await seen(proxy, 1, 0)


async def test_what_the_proxy_refuses_is_no_answer(rig: Rig) -> None:
    proxy = await rig.proxy(rig.agent(Serving(ok())), limits={"max_body_bytes": 10})
    client = await proxy.connect()
    await client.send(get("/", "Transfer-Encoding: chunked", method="POST"), b"b\r\nhello world\r\n0\r\n\r\n")
    assert (await client.answer()).status == 413
    await until(lambda: proxy.slot().classes[4] == 1)
    await seen(proxy, 0, 0)
