"""What must hold of any bytes at all, of heads made from what smugglers make theirs from, and of heads without end."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
from heads import a_body, as_agents_read_it, head
from hypothesis import example, given
from hypothesis import strategies as st

from bgproxy.http1.framing import ChunkReader, chunk, last_chunk
from bgproxy.http1.head import Malformed, RequestHead, ResponseHead
from bgproxy.http1.parser import Parser, Underscores

UNDERSCORES: list[Underscores] = ["drop", "refuse", "pass"]
PARSERS = [Parser(underscores=setting, trace=True) for setting in UNDERSCORES]
parsers = st.sampled_from(PARSERS)

# Heads are put together from what is well and, now and then, from what smugglers use.
FIRST_LINES = st.sampled_from(
    [
        "GET / HTTP/1.1", "POST /a?b HTTP/1.1", "OPTIONS * HTTP/1.1", "GET http://a HTTP/1.1",
    ]
)  # fmt: skip
ODD_FIRST_LINES = st.sampled_from(
    [
        "HEAD //a HTTP/1.1", "OPTIONS http://a HTTP/1.1", "TRACE / HTTP/1.1", "GET / HTTP/1.0", "POST / HTTP/1.0",
        "GET http://a:80?c HTTP/1.1", "GET http://b/ HTTP/1.1", "GET / HTTP/1.2", "GET /", "GET * HTTP/1.1",
        "PUT a HTTP/1.1",
    ]
)  # fmt: skip
GOOD_LINES = st.sampled_from(
    [
        "A: b", "X-A: b, c", "Cookie: a=b:c", "Connection: keep-alive", "Connection: x-a, a", "Connection: close",
        "Connection: upgrade", "Connection: host: a, cookie: a=b", "Connection: a, b, c, d, x-a",
        "Connection: host, cookie", "Connection: content-length, transfer-encoding", "X-Forwarded-For: a",
        "X-Forwarded-Port: 1", "Forwarded: for=a", "X-Real-IP: a", "X-Bgproxy-Color: a", "X-Request-Id: a",
        "Keep-Alive: a", "TE: trailers", "Proxy-Connection: a", "HTTP2-Settings: a", "X_A: b", "X_Forwarded_For: a",
        "Keep_Alive: b", "A_Host: b", "Max-Forwards: 7",
    ]
)  # fmt: skip
FRAMING_LINES = st.sampled_from(
    [
        "Content-Length: 5", "content-length:05 ", "Transfer-Encoding: chunked", "TRANSFER-ENCODING:\tChunked",
        "Upgrade: websocket", "Upgrade: h2c", "Expect: 100-continue", "Host: a",
    ]
)  # fmt: skip
ODD_LINES = st.sampled_from(
    [
        "Content-Length: +5", "Content-Length: 5, 5", "Content-Length:", "Content_Length: 5",
        "Transfer_Encoding: chunked", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: chunked,", "Host: b",
        "Expect: a", "X-A", ": b", " X-A: b",
    ]
)  # fmt: skip
SPOILS = st.sampled_from(
    [" ", "\t", "\n", "\r", "\0", "\x0b", "\x7f", "\xa0", "_", ":", "\r\n ", "\nHost: c", "\rA: b"]
)


def seldom(usual: st.SearchStrategy[str], odd: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.integers(0, 15).flatmap(lambda n: odd if n == 15 else usual)


@st.composite
def spoilt_heads(draw: st.DrawFn) -> bytes:
    lines = [draw(seldom(FIRST_LINES, ODD_FIRST_LINES)), "Host: a"]
    lines += draw(st.lists(seldom(GOOD_LINES, ODD_LINES), max_size=6))
    lines += draw(st.lists(FRAMING_LINES, max_size=2, unique=True))
    lines[1:] = draw(st.permutations(lines[1:]))
    text = "".join(line + draw(seldom(st.just("\r\n"), st.sampled_from(["\n", "\r", "\r\r\n"]))) for line in lines)
    if draw(st.integers(0, 3)) == 3:
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(SPOILS) + text[at:]
    return text.encode("latin-1") + b"\r\n"


def accepted(parser: Parser, data: bytes, trusted: bool) -> RequestHead | None:
    try:
        return parser.request(data, trusted)
    except Malformed:
        return None


def answered(data: bytes) -> ResponseHead | None:
    try:
        return Parser().response(data)
    except Malformed:
        return None


FIELD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\x00-\x08\x0a-\x1f\x7f]*")
LINE = re.compile(rb"[A-Z]+ (?:/[\x21-\x7e]*|\*) HTTP/1\.1")
NEVER_SENT_ON = {b"te", b"keep-alive", b"proxy-connection", b"http2-settings", b"x-bgproxy-color"}
ONCE_AT_MOST = {b"host", b"content-length", b"transfer-encoding", b"x-request-id", b"expect", b"connection", b"upgrade"}


@given(parsers, spoilt_heads(), st.booleans())
@example(PARSERS[0], b"GET / HTTP/1.1\r\nX_A\nHost: a\r\n\r\n", False)
@example(PARSERS[0], b"POST / HTTP/1.1\r\nHost: a\r\nX_A: b\nContent-Length: 5\r\n\r\n", False)
@example(PARSERS[0], b"GET /:a HTTP/1.1\r\nHost: a\r\nConnection: get /, b, c, d, e\r\n\r\n", False)
def test_what_goes_on_is_well_formed(parser: Parser, data: bytes, trusted: bool) -> None:
    if (request := accepted(parser, data, trusted)) is None:
        return
    line, *lines, nothing = request.fields.split(b"\r\n")
    assert nothing == b""
    assert LINE.fullmatch(line)
    assert [field for field in lines if FIELD.fullmatch(field) is None] == []
    names = [field.partition(b":")[0].lower() for field in lines]
    assert not NEVER_SENT_ON.intersection(names)
    assert {name for name in names if names.count(name) > 1} & ONCE_AT_MOST == set()
    assert not {b"content-length", b"transfer-encoding"} <= set(names)
    assert (b"connection" in names) == bool(request.upgrade)
    assert trusted or not any(name.startswith((b"x-forwarded", b"forwarded", b"x-real")) for name in names)
    assert (b"host" in names) == bool(request.host)


@given(parsers, spoilt_heads(), st.booleans())
def test_agents_find_the_same_end(parser: Parser, data: bytes, trusted: bool) -> None:
    request = accepted(parser, data, trusted)
    if request is None or request.upgrade:
        return
    content, body = a_body(request)
    read = as_agents_read_it(request, body + b"GET /next")
    assert read == (request.method.decode(), request.target.decode(), content, b"GET /next")


@given(parsers, spoilt_heads())
def test_what_goes_on_comes_in_again_unchanged(parser: Parser, data: bytes) -> None:
    """Two proxies in a row agree: what one sends on, the next one sends on, less what it says about its own hop."""
    request = accepted(parser, data, False)
    if request is None or not request.host:
        return
    again = Parser(underscores="pass", trace=True).request(request.fields + b"\r\n")
    assert (again.method, again.target, again.length, again.host) == (
        request.method, request.target, request.length, request.host,
    )  # fmt: skip
    if request.method not in (b"OPTIONS", b"TRACE") and not request.upgrade:
        assert sorted(again.fields.split(b"\r\n")) == sorted(request.fields.split(b"\r\n"))


@given(parsers, st.binary(max_size=200), st.booleans())
def test_any_bytes_are_refused_or_understood(parser: Parser, data: bytes, trusted: bool) -> None:
    accepted(parser, data + b"\r\n\r\n", trusted)
    accepted(parser, b"GET / HTTP/1.1\r\nHost: a\r\n" + data + b"\r\n\r\n", trusted)


@given(st.binary(max_size=200))
def test_any_bytes_of_an_agent_are_refused_or_understood(data: bytes) -> None:
    for start in (b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nConnection: "):
        if (response := answered(start + data + b"\r\n\r\n")) is None:
            continue
        line, *lines, nothing = response.fields.split(b"\r\n")
        assert nothing == b""
        assert re.fullmatch(rb"HTTP/1\.1 [1-5][0-9][0-9](?: [^\x00-\x08\x0a-\x1f\x7f]*)?", line)
        assert all(map(FIELD.fullmatch, lines))


PAYLOADS = st.lists(
    st.binary(min_size=1, max_size=300) | st.sampled_from([b"\r\n", b"0\r\n\r\n", b"5\r\n"]), max_size=8
)
EXTENSIONS = st.sampled_from([b"", b"", b";a", b';a="b;c"', b";\t"])


@given(PAYLOADS, st.data(), st.lists(st.sampled_from([b"A: b", b"x-y:", b"Host: evil"]), max_size=4))
def test_a_chunked_body_survives_any_split(payloads: list[bytes], data: st.DataObject, trailers: list[bytes]) -> None:
    """As a client may send it, then as we send it on."""
    sent = b"".join(
        b"%b%x%b\r\n%b\r\n" % (b"0" * data.draw(st.integers(0, 3)), len(p), data.draw(EXTENSIONS), p) for p in payloads
    ) + last_chunk(trailers)
    kept = [trailer for trailer in trailers if trailer != b"Host: evil"]
    pieces, found, rest = read_in_pieces(data, sent + b"GET /")
    assert (b"".join(pieces), found, rest) == (b"".join(payloads), kept, b"GET /")
    again, found, rest = read_in_pieces(data, b"".join(map(chunk, pieces)) + last_chunk(found))
    assert (b"".join(again), found, rest) == (b"".join(payloads), kept, b"")


def read_in_pieces(data: st.DataObject, sent: bytes) -> tuple[list[bytes], list[bytes], bytes]:
    """The payload's pieces, the trailers and what is left, read by cuts that are drawn."""
    cuts = sorted(data.draw(st.sets(st.integers(1, len(sent)), max_size=20)) | {len(sent)})
    reader = ChunkReader(max_extra_bytes=1_000, max_fields=10)
    pieces: list[bytes] = []
    start = 0
    for end in cuts:
        start += reader.feed(sent[start:end], pieces)
        if reader.done:
            break
    return pieces, reader.trailers, sent[start:]


