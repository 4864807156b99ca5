"""The one seam between bytes and messages: a head comes in as bytes, and leaves as what the data path acts on.

Two patterns do the work of a request: one lets the head in by the grammar, one finds the dozen fields that matter. A
head that does not match is looked at again the slow way, only to say what is wrong with it.
"""

from __future__ import annotations

import re
from typing import Literal

from bgproxy.http1.fields import HOP_BY_HOP, IDENTITY, cut, named_away, names_with_underscore, tokens, values
from bgproxy.http1.framing import content_length, request_length
from bgproxy.http1.head import (
    CHUNKED,
    HOST,
    METHODS,
    UNTIL_CLOSE,
    Malformed,
    RequestHead,
    ResponseHead,
    request_grammar,
    response_grammar,
    why_request_fails,
    why_response_fails,
)

_REQUEST_FIELDS = re.compile(
    rb"\n(host|connection|content-length|transfer-encoding|te|expect|upgrade|keep-alive|proxy-connection|http2-settings"
    rb"|x-forwarded-(?:for|proto|host)|x-real-ip|x-request-id|x-bgproxy-[^:]*|forwarded):[ \t]*+([^\r]*+)"
)
_RESPONSE_FIELDS = re.compile(
    rb"\n(connection|content-length|transfer-encoding|te|upgrade|keep-alive|proxy-connection|date|content-type):"
    rb"[ \t]*+([^\r]*+)"
)
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_ABSOLUTE = re.compile(rb"http://([^/?#@]++)(/[^#]*+|(?=\?)[^#]*+|)", re.IGNORECASE)

Underscores = Literal["drop", "refuse", "pass"]


