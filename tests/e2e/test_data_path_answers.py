"""Answers of agents that are broken, early, or too long: what the client learns, and that nothing of one answer ever
becomes part of the next."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from rig import Once, Rig, Script, Serving, get, ok, post, until
from wire import Ended, Message, Wire

STATUS = b"HTTP/1.1 200 OK\r\n"
NONE = b"Content-Length: 0\r\n\r\n"

BROKEN_HEADS = {
    "no status line": b"Content-Length: 0\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "another protocol without line end": b"\x16\x03\x01\x02\x00",
    "an HTTP/2 frame": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\n" + NONE,
    "HTTP/0.9, as it were": b"<html>hello</html>",
    "a status of two digits": b"HTTP/1.1 20 OK\r\n" + NONE,
    "a status of four digits": b"HTTP/1.1 2000 OK\r\n" + NONE,
    "a status of letters": b"HTTP/1.1 abc OK\r\n" + NONE,
    "a status below 100": b"HTTP/1.1 099 OK\r\n" + NONE,
    "a status of no class": b"HTTP/1.1 600 OK\r\n" + NONE,
    "a control character in the reason": b"HTTP/1.1 200 O\x01K\r\n" + NONE,
    "only bare LFs": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "a bare LF at the end": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\n",
    "a bare LF in a value": STATUS + b"X: a\nb\r\n" + NONE,
    "a bare CR in a value": STATUS + b"X: a\rb\r\n" + NONE,
    "NUL in a value": STATUS + b"X: a\0b\r\n" + NONE,
    "space before the colon": STATUS + b"X : a\r\n" + NONE,
    "a folded field": STATUS + b"X: a\r\n b\r\n" + NONE,
    "no colon": STATUS + b"X\r\n" + NONE,
    "two lengths": STATUS + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a list of lengths": STATUS + b"Content-Length: 1, 1\r\n\r\na",
    "a negative length": STATUS + b"Content-Length: -1\r\n\r\n",
    "length and encoding": STATUS + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "encoding gzip": STATUS + b"Transfer-Encoding: gzip\r\n\r\n",
    "encoding gzip, chunked": STATUS + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "encoding with a tab behind": STATUS + b"Transfer-Encoding: chunked\t\r\n\r\n0\r\n\r\n",
    "encoding in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "too many fields": STATUS + b"X: a\r\n" * 101 + NONE,
    "too long a head": STATUS + b"X: " + b"a" * 40_000,
    "a broken first chunk": STATUS + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
}


@pytest.mark.parametrize("name", BROKEN_HEADS)
async def test_a_broken_head_is_a_502_at_once_and_the_connection_is_done(rig: Rig, name: str) -> None:
    """At once: the agent keeps its connection open, and nothing is due before `response_head_timeout`."""
    agent = rig.agent(Once(BROKEN_HEADS[name]))
    proxy = await rig.proxy(agent)
    client = await proxy.connect()
    await client.send(get())
    answer = await client.answer()
    assert (answer.status, answer.get(b"connection")) == (502, None)
    problem = json.loads(answer.body)
    assert problem["code"] == "bad_response"
    assert agent.url in problem["detail"]
    assert proxy.slot().broken_agent == 1
    agent.handler = Serving()
    await client.send(get())  # the client did nothing wrong, and goes on
    assert (await client.answer()).body == b"hello"
    assert len(agent.wires) == 2


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200\r\n",  # many leave the space out with the reason
        b"HTTP/1.1 200 \r\n",
        b"HTTP/1.1 200 " + "très bien".encode() + b"\r\n",
        b"HTTP/1.0 200 OK\r\n",
    ],
)
async def test_status_lines_that_are_well(rig: Rig, head: bytes) -> None:
    proxy = await rig.proxy(rig.agent(Serving(head + b"Content-Length: 2\r\n\r\nhi")))
    answer = await proxy.ask(get())
    assert (answer.status, answer.body) == (200, b"hi")


BROKEN_BODIES = {
    "a size of no hex": b"xyz\r\nhello\r\n",
    "a longer chunk": b"3\r\nhello\r\n",
    "a bare LF": b"5\nhello\n0\n\n",
    "a negative size": b"-5\r\nhello\r\n",
    "a broken trailer": b"5\r\nhello\r\n0\r\nX\r\n\r\n",
}


@pytest.mark.parametrize("name", BROKEN_BODIES)
async def test_broken_chunks_end_the_answer_so_that_the_client_can_tell(rig: Rig, name: str) -> None:
    proxy, _, client, agent = await rig.asked(get())
    await agent.send(STATUS + b"Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
    await client.head()
    assert await client.chunk() == b"first"
    await agent.send(BROKEN_BODIES[name])
    rest = await client.rest()
    assert b"0\r\n\r\n" not in rest
    await agent.gone()
    assert proxy.slot().broken_agent == 1


# What comes behind an answer never becomes the next one.

BEYOND = {
    "a length": (get(), STATUS + b"Content-Length: 2\r\n\r\nhi"),
    "chunks": (get(), STATUS + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"),
    "HEAD": (get(method="HEAD"), STATUS + b"Content-Length: 2\r\n\r\n"),
    "204": (get(), b"HTTP/1.1 204 No Content\r\n\r\n"),
    "304": (get(), b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n"),
}


@pytest.mark.parametrize("name", BEYOND)
@pytest.mark.parametrize("apart", [False, True])
async def test_bytes_beyond_an_answer_are_dropped_with_their_connection(rig: Rig, name: str, apart: bool) -> None:
    request, reply = BEYOND[name]
    evil = ok(b"evil")

    async def agent(wire: Wire) -> None:
        await wire.head()
        await wire.send(reply if apart else reply + evil)
        if apart:
            await asyncio.sleep(0.01)
            await wire.send(evil)
        await wire.gone()

    server = rig.agent(agent)
    proxy = await rig.proxy(server)
    client = await proxy.connect()
    method = request.split(b" ")[0]
    await client.send(request)
    await client.answer(method)
    await until(lambda: proxy.upstream().open == 0, "the agent's connection is dropped")
    server.handler = Serving()
    await client.send(get())
    assert (await client.answer()).body == b"hello"


async def test_bytes_before_any_request_are_dropped_with_their_connection(rig: Rig) -> None:
    """A connection that rests speaks first: nothing of it may meet a request."""
    script = Script()
    server = rig.agent(script)
    proxy = await rig.proxy(server)
    assert await proxy.plane.warm_up("blue") == ""
    (first, second) = await script.next(), await script.next()
    await first.send(ok(b"evil"))
    await second.send(b"HTTP/1.1 200 OK\r\n")
    await until(lambda: proxy.upstream().open == 0)
    server.handler = Serving()
    assert (await proxy.ask(get())).body == b"hello"


# Answers while the request's body is still coming


async def test_an_early_answer_is_relayed_and_the_rest_of_the_body_dropped(rig: Rig) -> None:
    """The agent says no after the head, and reads no more."""
    proxy, _, client, agent = await rig.asked(get("/", "Content-Length: 50000000", method="POST"), b"x" * 1_000)
    await agent.send(ok(b"too large", status=b"413 Content Too Large"))
    answer = await client.answer()
    assert (answer.status, answer.body, answer.get(b"connection")) == (413, b"too large", b"close")
    await client.send(b"x" * 1_000_000)  # still read, so that no reset takes the answer away
    client.fin()
    assert await client.end() == "fin"
    await agent.gone()
    await until(lambda: proxy.upstream().open == 0, "the agent's connection is not used again")


async def test_an_agent_that_has_not_taken_the_whole_request_is_not_used_again(rig: Rig, tmp_path: Path) -> None:
    """All of it has come here, and the answer is whole; the next request must not stand behind the rest of it."""
    script = Script()
    limits = {"high_water_bytes": 10_000_000}
    proxy = await rig.proxy(rig.agent(script, path=str(tmp_path / "agent.sock")), limits=limits)
    client = await proxy.connect()
    await client.send(post(b"x" * 2_000_000))
    await until(lambda: any(c.exchange is not None and c.exchange.request_done for c in proxy.plane.connections))
    agent = await script.next()
    await agent.head()
    await agent.send(ok(b"seen enough"))
    assert (await client.answer()).body == b"seen enough"
    await client.send(get("/next"))
    other = await script.next()
    assert (await other.head()).target == b"/next"
    await other.send(ok(b"next"))
    assert (await client.answer()).body == b"next"


async def test_an_early_answer_frees_an_agent_that_reads_no_more(rig: Rig) -> None:
    """The agent's socket is full of a body that it will never read; it is closed all the same."""
    script = Script()
    proxy = await rig.proxy(rig.agent(script, rcvbuf=4_096))
    client = await proxy.connect()
    sender = asyncio.create_task(client.send(get("/", "Content-Length: 50000000", method="POST"), b"x" * 20_000_000))
    agent = await script.next()
    await agent.head()
    await proxy.reads_no_more()
    await agent.send(ok(b"no", status=b"401 Unauthorized"))
    assert (await client.answer()).status == 401
    await until(lambda: proxy.upstream().open == 0)
    sender.cancel()
    await asyncio.gather(sender, return_exceptions=True)


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_early_answer_may_stream_while_the_body_still_comes(rig: Rig, framing: str) -> None:
    """Both at once, as speech agents do; `client_body_timeout` is not for what follows the body's end."""
    script = Script()
    proxy = await rig.proxy(rig.agent(script), timeouts={"client_body_timeout": 0.3, "write_stall_timeout": 0.3})
    client = await proxy.connect()
    field = "Content-Length: 6" if framing == "length" else "Transfer-Encoding: chunked"
    parts = [b"on", b"two", b"3"] if framing == "length" else [b"2\r\non\r\n", b"3\r\ntwo\r\n", b"1\r\n3\r\n0\r\n\r\n"]
    await client.send(get("/", field, method="POST"))
    agent = await script.next()
    await agent.head()
    await agent.send(STATUS + b"Transfer-Encoding: chunked\r\n\r\n")
    await client.head()
    for part in parts:
        await client.send(part)
        assert await agent.until(part) == part
        await agent.send(b"2\r\nok\r\n")
        assert await client.chunk() == b"ok"
    await asyncio.sleep(0.8)
    await agent.send(b"4\r\ndone\r\n0\r\n\r\n")
    assert await client.chunk() == b"done"
    assert await client.chunk() == b""