@given(st.binary(max_size=100), st.integers(1, 5))
def test_any_bytes_are_a_chunked_body_or_refused_however_they_are_cut(data: bytes, size: int) -> None:
    def outcome(step: int) -> tuple[bytes, bool] | None:
        reader, out = ChunkReader(100, 4), []
        try:
            for at in range(0, len(data), step):
                reader.feed(data[at : at + step], out)
        except Malformed:
            return None
        return b"".join(out), reader.done

    whole, cut = outcome(1_000), outcome(size)
    if whole is not None and cut is not None:
        assert whole == cut


# Each is a head of a megabyte: with any step that is not linear in its length, it would take minutes.
MANY = 50_000
LONG = 1_000_000
ENDLESS = {
    "fields": ["A: b"] * MANY,
    "fields with an underscore, each another": [f"a_{n}: b" for n in range(MANY)],
    "fields with the same underscore": ["a_b: c"] * MANY,
    "lengths": ["Content-Length: 5"] * MANY,
    "codings": ["Transfer-Encoding: chunked"] * MANY,
    "hosts": ["Host: a"] * MANY,
    "request ids": ["X-Request-Id: a"] * MANY,
    "words about the client": ["X-Forwarded-For: a", "Forwarded: b"] * MANY,
    "words about the client, each another": [f"X-Forwarded-{n}: a" for n in range(MANY)],
    "upgrades": ["Connection: upgrade", *["Upgrade: a, b"] * MANY],
    "Connection fields": ["Connection: keep-alive"] * MANY,
    "names in Connection": [
        "Connection: " + ",".join(f"a{n}" for n in range(MANY)),
        *[f"A{n}: b" for n in range(MANY)],
    ],
    "commas in Connection": ["Connection: " + "," * LONG],
    "one long value": ["A: " + "b" * LONG],
    "one long name": ["A" * LONG + ": b"],
    "a long name without a colon": ["A" * LONG],
    "white space": ["Content-Length: " + " " * LONG + "x"],
    "white space behind a coding": ["Transfer-Encoding: chunked" + "\t" * LONG],
    "colons": [":" * LONG],
    "colons in a value": ["A:" + ":" * LONG],
    "control characters": ["A: " + "\x01" * LONG],
    "bare CRs": ["A: " + "\r" * LONG],
    "bare LFs": ["A: b" + "\n" * LONG],
    "digits": ["Content-Length: " + "1" * LONG],
}


