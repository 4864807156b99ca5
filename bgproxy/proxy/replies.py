"""The answers that the proxy gives itself: problem documents (RFC 9457), one table of what can be wrong.

`type` is stable: programs may rely on the code behind its prefix. Where a session's protocol is JSON-RPC, its ending is
an error object of that.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import NamedTuple

import orjson

from bgproxy.errors import TYPE_PREFIX, Fault


@dataclass(frozen=True, slots=True)
class Reply:
    """One kind of answer of our own."""

    status: int
    title: str
    fault: Fault
    retry_after: int = 0  # seconds; 0: not said


REPLIES: dict[str, Reply] = {
    "bad_request_line": Reply(400, "Malformed request line", "client"),
    "bad_target": Reply(400, "Malformed target", "client"),
    "bad_field": Reply(400, "Malformed field", "client"),
    "bad_host": Reply(400, "Missing or malformed Host", "client"),
    "bad_length": Reply(400, "Ambiguous or malformed length", "client"),
    "bad_transfer_encoding": Reply(400, "Transfer-Encoding not allowed here", "client"),
    "bad_chunk": Reply(400, "Malformed chunked body", "client"),
    "bad_upgrade": Reply(400, "Malformed upgrade", "client"),
    "method_not_allowed": Reply(405, "Method not allowed", "client"),
    "request_timeout": Reply(408, "The request came too slowly", "client"),
    "body_too_large": Reply(413, "Body too large", "client"),
    "target_too_long": Reply(414, "Target too long", "client"),
    "expectation_failed": Reply(417, "Unknown expectation", "client"),
    "head_too_large": Reply(431, "Head too large", "client"),
    "too_many_fields": Reply(431, "Too many fields", "client"),
    "method_not_implemented": Reply(501, "Unknown method", "client"),
    "unknown_transfer_encoding": Reply(501, "Unknown Transfer-Encoding", "client"),
    "bad_version": Reply(505, "HTTP version not supported", "client"),
    "no_route": Reply(404, "No route", "client"),
    # Of a session that an operator has ended. Gone, though its id may begin a new one: a client must not repeat the
    # request by itself, as many do at 409, 429 and 5xx, for it would be taken for that new session's first turn.
    "session_ended": Reply(410, "The session was ended", "us"),
    "preview_forbidden": Reply(403, "A preview token is needed here", "client"),
    "session_not_found": Reply(404, "There is no such session any more", "us"),
    "bad_response": Reply(502, "The agent's answer is malformed", "agent"),
    "agent_unreachable": Reply(502, "The agent cannot be reached", "agent"),
    "agent_closed": Reply(502, "The agent closed before it answered", "agent"),
    "connect_timeout": Reply(504, "The agent did not take the connection in time", "agent"),
    "response_timeout": Reply(504, "The agent did not answer in time", "agent"),
    "no_pointer": Reply(503, "No active color is known yet", "us", retry_after=1),
    "no_preview": Reply(503, "There is no such color to be looked at now", "us", retry_after=1),
    "no_upstream": Reply(503, "The active color has no upstream for this route", "us", retry_after=1),
    "no_connection": Reply(503, "All connections to the agents are busy", "us", retry_after=1),
    "out_of_descriptors": Reply(503, "The proxy is out of file descriptors", "us", retry_after=1),
    "too_many_connections": Reply(503, "Too many connections", "us", retry_after=1),
    "session_unavailable": Reply(503, "The session's release cannot be found out now", "us", retry_after=1),
    "fenced": Reply(503, "The proxy is cut off from its store", "us", retry_after=1),
    "hold_full": Reply(503, "Too many requests wait for a flip", "us", retry_after=1),
    "held_too_long": Reply(503, "The request waited too long for a flip", "us", retry_after=1),
    "release_ended": Reply(503, "The release that had the request was ended", "us", retry_after=1),
    "shutting_down": Reply(503, "The proxy is shutting down", "us", retry_after=1),
}
_CACHEABLE = frozenset((404, 405, 410, 414, 501))  # by themselves (RFC 9110 §15.1), though all of ours may change


class RpcError(NamedTuple):
    """What an error of JSON-RPC says beside the problem: its code, and the request's id in JSON."""

    code: int
    id: bytes


def reply(code: str, detail: str, date: bytes, *, head_only: bool = False, close: bool = True) -> bytes:
    """A whole response: head and problem document, the latter left out for HEAD (RFC 9110 §9.3.2)."""
    kind = REPLIES[code]
    body = orjson.dumps(
        {"type": TYPE_PREFIX + code, "title": kind.title, "status": kind.status, "detail": detail, "code": code}
    )
    lines = [
        f"HTTP/1.1 {kind.status} {HTTPStatus(kind.status).phrase}".encode(),
        b"Content-Type: application/problem+json",
        b"Content-Length: %d" % len(body),
        b"Date: " + date,
    ]
    if kind.status in _CACHEABLE:
        lines.append(b"Cache-Control: no-store")
    if kind.retry_after:
        lines.append(b"Retry-After: %d" % kind.retry_after)
    if kind.status == 405:
        lines.append(b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, QUERY")
    if close:
        lines.append(b"Connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n" + (b"" if head_only else body)


def rpc_reply(error: RpcError, code: str, detail: str, date: bytes, *, close: bool = True) -> bytes:
    """A whole response with an error of JSON-RPC 2.0 (§5.1), whose transport has always succeeded.

    `data` has the form that A2A 1.0 gives it, and tells the problem's code.
    """
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": code.upper(),
        "domain": "bgproxy",
        "metadata": {"type": TYPE_PREFIX + code},
    }
    said = orjson.dumps({"code": error.code, "message": f"{REPLIES[code].title}: {detail}", "data": [info]})
    body = b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (error.id, said)
    lines = [
        b"HTTP/1.1 200 OK",
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
        b"Date: " + date,
        b"Cache-Control: no-store",
    ]
    if close:
        lines.append(b"Connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