async def test_an_agent_that_was_slow_in_the_middle_of_an_early_answer_may_go_on(rig: Rig) -> None:
    """It took no more of the body for a while, then all of it; from then on its answer has no deadline."""
    script = Script()
    proxy = await rig.proxy(rig.agent(script, rcvbuf=4_096), timeouts={"write_stall_timeout": 0.5})
    client = await proxy.connect()
    size = 20_000_000
    sender = asyncio.create_task(client.send(get("/", f"Content-Length: {size}", method="POST"), b"x" * size))
    agent = await script.next()
    await agent.head()
    await agent.send(STATUS + b"Transfer-Encoding: chunked\r\n\r\n")
    await client.head()
    await proxy.reads_no_more()
    await agent.exactly(size)
    await sender
    await asyncio.sleep(0.9)
    await agent.send(b"4\r\ndone\r\n0\r\n\r\n")
    assert await client.chunk() == b"done"


async def test_an_agent_that_answers_early_and_closes_at_once(rig: Rig) -> None:
    """Its reset meets our writes, and may overtake its answer; where the answer was there first, it is relayed."""
    body = b"x" * 3_000_000

    async def agent(wire: Wire) -> None:
        await wire.head()
        await wire.send(ok(b"no", b"Connection: close", status=b"413 Content Too Large"))
        wire.fin()
        await wire.gone()

    proxy = await rig.proxy(rig.agent(agent))
    for _ in range(20):
        client = await proxy.connect()
        sender = asyncio.create_task(client.send(post(body)))
        assert (await client.answer()).status == 413
        await asyncio.gather(sender, return_exceptions=True)
        client.close()


