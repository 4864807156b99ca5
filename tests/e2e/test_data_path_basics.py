"""Requests and answers as they should be: versions, keep-alive, pipelining, every framing, both ways."""

from __future__ import annotations

import asyncio

import pytest
from rig import Once, Rig, Script, Serving, get, ok, post, until
from wire import Message, Wire

CHUNKED = "Transfer-Encoding: chunked"


def chunked(*chunks: bytes, trailers: bytes = b"") -> bytes:
    """A body in chunks."""
    return b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in chunks) + b"0\r\n" + trailers + b"\r\n"


async def test_a_request_and_its_answer_go_through(rig: Rig) -> None:
    agent = Serving(ok(b"hello", b"X-Agent: one", b"Date: Mon, 23 Nov 2026 08:00:00 GMT"))
    proxy = await rig.proxy(rig.agent(agent))

    answer = await proxy.ask(get("/v1/chat?x=1", "X-Client: two"))

    assert (answer.status, answer.body, answer.get(b"x-agent")) == (200, b"hello", b"one")
    assert answer.get(b"date") == b"Mon, 23 Nov 2026 08:00:00 GMT"
    (seen,) = agent.seen
    assert (seen.start, seen.get(b"x-client"), seen.get(b"host")) == (
        b"GET /v1/chat?x=1 HTTP/1.1",
        b"two",
        b"agents.test",
    )
    assert proxy.slot().classes == [0, 0, 1, 0, 0, 0]


async def test_an_answer_without_a_date_gets_one(rig: Rig) -> None:
    proxy = await rig.proxy(rig.agent(Serving()))
    answer = await proxy.ask(get())
    assert (answer.get(b"date") or b"").endswith(b" GMT")


async def test_both_sides_keep_their_connection(rig: Rig) -> None:
    agent = rig.agent(Serving(lambda request: ok(request.target)))
    proxy = await rig.proxy(agent)
    client = await proxy.connect()
    for number in range(20):
        await client.send(get(f"/{number}"))
        answer = await client.answer()
        assert (answer.body, answer.get(b"connection")) == (b"/%d" % number, None)
    assert len(agent.wires) == 1
    assert proxy.metrics.connections_total == 1


async def test_connection_close_of_the_client_ends_only_its_own_side(rig: Rig) -> None:
    agent = rig.agent(Serving())
    proxy = await rig.proxy(agent)
    for _ in range(3):
        client = await proxy.connect()
        await client.send(get("/", "Connection: close"))
        answer = await client.answer()
        assert (answer.body, answer.get(b"connection")) == (b"hello", b"close")
        assert await client.end() == "fin"
    assert len(agent.wires) == 1


async def test_connection_close_of_the_agent_ends_only_its_own_side(rig: Rig) -> None:
    agent = rig.agent(Serving(ok(b"bye", b"Connection: close")))
    proxy = await rig.proxy(agent)
    client = await proxy.connect()
    for _ in range(3):
        await client.send(get())
        answer = await client.answer()
        assert (answer.body, answer.get(b"connection")) == (b"bye", None)
    assert len(agent.wires) == 3


