"""Fields that somebody else wants to see: told as they came, in order, and passed on untouched."""

from __future__ import annotations

import pytest
from heads import GET, HOST, fields, head

from bgproxy.errors import ConfigError
from bgproxy.http1.parser import Parser

PARSER = Parser(
    request_marks=frozenset((b"mcp-session-id", b"cookie")), response_marks=frozenset((b"mcp-session-id", b"location"))
)
OK = "HTTP/1.1 200 OK"


def test_a_request_tells_them_in_order_with_their_letters_and_passes_them_on() -> None:
    lines = (GET, HOST, "Cookie: a=B \t", "MCP-Session-Id:\tAbC", "X: y", "cookie: c=D")
    request = PARSER.request(head(*lines))
    assert request.marks == [(b"cookie", b"a=B"), (b"mcp-session-id", b"AbC"), (b"cookie", b"c=D")]
    assert request.fields == fields(*lines)


def test_an_answer_tells_them_too() -> None:
    lines = (OK, "Location: /A", "Content-Length: 0", "Mcp-Session-Id: S-1")
    response = PARSER.response(head(*lines))
    assert response.marks == [(b"location", b"/A"), (b"mcp-session-id", b"S-1")]
    assert response.fields == fields(*lines)


def test_a_head_without_any_tells_none() -> None:
    assert PARSER.request(head(GET, HOST, "Location: /a")).marks is None
    assert PARSER.response(head(OK, "Cookie: a=b", "Content-Length: 0")).marks is None


def test_they_are_told_beside_fields_that_are_taken_out() -> None:
    request = PARSER.request(head(GET, HOST, "Connection: x-a, mcp-session-id", "X-A: 1", "Mcp-Session-Id: S"))
    assert request.marks == [(b"mcp-session-id", b"S")]
    assert request.fields == fields(GET, HOST, "Mcp-Session-Id: S")


def test_a_name_with_an_underscore_is_none_of_them() -> None:
    request = PARSER.request(head(GET, HOST, "Mcp_Session_Id: S", "Mcp-Session-Id: T"))
    assert request.marks == [(b"mcp-session-id", b"T")]


@pytest.mark.parametrize("name", ["connection", "host", "transfer-encoding", "x-forwarded-for", "x-request-id", "date"])
def test_fields_that_speak_to_the_proxy_cannot_be_asked_for(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Parser(request_marks=frozenset((name.encode(),)))
