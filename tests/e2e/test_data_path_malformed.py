"""Every request that is refused: the status, the reason, the closed connection, and an agent that saw no byte of it."""

from __future__ import annotations

import asyncio
import json

import pytest
from rig import Rig, Serving, get, ok, post, until
from wire import Ended, Wire

HOST = b"Host: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def head(*lines: bytes) -> bytes:
    """A GET with these field lines, as they are."""
    return b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


# name: (bytes, status, code of the problem)
REFUSED: dict[str, tuple[bytes, int, str]] = {
    "length and encoding": (POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "bad_length"),
    "encoding and length": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", 400, "bad_length"),
    "two equal lengths": (POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400, "bad_length"),
    "two lengths": (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400, "bad_length"),
    "a list of lengths": (POST + b"Content-Length: 3, 3\r\n\r\nabc", 400, "bad_length"),
    "a signed length": (POST + b"Content-Length: +3\r\n\r\nabc", 400, "bad_length"),
    "a negative length": (POST + b"Content-Length: -3\r\n\r\nabc", 400, "bad_length"),
    "an empty length": (POST + b"Content-Length:\r\n\r\n", 400, "bad_length"),
    "a length in hex": (POST + b"Content-Length: 0x3\r\n\r\nabc", 400, "bad_length"),
    "a length in other digits": (POST + "Content-Length: ٣\r\n\r\nabc".encode(), 400, "bad_length"),
    "a length in superscript": (POST + b"Content-Length: \xb2\r\n\r\nabc", 400, "bad_length"),
    "an overflowing length": (POST + b"Content-Length: 18446744073709551619\r\n\r\nabc", 400, "bad_length"),
    "encoding gzip": (POST + b"Transfer-Encoding: gzip\r\n\r\n", 501, "unknown_transfer_encoding"),
    "encoding gzip, chunked": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501, "unknown_transfer_encoding"),
    "encoding chunked, chunked": (
        POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n",
        501,
        "unknown_transfer_encoding",
    ),
    "encoding ,chunked": (POST + b"Transfer-Encoding: ,chunked\r\n\r\n", 501, "unknown_transfer_encoding"),
    "encoding identity": (POST + b"Transfer-Encoding: identity\r\n\r\n", 501, "unknown_transfer_encoding"),
    "encoding xchunked": (POST + b"Transfer-Encoding: xchunked\r\n\r\n", 501, "unknown_transfer_encoding"),
    "encoding twice": (
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        501,
        "unknown_transfer_encoding",
    ),
    "encoding in 1.0": (
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "bad_transfer_encoding",
    ),
    "encoding with _": (POST + b"Transfer_Encoding: chunked\r\n\r\n", 400, "bad_field"),
    "length with _": (POST + b"Content_Length: 3\r\n\r\n", 400, "bad_field"),
    "a bare CR in a value": (head(b"X: a\rb"), 400, "bad_field"),
    "a bare LF in a value": (head(b"X: a\nY: b"), 400, "bad_field"),
    "only bare LFs": (b"GET / HTTP/1.1\nHost: a\n\n", 400, "bad_request_line"),
    "a bare LF behind the request line": (b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400, "bad_request_line"),
    "a bare LF at the head's end": (b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400, "bad_field"),
    "NUL in a value": (head(b"X: a\0b"), 400, "bad_field"),
    "a control character in a value": (head(b"X: a\x1bb"), 400, "bad_field"),
    "DEL in a value": (head(b"X: a\x7fb"), 400, "bad_field"),
    "NUL in a name": (head(b"X\0: a"), 400, "bad_field"),
    "obs-fold": (head(b"X: a", b" b"), 400, "bad_field"),
    "obs-fold with a tab": (head(b"X: a", b"\tb"), 400, "bad_field"),
    "space before the colon": (head(b"X : a"), 400, "bad_field"),
    "tab before the colon": (head(b"X\t: a"), 400, "bad_field"),
    "white space before the first field": (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400, "bad_field"),
    "an empty name": (head(b": a"), 400, "bad_field"),
    "no colon": (head(b"X"), 400, "bad_field"),
    "a name in brackets": (head(b"X[1]: a"), 400, "bad_field"),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400, "bad_host"),
    "two Hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, "bad_host"),
    "an empty Host": (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400, "bad_host"),
    "Host with a path": (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, "bad_host"),
    "Host with a user": (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400, "bad_host"),
    "a list of Hosts": (b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400, "bad_host"),
    "authority and Host at odds": (b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_host"),
    "another scheme": (b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_target"),
    "https as scheme": (b"GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_target"),
    "user information": (b"GET http://u:p@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_target"),
    "a target without slash": (b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_target"),
    "* without OPTIONS": (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_target"),
    "a fragment": (b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request_line"),
    "a raw byte in the target": (b"GET /\xe4 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request_line"),
    "no version": (b"GET /\r\n" + HOST + b"\r\n", 400, "bad_request_line"),
    "two spaces": (b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad_request_line"),
    "a space behind the version": (b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n", 400, "bad_request_line"),
    "white space before the method": (b" GET / HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad_request_line"),
    "version 2.0": (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 505, "bad_version"),
    "version 0.9": (b"GET / HTTP/0.9\r\n" + HOST + b"\r\n", 505, "bad_version"),
    "version 1.2": (b"GET / HTTP/1.2\r\n" + HOST + b"\r\n", 505, "bad_version"),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "bad_version"),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "bad_request_line"),
    "two empty lines first": (b"\r\n\r\nGET / HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad_request_line"),
    "CONNECT": (b"CONNECT a:443 HTTP/1.1\r\n" + HOST + b"\r\n", 405, "method_not_allowed"),
    "TRACE": (b"TRACE / HTTP/1.1\r\n" + HOST + b"\r\n", 405, "method_not_allowed"),
    "a method of RTSP": (b"DESCRIBE / HTTP/1.1\r\n" + HOST + b"\r\n", 501, "method_not_implemented"),
    "a method in lower case": (b"get / HTTP/1.1\r\n" + HOST + b"\r\n", 501, "method_not_implemented"),
    "an unknown expectation": (head(b"Expect: 200-ok"), 417, "expectation_failed"),
    "upgrade with a POST": (
        POST + b"Content-Length: 0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        400,
        "bad_upgrade",
    ),
    "upgrade with a body": (
        head(b"Content-Length: 1", b"Connection: upgrade", b"Upgrade: websocket"),
        400,
        "bad_upgrade",
    ),
    "upgrade with chunks": (
        head(b"Transfer-Encoding: chunked", b"Connection: upgrade", b"Upgrade: websocket"),
        400,
        "bad_upgrade",
    ),
}


async def refusal(client: Wire, status: int, code: str) -> None:
    """The client gets the problem document, and its connection ends."""
    answer = await client.answer()
    assert answer.status == status, answer
    assert answer.get(b"content-type") == b"application/problem+json"
    assert answer.get(b"connection") == b"close"
    assert answer.get(b"date")
    problem = json.loads(answer.body)
    assert problem["type"] == f"urn:bgproxy:problem:{code}"
    assert (problem["code"], problem["status"]) == (code, status)
    assert problem["title"]
    assert problem["detail"]
    assert await client.end() == "fin"


@pytest.mark.parametrize("name", REFUSED)
async def test_it_is_refused_before_an_agent_sees_it(rig: Rig, name: str) -> None:
    data, status, code = REFUSED[name]
    agent = rig.agent(Serving())
    proxy = await rig.proxy(agent)
    client = await proxy.connect()
    await client.send(data, get("/smuggled"))
    await refusal(client, status, code)
    assert agent.received == 0
    assert not agent.wires
    assert proxy.metrics.refused == {code: 1}


# Each empty line alone is forgiven: nobody can tell it from the end of an old client's body.
@pytest.mark.parametrize("name", [name for name in REFUSED if name != "two empty lines first"])
async def test_it_is_refused_byte_by_byte_too(rig: Rig, name: str) -> None:
    data, status, code = REFUSED[name]
    agent = rig.agent(Serving())
    proxy = await rig.proxy(agent)
    client = await proxy.connect()
    await until(lambda: proxy.plane.connections)
    (connection,) = proxy.plane.connections
    for at in range(len(data)):
        connection.data_received(data[at : at + 1])
        if connection.lingering:
            break
    assert connection.lingering
    await refusal(client, status, code)
    assert not agent.wires


@pytest.mark.parametrize("name", ["two lengths", "obs-fold", "encoding gzip", "no Host", "CONNECT"])
async def test_behind_a_good_request_it_is_refused_and_the_good_one_answered(rig: Rig, name: str) -> None:
    data, status, code = REFUSED[name]
    agent = Serving()
    server = rig.agent(agent)
    proxy = await rig.proxy(server)
    client = await proxy.connect()
    await client.send(get("/good"), data, get("/smuggled"))
    assert (await client.answer()).body == b"hello"
    await refusal(client, status, code)
    assert [request.target for request in agent.seen] == [b"/good"]


BROKEN_CHUNKS = {
    "a signed size": b"+3\r\nabc\r\n0\r\n\r\n",
    "a negative size": b"-3\r\nabc\r\n0\r\n\r\n",
    "a size with 0x": b"0x3\r\nabc\r\n0\r\n\r\n",
    "a padded size": b" 3\r\nabc\r\n0\r\n\r\n",
    "a size with a space behind": b"3 \r\nabc\r\n0\r\n\r\n",
    "an empty size": b"\r\nabc\r\n0\r\n\r\n",
    "a size of no hex": b"g\r\nabc\r\n0\r\n\r\n",
    "an overflowing size": b"ffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    "a size of 17 digits": b"00000000000000003\r\nabc\r\n0\r\n\r\n",
    "a size line with a bare LF": b"3\nabc\r\n0\r\n\r\n",
    "a size line with a bare CR": b"3\rabc\r\n0\r\n\r\n",
    "a chunk longer than its size": b"3\r\nabcd\r\n0\r\n\r\n",
    "a chunk that ends with a bare LF": b"3\r\nabc\n0\r\n\r\n",
    "a chunk that ends with a bare CR": b"3\r\nabc\r0\r\n\r\n",
    "an extension with a bare CR": b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    "an extension with NUL": b"3;a\0b\r\nabc\r\n0\r\n\r\n",
    "an extension without end": b"3;" + b"a" * 20_000,
    "many extensions": b"".join(b"1;" + b"a" * 1_000 + b"\r\nx\r\n" for _ in range(9)),
    "a trailer without colon": b"3\r\nabc\r\n0\r\nX\r\n\r\n",
    "a trailer with a bare LF": b"3\r\nabc\r\n0\r\nX: a\n\r\n",
    "a folded trailer": b"3\r\nabc\r\n0\r\nX: a\r\n b\r\n\r\n",
    "too many trailers": b"0\r\n" + b"X: a\r\n" * 101 + b"\r\n",
    "too long trailers": b"0\r\n" + b"X: " + b"a" * 9_000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("name", BROKEN_CHUNKS)
@pytest.mark.parametrize("together", [True, False])
async def test_broken_chunks_are_refused_and_the_agent_never_sees_an_end(rig: Rig, name: str, together: bool) -> None:
    """What came with its head is refused with it. A head that came before may have gone on, as it was well; no final
    chunk follows it, and no payload of the broken chunk's."""

    async def watch(wire: Wire) -> None:
        with pytest.raises(Ended):
            await wire.request()
        seen.set_result(None)

    seen = asyncio.get_running_loop().create_future()
    agent = rig.agent(watch)
    proxy = await rig.proxy(agent)
    client = await proxy.connect()
    if together:
        await client.send(CHUNKED + BROKEN_CHUNKS[name] + get("/smuggled"))
    else:
        await client.send(CHUNKED)
        await asyncio.sleep(0.01)
        await client.send(BROKEN_CHUNKS[name] + get("/smuggled"))
    await refusal(client, 400, "bad_chunk")
    if together:
        assert agent.received == 0
    else:
        await seen


async def test_what_the_agent_gets_is_framed_anew(rig: Rig) -> None:
    """Extensions, leading zeros, capital digits and odd cuts stay here."""
    raw: list[bytes] = []

    async def agent(wire: Wire) -> None:
        raw.append(await wire.until(b"0\r\n\r\n"))
        await wire.send(ok())

    proxy = await rig.proxy(rig.agent(agent))
    answer = await proxy.ask(CHUNKED + b'0003;name="value"\r\nabc\r\n0A\r\n0123456789\r\n000;last\r\n\r\n')
    assert answer.status == 200
    body = raw[0].partition(b"\r\n\r\n")[2]
    assert body == b"3\r\nabc\r\na\r\n0123456789\r\n0\r\n\r\n"


async def test_absolute_form_becomes_origin_form_with_its_authority_as_host(rig: Rig) -> None:
    agent = Serving()
    proxy = await rig.proxy(rig.agent(agent))
    for target, expected in (
        (b"http://A.example:81/x?y", b"/x?y"),
        (b"http://a.example:81", b"/"),
        (b"HTTP://a.example:81?y", b"/?y"),
    ):
        await proxy.ask(b"GET " + target + b" HTTP/1.1\r\nhost: a.example:81\r\n\r\n")
        seen = agent.seen[-1]
        assert seen.start == b"GET " + expected + b" HTTP/1.1"
        assert (seen.get(b"host") or b"").lower() == b"a.example:81"


async def test_options_of_the_whole_server(rig: Rig) -> None:
    agent = Serving()
    proxy = await rig.proxy(rig.agent(agent))
    assert (await proxy.ask(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")).status == 200
    assert agent.seen[0].target == b"*"


async def test_trace_by_setting(rig: Rig) -> None:
    agent = Serving()
    proxy = await rig.proxy(rig.agent(agent), forwarding={"trace_method": True})
    assert (await proxy.ask(get(method="TRACE"))).status == 200
    assert agent.seen[0].method == b"TRACE"


async def test_underscores_by_setting(rig: Rig) -> None:
    for setting, expected in (("drop", None), ("pass", b"1")):
        agent = Serving()
        proxy = await rig.proxy(rig.agent(agent), forwarding={"underscores": setting})
        assert (await proxy.ask(get("/", "X_Odd: 1", "X-Even: 2"))).status == 200
        assert agent.seen[0].get(b"x_odd") == expected
        assert agent.seen[0].get(b"x-even") == b"2"
    proxy = await rig.proxy(rig.agent(Serving()), forwarding={"underscores": "refuse"})
    assert (await proxy.ask(get("/", "X_Odd: 1"))).status == 400


LIMITS = {
    "max_head_bytes": ({"max_head_bytes": 1_000}, get("/", "X: " + "a" * 1_000), 431, "head_too_large"),
    "max_fields": ({"max_fields": 10}, get("/", *(["X: a"] * 10)), 431, "too_many_fields"),
    "max_target_bytes": ({"max_target_bytes": 100}, get("/" + "a" * 100), 414, "target_too_long"),
    "max_target_bytes beyond the head": ({"max_head_bytes": 1_000}, get("/" + "a" * 9_000), 414, "target_too_long"),
    "max_body_bytes": ({"max_body_bytes": 10}, post(b"a" * 11), 413, "body_too_large"),
}


@pytest.mark.parametrize("name", LIMITS)
async def test_limits_of_a_head(rig: Rig, name: str) -> None:
    limits, request, status, code = LIMITS[name]
    agent = rig.agent(Serving())
    proxy = await rig.proxy(agent, limits=limits)
    client = await proxy.connect()
    await client.send(request)
    await refusal(client, status, code)
    assert not agent.wires


async def test_what_is_just_within_the_limits_passes(rig: Rig) -> None:
    limits = {"max_head_bytes": 1_000, "max_fields": 3, "max_target_bytes": 100, "max_body_bytes": 10}
    proxy = await rig.proxy(rig.agent(Serving()), limits=limits)
    request = post(b"a" * 10, target="/" + "a" * 99)
    head, end, body = request.partition(b"\r\n\r\n")
    pad = b"\r\nX: " + b"p" * (1_000 - len(head) - len(b"\r\nX: "))
    assert (await proxy.ask(head + pad + end + body)).status == 200


async def test_max_body_bytes_of_a_chunked_body(rig: Rig) -> None:
    async def watch(wire: Wire) -> None:
        with pytest.raises(Ended):
            await wire.request()

    proxy = await rig.proxy(rig.agent(watch), limits={"max_body_bytes": 10})
    client = await proxy.connect()
    await client.send(CHUNKED + b"a\r\n0123456789\r\n")
    await asyncio.sleep(0.01)
    await client.send(b"1\r\nx\r\n")
    await refusal(client, 413, "body_too_large")


async def test_a_refusal_reaches_a_client_that_goes_on_sending(rig: Rig) -> None:
    """Closing at once would reset the connection, and take the answer with it."""
    agent = rig.agent(Serving())
    proxy = await rig.proxy(agent, limits={"max_body_bytes": 10})
    client = await proxy.connect()
    await client.send(get("/", "Content-Length: 3000000", method="POST"))
    for _ in range(30):
        await client.send(b"x" * 100_000)
    answer = await client.answer()
    assert answer.status == 413
    assert not agent.wires