async def test_an_agent_of_http_10_keeps_alive_only_where_it_says_so(rig: Rig) -> None:
    plain = rig.agent(Serving(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi"))
    keeping = rig.agent(Serving(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi"))
    proxy = await rig.proxy(plain, green=(keeping,))
    client = await proxy.connect()
    for color, connections in (("blue", 2), ("green", 1)):
        if color == "green":
            proxy.flip("green")
        for _ in range(2):
            await client.send(get())
            answer = await client.answer()
            assert (answer.start, answer.body) == (b"HTTP/1.1 200 OK", b"hi")
        assert len((plain if color == "blue" else keeping).wires) == connections


@pytest.mark.parametrize(("asks", "kept"), [("", False), ("Connection: keep-alive", True)])
async def test_an_http_10_client(rig: Rig, asks: str, kept: bool) -> None:
    agent = Serving()
    proxy = await rig.proxy(rig.agent(agent))
    client = await proxy.connect()
    await client.send(get("/", *([asks] if asks else []), version="1.0"))
    answer = await client.answer()
    assert answer.body == b"hello"
    assert answer.get(b"connection") == (b"keep-alive" if kept else b"close")
    assert agent.seen[0].start == b"GET / HTTP/1.1"
    assert agent.seen[0].get(b"connection") is None
    if kept:
        await client.send(get("/", version="1.0"))
        assert (await client.answer()).body == b"hello"
    assert await client.end() == "fin"


async def test_an_http_10_client_without_a_host_becomes_a_valid_http_11_request(rig: Rig) -> None:
    agent = Serving()
    server = rig.agent(agent)
    proxy = await rig.proxy(server)
    assert (await proxy.ask(get("/", version="1.0", host=""))).status == 200
    assert agent.seen[0].get(b"host") == f"127.0.0.1:{server.port}".encode()


async def test_an_http_10_client_gets_no_chunks(rig: Rig) -> None:
    _, _, client, agent = await rig.asked(get("/", "Connection: keep-alive", version="1.0"))
    await agent.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunked(b"one", b"two"))
    answer = await client.answer()
    assert answer.get(b"transfer-encoding") is None
    assert answer.get(b"connection") == b"close"
    assert answer.body == b"onetwo"


async def test_pipelined_requests_are_answered_in_order(rig: Rig) -> None:
    agent = rig.agent(Serving(lambda request: ok(request.target + b" " + request.body)))
    proxy = await rig.proxy(agent)
    client = await proxy.connect()
    await client.send(get("/1"), post(b"body", target="/2"), get("/3"), post(b"x" * 70_000, target="/4"), get("/5"))
    bodies = [(await client.answer()).body for _ in range(5)]
    assert bodies == [b"/1 ", b"/2 body", b"/3 ", b"/4 " + b"x" * 70_000, b"/5 "]
    assert len(agent.wires) == 1


async def test_a_slow_first_answer_holds_the_pipelined_ones_back(rig: Rig) -> None:
    script = Script()
    proxy = await rig.proxy(rig.agent(script))
    client = await proxy.connect()
    await client.send(get("/slow"), get("/fast"))
    agent = await script.next()
    assert (await agent.head()).target == b"/slow"
    await asyncio.sleep(0.05)
    assert agent.is_silent()
    await agent.send(ok(b"slow"))
    assert (await client.answer()).body == b"slow"
    assert (await agent.head()).target == b"/fast"
    await agent.send(ok(b"fast"))
    assert (await client.answer()).body == b"fast"


async def test_pipelining_is_capped_by_not_reading(rig: Rig) -> None:
    """What waits in the proxy is bounded; the rest waits in the client's kernel, and is answered all the same."""
    script = Script()
    proxy = await rig.proxy(rig.agent(script), limits={"max_pipelined": 4})
    client = await proxy.connect()
    count = 3_000  # far more than socket buffers and the proxy's own hold
    sender = asyncio.create_task(client.send(*[get(f"/{n}", "X-Pad: " + "p" * 2_000) for n in range(count)]))
    agent = await script.next()
    (connection,) = proxy.plane.connections
    await until(lambda: not connection.reading, "reading pauses")
    await asyncio.sleep(0.05)
    assert len(connection.buffer) < 600_000  # one read's worth beyond the limit
    assert not sender.done()

    async def play() -> None:
        for number in range(count):
            assert (await agent.head()).target == b"/%d" % number
            await agent.send(ok(b"%d" % number))

    player = asyncio.create_task(play())
    for number in range(count):
        assert (await client.answer()).body == b"%d" % number
    await asyncio.gather(sender, player)


async def test_empty_lines_before_a_request_are_forgiven_once(rig: Rig) -> None:
    proxy = await rig.proxy(rig.agent(Serving()))
    client = await proxy.connect()
    await client.send(b"\r\n" + get())
    assert (await client.answer()).status == 200
    await client.send(b"\r\n")
    await client.send(get())
    assert (await client.answer()).status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "POST"])
async def test_methods_pass(rig: Rig, method: str) -> None:
    agent = Serving()
    proxy = await rig.proxy(rig.agent(agent))
    answer = await proxy.ask(get("/", method=method), method.encode())
    assert answer.status == 200
    assert agent.seen[0].method == method.encode()


@pytest.mark.parametrize("size", [1, 5_000, 1_000_000])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_bodies_pass_both_ways(rig: Rig, size: int, framing: str) -> None:
    """An echo, with each side using the framing."""
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    pieces = [body[at : at + 70_001] for at in range(0, size, 70_001)]

    def echo(request: Message) -> bytes:
        if framing == "length":
            return ok(request.body)
        return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(request.body)

    agent = Serving(echo)
    proxy = await rig.proxy(rig.agent(agent))
    client = await proxy.connect()
    sent = post(body) if framing == "length" else get("/", CHUNKED, method="POST") + chunked(*pieces)
    sender = asyncio.create_task(client.send(sent))
    answer = await client.answer()
    await sender
    assert answer.body == body
    assert agent.seen[0].body == body
    slot = proxy.slot()
    assert slot.bytes_out >= size
    assert slot.bytes_in >= size


@pytest.mark.parametrize(
    ("status", "connections"),
    [(b"204 No Content", 2), (b"304 Not Modified", 1)],  # an agent that declares a body of a 204 may well send one
)
async def test_answers_that_never_have_a_body(rig: Rig, status: bytes, connections: int) -> None:
    agent = rig.agent(Serving(b"HTTP/1.1 " + status + b"\r\nContent-Length: 9\r\nETag: x\r\n\r\n"))
    proxy = await rig.proxy(agent)
    client = await proxy.connect()
    for _ in range(2):
        await client.send(get())
        answer = await client.answer()
        assert answer.start.endswith(status)
        assert answer.get(b"content-length") == (None if status.startswith(b"204") else b"9")
    assert client.is_silent()
    assert len(agent.wires) == connections


@pytest.mark.parametrize("framing", [b"Content-Length: 9", b"Transfer-Encoding: chunked", b"X: until close"])
async def test_head_has_no_body_and_keeps_its_length(rig: Rig, framing: bytes) -> None:
    agent = rig.agent(Serving(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n"))
    proxy = await rig.proxy(agent)
    client = await proxy.connect()
    for _ in range(2):
        await client.send(get(method="HEAD"))
        answer = await client.answer(b"HEAD")
        assert answer.get(b"content-length") == (b"9" if framing.startswith(b"Content-L") else None)
    assert client.is_silent()
    assert len(agent.wires) == 1


async def test_trailers_pass_both_ways_or_are_dropped(rig: Rig) -> None:
    trailers = b"X-Sum: 42\r\nHost: evil\r\nContent-Length: 9\r\nX-Forwarded-For: 6.6.6.6\r\nAuthorization: x\r\n"
    reply = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"a", trailers=trailers)
    for setting, expected in (("forward", [b"X-Sum: 42"]), ("drop", [])):
        agent = Serving(reply)
        proxy = await rig.proxy(rig.agent(agent), forwarding={"trailers": setting})
        request = get("/", CHUNKED, method="POST") + chunked(b"b", trailers=trailers)
        answer = await proxy.ask(request)
        assert answer.trailers == expected
        assert agent.seen[0].trailers == expected
        assert agent.seen[0].get(b"x-sum") is None


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_an_answer_that_ends_with_the_agents_connection(rig: Rig, version: str) -> None:
    async def until_close(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\n\r\nfirst ")
        await asyncio.sleep(0.01)
        await wire.send(b"second")

    proxy = await rig.proxy(rig.agent(until_close))
    client = await proxy.connect()
    await client.send(get(version=version))
    answer = await client.answer()
    assert answer.body == b"first second"
    if version == "1.0":
        assert answer.get(b"transfer-encoding") is None
    else:
        assert answer.get(b"transfer-encoding") == b"chunked"
        await client.send(get())
        assert (await client.answer()).body == b"first second"


async def test_100_continue_is_relayed_before_the_body_is_sent(rig: Rig) -> None:
    script = Script()
    proxy = await rig.proxy(rig.agent(script))
    client = await proxy.connect()
    await client.send(get("/", "Content-Length: 4", "Expect: 100-continue", method="POST"))
    agent = await script.next()
    assert (await agent.head()).get(b"expect") == b"100-continue"
    await agent.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert (await client.answer()).status == 100
    await client.send(b"body")
    assert await agent.exactly(4) == b"body"
    await agent.send(ok(b"got it"))
    assert (await client.answer()).body == b"got it"
    await client.send(get())
    await agent.head()
    await agent.send(ok(b"again"))
    assert (await client.answer()).body == b"again"


async def test_a_final_status_instead_of_100_continue(rig: Rig) -> None:
    agent = rig.agent(Once(ok(b"no", status=b"401 Unauthorized")))
    proxy = await rig.proxy(agent)
    client = await proxy.connect()
    await client.send(get("/", "Content-Length: 4", "Expect: 100-continue", method="POST"))
    answer = await client.answer()
    assert (answer.status, answer.body, answer.get(b"connection")) == (401, b"no", b"close")
    assert await client.end() == "fin"
    await until(lambda: proxy.upstream().open == 0, "an agent that waits for a body is not used again")


async def test_early_hints_are_relayed_at_once(rig: Rig) -> None:
    _, _, client, agent = await rig.asked(get())
    await agent.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n")
    hints = await client.answer()
    assert (hints.status, hints.get(b"link")) == (103, b"</a>; rel=preload")
    await agent.send(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + ok(b"done"))
    assert [(await client.answer()).status for _ in range(3)] == [102, 103, 200]


async def test_interim_answers_never_reach_an_http_10_client(rig: Rig) -> None:
    proxy = await rig.proxy(rig.agent(Serving(b"HTTP/1.1 103 Early Hints\r\n\r\n" + ok(b"done"))))
    answer = await proxy.ask(get(version="1.0"))
    assert (answer.status, answer.body) == (200, b"done")


async def test_interim_answers_are_capped(rig: Rig) -> None:
    agent = rig.agent(Once(b"HTTP/1.1 102 Processing\r\n\r\n" * 5 + ok(b"never")))
    proxy = await rig.proxy(agent, limits={"max_interim": 4})
    client = await proxy.connect()
    await client.send(get())
    statuses = [(await client.answer()).status for _ in range(5)]
    assert statuses == [102, 102, 102, 102, 502]