class Parser:
    """The heads of requests and responses, within limits. It holds no state between two heads: one serves them all."""

    __slots__ = ("_max_fields", "_max_target", "_request", "_response", "_trace", "_underscores")

    def __init__(
        self,
        max_fields: int = 100,
        max_target_bytes: int = 8_192,
        underscores: Underscores = "drop",
        trace: bool = False,
    ) -> None:
        self._max_fields = max_fields
        self._max_target = max_target_bytes
        self._underscores = underscores
        self._trace = trace
        self._request = request_grammar(max_fields)
        self._response = response_grammar(max_fields)

    def request(self, head: bytes, trusted: bool = False) -> RequestHead:
        """A request's head, its empty line included. `trusted`: what it says about the client's identity is kept.

        Raises `Malformed`, whose code names the answer, for everything that HTTP/1.1 does not allow or we do not serve.
        """
        match = self._request.fullmatch(head)
        if match is None:
            head = self._without_underscores(head)
            match = self._request.fullmatch(head)
            if match is None:
                match = self._with_underscores(head)
        method, target, version = match.groups()
        minor = 1 if version == b"1" else 0
        low = head.lower()
        host: bytes | None = None
        lengths: list[bytes] = []
        encodings: list[bytes] = []
        odd: list[tuple[bytes, bytes]] | None = None
        ids = 0
        for name, value in _REQUEST_FIELDS.findall(low):
            if name == b"host":
                if host is not None:
                    raise Malformed("bad_host", "several Host fields (RFC 9112 §3.2)")
                host = value
            elif name == b"content-length":
                lengths.append(value)
            elif name == b"x-request-id":
                ids += 1 if _REQUEST_ID.fullmatch(value) else 2
            elif name == b"transfer-encoding":
                encodings.append(value)
            elif odd is None:
                odd = [(name, value)]
            else:
                odd.append((name, value))
        if (
            lengths
            and not encodings
            and len(lengths) == 1
            and (length_text := lengths[0]).isdigit()
            and len(length_text) < 16
        ):
            length = int(length_text)
        elif lengths or encodings:
            length = request_length(lengths, encodings, minor)
        else:
            length = 0
        if method not in METHODS or method == b"TRACE":
            self._check_method(method)
        if len(target) > self._max_target:
            raise Malformed("target_too_long", f"the target is longer than {self._max_target} bytes")
        if host is not None and HOST.fullmatch(host) is None:
            host = host.rstrip(b" \t")
            if HOST.fullmatch(host) is None:
                raise Malformed("bad_host", "Host is not `name` or `name:port` (RFC 9110 §7.2)")
        elif host is None and minor:
            raise Malformed("bad_host", "Host is missing (RFC 9112 §3.2)")
        request = RequestHead(method, target, minor, host or b"", length, minor == 1, head[:-2], b"", False, ids == 1)
        if odd is not None or ids > 1 or encodings or minor == 0 or not target.startswith(b"/"):
            _finish(request, low, odd or [], trusted)
        return request

    def response(self, head: bytes) -> ResponseHead:
        """A response's head, its empty line included. Raises `Malformed` with code `bad_response`."""
        match = self._response.fullmatch(head)
        if match is None:
            raise why_response_fails(head, self._max_fields)
        version, status = match.groups()
        low = head.lower()
        lengths: list[bytes] = []
        encodings: list[bytes] = []
        odd: list[tuple[bytes, bytes]] | None = None
        has_date = event_stream = False
        for name, value in _RESPONSE_FIELDS.findall(low):
            if name == b"content-length":
                lengths.append(value)
            elif name == b"content-type":
                event_stream = value.startswith((b"text/event-stream", b"application/x-ndjson"))
            elif name == b"date":
                has_date = True
            elif name == b"transfer-encoding":
                encodings.append(value)
            elif odd is None:
                odd = [(name, value)]
            else:
                odd.append((name, value))
        length = _response_length(lengths, encodings, version) if lengths or encodings else UNTIL_CLOSE
        keep = version == b"1"
        fields = head[:-2] if keep else b"HTTP/1.1" + head[8:-2]
        response = ResponseHead(int(status), length, keep, fields, has_date, event_stream, b"", bool(lengths))
        if odd is not None or encodings:
            _finish_response(response, low, odd or [])
        return response

    def _check_method(self, method: bytes) -> None:
        if method == b"CONNECT" or (method == b"TRACE" and not self._trace):
            raise Malformed("method_not_allowed", f"{method.decode()} is not allowed here")
        if method not in METHODS:
            raise Malformed("method_not_implemented", "the method is not one that this proxy passes on")

    def _without_underscores(self, head: bytes) -> bytes:
        """By setting: fields with `_` in their names taken out, refused, or left for `_with_underscores`."""
        names = names_with_underscore(head)
        if names & {b"transfer_encoding", b"content_length"} or (names and self._underscores == "refuse"):
            raise Malformed("bad_field", "a field name has a `_` in it")
        return cut(head, head.lower(), names)[0] if names and self._underscores == "drop" else head

    def _with_underscores(self, head: bytes) -> re.Match[bytes]:
        """The request line of a head whose fields are well but for their underscores, which the setting lets pass."""
        if self._underscores == "pass":
            lines = head.split(b"\r\n")
            plain = b"\r\n".join([lines[0], *(_dashed(line) for line in lines[1:])])
            if (match := self._request.fullmatch(plain)) is not None:
                return match
        raise why_request_fails(head, self._max_fields)


def _dashed(line: bytes) -> bytes:
    name, colon, value = line.partition(b":")
    return name.replace(b"_", b"-") + colon + value


def _response_length(lengths: list[bytes], encodings: list[bytes], version: bytes) -> int:
    """How a response's body is framed (RFC 9112 §6.3); conflicts are the agent's fault and never passed on."""
    if not encodings:
        try:
            return content_length(lengths)
        except Malformed as error:
            raise Malformed("bad_response", "of the agent's answer: " + error.detail) from None
    if lengths or len(encodings) != 1 or encodings[0] != b"chunked" or version == b"0":
        raise Malformed("bad_response", "of the agent's answer: its Transfer-Encoding is not `chunked` alone")
    return CHUNKED


