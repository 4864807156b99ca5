"""What a head says: the values that the data path acts on, and the grammar that lets a head in at all.

The grammar is an allow-list of RFC 9112 §2 to §5 and RFC 9110 §5: CRLF line ends only, no obs-fold, no white space
before a colon, no control character anywhere. Possessive quantifiers keep the match linear in the head's length.
What does not match is never forwarded; `why_request_fails` tells why in words.
"""

from __future__ import annotations

import re
from typing import Final

from bgproxy.errors import BgproxyError

CHUNKED: Final = -1  # `length` of a message framed by chunks (RFC 9112 §7.1)
UNTIL_CLOSE: Final = -2  # `length` of a response that ends with its connection (RFC 9112 §6.3, item 8)

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_VALUE = rb"[\t\x20-\x7e\x80-\xff]"
# RFC 3986 §2: no space, control character, raw non-ASCII byte; `#` starts a fragment, which is never sent.
_TARGET = rb"[\x21\x22\x24-\x7e]"

METHODS: Final = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"QUERY", b"TRACE"))
IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"QUERY", b"TRACE"))  # RFC 9110 §9.2.2

_HOST: Final = re.compile(rb"(?:[0-9A-Za-z._\-]++|\[[0-9A-Fa-f:.]++\])(?::[0-9]{1,5})?")
_MAX_HOST: Final = 300  # bytes: a DNS name has at most 253, a port five more
_HOSTS: Final[dict[bytes, bytes]] = {}  # good values of Host: the same few come again and again
_MOST_HOSTS: Final = 1024


class Malformed(BgproxyError):
    """A message that is refused before anything of it is passed on. `code` names the answer (proxy/replies.py)."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class RequestHead:
    """A request's head as it goes on: `fields` ends behind the last field's CRLF, the empty line is not in it.

    `marks`: the fields that were asked for, name in lower case, value as sent.
    """

    # Class-level values are defaults of what only some requests have.
    upgrade = b""  # the protocol asked for, lower case
    made_id = b""  # the X-Request-Id that we gave it
    forwarded_for = b""  # what a trusted proxy in front has said (X-Forwarded-For)
    forwarded_proto = b""
    forwarded_host = b""
    forwarded = b""  # RFC 7239, of a trusted proxy
    preview_token = b""  # by which it asks for a color (X-Bgproxy-Preview-Token), and which (X-Bgproxy-Color)
    preview_color = b""

    def __init__(
        self,
        method: bytes,
        target: bytes,
        minor: int,
        host: bytes,
        length: int,
        fields: bytes,
        has_request_id: bool,
        marks: list[tuple[bytes, bytes]] | None,
        dropped: int,
    ) -> None:
        self.method = method
        self.target = target  # origin-form or `*`
        self.minor = minor  # 0 or 1: of the client's HTTP version
        self.host = host  # lower case, port included; empty where an HTTP/1.0 client sent none
        self.length = length  # of the body: bytes, or CHUNKED
        self.keep_alive = minor == 1
        self.fields = fields  # request line and fields, hop-by-hop ones removed
        self.has_request_id = has_request_id
        self.marks = marks
        self.dropped = dropped  # fields taken out for the `_` in their names


class ResponseHead:
    """A response's head as it goes on. `marks`: as of a request."""

    event_stream = False  # and without a length: its parts are events, which a client waits for one by one
    upgrade = b""  # of a 101: the protocol, lower case

    def __init__(
        self,
        status: int,
        length: int,
        keep_alive: bool,
        fields: bytes,
        has_date: bool,
        marks: list[tuple[bytes, bytes]] | None,
    ) -> None:
        self.status = status
        self.length = length  # of the body as declared: bytes, CHUNKED or UNTIL_CLOSE; the request says if there is one
        self.keep_alive = keep_alive  # whether the agent's connection may serve again
        self.fields = fields  # status line and fields with CRLF, hop-by-hop ones removed, without the empty line
        self.has_date = has_date
        self.marks = marks


