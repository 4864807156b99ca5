"""Everything that is refused: the code in the table, and with it the status and whose fault it is.

`test_every_refusal_of_the_source_is_tripped` keeps the tables whole: each text with which this package refuses must
have been said by one of their cases.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from heads import Line, head

import bgproxy.http1
from bgproxy.http1.framing import ChunkReader
from bgproxy.http1.head import Malformed
from bgproxy.http1.parser import Parser
from bgproxy.proxy.replies import REPLIES

HOST = "Host: a"
CHUNKS = "Transfer-Encoding: chunked"
UPGRADE = ("Connection: Upgrade", "Upgrade: websocket")
GET = "GET / HTTP/1.1"
POST = "POST / HTTP/1.1"

STATUS = {
    "bad_request_line": 400,
    "bad_target": 400,
    "bad_field": 400,
    "bad_host": 400,
    "bad_length": 400,
    "bad_transfer_encoding": 400,
    "bad_upgrade": 400,
    "bad_chunk": 400,
    "method_not_allowed": 405,
    "target_too_long": 414,
    "expectation_failed": 417,
    "too_many_fields": 431,
    "method_not_implemented": 501,
    "unknown_transfer_encoding": 501,
    "bad_version": 505,
    "bad_response": 502,
}

# code, what, the head's lines
REQUESTS: list[tuple[str, str, tuple[Line, ...]]] = [
    # The request line
    ("bad_request_line", "no version", ("GET /", HOST)),
    ("bad_request_line", "no version and a bare LF", (b"GET /\nHost: a",)),
    ("bad_request_line", "a bare LF behind the line", (b"GET / HTTP/1.1\nHost: a", HOST)),
    ("bad_request_line", "a bare CR in it", (b"GET / HTTP/1.1\rHost: a", HOST)),
    ("bad_request_line", "nothing at all", ("",)),
    ("bad_request_line", "two spaces", ("GET  / HTTP/1.1", HOST)),
    ("bad_request_line", "a tab", ("GET\t/ HTTP/1.1", HOST)),
    ("bad_request_line", "a space behind", ("GET / HTTP/1.1 ", HOST)),
    ("bad_request_line", "a space in front", (" GET / HTTP/1.1", HOST)),
    ("bad_request_line", "a space in the target", ("GET /a b HTTP/1.1", HOST)),
    ("bad_request_line", "a fragment", ("GET /#a HTTP/1.1", HOST)),
    ("bad_request_line", "a raw byte beyond ASCII in the target", (b"GET /\xc3\xa4 HTTP/1.1", HOST)),
    ("bad_request_line", "NUL in the target", (b"GET /\x00 HTTP/1.1", HOST)),
    ("bad_request_line", "a method that is no token", ("G(T / HTTP/1.1", HOST)),
    ("bad_request_line", "no method", ("/ HTTP/1.1", HOST)),
    ("bad_request_line", "lower-case http", ("GET / http/1.1", HOST)),
    ("bad_request_line", "a version of two digits", ("GET / HTTP/1.10", HOST)),
    ("bad_request_line", "an answer", ("HTTP/1.1 200 OK", HOST)),
    ("bad_version", "HTTP/2.0", ("GET / HTTP/2.0", HOST)),
    ("bad_version", "the preface of HTTP/2", ("PRI * HTTP/2.0",)),
    ("bad_version", "HTTP/0.9", ("GET / HTTP/0.9", HOST)),
    ("bad_version", "HTTP/1.2", ("GET / HTTP/1.2", HOST)),
    ("bad_version", "HTTP/2.1", ("GET / HTTP/2.1", HOST)),
    ("target_too_long", "a target beyond the limit", (f"GET /{'a' * 8192} HTTP/1.1", HOST)),
    ("method_not_allowed", "CONNECT", ("CONNECT a:443 HTTP/1.1", "Host: a:443")),
    ("method_not_allowed", "TRACE", ("TRACE / HTTP/1.1", HOST)),
    ("method_not_implemented", "RTSP", ("DESCRIBE / HTTP/1.1", HOST)),
    ("method_not_implemented", "ICE", ("SOURCE / HTTP/1.1", HOST)),
    ("method_not_implemented", "lower case", ("get / HTTP/1.1", HOST)),
    # Targets
    ("bad_target", "* without OPTIONS", ("GET * HTTP/1.1", HOST)),
    ("bad_target", "another scheme", ("GET https://a/ HTTP/1.1", HOST)),
    ("bad_target", "user information", ("GET http://u:p@a/ HTTP/1.1", HOST)),
    ("bad_target", "user information that looks like the host", ("GET http://a:80@b/ HTTP/1.1", "Host: b")),
    ("bad_target", "no authority", ("GET http:///x HTTP/1.1", HOST)),
    ("bad_target", "one slash", ("GET http:/a/ HTTP/1.1", HOST)),
    ("bad_target", "authority-form", ("GET a:80 HTTP/1.1", "Host: a:80")),
    ("bad_target", "a path without its slash", ("GET a HTTP/1.1", HOST)),
    ("bad_target", "** of OPTIONS", ("OPTIONS ** HTTP/1.1", HOST)),
    ("bad_host", "an odd authority", ("GET http://a\\b/ HTTP/1.1", HOST)),
    ("bad_host", "an authority with two ports", ("GET http://a:1:2/ HTTP/1.1", HOST)),
    ("bad_host", "authority and Host at odds", ("GET http://b/ HTTP/1.1", HOST)),
    ("bad_host", "authority and Host with other ports", ("GET http://a:81/ HTTP/1.1", "Host: a:80")),
    # Host
    ("bad_host", "no Host", (GET, "A: b")),
    ("bad_host", "no field", (GET,)),
    ("bad_host", "an empty one", (GET, "Host:")),
    ("bad_host", "two", (GET, HOST, "host: b")),
    ("bad_host", "the same twice", (GET, HOST, "HOST: a")),
    ("bad_host", "two in HTTP/1.0", ("GET / HTTP/1.0", HOST, HOST)),
    ("bad_host", "a list", (GET, "Host: a, b")),
    ("bad_host", "a path", (GET, "Host: a/b")),
    ("bad_host", "user information in it", (GET, "Host: u@a")),
    ("bad_host", "a space in it", (GET, "Host: a b")),
    ("bad_host", "a tab in it", (GET, "Host: a\tb")),
    ("bad_host", "an empty port", (GET, "Host: a:")),
    ("bad_host", "a port that is none", (GET, "Host: a:b")),
    ("bad_host", "a port of six digits", (GET, "Host: a:100000")),
    ("bad_host", "bytes beyond ASCII in it", (GET, b"Host: \xc3\xa4")),
    ("bad_host", "an open bracket", (GET, "Host: [::1")),
    ("bad_host", "longer than a name can be", (GET, f"Host: {'a' * 301}")),
    ("bad_host", "followed by white space without end", (GET, f"Host: a{' ' * 300}")),
    # Lengths
    ("bad_length", "two lengths", (POST, HOST, "Content-Length: 5", "Content-Length: 6")),
    ("bad_length", "the same length twice", (POST, HOST, "Content-Length: 5", "cOnTeNt-LeNgTh: 5")),
    ("bad_length", "three lengths", (POST, HOST, *["Content-Length: 5"] * 3)),
    ("bad_length", "a list of lengths", (POST, HOST, "Content-Length: 5, 5")),
    ("bad_length", "an empty one", (POST, HOST, "Content-Length:")),
    ("bad_length", "a plus", (POST, HOST, "Content-Length: +5")),
    ("bad_length", "a minus", (POST, HOST, "Content-Length: -5")),
    ("bad_length", "hexadecimal", (POST, HOST, "Content-Length: 0x5")),
    ("bad_length", "an underscore", (POST, HOST, "Content-Length: 1_0")),
    ("bad_length", "a point", (POST, HOST, "Content-Length: 5.0")),
    ("bad_length", "a space in it", (POST, HOST, "Content-Length: 5 5")),
    ("bad_length", "a digit beyond ASCII", (POST, HOST, b"Content-Length: \xd9\xa5")),
    ("bad_length", "one that overflows", (POST, HOST, "Content-Length: 18446744073709551616")),
    ("bad_length", "19 digits", (POST, HOST, f"Content-Length: {10**18}")),
    ("bad_length", "with a GET too", (GET, HOST, "Content-Length: x")),
    ("bad_length", "length and chunks", (POST, HOST, "Content-Length: 5", CHUNKS)),
    ("bad_length", "chunks and length", (POST, HOST, CHUNKS, "Content-Length: 0")),
    ("bad_length", "length and an unknown coding", (POST, HOST, "Transfer-Encoding: x", "Content-Length: 5")),
    ("bad_length", "length and chunks in HTTP/1.0", ("POST / HTTP/1.0", CHUNKS, "Content-Length: 5")),
    # Transfer codings
    ("bad_transfer_encoding", "chunks in HTTP/1.0", ("POST / HTTP/1.0", HOST, CHUNKS)),
    ("bad_transfer_encoding", "identity in HTTP/1.0", ("POST / HTTP/1.0", HOST, "Transfer-Encoding: identity")),
    *[
        ("unknown_transfer_encoding", f"coding {value!r}", (POST, HOST, f"Transfer-Encoding: {value}"))
        for value in (
            "gzip, chunked",
            "chunked, gzip",
            ",chunked",
            "chunked,",
            "chunked, chunked",
            "identity",
            "",
            "xchunked",
            "chunkedx",
            "chun ked",
            "chunked;a=b",
            '"chunked"',
            "chunked\t",
            "chunked ",
            "chunked\xa0",
        )
    ],
    ("unknown_transfer_encoding", "two fields", (POST, HOST, *[CHUNKS] * 2)),
    ("unknown_transfer_encoding", "two fields, one empty", (POST, HOST, CHUNKS, "transfer-encoding:")),
    ("unknown_transfer_encoding", "two fields, one odd", (POST, HOST, "Transfer-Encoding: x", CHUNKS)),
    # Fields
    *[
        ("bad_field", f"byte {byte:#04x} in a value", (GET, HOST, b"A: b" + bytes((byte,)) + b"c"))
        for byte in (0, 1, 8, 10, 11, 12, 13, 14, 27, 31, 127)
    ],
    ("bad_field", "a bare LF that begins a field", (GET, b"A: b\nHost: a")),
    ("bad_field", "a bare CR that begins a field", (GET, b"A: b\rHost: a")),
    ("bad_field", "a folded line", (GET, HOST, "A: b", " c")),
    ("bad_field", "a folded line by a tab", (GET, HOST, "A: b", "\tc")),
    ("bad_field", "a folded length", (POST, HOST, "Content-Length:", " 5")),
    ("bad_field", "white space before the first field", (GET, f" {HOST}")),
    ("bad_field", "a space before the colon", (POST, HOST, "Content-Length : 5")),
    ("bad_field", "a tab before the colon", (POST, HOST, "Transfer-Encoding\t: chunked")),
    ("bad_field", "a byte beyond ASCII before the colon", (POST, HOST, b"Content-Length\xa0: 5")),
    ("bad_field", "NUL before the colon", (POST, HOST, b"Content-Length\x00: 5")),
    ("bad_field", "an empty name", (GET, HOST, ": a")),
    ("bad_field", "no colon", (GET, HOST, "A")),
    ("bad_field", "no colon in HTTP/1.0", ("GET / HTTP/1.0", "A")),
    ("bad_field", "no colon behind a target as long as may be", (f"GET /{'a' * 8191} HTTP/1.1", HOST, "A")),
    ("bad_field", "a name in brackets", (GET, HOST, "[A]: b")),
    ("bad_field", "a name with a space", (GET, HOST, "A B: c")),
    ("too_many_fields", "101 fields", (GET, HOST, *["A: b"] * 100)),
    ("too_many_fields", "101 fields, most of which would be dropped", (GET, HOST, *[f"a_{n}: b" for n in range(100)])),
    # Fields with an underscore: they are dropped, but not before the whole head was looked at
    ("bad_field", "a length in disguise", (POST, HOST, "Content_Length: 5")),
    ("bad_field", "a coding in disguise", (POST, HOST, "tRansfer_Encoding: chunked")),
    ("bad_field", "a bare LF in such a name", (GET, b"X_A\nHost: a")),
    ("bad_field", "a bare LF in such a value", (GET, HOST, b"X_A: b\nContent-Length: 5")),
    ("bad_field", "a bare CR in such a value", (GET, HOST, b"X_A: b\rc")),
    ("bad_field", "NUL in such a value", (GET, HOST, b"X_A: \x00")),
    ("bad_field", "a folded line that looks like one", (GET, HOST, "A: b", " x_y: c")),
    ("bad_field", "a space before its colon", (GET, HOST, "X_A : b")),
    ("bad_field", "one without a colon", (GET, HOST, "X_A")),
    # Expectations, upgrades, hops
    ("expectation_failed", "another expectation", (POST, HOST, "Expect: a")),
    ("expectation_failed", "an empty one", (POST, HOST, "Expect:")),
    ("expectation_failed", "a list", (POST, HOST, "Expect: 100-continue, a")),
    ("expectation_failed", "a second one", (POST, HOST, "Expect: 100-continue", "Expect: a")),
    ("expectation_failed", "another in HTTP/1.0", ("POST / HTTP/1.0", "Expect: a")),
    ("bad_upgrade", "with a POST", (POST, HOST, *UPGRADE)),
    ("bad_upgrade", "with a length", (GET, HOST, *UPGRADE, "Content-Length: 5")),
    ("bad_upgrade", "with chunks", (GET, HOST, *UPGRADE, CHUNKS)),
    ("bad_upgrade", "to what is no protocol", (GET, HOST, "Connection: upgrade", "Upgrade: web socket")),
    ("bad_upgrade", "to a slash", (GET, HOST, "Connection: upgrade", "Upgrade: websocket/")),
    ("method_not_allowed", "no hop left", ("OPTIONS * HTTP/1.1", HOST, "Max-Forwards: 0")),
    ("bad_field", "hops that are no number", ("OPTIONS * HTTP/1.1", HOST, "Max-Forwards: -1")),
    ("bad_field", "two numbers of hops", ("OPTIONS * HTTP/1.1", HOST, "Max-Forwards: 1", "Max-Forwards: 1")),
    ("bad_field", "hops without end", ("OPTIONS * HTTP/1.1", HOST, "Max-Forwards: 9999999999")),
]

# what, the settings, the head's lines, the code
BY_SETTING: list[tuple[str, str, dict[str, Any], tuple[Line, ...]]] = [
    ("bad_field", "underscores are refused", {"underscores": "refuse"}, (GET, HOST, "X_A: b")),
    (
        "bad_field",
        "a length in disguise, though underscores pass",
        {"underscores": "pass"},
        (POST, HOST, "Content_Length: 5"),
    ),
    (
        "bad_field",
        "a coding in disguise, though underscores pass",
        {"underscores": "pass"},
        (POST, HOST, "Transfer_Encoding: a"),
    ),
    ("bad_field", "a bare LF, though underscores pass", {"underscores": "pass"}, (GET, HOST, b"X_A: b\nc: d")),
    ("method_not_allowed", "CONNECT, though TRACE is allowed", {"trace": True}, ("CONNECT a:1 HTTP/1.1", "Host: a:1")),
    ("method_not_allowed", "TRACE with no hop left", {"trace": True}, ("TRACE / HTTP/1.1", HOST, "Max-Forwards: 0")),
    ("too_many_fields", "three where two may be", {"max_fields": 2}, (GET, HOST, "A: b", "A: b")),
    ("target_too_long", "six bytes where five may be", {"max_target_bytes": 5}, ("GET /12345 HTTP/1.1", HOST)),
]

OK = "HTTP/1.1 200 OK"
RESPONSES: list[tuple[str, tuple[Line, ...]]] = [
    ("no status line", ("Content-Length: 5",)),
    ("an empty line", ("",)),
    ("a request", (GET, HOST)),
    ("HTTP/2", ("HTTP/2 200 OK",)),
    ("HTTP/1.2", ("HTTP/1.2 200 OK",)),
    ("lower-case http", ("http/1.1 200 OK",)),
    ("a status of two digits", ("HTTP/1.1 20 OK",)),
    ("a status of four digits", ("HTTP/1.1 2000 OK",)),
    ("a status below all classes", ("HTTP/1.1 099 OK",)),
    ("a status beyond all classes", ("HTTP/1.1 600 OK",)),
    ("a status of 999", ("HTTP/1.1 999 OK",)),
    ("a signed status", ("HTTP/1.1 +20 OK",)),
    ("two spaces", ("HTTP/1.1  200 OK",)),
    ("a space in front", (" HTTP/1.1 200 OK",)),
    ("a bare LF in the reason", (b"HTTP/1.1 200 OK\nA: b",)),
    ("a bare CR in the reason", (b"HTTP/1.1 200 OK\rA: b",)),
    ("NUL in the reason", (b"HTTP/1.1 200 \x00",)),
    *[
        (f"byte {byte:#04x} in a value", (OK, b"A: b" + bytes((byte,)) + b"c", "Content-Length: 0"))
        for byte in (0, 1, 10, 11, 13, 31, 127)
    ],
    ("a folded line", (OK, "A: b", " c")),
    ("white space before the first field", (OK, " A: b")),
    ("a space before the colon", (OK, "Content-Length : 5")),
    ("no colon", (OK, "A")),
    ("an empty name", (OK, ": a")),
    ("101 fields", (OK, *["A: b"] * 101)),
    ("length and chunks", (OK, "Content-Length: 5", CHUNKS)),
    ("two lengths", (OK, "Content-Length: 5", "Content-Length: 6")),
    ("the same length twice", (OK, "Content-Length: 5", "content-length: 5")),
    ("a list of lengths", (OK, "Content-Length: 5, 5")),
    ("a signed length", (OK, "Content-Length: -1")),
    ("an empty length", (OK, "Content-Length:")),
    ("a length that overflows", (OK, "Content-Length: 99999999999999999999")),
    ("a broken length of an answer without a body", ("HTTP/1.1 204 No Content", "Content-Length: x")),
    ("chunks with a tab behind", (OK, CHUNKS + "\t")),
    ("chunks and more", (OK, "Transfer-Encoding: gzip, chunked")),
    ("chunks in two fields", (OK, CHUNKS, CHUNKS)),
    ("another coding", (OK, "Transfer-Encoding: identity")),
    ("an empty coding", (OK, "Transfer-Encoding:")),
    ("chunks in HTTP/1.0", ("HTTP/1.0 200 OK", CHUNKS)),
]

BODIES: list[tuple[str, bytes]] = [
    ("no size", b"\r\n"),
    ("a sign", b"+5\r\nhello\r\n0\r\n\r\n"),
    ("a minus", b"-5\r\nhello\r\n0\r\n\r\n"),
    ("a prefix", b"0x5\r\nhello\r\n0\r\n\r\n"),
    ("a space in front", b" 5\r\nhello\r\n0\r\n\r\n"),
    ("a space behind", b"5 \r\nhello\r\n0\r\n\r\n"),
    ("a tab behind", b"5\t\r\nhello\r\n0\r\n\r\n"),
    ("a space before the extension", b"5 ;a=b\r\nhello\r\n0\r\n\r\n"),
    ("an underscore", b"1_0\r\n"),
    ("no hexadecimal digit", b"g\r\n"),
    ("a comma", b"5,5\r\nhello\r\n0\r\n\r\n"),
    ("17 digits", b"00000000000000005\r\nhello\r\n0\r\n\r\n"),
    ("a size beyond all measure", b"ffffffffffffffff\r\n"),
    ("a size just beyond what is meant seriously", b"1000000000000001\r\n"),
    ("a bare LF behind the size", b"5\nhello\r\n0\r\n\r\n"),
    ("a bare CR behind the size", b"5\rhello\r\n0\r\n\r\n"),
    ("a bare CR in an extension", b"5;a\rb\r\nhello\r\n0\r\n\r\n"),
    ("a bare LF in an extension", b"5;a\nb\r\nhello\r\n0\r\n\r\n"),
    ("NUL in an extension", b"5;\x00\r\nhello\r\n0\r\n\r\n"),
    ("two CR behind the size", b"5\r\r\nhello\r\n0\r\n\r\n"),
    ("a chunk that is longer than its size", b"4\r\nhello\r\n0\r\n\r\n"),
    ("a chunk that is shorter than its size", b"6\r\nhello\r\n0\r\n\r\n"),
    ("a bare LF behind a chunk", b"5\r\nhello\n0\r\n\r\n"),
    ("a bare CR behind a chunk", b"5\r\nhello\r0\r\n\r\n"),
    ("much behind a chunk, and no line's end", b"5\r\nhello" + b"x" * 100),
    ("a bare LF behind the last chunk", b"0\n\r\n"),
    ("a bare LF for the end", b"0\r\n\n"),
    ("a bare LF in a trailer", b"0\r\nA: b\n\r\n"),
    ("a bare CR in a trailer", b"0\r\nA: b\rc\r\n\r\n"),
    ("NUL in a trailer", b"0\r\nA: \x00\r\n\r\n"),
    ("a folded trailer", b"0\r\nA: b\r\n c\r\n\r\n"),
    ("a trailer without a colon", b"0\r\nA\r\n\r\n"),
    ("a space before a trailer's colon", b"0\r\nA : b\r\n\r\n"),
    ("a request for a trailer", b"0\r\nGET / HTTP/1.1\r\n\r\n"),
    ("too many trailers", b"0\r\n" + b"A: b\r\n" * 5 + b"\r\n"),
    ("a trailer that is too long", b"0\r\nA: " + b"b" * 100 + b"\r\n\r\n"),
    ("trailers that are too long together", b"0\r\n" + (b"A: " + b"b" * 30 + b"\r\n") * 4 + b"\r\n"),
    ("an extension that is too long", b"5;" + b"a" * 101 + b"\r\nhello\r\n0\r\n\r\n"),
    ("extensions that are too long together", b"5;" + b"a" * 50 + b"\r\nhello\r\n5;" + b"a" * 50 + b"\r\nhello\r\n"),
    ("an extension without end", b"5;" + b"a" * 200),
    ("a trailer without end", b"0\r\nA: " + b"b" * 200),
    ("digits without end", b"0" * 200),
]


def refused(parse: Any, *arguments: Any) -> Malformed:
    with pytest.raises(Malformed) as caught:
        parse(*arguments)
    assert str(caught.value) == caught.value.detail
    return caught.value


def fed(body: bytes, size: int) -> None:
    """The body, in pieces of this size, and nothing after it."""
    reader = ChunkReader(max_extra_bytes=100, max_fields=4)
    for at in range(0, len(body), size):
        reader.feed(body[at : at + size], [])


@pytest.mark.parametrize(("code", "what", "lines"), REQUESTS, ids=lambda part: part if isinstance(part, str) else "")
@pytest.mark.parametrize("trusted", [False, True], ids=["of anyone", "of a trusted proxy"])
def test_requests(code: str, what: str, lines: tuple[Line, ...], trusted: bool) -> None:
    assert refused(Parser().request, head(*lines), trusted).code == code


@pytest.mark.parametrize(("code", "what", "setting", "lines"), BY_SETTING, ids=[what for _, what, _, _ in BY_SETTING])
def test_requests_by_setting(code: str, what: str, setting: dict[str, Any], lines: tuple[Line, ...]) -> None:
    assert refused(Parser(**setting).request, head(*lines)).code == code


@pytest.mark.parametrize(("what", "lines"), RESPONSES, ids=[what for what, _ in RESPONSES])
def test_responses(what: str, lines: tuple[Line, ...]) -> None:
    assert refused(Parser().response, head(*lines)).code == "bad_response"


@pytest.mark.parametrize(("what", "body"), BODIES, ids=[what for what, _ in BODIES])
@pytest.mark.parametrize("size", [1, 2, 3, 1_000], ids=lambda size: f"{size} bytes at once")
def test_chunked_bodies(what: str, body: bytes, size: int) -> None:
    assert refused(fed, body, size).code == "bad_chunk"


@pytest.mark.parametrize(("code", "status"), STATUS.items())
def test_status_and_fault(code: str, status: int) -> None:
    assert REPLIES[code].status == status
    assert REPLIES[code].fault == ("agent" if code == "bad_response" else "client")


def test_every_refusal_of_the_source_is_tripped() -> None:
    said = [refused(Parser().request, head(*lines)) for _, _, lines in REQUESTS]
    said += [refused(Parser(**setting).request, head(*lines)) for _, _, setting, lines in BY_SETTING]
    said += [refused(Parser().response, head(*lines)) for _, lines in RESPONSES]
    said += [refused(fed, body, size) for _, body in BODIES for size in (1, 1_000)]
    heard = {(error.code, error.detail) for error in said}
    written = refusals_of_the_source()
    assert len(written) > 25
    assert [w for w in written if not any(w[0] == code and w[1].fullmatch(detail) for code, detail in heard)] == []
    assert {code for code, _ in heard} == set(STATUS)


def refusals_of_the_source() -> list[tuple[str, re.Pattern[str]]]:
    """Code and text of every `Malformed(…)` in the package, whatever is put into a text standing for anything."""
    found = []
    for path in Path(bgproxy.http1.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Malformed":
                code, detail = node.args
                found.append((ast.literal_eval(code), re.compile(_pattern(detail))))
    return found


def _pattern(text: ast.expr) -> str:
    if isinstance(text, ast.Constant):
        return re.escape(str(text.value))
    if isinstance(text, ast.JoinedStr):
        return "".join(map(_pattern, text.values))
    if isinstance(text, ast.BinOp):
        return _pattern(text.left) + _pattern(text.right)
    return ".*"