def _finish(request: RequestHead, low: bytes, odd: list[tuple[bytes, bytes]], trusted: bool) -> None:
    """What only some requests need: hop-by-hop fields, identity, upgrades, HTTP/1.0, absolute-form."""
    names: set[bytes] = set()
    connection: list[bytes] = []
    upgrades: list[bytes] = []
    for name, value in odd:
        if name == b"connection":
            connection += tokens(value)
        elif name == b"upgrade":
            upgrades += tokens(value)
        elif name == b"expect":
            if value.rstrip(b" \t") != b"100-continue":
                raise Malformed("expectation_failed", "the only expectation known is 100-continue (RFC 9110 §10.1.1)")
            request.expect = request.minor == 1
            if not request.expect:
                names.add(b"expect")
        if name in HOP_BY_HOP or (name in IDENTITY and not trusted) or name.startswith(b"x-bgproxy-"):
            names.add(name)
    if connection:
        names |= named_away(connection)
        request.keep_alive = (request.minor == 1 or b"keep-alive" in connection) and b"close" not in connection
    head = request.fields + b"\r\n"
    if trusted:
        _believe(request, head, low, names)
    if not request.has_request_id:
        names.add(b"x-request-id")
    if request.length == CHUNKED:
        names.add(b"transfer-encoding")
    if upgrades and b"upgrade" in connection and request.minor == 1:
        _upgrade(request, upgrades)
    if names:
        head, low = cut(head, low, names)
    request.fields = head[:-2]
    _set_line(request, low)
    if request.length == CHUNKED:
        request.fields += b"Transfer-Encoding: chunked\r\n"
    if request.upgrade:
        request.fields += b"Connection: upgrade\r\nUpgrade: %b\r\n" % request.upgrade


def _believe(request: RequestHead, head: bytes, low: bytes, names: set[bytes]) -> None:
    """Take over what a trusted proxy says of the client; it is written anew with our own hop added."""
    request.forwarded_for = b", ".join(values(head, low, b"x-forwarded-for"))
    request.forwarded_proto = b", ".join(values(head, low, b"x-forwarded-proto"))
    request.forwarded_host = b", ".join(values(head, low, b"x-forwarded-host"))
    request.forwarded = b", ".join(values(head, low, b"forwarded"))
    names.update((b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded"))


def _upgrade(request: RequestHead, upgrades: list[bytes]) -> None:
    """An upgrade is offered to the agent only by a GET without a body, and never to HTTP/2 (RFC 9110 §7.8)."""
    wanted = [token for token in upgrades if not token.startswith((b"h2c", b"http/2"))]
    if not wanted:
        return
    if request.method != b"GET" or request.length:
        raise Malformed("bad_upgrade", "an upgrade is asked for only by a GET without a body")
    request.upgrade = b", ".join(wanted)


def _set_line(request: RequestHead, low: bytes) -> None:
    """The request line as the agent gets it: HTTP/1.1, origin-form (RFC 9112 §3.2)."""
    target = request.target
    if target.startswith(b"/"):
        if request.minor:
            return
    elif target == b"*":
        if request.method != b"OPTIONS":
            raise Malformed("bad_target", "the target `*` goes with OPTIONS only (RFC 9112 §3.2.4)")
    else:
        target = _absolute(request, low)
    rest = request.fields[request.fields.index(b"\r\n") :]
    request.target = target
    request.fields = b"%b %b HTTP/1.1%b" % (request.method, target, rest)


def _absolute(request: RequestHead, low: bytes) -> bytes:
    """The origin-form of an absolute-form target; Host becomes its authority (RFC 9112 §3.2.2)."""
    match = _ABSOLUTE.fullmatch(request.target)
    if match is None or HOST.fullmatch(match[1]) is None:
        raise Malformed("bad_target", "the target is neither a path nor an http:// URL without user information")
    if request.host and request.host != match[1].lower():
        raise Malformed("bad_host", "Host and the target's authority are at odds (RFC 9112 §3.2)")
    request.host = match[1]
    head, _ = cut(request.fields + b"\r\n", low, {b"host"})
    request.fields = head[:-2] + b"Host: %b\r\n" % match[1]
    path = match[2]
    return path if path.startswith(b"/") else b"/" + path


def _finish_response(response: ResponseHead, low: bytes, odd: list[tuple[bytes, bytes]]) -> None:
    """Hop-by-hop fields off; whether the agent's connection lives on; what a 101 switches to."""
    names = {name for name, _ in odd}
    connection: list[bytes] = []
    for name, value in odd:
        if name == b"connection":
            connection += tokens(value)
        elif name == b"upgrade":
            response.upgrade = value.rstrip(b" \t")
    names |= named_away(connection)
    response.keep_alive = (response.keep_alive or b"keep-alive" in connection) and b"close" not in connection
    if response.length == CHUNKED:
        names.add(b"transfer-encoding")
    if names:
        response.fields = cut(response.fields + b"\r\n", low, names)[0][:-2]
