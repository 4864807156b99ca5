"""Requests that are let in: what goes on is compared byte by byte, and read again by an independent parser."""

from __future__ import annotations

import pytest
from heads import GET, HOST, POST, Case, dropped, fields, goes_on_exactly, head, means_the_same_to_agents, same

from bgproxy.http1.head import CHUNKED, IDEMPOTENT, METHODS
from bgproxy.http1.parser import Parser

WEBSOCKET = ("Connection: upgrade", "Upgrade: websocket")

AS_THEY_CAME = [
    same("a plain request", GET, HOST, minor=1, keep_alive=True, length=0, method=b"GET", target=b"/", upgrade=b""),
    same(
        "names and values in the sender's letters",
        "GET /Ab HTTP/1.1",
        "hOsT: A.Test:80",
        "X-ODD: Yes",
        host=b"a.test:80",
    ),
    same("no space behind the colon, or many", GET, "Host:a", "A:b", "C: \t d", host=b"a"),
    same("white space behind a value", GET, "Host: a \t", "A: b  ", host=b"a"),
    same("tabs, quotes and bytes beyond ASCII in a value", GET, HOST, b'A: "\t\x80\xff" ;,'),
    same("an empty value", GET, HOST, "A:", "B: "),
    same("every character a name may have", GET, HOST, "!#$%&'*+-.^`|~09AZaz: 1"),
    same("an IPv6 host", GET, "Host: [::1]:8080", host=b"[::1]:8080"),
    same("a target with all that may stand in one", "GET /a/../%00?x=[{'}]|;@:!$&*() HTTP/1.1", HOST),
    same("two slashes at the target's start", "GET //evil.test/x HTTP/1.1", HOST, target=b"//evil.test/x"),
    same("a target with a colon", "GET /a:b HTTP/1.1", HOST),
    same("a length", POST, HOST, "Content-Length: 5", length=5),
    same("a length of nothing", POST, HOST, "Content-Length: 0", length=0),
    same("a length with zeros in front", POST, HOST, "content-length: 0005", length=5),
    same("a length with white space around", POST, HOST, "Content-Length: \t5 ", length=5),
    same("a body with a GET", GET, HOST, "Content-Length: 2", length=2),
    same("OPTIONS of all", "OPTIONS * HTTP/1.1", HOST, target=b"*"),
    same(
        "fields that only look like those that matter",
        GET,
        HOST,
        "X-Host: b",
        "Connections: x",
        "X-Content-Length: 7",
        length=0,
    ),
    same("a request id", GET, HOST, "X-Request-ID: AbC-1", has_request_id=True),
    same("no request id", GET, HOST, has_request_id=False),
    same("as many fields as may be", GET, HOST, *["A: b"] * 99),
    same("a target as long as may be", f"GET /{'a' * 8191} HTTP/1.1", HOST),
    same("an expectation", POST, HOST, "Content-Length: 5", "Expect: 100-continue", length=5),
    same(
        "a trace of where it comes from",
        GET,
        HOST,
        "traceparent: 00-1-2-01",
        "tracestate: a=b",
        "Mcp-Session-Id: 7",
        "Cookie: a",
    ),
    same("a host as long as may be", GET, f"Host: {'a' * 300}"),
    same("Max-Forwards, which is for other methods", GET, HOST, "Max-Forwards: 0"),
]

FRAMING = [
    Case(
        "chunks, in our own words",
        (POST, "tRaNsFeR-eNcOdInG:  CHUNKED", HOST),
        (POST, HOST, "Transfer-Encoding: chunked"),
        {"length": CHUNKED},
    ),
    Case(
        "the largest length",
        (POST, HOST, "Content-Length: 999999999999999999"),
        (POST, HOST, "Content-Length: 999999999999999999"),
        {"length": 999999999999999999},
    ),
]

