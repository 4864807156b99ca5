"""The one seam between bytes and messages: a head comes in as bytes, and leaves as what the data path acts on.

One walk over the bytes (`scan.py`) lets the fields in by the grammar and finds the dozen that matter. A head that does
not pass is looked at again the slow way, only to say what is wrong with it.
"""

from __future__ import annotations

import re
from typing import Final, Literal

from bgproxy.errors import ConfigError
from bgproxy.http1.fields import (
    HOP_BY_HOP,
    cut,
    is_identity,
    is_ours,
    is_request_id,
    named_away,
    names_with_underscore,
    tokens,
    values,
)
from bgproxy.http1.first_line import VERSION_END, RequestLine, status_line
from bgproxy.http1.framing import plain_length, request_length, response_length
from bgproxy.http1.head import (
    CHUNKED,
    METHODS,
    UNTIL_CLOSE,
    Malformed,
    RequestHead,
    ResponseHead,
    host_of,
    why_request_fails,
    why_response_fails,
)
from bgproxy.http1.scan import TOKEN, FieldScanner, Found

_FRAMING: Final = frozenset((b"transfer-encoding", b"content-length"))
_REQUEST_FIELDS: Final = HOP_BY_HOP | _FRAMING | {b"host", b"expect", b"forwarded", b"x-request-id", b"x-real-ip"}
_REQUEST_PREFIXES: Final = (b"x-forwarded-", b"x-bgproxy-")
_RESPONSE_FIELDS: Final = HOP_BY_HOP | _FRAMING | {b"date"}
_EVENTS: Final = re.compile(rb"\ncontent-type:[ \t]*+(?:text/event-stream|application/x-ndjson)")
_ABSOLUTE: Final = re.compile(rb"http://([^/?#@]++)(/[^#]*+|(?=\?)[^#]*+|)", re.IGNORECASE)
_PROTOCOL: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]++(?:/[!#$%&'*+\-.^_`|~0-9a-z]++)?")
_HOPS: Final = re.compile(rb"[0-9]{1,9}")

_PLAIN_METHODS: Final = METHODS - {b"TRACE", b"OPTIONS"}
_KEEP_ALIVE: Final = [(b"connection", b"keep-alive")]
# What a field is read as that came again: a list (RFC 9110 §5.3). Host, Content-Length and Transfer-Encoding are none,
# so whatever checks them refuses it.
_SEVERAL: Final = b","

Underscores = Literal["drop", "refuse", "pass"]


def check_marks(names: frozenset[bytes]) -> None:
    """Raises ConfigError where one of the names, in lower case, says something to the proxy itself."""
    for name in sorted(names):
        if name in _REQUEST_FIELDS or name in _RESPONSE_FIELDS or name.startswith(_REQUEST_PREFIXES):
            raise ConfigError(f"{name.decode()!r} cannot tell a session: it says something to the proxy itself")


class Parser:
    """The heads of requests and responses, within limits. It holds no state between two heads: one serves them all."""

    __slots__ = (
        "_any_fields",
        "_line",
        "_max_fields",
        "_max_target",
        "_request_fields",
        "_request_marks",
        "_response_fields",
        "_response_marks",
        "_telling_fields",
        "_trace",
        "_underscores",
    )

    def __init__(
        self,
        max_fields: int = 100,
        max_target_bytes: int = 8_192,
        underscores: Underscores = "drop",
        trace: bool = False,
        request_marks: frozenset[bytes] = frozenset(),
        response_marks: frozenset[bytes] = frozenset(),
    ) -> None:
        """`request_marks`, `response_marks`: names, in lower case, of further fields that the heads shall tell.

        Raises ConfigError for one that cannot be (`check_marks`).
        """
        check_marks(request_marks | response_marks)
        self._request_marks = request_marks
        self._response_marks = response_marks
        self._max_fields = max_fields
        self._max_target = max_target_bytes
        self._underscores = underscores
        self._trace = trace
        self._line = RequestLine(max_target_bytes)
        plain = TOKEN.replace(b"_", b"")
        self._request_fields = FieldScanner(_REQUEST_FIELDS, _REQUEST_PREFIXES, plain, max_fields, request_marks)
        self._any_fields = FieldScanner(_REQUEST_FIELDS, _REQUEST_PREFIXES, TOKEN, max_fields, request_marks)
        self._response_fields = FieldScanner(_RESPONSE_FIELDS, (), TOKEN, max_fields)
        self._telling_fields = FieldScanner(_RESPONSE_FIELDS, (), TOKEN, max_fields, response_marks)

    def request(self, head: bytes, trusted: bool = False) -> RequestHead:
        """A request's head, its empty line included. `trusted`: what it says about the client's identity is kept.

        Raises `Malformed`, whose code names the answer, for everything that HTTP/1.1 does not allow or we do not serve.
        """
        dropped = 0
        usual = True  # nothing has to be done to the head but for the most frequent thing
        fields = self._request_fields
        method_end, target_end = self._line.find(head)
        found = fields.find(head, target_end + VERSION_END) if method_end else None
        if found is None:
            found, head, dropped = self._with_underscores(target_end, head)
            usual = False
        method = head[:method_end]
        target = head[method_end + 1 : target_end]
        minor = head[target_end + 8] - 48
        plain = method == b"POST" or method == b"GET" or method in _PLAIN_METHODS
        host: bytes | None = None
        length_text: bytes | None = None
        encoding: bytes | None = None
        odd: Found = []
        marks: Found = []
        keep_alives = ids = 0
        for name, value in found:
            if name == b"host":
                host = value if host is None else _SEVERAL
            elif name == b"content-length":
                length_text = value if length_text is None else _SEVERAL
            elif name == b"x-request-id":
                ids += 1 if is_request_id(value) else 2
            elif name == b"transfer-encoding":
                encoding = value if encoding is None else _SEVERAL
            elif name == b"connection" and value == b"keep-alive":
                keep_alives += 1
            elif name in self._request_marks:
                marks.append((name, value))
            else:
                odd.append((name, value))
        length = plain_length(length_text) if encoding is None and length_text is not None else -1
        if length < 0:
            length = request_length(length_text, encoding, minor)
        if not plain:
            self._check_method(method)
        if host is not None:
            host = host_of(host)
        elif minor:
            raise Malformed("bad_host", "Host is missing (RFC 9112 §3.2)")
        else:
            host = b""
        if ids > 1:
            odd.append((b"x-request-id", b""))
        if usual and plain and minor and encoding is None and target[0] == 47 and not odd and keep_alives < 2:
            # That is to take this one field out; many clients send it though it says nothing.
            kept = head[: fields.line] + head[fields.line_end : -2] if keep_alives else head[:-2]
            return RequestHead(method, target, minor, host, length, kept, ids == 1, marks or None, dropped)
        request = RequestHead(method, target, minor, host, length, b"", ids == 1, marks or None, dropped)
        _finish(request, head, head.lower(), odd + _KEEP_ALIVE * keep_alives, trusted)
        return request

    def response(self, head: bytes, telling: bool = True) -> ResponseHead:
        """A response's head, its empty line included. Raises `Malformed` with code `bad_response`.

        `telling`: the `response_marks` are wanted.
        """
        status, line_end = status_line(head)
        fields = self._telling_fields if telling else self._response_fields
        found = fields.find(head, line_end) if status else None
        if found is None:
            raise why_response_fails(head, line_end, self._max_fields)
        length_text: bytes | None = None
        encoding: bytes | None = None
        odd: Found = []
        marks: Found = []
        has_date = False
        keep_alives = 0
        for name, value in found:
            if name == b"content-length":
                length_text = value if length_text is None else _SEVERAL
            elif name == b"date":
                has_date = True
            elif name == b"transfer-encoding":
                encoding = value if encoding is None else _SEVERAL
            elif name == b"connection" and value == b"keep-alive":
                keep_alives += 1
            elif name in self._response_marks:
                marks.append((name, value))
            else:
                odd.append((name, value))
        keep = head[7] == 49
        length = plain_length(length_text) if encoding is None and length_text is not None else -1
        if length < 0:
            length = response_length(length_text, encoding, int(keep))
        if not (odd or length < 0 or not keep or status < 200 or status == 204) and keep_alives < 2:
            kept = head[: fields.line] + head[fields.line_end : -2] if keep_alives else head[:-2]
            return ResponseHead(status, length, keep, kept, has_date, marks or None)
        response = ResponseHead(status, length, keep, b"", has_date, marks or None)
        _finish_response(response, head, head.lower(), odd + _KEEP_ALIVE * keep_alives)
        return response

    def _check_method(self, method: bytes) -> None:
        if method == b"CONNECT" or (method == b"TRACE" and not self._trace):
            raise Malformed("method_not_allowed", f"{method.decode()} is not allowed here")
        if method not in METHODS:
            raise Malformed("method_not_implemented", "the method is not one that this proxy passes on")

    def _with_underscores(self, target_end: int, head: bytes) -> tuple[Found, bytes, int]:
        """A head that is well but for the underscores in its field names: what the setting leaves of it and its fields,
        and how many it has taken out.

        Agents behind a CGI-like interface read `_` as `-`: what may not come in one spelling may not come in the other.
        """
        if not target_end or (found := self._any_fields.find(head, target_end + VERSION_END)) is None:
            raise why_request_fails(head, self._max_fields, self._max_target)
        names = names_with_underscore(head)
        twins = {name: name.replace(b"_", b"-") for name in names}
        if self._underscores == "refuse" or not _FRAMING.isdisjoint(twins.values()):
            raise Malformed("bad_field", "a field name has a `_` in it")
        if self._underscores == "pass":
            names = {name for name, twin in twins.items() if is_ours(twin)}
        kept = [field for field in found if field[0] not in names]  # what goes may be one that matters: x-forwarded-a_b
        left = cut(head, head.lower(), names)
        return kept, left, head.count(b"\n") - left.count(b"\n")


def _finish(request: RequestHead, head: bytes, low: bytes, odd: list[tuple[bytes, bytes]], trusted: bool) -> None:
    """What only some requests need: hop-by-hop fields, identity, upgrades, HTTP/1.0, absolute-form."""
    connection = _members(odd, b"connection")
    names = named_away(connection)
    names.update([name for name, _ in odd if not (trusted and is_identity(name))])
    ours: list[bytes] = []  # what is written anew, behind the client's fields
    if connection:
        request.keep_alive = (request.minor == 1 or b"keep-alive" in connection) and b"close" not in connection
    if trusted:
        _believe(request, head, low, names)
    if b"x-bgproxy-preview-token" in names:
        # One that came twice is a list, and so no token (RFC 9110 §5.3).
        request.preview_token = b", ".join(values(head, low, b"x-bgproxy-preview-token"))
        request.preview_color = b", ".join(values(head, low, b"x-bgproxy-color"))
    if b"expect" in names:
        _expect([value.rstrip(b" \t") for name, value in odd if name == b"expect"], request.minor, ours)
    if request.length == CHUNKED:
        names.add(b"transfer-encoding")
        ours.append(b"Transfer-Encoding: chunked\r\n")
    if b"upgrade" in connection and request.minor == 1:
        _upgrade(request, _members(odd, b"upgrade"), ours)
    if request.method not in _PLAIN_METHODS:
        _count_hop(values(head, low, b"max-forwards"), names, ours)
    if not request.target.startswith(b"/"):
        _set_target(request, names, ours)
    head = cut(head, low, names)
    rest = head[head.index(b"\r\n") : -2]
    request.fields = b"%b %b HTTP/1.1%b%b" % (request.method, request.target, rest, b"".join(ours))


def _members(odd: list[tuple[bytes, bytes]], wanted: bytes) -> list[bytes]:
    return [token for name, value in odd if name == wanted for token in tokens(value)]


def _believe(request: RequestHead, head: bytes, low: bytes, names: set[bytes]) -> None:
    """Take over what a trusted proxy says of the client; it is written anew with our own hop added."""
    request.forwarded_for = b", ".join(values(head, low, b"x-forwarded-for"))
    request.forwarded_proto = b", ".join(values(head, low, b"x-forwarded-proto"))
    request.forwarded_host = b", ".join(values(head, low, b"x-forwarded-host"))
    request.forwarded = b", ".join(values(head, low, b"forwarded"))
    names.update((b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded"))


def _expect(expectations: list[bytes], minor: int, ours: list[bytes]) -> None:
    """The one expectation that there is goes on, but is not heard from an HTTP/1.0 client (RFC 9110 §10.1.1)."""
    if any(expectation != b"100-continue" for expectation in expectations):
        raise Malformed("expectation_failed", "the only expectation known is 100-continue (RFC 9110 §10.1.1)")
    if minor == 1:
        ours.append(b"Expect: 100-continue\r\n")


def _upgrade(request: RequestHead, upgrades: list[bytes], ours: list[bytes]) -> None:
    """An upgrade is offered to the agent only by a GET without a body, and never to HTTP/2 (RFC 9110 §7.8)."""
    wanted = [token for token in upgrades if not token.startswith((b"h2c", b"http/2"))]
    if not wanted:
        return
    if request.method != b"GET" or request.length:
        raise Malformed("bad_upgrade", "an upgrade is asked for only by a GET without a body")
    if not all(map(_PROTOCOL.fullmatch, wanted)):
        raise Malformed("bad_upgrade", "Upgrade is not a list of protocols (RFC 9110 §7.8)")
    request.upgrade = b", ".join(wanted)
    ours.append(b"Connection: upgrade\r\nUpgrade: %b\r\n" % request.upgrade)


def _count_hop(hops: list[bytes], names: set[bytes], ours: list[bytes]) -> None:
    """Max-Forwards of TRACE and OPTIONS goes down by one (RFC 9110 §7.6.2); for the other methods it means nothing.

    At 0 the request ends here, where no such method is served: this is the final recipient, and says just that.
    """
    if not hops:
        return
    if len(hops) > 1 or _HOPS.fullmatch(hops[0]) is None:
        raise Malformed("bad_field", "Max-Forwards is not one plain number (RFC 9110 §7.6.2)")
    if (left := int(hops[0])) == 0:
        raise Malformed("method_not_allowed", "Max-Forwards is 0, and the proxy itself has no resource to tell about")
    names.add(b"max-forwards")
    ours.append(b"Max-Forwards: %d\r\n" % (left - 1))


def _set_target(request: RequestHead, names: set[bytes], ours: list[bytes]) -> None:
    """What is not origin-form: `*`, and absolute-form, whose authority becomes Host (RFC 9112 §3.2.2, §3.2.4)."""
    options = request.method == b"OPTIONS"
    if request.target == b"*":
        if not options:
            raise Malformed("bad_target", "the target `*` goes with OPTIONS only (RFC 9112 §3.2.4)")
        return
    match = _ABSOLUTE.fullmatch(request.target)
    if match is None:
        raise Malformed("bad_target", "the target is neither a path nor an http:// URL without user information")
    host = host_of(match[1].lower())
    if request.host and request.host != host:
        raise Malformed("bad_host", "Host and the target's authority are at odds (RFC 9112 §3.2)")
    request.host = host
    names.add(b"host")
    ours.append(b"Host: %b\r\n" % host)
    path = match[2]
    request.target = path if path.startswith(b"/") else b"*" if options and not path else b"/" + path


def _finish_response(response: ResponseHead, head: bytes, low: bytes, odd: list[tuple[bytes, bytes]]) -> None:
    """Hop-by-hop fields off; whether the agent's connection lives on; what a 101 switches to."""
    names: set[bytes] = set()
    if odd:
        connection = _members(odd, b"connection")
        names = named_away(connection)
        names.update([name for name, _ in odd])
        response.keep_alive = (response.keep_alive or b"keep-alive" in connection) and b"close" not in connection
        response.upgrade = b", ".join(_members(odd, b"upgrade"))
    response.event_stream = response.length < 0 and _EVENTS.search(low) is not None
    if response.length == CHUNKED:
        names.add(b"transfer-encoding")
    if response.status < 200 or response.status == 204:
        # They have no body. One that is declared must not be told of (RFC 9110 §8.6), and if it comes all the same,
        # late, it must not find another request waiting here.
        response.keep_alive = response.keep_alive and response.length in (0, UNTIL_CLOSE)
        names.add(b"content-length")
    response.fields = b"HTTP/1.1" + cut(head, low, names)[8:-2]
    if response.status == 426 and response.upgrade:  # it must say to what (RFC 9110 §15.5.22)
        response.fields += b"Connection: upgrade\r\nUpgrade: %b\r\n" % response.upgrade