@pytest.mark.timeout(10)
@pytest.mark.parametrize("trusted", [False, True], ids=["of anyone", "of a trusted proxy"])
@pytest.mark.parametrize("lines", ENDLESS.values(), ids=ENDLESS)
def test_a_head_takes_time_by_its_length_alone(lines: list[str], trusted: bool) -> None:
    parser = Parser(max_fields=10**7, underscores="pass" if trusted else "drop")
    accepted(parser, head("OPTIONS http://a HTTP/1.0", *lines), trusted)
    with suppress(Malformed):
        parser.response(head("HTTP/1.0 200 OK", *lines))


@pytest.mark.timeout(10)
@pytest.mark.parametrize("target", ["/" + "a" * LONG, "/" * LONG, "http://" + "a" * LONG, "?" * LONG])
def test_a_target_takes_time_by_its_length_alone(target: str) -> None:
    parser = Parser(max_target_bytes=10**7)
    for method in ("GET", "OPTIONS", "G" * LONG):
        accepted(parser, head(f"{method} {target} HTTP/1.1", "Host: a"), False)
        accepted(parser, head(f"{method} {target} HTTP/1.", "Host: a"), False)


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "data", [b"1\r\na\r\n" * 100_000, b"1;" + b"a" * LONG, b"0" * LONG, b"0\r\n" + b"A: b\r\n" * 100_000]
)
def test_a_chunked_body_takes_time_by_its_length_alone(data: bytes) -> None:
    for step in (1, 7, len(data)):
        reader = ChunkReader(max_extra_bytes=8_192, max_fields=100)
        with suppress(Malformed):
            for at in range(0, len(data), step):
                reader.feed(data[at : at + step], [])