HOP_BY_HOP = [
    dropped("keep-alive", "Connection: keep-alive"),
    dropped("keep-alive in odd letters", "cOnNeCtIoN:   Keep-Alive\t"),
    dropped("keep-alive twice", "Connection: keep-alive", "Connection: Keep-Alive"),
    dropped("an empty Connection", "Connection:", "Connection: , ,"),
    dropped(
        "fields that are hop-by-hop by name", "Keep-Alive: 5", "Proxy-Connection: close", "TE: trailers", "Upgrade: a/1"
    ),
    dropped("what Connection names", "Connection: X-a", "X-A: 1", "x-a: 2"),
    dropped("what several Connection fields name", "Connection: a ,, b", "B: 1", "A: 1", "connection:C", "C: 1"),
    dropped(
        "much that Connection names", "Connection: a, b, c, d, e, f", "A: 1", "b: 2", "C:", "d: 3", "E: 4", "F: x: y"
    ),
    dropped("settings of HTTP/2 that Connection does not name", "HTTP2-Settings: AAM"),
    dropped("settings of HTTP/2", "Connection: HTTP2-Settings", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"),
    dropped("an upgrade to HTTP/2", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAM"),
    dropped("an upgrade that Connection does not name", "Upgrade: websocket"),
    dropped("Connection: upgrade without an upgrade", "Connection: upgrade"),
    Case("Connection in front of all", (GET, "Connection: keep-alive", HOST), (GET, HOST), {"keep_alive": True}),
    Case("Connection behind all", (GET, HOST, "Connection: keep-alive"), (GET, HOST), {"keep_alive": True}),
    Case("a wish to close", (GET, HOST, "Connection: close"), (GET, HOST), {"keep_alive": False}),
    Case(
        "a wish to close, among others", (GET, HOST, "Connection: X, Close", "X: 1"), (GET, HOST), {"keep_alive": False}
    ),
    Case("close wins", (GET, HOST, "Connection: keep-alive", "Connection: close"), (GET, HOST), {"keep_alive": False}),
    Case("closed is not close", (GET, HOST, "Connection: closed"), (GET, HOST), {"keep_alive": True}),
    Case(
        "what cannot be named away",
        (
            POST,
            HOST,
            "Connection: Host, content-LENGTH, Cookie, Authorization, X-API-Key, Mcp-Session-Id, traceparent, Via",
            "Connection: X-Request-Id, Transfer-Encoding, Expect, Content-Type",
            "Content-Length: 1",
            "Cookie: a",
            "Authorization: b",
            "X-API-Key: c",
            "Mcp-Session-Id: d",
            "traceparent: e",
            "Via: f",
            "X-Request-Id: g",
            "Content-Type: h",
        ),
        (
            POST,
            HOST,
            "Content-Length: 1",
            "Cookie: a",
            "Authorization: b",
            "X-API-Key: c",
            "Mcp-Session-Id: d",
            "traceparent: e",
            "Via: f",
            "X-Request-Id: g",
            "Content-Type: h",
        ),
        {"length": 1, "has_request_id": True},
    ),
    Case(
        "a token that is a field and the beginning of its value",
        (GET, "Host: agent:80", "Connection: host: agent, cookie: a", "Cookie: a:b"),
        (GET, "Host: agent:80", "Cookie: a:b"),
    ),
    Case(
        "a target that looks like what Connection names",
        ("GET /:a HTTP/1.1", HOST, "Connection: get /, b, c, d, e"),
        ("GET /:a HTTP/1.1", HOST),
    ),
]

UPGRADES = [
    Case(
        "an upgrade",
        (GET, "upgrade: WebSocket", "connection: keep-alive, Upgrade", HOST, "Sec-WebSocket-Key: x"),
        (GET, HOST, "Sec-WebSocket-Key: x", *WEBSOCKET),
        {"upgrade": b"websocket", "keep_alive": True},
    ),
    Case(
        "several, less those of HTTP/2",
        (GET, HOST, "Connection: upgrade", "Upgrade: h2c, a/1, HTTP/2.0", "Upgrade: b"),
        (GET, HOST, "Connection: upgrade", "Upgrade: a/1, b"),
        {"upgrade": b"a/1, b"},
    ),
    Case(
        "an upgrade with a body of nothing",
        (GET, HOST, "Content-Length: 0", *WEBSOCKET),
        (GET, HOST, "Content-Length: 0", *WEBSOCKET),
        {"upgrade": b"websocket"},
    ),
    Case(
        "an upgrade to HTTP/2 with a body",
        (POST, HOST, "Connection: upgrade", "Upgrade: h2c", "Content-Length: 1"),
        (POST, HOST, "Content-Length: 1"),
        {"upgrade": b"", "length": 1},
    ),
    Case("an upgrade in HTTP/1.0", ("GET / HTTP/1.0", HOST, *WEBSOCKET), (GET, HOST), {"upgrade": b""}),
]

EXPECTATIONS = [
    Case(
        "an expectation with white space behind",
        (POST, HOST, "eXpEcT: 100-Continue \t", "Content-Length: 5"),
        (POST, HOST, "Content-Length: 5", "Expect: 100-continue"),
    ),
    Case("an expectation twice", (POST, HOST, *["Expect: 100-continue"] * 2), (POST, HOST, "Expect: 100-continue")),
]

OLD = [
    Case("HTTP/1.0", ("GET /x HTTP/1.0", HOST), ("GET /x HTTP/1.1", HOST), {"minor": 0, "keep_alive": False}),
    Case("HTTP/1.0 without Host", ("GET / HTTP/1.0", "A: b"), (GET, "A: b"), {"host": b"", "minor": 0}),
    Case("HTTP/1.0 without any field", ("GET / HTTP/1.0",), (GET,), {"host": b""}),
    Case("HTTP/1.0 that stays", ("GET / HTTP/1.0", "Connection: Keep-Alive"), (GET,), {"keep_alive": True}),
    Case("HTTP/1.0 of two minds", ("GET / HTTP/1.0", "Connection: keep-alive, close"), (GET,), {"keep_alive": False}),
    Case(
        "HTTP/1.0 by Proxy-Connection",
        ("GET / HTTP/1.0", "Proxy-Connection: keep-alive"),
        (GET,),
        {"keep_alive": False},
    ),
    Case("HTTP/1.0 with a body", ("POST / HTTP/1.0", "Content-Length: 3"), (POST, "Content-Length: 3"), {"length": 3}),
    Case(
        "HTTP/1.0 is not heard to expect",
        ("POST / HTTP/1.0", "Expect: 100-continue", "Content-Length: 3"),
        (POST, "Content-Length: 3"),
        {"length": 3},
    ),
]

TARGETS = [
    Case(
        "absolute-form",
        ("GET http://Agent.test:80/x?y=/z HTTP/1.1", "Host: agent.TEST:80", "A: b"),
        ("GET /x?y=/z HTTP/1.1", "A: b", "Host: agent.test:80"),
        {"target": b"/x?y=/z", "host": b"agent.test:80"},
    ),
    Case("absolute-form without a path", ("GET HTTP://agent.test HTTP/1.1", HOST), (GET, HOST), {"target": b"/"}),
    Case("absolute-form with a query alone", ("GET http://agent.test?a HTTP/1.1", HOST), ("GET /?a HTTP/1.1", HOST)),
    Case(
        "absolute-form of HTTP/1.0",
        ("GET http://agent.test/ HTTP/1.0",),
        (GET, HOST),
        {"host": b"agent.test", "minor": 0},
    ),
    Case(
        "absolute-form with chunks",
        ("POST http://agent.test/a HTTP/1.1", "Transfer-Encoding: chunked", HOST),
        ("POST /a HTTP/1.1", "Transfer-Encoding: chunked", HOST),
        {"length": CHUNKED},
    ),
    Case("OPTIONS of a whole server", ("OPTIONS http://agent.test HTTP/1.1", HOST), ("OPTIONS * HTTP/1.1", HOST)),
    Case("OPTIONS of a path", ("OPTIONS http://agent.test/ HTTP/1.1", HOST), ("OPTIONS / HTTP/1.1", HOST)),
    Case(
        "one hop fewer",
        ("OPTIONS * HTTP/1.1", "max-forwards: 07", HOST),
        ("OPTIONS * HTTP/1.1", HOST, "Max-Forwards: 6"),
    ),
    Case(
        "one hop fewer for TRACE",
        ("TRACE / HTTP/1.1", "Max-Forwards: 1", HOST),
        ("TRACE / HTTP/1.1", HOST, "Max-Forwards: 0"),
        parser={"trace": True},
    ),
    Case("TRACE by setting", ("TRACE / HTTP/1.1", HOST), ("TRACE / HTTP/1.1", HOST), parser={"trace": True}),
]

ALL = [*AS_THEY_CAME, *FRAMING, *HOP_BY_HOP, *UPGRADES, *EXPECTATIONS, *OLD, *TARGETS]
# No body of 10¹⁸ bytes is made for a test, and h11 leaves what follows an upgrade to others.
READABLE = [case for case in ALL if case.what != "the largest length" and not case.says.get("upgrade")]


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.what)
def test_what_goes_on_is_exactly_this(case: Case) -> None:
    goes_on_exactly(case)


@pytest.mark.parametrize("case", READABLE, ids=lambda case: case.what)
def test_an_independent_parser_sees_the_same_message(case: Case) -> None:
    means_the_same_to_agents(case)


@pytest.mark.parametrize("method", sorted(METHODS - {b"TRACE"}))
def test_methods_that_are_passed_on(method: bytes) -> None:
    assert Parser().request(head(method + b" / HTTP/1.1", HOST)).method == method


def test_two_heads_in_a_row_know_nothing_of_each_other() -> None:
    parser = Parser()
    first = parser.request(head(POST, HOST, "Content-Length: 5", "X-Request-Id: a", *WEBSOCKET[:1]), True)
    second = parser.request(head(GET, "Host: other"))
    assert (first.length, first.has_request_id) == (5, True)
    assert (second.length, second.has_request_id, second.host) == (0, False, b"other")


def test_nobody_is_trusted_unless_it_is_said() -> None:
    assert Parser().request(head(GET, HOST, "X-Real-IP: 1.1.1.1")).fields == fields(GET, HOST)


def test_what_may_be_repeated_is_what_rfc_9110_calls_idempotent() -> None:
    assert sorted(METHODS - IDEMPOTENT) == [b"PATCH", b"POST"]
    assert IDEMPOTENT < METHODS
