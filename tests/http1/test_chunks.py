"""The chunked coding: each body is fed whole, byte by byte, split in two anywhere, and with garbage behind."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgproxy.http1.framing import (
    LAST_CHUNK,
    ChunkReader,
    chunk,
    last_chunk,
    match_whole_chunk,
    walk_whole_chunk,
)
from bgproxy.http1.head import Malformed

GARBAGE = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n0\r\n\r\n"


@dataclass(frozen=True)
class Body:
    what: str
    sent: bytes
    payload: bytes
    trailers: tuple[bytes, ...] = ()


def trailer(what: str, *lines: bytes, kept: tuple[bytes, ...] = ()) -> Body:
    return Body(what, b"0\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n", b"", kept)


BODIES = [
    Body("nothing", b"0\r\n\r\n", b""),
    Body("one chunk", b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    Body("two chunks", b"5\r\nhello\r\n6\r\n agent\r\n0\r\n\r\n", b"hello agent"),
    Body(
        "digits in any letters, with zeros",
        b"000A\r\n0123456789\r\n0b\r\nhello agent\r\n000\r\n\r\n",
        b"0123456789hello agent",
    ),
    Body("payload that looks like framing", b"7\r\n\r\n0\r\n\r\n\r\n3\r\n1\r\n\r\n0\r\n\r\n", b"\r\n0\r\n\r\n1\r\n"),
    Body("payload of line feeds", b"4\r\n\n\n\n\r\r\n0\r\n\r\n", b"\n\n\n\r"),
    Body("extensions", b'5;a=b;c="d e"\r\nhello\r\n0;last\t\r\n\r\n', b"hello"),
    Body("an empty extension", b"5;\r\nhello\r\n0\r\n\r\n", b"hello"),
    Body("much", b"2710\r\n" + b"x" * 10_000 + b"\r\n0\r\n\r\n", b"x" * 10_000),
    trailer("trailers", b"X-Checksum: 1", b"server-timing:x; y", kept=(b"X-Checksum: 1", b"server-timing:x; y")),
    trailer("an empty trailer", b"A:", kept=(b"A:",)),
    trailer("a trailer beyond ASCII", b"A: \xff\t", kept=(b"A: \xff\t",)),
    trailer("as many trailers as may be", *[b"A: b"] * 4, kept=(b"A: b",) * 4),
    trailer("trailers that frame", b"Content-Length: 5", b"transfer-encoding: chunked", b"Trailer: a"),
    trailer("trailers that route", b"Host: evil", b"HOST: evil", b"Connection: a", b"X-Bgproxy-Color: green"),
    trailer("trailers that identify", b"Authorization: a", b"Cookie: b", b"X-API-Key: c", b"Mcp-Session-Id: d"),
    trailer(
        "trailers that tell of the client",
        b"X-Forwarded-For: a",
        b"x-forwarded-port: b",
        b"Forwarded: c",
        b"X-Real-IP: d",
    ),
    trailer("trailers that ask", b"If-None-Match: a", b"Range: b", b"Expect: 100-continue", b"Cache-Control: no-store"),
    Body("an extension as long as may be", b"1;" + b"a" * 999 + b"\r\nx\r\n0\r\n\r\n", b"x"),
    trailer("trailers with an underscore", b"X_Forwarded_For: a", b"b_c: d", b"e: f", kept=(b"e: f",)),
]
every = pytest.mark.parametrize("body", BODIES, ids=lambda body: body.what)


def reader() -> ChunkReader:
    return ChunkReader(max_extra_bytes=1_000, max_fields=4)


def check(body: Body, *pieces: bytes, behind: bytes = b"") -> None:
    """Feed the pieces, the last of which holds the end and what is `behind` it."""
    chunks = reader()
    out: list[bytes] = []
    for piece in pieces[:-1]:
        assert chunks.feed(piece, out) == len(piece)
        assert not chunks.done
    assert chunks.feed(pieces[-1], out) == len(pieces[-1]) - len(behind)
    assert chunks.done
    assert b"".join(out) == body.payload
    assert chunks.trailers == list(body.trailers)


@every
def test_whole(body: Body) -> None:
    check(body, body.sent)


@every
def test_byte_by_byte(body: Body) -> None:
    check(body, *(body.sent[at : at + 1] for at in range(len(body.sent))))


@every
def test_split_in_two_anywhere(body: Body) -> None:
    for at in range(1, min(len(body.sent), 200)):
        check(body, body.sent[:at], body.sent[at:])


@every
def test_what_follows_is_left_alone(body: Body) -> None:
    check(body, body.sent + GARBAGE, behind=GARBAGE)


@every
def test_half_a_body_is_not_done(body: Body) -> None:
    chunks = reader()
    for at in range(min(len(body.sent), 200)):
        assert not chunks.done
        chunks.feed(body.sent[at : at + 1], [])


def test_after_the_end_nothing_is_taken() -> None:
    chunks = reader()
    chunks.feed(LAST_CHUNK, [])
    assert chunks.feed(GARBAGE, out := []) == 0
    assert out == []


def test_payload_is_not_copied_where_nothing_else_came() -> None:
    chunks = reader()
    chunks.feed(b"ffff\r\n", [])
    data = b"x" * 100
    chunks.feed(data, out := [])
    assert out[0] is data


def test_a_boundary_is_where_no_chunk_is_open() -> None:
    chunks = reader()
    seen = []
    for byte in b"2\r\nhi\r\n1":
        seen.append(chunks.at_boundary())
        chunks.feed(bytes((byte,)), [])
    assert seen == [True, False, False, False, False, False, False, True]
    assert not chunks.at_boundary()


def test_extensions_and_trailers_have_an_allowance_each() -> None:
    extension, field = b"5;" + b"a" * 999 + b"\r\nhello\r\n", b"A: " + b"b" * 997 + b"\r\n"
    check(Body("", b"", b"hello", (field[:-2],)), extension + b"0\r\n" + field + b"\r\n")


def test_extensions_of_one_message_have_4_kib_however_long_its_trailers_may_be() -> None:
    chunks = ChunkReader(1_000_000, 100)
    line = b"1;" + b"a" * 1_023 + b"\r\nx\r\n"
    out: list[bytes] = []
    assert chunks.feed(line * 4, out) == 4 * len(line)
    assert out == [b"x"] * 4
    with pytest.raises(Malformed, match="extensions"):
        chunks.feed(b"1;\r\nx\r\n", out)


@pytest.mark.parametrize("payload", [b"x", b"data: 1\n\n", b"\r\n", b"x" * 100_000])
def test_what_is_framed_is_read_again(payload: bytes) -> None:
    framed = chunk(payload)
    begins = len(framed) - len(payload) - 2
    assert (walk_whole_chunk(framed), match_whole_chunk(framed)) == (begins, begins)
    check(Body("", b"", payload, (b"A: b",)), framed + last_chunk([b"A: b"]))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"5\r\nhello",
        b"5\r\nhello\r",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n1\r\nx\r\n",
        b"6\r\nhello\r\n",
        b"4\r\nhello\r\n",
        b"5;a\r\nhello\r\n",
        b"05\r\nhello\r\n",
        b"0\r\n\r\n",
        b"5\nhello\r\n",
        b"hello",
        b"7\r\nhello\r\nx\r",
        b"10000000\r\n" + b"x" * 10 + b"\r\n",
        b"f\xff\r\nx\r\n",
        b"\r\nhello\r\n",
        b"12345678",
        b"5\rhello\r\n",
        b"5\r\nhello\n\n",
        b"5\r\nhello\r\r",
    ],
)
def test_data_that_are_not_one_whole_chunk(data: bytes) -> None:
    assert (walk_whole_chunk(data), match_whole_chunk(data)) == (0, 0)


@given(
    st.sampled_from([b"", b"1", b"A", b"f"]),
    st.lists(st.sampled_from([b"0", b"a", b"\r", b"\n", b"\r\n", b";"]), max_size=8),
)
def test_both_looks_at_a_chunk_see_the_same(first: bytes, rest: list[bytes]) -> None:
    data = first + b"".join(rest)
    assert walk_whole_chunk(data) == match_whole_chunk(data)


def test_the_last_chunk() -> None:
    assert last_chunk([]) == b"0\r\n\r\n"
    assert last_chunk([b"A: b", b"C: d"]) == b"0\r\nA: b\r\nC: d\r\n\r\n"


def test_a_reader_shows_where_it_is() -> None:
    chunks = reader()
    chunks.feed(b"5\r\nhe", [])
    assert repr(chunks) == "<ChunkReader state 1 left 3 done False>"


def test_the_largest_chunk_may_begin() -> None:
    chunks = reader()
    assert chunks.feed(b"1000000000000000\r\nhello", out := []) == 23
    assert out == [b"hello"]


def test_an_extension_one_byte_too_long() -> None:
    with pytest.raises(Malformed):
        reader().feed(b"1;" + b"a" * 1_000 + b"\r\n", [])


# RFC 9110 §6.5.1: framing, routing, authentication, request modifiers, response control; and who the client is.
NO_TRAILERS = """
    Content-Length Transfer-Encoding Trailer Host Connection Keep-Alive Proxy-Connection TE Upgrade HTTP2-Settings Via
    Authorization Proxy-Authorization WWW-Authenticate Authentication-Info Proxy-Authenticate Proxy-Authentication-Info
    Cookie Set-Cookie X-API-Key API-Key Mcp-Session-Id X-Request-Id traceparent tracestate X-Real-IP Forwarded
    X-Forwarded-For X-Forwarded-Anything X-Bgproxy-Color Expect Max-Forwards Range If-Match If-None-Match If-Range
    If-Modified-Since If-Unmodified-Since Cache-Control Pragma Content-Type Content-Encoding Content-Range Location Date
    Age Expires Vary Retry-After Warning a_b
"""


@pytest.mark.parametrize("name", NO_TRAILERS.split())
def test_what_is_no_trailer(name: str) -> None:
    check(Body(name, b"", b"", (b"A: b",)), b"0\r\n%b: x\r\nA: b\r\n\r\n" % name.encode())
