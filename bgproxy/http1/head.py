"""What a head says: the values that the data path acts on, and the grammar that lets a head in at all.

The grammar is an allow-list of RFC 9112 §2 to §5 and RFC 9110 §5: CRLF line ends only, no obs-fold, no white space
before a colon, no control character anywhere. Possessive quantifiers keep the match linear in the head's length.
What does not match is never forwarded; `why_request_fails` tells why in words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from bgproxy.errors import BgproxyError

CHUNKED = -1  # `length` of a message framed by chunks (RFC 9112 §7.1)
UNTIL_CLOSE = -2  # `length` of a response that ends with its connection (RFC 9112 §6.3, item 8)

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_VALUE = rb"[\t\x20-\x7e\x80-\xff]"
# RFC 3986 §2: no space, control character, raw non-ASCII byte; `#` starts a fragment, which is never sent.
_TARGET = rb"[\x21\x22\x24-\x7e]"

METHODS = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"QUERY", b"TRACE"))
IDEMPOTENT = frozenset((b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"QUERY", b"TRACE"))  # RFC 9110 §9.2.2

_HOST = re.compile(rb"(?:[0-9A-Za-z._\-]++|\[[0-9A-Fa-f:.]++\])(?::[0-9]{1,5})?")
_MAX_HOST = 300  # bytes: a DNS name has at most 253, a port five more


class Malformed(BgproxyError):
    """A message that is refused before anything of it is passed on. `code` names the answer (proxy/replies.py)."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


@dataclass(slots=True)
class RequestHead:
    """A request's head as it goes on: `fields` ends behind the last field's CRLF, the empty line is not in it."""

    method: bytes
    target: bytes  # origin-form or `*`
    minor: int  # 0 or 1: of the client's HTTP version
    host: bytes  # lower case, port included; empty where an HTTP/1.0 client sent none
    length: int  # of the body: bytes, or CHUNKED
    keep_alive: bool
    fields: bytes  # request line and fields, hop-by-hop ones removed
    upgrade: bytes  # the protocol asked for, lower case; empty: none
    has_request_id: bool
    dropped: int = 0  # fields taken out for the `_` in their names
    marks: list[tuple[bytes, bytes]] | None = None  # the fields that were asked for, name in lower case, value as sent
    made_id: bytes = b""  # the X-Request-Id that we gave it
    forwarded_for: bytes = b""  # what a trusted proxy in front has said (X-Forwarded-For)
    forwarded_proto: bytes = b""
    forwarded_host: bytes = b""
    forwarded: bytes = b""  # RFC 7239, of a trusted proxy


@dataclass(slots=True)
class ResponseHead:
    """A response's head as it goes on."""

    status: int
    length: int  # of the body as declared: bytes, CHUNKED or UNTIL_CLOSE; whether there is one depends on the request
    keep_alive: bool  # whether the agent's connection may serve again
    fields: bytes  # status line and fields with CRLF, hop-by-hop ones removed, without the empty line
    has_date: bool
    event_stream: bool  # and without a length: its parts are events, which a client waits for one by one
    upgrade: bytes  # of a 101: the protocol, lower case
    marks: list[tuple[bytes, bytes]] | None = None  # the fields that were asked for, name in lower case, value as sent


def request_line(max_target: int) -> re.Pattern[bytes]:
    """A request's first line: groups method, target, minor version."""
    return re.compile(rb"(%s++) (%s{1,%d}+) HTTP/1\.([01])\r\n" % (_TOKEN, _TARGET, max_target))


def why_hopeless(part: bytes, max_bytes: int) -> str:
    """Why the beginning of a response's head cannot become a good one, so that its rest need not be waited for."""
    if len(part) > max_bytes:
        return "the head of the agent's answer is too long"
    if part[:7] != b"HTTP/1."[: len(part)] or part.count(b"\n") > part.count(b"\r\n"):
        return "the agent's answer does not begin as HTTP/1.1 does (RFC 9112 §4)"
    return ""


FIELD_LINE = re.compile(rb"(%s++):%s*+" % (_TOKEN, _VALUE))
REQUEST_LINE = re.compile(rb"(%s++) (%s++) HTTP/([0-9])\.([0-9])" % (_TOKEN, _TARGET))
# An empty reason may lack its space, as many send it. A status from 600 on belongs to no class of RFC 9110 §15: nobody
# downstream would know what to make of it.
STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: %s*+)?\r\n" % _VALUE)
_LINE_CONTROLS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


@lru_cache(1024)
def host_of(value: bytes) -> bytes:
    """The host and port of a Host field's value; one that is not `name` or `name:port` is refused (RFC 9110 §7.2).

    The same few come again and again. Only good ones are remembered, and those are short.
    """
    host = value.rstrip(b" \t")
    if len(value) > _MAX_HOST or _HOST.fullmatch(host) is None:
        raise Malformed("bad_host", "Host is not `name` or `name:port` (RFC 9110 §7.2)")
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


def why_response_fails(head: bytes, max_fields: int) -> Malformed:
    """What is wrong with an agent's head, in words."""
    line, *lines = head[:-4].split(b"\r\n")
    if STATUS_LINE.fullmatch(line + b"\r\n") is None:
        return Malformed("bad_response", "the agent's status line is malformed")
    return Malformed("bad_response", "of the agent's answer: " + why_fields_fail(lines, max_fields).detail)