def why_hopeless(part: bytes, max_bytes: int) -> str:
    """Why the beginning of a response's head cannot become a good one, so that its rest need not be waited for."""
    if len(part) > max_bytes:
        return "the head of the agent's answer is too long"
    if part[:7] != b"HTTP/1."[: len(part)] or part.count(b"\n") > part.count(b"\r\n"):
        return "the agent's answer does not begin as HTTP/1.1 does (RFC 9112 §4)"
    return ""


def why_never_whole(part: bytes, max_head: int, max_target: int) -> tuple[str, str]:
    """Why the beginning of a request's head cannot become a good one: it is refused now, not when its time is up.

    The code of the answer and its detail; both empty where it can.
    """
    line = part.find(b"\n")
    if len(part) > max_head:
        if line < 0 or line > max_target + 32:
            return ("target_too_long", f"the target is longer than {max_target} bytes")
        return ("head_too_large", f"the head is longer than {max_head} bytes")
    if line >= 0 and part.count(b"\n") > part.count(b"\r\n"):
        code = "bad_field" if part[line - 1 : line] == b"\r" else "bad_request_line"
        return (code, "a line ends with a bare LF (RFC 9112 §2.2)")
    if part.startswith(b"\r\n"):
        return ("bad_request_line", "empty lines stand before the request")
    return "", ""


FIELD_LINE: Final = re.compile(rb"(%s++):%s*+" % (_TOKEN, _VALUE))
REQUEST_LINE: Final = re.compile(rb"(%s++) (%s++) HTTP/([0-9])\.([0-9])" % (_TOKEN, _TARGET))
_LINE_CONTROLS: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def host_of(value: bytes) -> bytes:
    """The host and port of a Host field's value; one that is not `name` or `name:port` is refused (RFC 9110 §7.2).

    Only good ones are remembered, and those are short.
    """
    host = _HOSTS.get(value)
    if host is None:
        host = value.rstrip(b" \t")
        if len(value) > _MAX_HOST or _HOST.fullmatch(host) is None:
            raise Malformed("bad_host", "Host is not `name` or `name:port` (RFC 9110 §7.2)")
        if len(_HOSTS) >= _MOST_HOSTS:
            _HOSTS.clear()
        _HOSTS[value] = host
    return host


def why_fields_fail(lines: list[bytes], max_fields: int) -> Malformed:
    """What is wrong with field lines that the grammar did not let in, in words."""
    for line in lines:
        if line[:1] in (b" ", b"\t"):
            return Malformed("bad_field", "a line begins with white space: line folding is not allowed (RFC 9112 §5.2)")
        if _LINE_CONTROLS.search(line):
            return Malformed("bad_field", "a field has a control character, a bare CR or a bare LF (RFC 9112 §2.2)")
        if FIELD_LINE.fullmatch(line) is None:
            return Malformed(
                "bad_field", "a field line is not `name: value` with a plain token as its name (RFC 9112 §5)"
            )
    return Malformed("too_many_fields", f"more than {max_fields} fields")


def why_request_fails(head: bytes, max_fields: int, max_target: int) -> Malformed:
    """What is wrong with a request's head that the grammar did not let in, in words."""
    line, *lines = head[:-4].split(b"\r\n")
    match = REQUEST_LINE.fullmatch(line)
    if match is None:
        return Malformed("bad_request_line", "the first line is not `METHOD target HTTP/1.1` (RFC 9112 §3)")
    if match[3] != b"1" or match[4] not in (b"0", b"1"):
        return Malformed("bad_version", "only HTTP/1.1 and HTTP/1.0 are spoken here")
    if len(match[2]) > max_target:
        return Malformed("target_too_long", f"the target is longer than {max_target} bytes")
    return why_fields_fail(lines, max_fields)


def why_response_fails(head: bytes, line_end: int, max_fields: int) -> Malformed:
    """What is wrong with an agent's head, in words. `line_end`: of its status line; 0 where that is what is wrong."""
    if not line_end:
        return Malformed("bad_response", "the agent's status line is malformed")
    lines = head[line_end:-4].split(b"\r\n")
    return Malformed("bad_response", "of the agent's answer: " + why_fields_fail(lines, max_fields).detail)