async def test_an_early_answer_whose_reset_ends_our_write_is_still_read(rig: Rig) -> None:
    """The agent answers and closes with bytes of the body unread; we are just writing more of it."""
    script = Script()
    proxy = await rig.proxy(rig.agent(script))
    client = await proxy.connect()
    await client.send(get("/", "Content-Length: 5000000", method="POST"), b"x" * 10)
    agent = await script.next()
    await agent.until(b"\r\n\r\n")
    (connection,) = proxy.plane.connections
    agent.sock.send(ok(b"no", b"Connection: close", status=b"413 Content Too Large"))
    agent.reset()
    connection.data_received(b"x" * 300_000)  # the same turn of the loop: written before anything is read
    answer = await client.answer()
    assert (answer.status, answer.body) == (413, b"no")
    assert proxy.slot().broken_agent == 0


async def test_an_answer_before_its_request_is_whole_is_never_kept_for_another(rig: Rig) -> None:
    seen: list[Message] = []

    async def agent(wire: Wire) -> None:
        head = await wire.head()
        seen.append(head)
        await wire.send(ok(head.target))
        with pytest.raises(Ended):
            await wire.until(b"never")

    proxy = await rig.proxy(rig.agent(agent))
    client = await proxy.connect()
    await client.send(get("/upload", "Content-Length: 10", method="POST"), b"12345")
    assert (await client.answer()).body == b"/upload"
    await client.send(b"67890" + get("/smuggled"))
    assert await client.end() == "fin"
    assert [head.target for head in seen] == [b"/upload"]


async def test_the_last_answer_survives_what_its_client_sends_behind_it(rig: Rig) -> None:
    """`Connection: close`, and then more requests than we read: a close at once would reset the answer away."""
    script = Script()
    proxy = await rig.proxy(rig.agent(script), limits={"max_pipelined": 1})
    client = await proxy.connect(rcvbuf=4_096)
    sender = asyncio.create_task(client.send(get("/", "Connection: close"), *[get("/more")] * 40_000))
    agent = await script.next()
    await agent.head()
    await proxy.reads_no_more()
    body = b"x" * 400_000
    await agent.send(ok(body))
    assert (await client.answer()).body == body
    sender.cancel()
    await asyncio.gather(sender, return_exceptions=True)
