"""Responses that are let in: what goes on is compared byte by byte, and where they end with where h11 sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import h11
import pytest
from heads import fields, head

from bgproxy.http1.head import CHUNKED, UNTIL_CLOSE, why_hopeless
from bgproxy.http1.parser import Parser

OK = "HTTP/1.1 200 OK"
JSON = "Content-Type: application/json"
SSE = "Content-Type: text/event-stream"
CHUNKS = "Transfer-Encoding: chunked"


@dataclass(frozen=True)
class Case:
    """`sent` goes on as `forwarded`; `says` are attributes of the parsed head."""

    what: str
    sent: tuple[str | bytes, ...]
    forwarded: tuple[str | bytes, ...]
    says: Mapping[str, object] = field(default_factory=dict)


def same(what: str, *lines: str | bytes, **says: object) -> Case:
    """An answer that goes on as it came."""
    return Case(what, lines, lines, says)


def dropped(what: str, *named: str | bytes) -> Case:
    """Fields that end here."""
    return Case(what, (OK, "Content-Length: 2", *named, "A: b"), (OK, "Content-Length: 2", "A: b"))


AS_THEY_CAME = [
    same("a length", OK, "Content-Length: 5", JSON, status=200, length=5, keep_alive=True, has_date=False, upgrade=b""),
    same("a length of nothing", OK, "content-length: 0", length=0),
    same("a length with white space behind", OK, "Content-Length: 5 \t", length=5),
    same("a date", OK, "dAtE: x", "Content-Length: 5", has_date=True),
    same("until close", OK, JSON, length=UNTIL_CLOSE, event_stream=False),
    same("no field", OK, length=UNTIL_CLOSE),
    same("no reason", "HTTP/1.1 200 ", "Content-Length: 0"),
    same("no reason and no space", "HTTP/1.1 404", "Content-Length: 0", status=404),
    same("a reason in any letters", b"HTTP/1.1 599 \tw\xc3\xb6rd; (x)", "Content-Length: 0", status=599),
    same("values in any letters", OK, b'A: \t"\x80\xff"', "B:", "Set-Cookie: a", "set-cookie: b", "Content-Length: 0"),
    same("names with an underscore", OK, "a_b: c", "Content-Length: 0"),
    same("as many fields as may be", OK, "Content-Length: 0", *["A: b"] * 99),
    same("a length of HEAD or 304", "HTTP/1.1 304 Not Modified", "Content-Length: 500", length=500),
    same("early hints", "HTTP/1.1 103 Early Hints", "Link: </a>; rel=preload", status=103),
]

FRAMING = [
    Case("chunks", (OK, "transfer-ENCODING: \tChunked", JSON), (OK, JSON), {"length": CHUNKED, "event_stream": False}),
    Case("events", (OK, SSE, CHUNKS), (OK, SSE), {"length": CHUNKED, "event_stream": True}),
    same("events until close", OK, "content-type:TEXT/Event-Stream; charset=utf-8", event_stream=True),
    same("lines of JSON until close", OK, "Content-Type: application/x-ndjson", event_stream=True),
    Case(
        "no events of known length",
        (OK, SSE, "Content-Length: 0", "Connection: close"),
        (OK, SSE, "Content-Length: 0"),
        {"event_stream": False, "length": 0},
    ),
    same("events of known length", OK, SSE, "Content-Length: 5", event_stream=False, length=5),
    Case("HTTP/1.0", ("HTTP/1.0 200 Fine", "A: b"), ("HTTP/1.1 200 Fine", "A: b"), {"keep_alive": False}),
    Case(
        "HTTP/1.0 that stays",
        ("HTTP/1.0 200 OK", "Content-Length: 5", "Connection: keep-alive"),
        (OK, "Content-Length: 5"),
        {"keep_alive": True, "length": 5},
    ),
]

BARE = [
    Case(
        "204 with a length",
        ("HTTP/1.1 204 No Content", "Content-Length: 5", "A: b"),
        ("HTTP/1.1 204 No Content", "A: b"),
        {"keep_alive": False},
    ),
    Case(
        "204 with a length of nothing",
        ("HTTP/1.1 204 No Content", "Content-Length: 0"),
        ("HTTP/1.1 204 No Content",),
        {"keep_alive": True},
    ),
    Case("204 with chunks", ("HTTP/1.1 204 A", CHUNKS), ("HTTP/1.1 204 A",), {"keep_alive": False}),
    same("204 as it should be", "HTTP/1.1 204 No Content", keep_alive=True),
    Case("100 with a length", ("HTTP/1.1 100 Continue", "Content-Length: 5"), ("HTTP/1.1 100 Continue",)),
    Case("103 with chunks", ("HTTP/1.1 103 Early Hints", CHUNKS, "Link: a"), ("HTTP/1.1 103 Early Hints", "Link: a")),
]

HOP_BY_HOP = [
    dropped("keep-alive", "Connection: keep-alive"),
    dropped("keep-alive in odd letters", "CONNECTION: Keep-Alive "),
    dropped("keep-alive with its parameters", "Connection: keep-alive", "Keep-Alive: timeout=5"),
    dropped("fields that are hop-by-hop by name", "Proxy-Connection: a", "TE: b", "Upgrade: c", "Keep-Alive: d"),
    dropped("what Connection names", "Connection: X-A, x-b", "Connection: c", "x-a: 1", "X-B: 2", "C: 3", "c: 4"),
    dropped("much that Connection names", "Connection: c, d, e, f, g", "C: 1", "D: 2", "E: 3", "F: 4", "G: 5"),
    Case("the end", (OK, "Content-Length: 2", "Connection: Close"), (OK, "Content-Length: 2"), {"keep_alive": False}),
    Case(
        "the end, in chunks",
        (OK, "Connection: close", CHUNKS, "Trailer: a"),
        (OK, "Trailer: a"),
        {"keep_alive": False, "length": CHUNKED},
    ),
    Case(
        "what cannot be named away",
        (
            OK,
            "Connection: Content-Length, Set-Cookie, Date, Content-Type",
            "Content-Length: 2",
            "Set-Cookie: a",
            "Date: x",
        ),
        (OK, "Content-Length: 2", "Set-Cookie: a", "Date: x"),
        {"length": 2, "has_date": True},
    ),
    Case(
        "a switch",
        ("HTTP/1.1 101 Switching Protocols", "Upgrade: WebSocket ", "Connection: Upgrade", "Sec-WebSocket-Accept: x"),
        ("HTTP/1.1 101 Switching Protocols", "Sec-WebSocket-Accept: x"),
        {"upgrade": b"websocket", "status": 101},
    ),
    Case(
        "a call for an upgrade",
        ("HTTP/1.1 426 Upgrade Required", "Upgrade: WebSocket", "Connection: Upgrade", "Content-Length: 0"),
        ("HTTP/1.1 426 Upgrade Required", "Content-Length: 0", "Connection: upgrade", "Upgrade: websocket"),
    ),
    Case(
        "a switch to two things is to none that was asked for",
        ("HTTP/1.1 101 Switching Protocols", "Upgrade: a", "Upgrade: b"),
        ("HTTP/1.1 101 Switching Protocols",),
        {"upgrade": b"a, b"},
    ),
]

ALL = [*AS_THEY_CAME, *FRAMING, *BARE, *HOP_BY_HOP]


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.what)
def test_what_goes_on_is_exactly_this(case: Case) -> None:
    response = Parser().response(head(*case.sent))
    assert response.fields == fields(*case.forwarded)
    assert {name: getattr(response, name) for name in case.says} == case.says


def has_body(case: Case) -> bool:
    status = head(*case.sent)[9:12]
    return not (status < b"200" or status in (b"204", b"304"))


@pytest.mark.parametrize("case", [case for case in ALL if has_body(case)], ids=lambda case: case.what)
def test_an_independent_parser_finds_the_same_end(case: Case) -> None:
    """h11 is given what the agent sent; the end that it finds must be the one that is told."""
    response = Parser().response(head(*case.sent))
    agent = h11.Connection(h11.CLIENT)
    agent.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    agent.send(h11.EndOfMessage())
    agent.receive_data(head(*case.sent))
    first = agent.next_event()
    assert isinstance(first, h11.Response)
    assert first.status_code == response.status
    if response.length == UNTIL_CLOSE:
        assert agent.next_event() is h11.NEED_DATA
        agent.receive_data(b"")
    elif response.length:
        agent.receive_data(b"5\r\nhello\r\n0\r\n\r\n" if response.length == CHUNKED else b"x" * response.length)
    while not isinstance(event := agent.next_event(), h11.EndOfMessage):
        assert isinstance(event, h11.Data), event
    if response.length != UNTIL_CLOSE and head(*case.sent).startswith(b"HTTP/1.1"):  # h11 keeps no HTTP/1.0 alive
        assert (agent.their_state is h11.DONE) == response.keep_alive


def test_requests_and_responses_have_limits_of_their_own_alike() -> None:
    parser = Parser(max_fields=2)
    assert parser.response(head(OK, "A: b", "Content-Length: 0")).length == 0
    assert parser.request(head("GET / HTTP/1.1", "Host: a", "A: b")).host == b"a"


@pytest.mark.parametrize(
    ("part", "hopeless"),
    [
        (b"", False),
        (b"HTT", False),
        (b"HTTP/1.", False),
        (b"HTTP/1.1 200 OK\r\nA: b\r", False),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n", False),
        (b"HTTP/1.1 200 OK\n", True),
        (b"HTTP/1.1 200 OK\r\nA: b\n", True),
        (b"HTTP/2", True),
        (b"http", True),
        (b"\r\n", True),
        (b"X", True),
        (b"HTTP/1.1 200 " + b"a" * 87, False),
        (b"HTTP/1.1 200 " + b"a" * 88, True),
    ],
)
def test_half_a_head_that_cannot_become_a_good_one(part: bytes, hopeless: bool) -> None:
    assert bool(why_hopeless(part, max_bytes=100)) == hopeless
