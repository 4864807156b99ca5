"""How the tests of this package write requests, and how an independent parser (h11) reads what goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import h11

from bgproxy.http1.head import CHUNKED, RequestHead
from bgproxy.http1.parser import Parser

Line = str | bytes

HOST = "Host: agent.test"
GET = "GET / HTTP/1.1"
POST = "POST / HTTP/1.1"


def head(*lines: Line) -> bytes:
    """A head of these lines, its empty line included. Text stands for the bytes of the same numbers."""
    return fields(*lines) + b"\r\n"


def fields(*lines: Line) -> bytes:
    """The lines with their ends, as a parsed head holds them."""
    return b"".join((line.encode("latin-1") if isinstance(line, str) else line) + b"\r\n" for line in lines)


def as_agents_read_it(request: RequestHead, body: bytes) -> tuple[str, str, bytes, bytes]:
    """Method, target, body, and what h11 takes for the next request, of what is sent on with this body behind it."""
    agent = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    host = b"" if request.host else b"Host: agent\r\n"  # the exchange names the agent where HTTP/1.0 named nobody
    agent.receive_data(request.fields + host + b"\r\n" + body)
    first = agent.next_event()
    assert isinstance(first, h11.Request)
    assert first.http_version == b"1.1"
    content = b""
    while not isinstance(event := agent.next_event(), h11.EndOfMessage):
        assert isinstance(event, h11.Data), event
        content += event.data
    return first.method.decode(), first.target.decode(), content, agent.trailing_data[0]


def a_body(request: RequestHead) -> tuple[bytes, bytes]:
    """A body as the head declares it: its content, and how that is sent."""
    if request.length == CHUNKED:
        return b"hello agent", b"5\r\nhello\r\n6\r\n agent\r\n0\r\n\r\n"
    content = b"x" * request.length
    return content, content


@dataclass(frozen=True)
class Case:
    """`sent` goes on as `forwarded`; `says` are attributes of the parsed head."""

    what: str
    sent: tuple[Line, ...]
    forwarded: tuple[Line, ...]
    says: Mapping[str, object] = field(default_factory=dict)
    trusted: bool = False
    parser: Mapping[str, Any] = field(default_factory=dict)


def same(what: str, *lines: Line, **says: object) -> Case:
    """A request that goes on as it came."""
    return Case(what, lines, lines, says)


def dropped(what: str, *named: Line) -> Case:
    """Fields that end here."""
    return Case(what, (GET, HOST, *named, "Accept: */*"), (GET, HOST, "Accept: */*"))


def goes_on_exactly(case: Case) -> None:
    """The bytes are those of the table, and so is what is said about them."""
    request = Parser(**case.parser).request(head(*case.sent), case.trusted)
    assert request.fields == fields(*case.forwarded)
    assert {name: getattr(request, name) for name in case.says} == case.says


def means_the_same_to_agents(case: Case) -> None:
    """Method, target, body and end are what h11 finds, too."""
    request = Parser(**case.parser).request(head(*case.sent), case.trusted)
    content, body = a_body(request)
    read = as_agents_read_it(request, body + b"GET /next")
    assert read == (request.method.decode(), request.target.decode(), content, b"GET /next")
