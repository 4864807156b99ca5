"""The answers that the proxy gives itself."""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from pathlib import Path

import h11
import pytest

import bgproxy
from bgproxy.proxy.replies import REPLIES, RpcError, reply, rpc_reply

DATE = b"Mon, 01 Jan 2024 00:00:00 GMT"

# Stable for programs: a code may be added, never given another status.
STATUS = {
    400: "bad_request_line bad_target bad_field bad_host bad_length bad_transfer_encoding bad_chunk bad_upgrade",
    404: "no_route session_not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    410: "session_ended",
    413: "body_too_large",
    414: "target_too_long",
    417: "expectation_failed",
    431: "head_too_large too_many_fields",
    501: "method_not_implemented unknown_transfer_encoding",
    502: "bad_response agent_unreachable agent_closed",
    503: "no_pointer no_upstream no_connection session_unavailable out_of_descriptors too_many_connections "
    "release_ended shutting_down hold_full held_too_long fenced no_preview",
    403: "preview_forbidden",
    504: "connect_timeout response_timeout",
    505: "bad_version",
}


def read(data: bytes, method: str = "GET") -> tuple[h11.Response, bytes, bool]:
    """The answer as a client reads it: head, body, and whether the connection lives on."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    head = client.next_event()
    assert isinstance(head, h11.Response)
    body = b""
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        assert isinstance(event, h11.Data), event
        body += event.data
    return head, body, client.their_state is h11.DONE


def test_every_code_has_its_status() -> None:
    assert {code: kind.status for code, kind in REPLIES.items()} == {
        code: status for status, codes in STATUS.items() for code in codes.split()
    }


@pytest.mark.parametrize("code", REPLIES)
def test_a_whole_answer(code: str) -> None:
    head, body, keeps = read(reply(code, "because", DATE))
    kind = REPLIES[code]
    fields = dict(head.headers)
    assert (head.status_code, head.reason.decode()) == (kind.status, HTTPStatus(kind.status).phrase)
    assert fields.pop(b"content-type") == b"application/problem+json"
    assert fields.pop(b"content-length") == b"%d" % len(body)
    assert fields.pop(b"date") == DATE
    assert fields.pop(b"connection") == b"close"
    assert fields.pop(b"retry-after", None) == (b"1" if kind.status == 503 else None)
    assert (b"allow" in fields) == (kind.status == 405)
    # What a cache may keep by itself (RFC 9110 §15.1), and must not: all of ours may be otherwise a moment later.
    assert fields.get(b"cache-control") == (b"no-store" if kind.status in (404, 405, 410, 414, 501) else None)
    assert json.loads(body) == {
        "type": f"urn:bgproxy:problem:{code}",
        "title": kind.title,
        "status": kind.status,
        "detail": "because",
        "code": code,
    }
    assert not keeps


def test_the_fault_goes_with_the_status() -> None:
    fault = {4: "client", 501: "client", 505: "client", 502: "agent", 504: "agent", 503: "us"}
    ended = {"session_ended": "us", "session_not_found": "us"}  # an operator's will, whatever the status
    for code, kind in REPLIES.items():
        assert kind.fault == ended.get(code, fault.get(kind.status, fault.get(kind.status // 100)))


def test_the_answer_to_head_is_only_a_head_of_the_same_length() -> None:
    whole, only = reply("no_route", "x", DATE), reply("no_route", "x", DATE, head_only=True)
    assert whole.startswith(only)
    assert only.endswith(b"\r\n\r\n")
    head, body, _ = read(only, "HEAD")
    assert (head.status_code, body) == (404, b"")
    assert int(dict(head.headers)[b"content-length"]) == len(whole) - len(only)


def test_a_connection_may_live_on() -> None:
    data = reply("no_route", "x", DATE, close=False)
    assert read(data)[2]
    assert b"Connection" not in data


def test_details_cannot_break_out_of_the_document() -> None:
    detail = 'a "quoted"\r\nX-Evil: 1\r\n\r\n\0ä'
    _, body, _ = read(reply("bad_field", detail, DATE))
    assert json.loads(body)["detail"] == detail


@pytest.mark.parametrize("request_id", [b"7", b'"a-1"', b"null"])
@pytest.mark.parametrize("close", [False, True])
def test_an_error_of_json_rpc_has_the_request_s_id_and_tells_the_problem(request_id: bytes, close: bool) -> None:
    error = RpcError(-32_001, request_id)
    head, body, keeps = read(rpc_reply(error, "session_ended", 'say "so"', DATE, close=close), "POST")
    assert head.status_code == 200
    assert dict(head.headers)[b"content-type"] == b"application/json"
    assert dict(head.headers)[b"cache-control"] == b"no-store"
    assert json.loads(body) == {
        "jsonrpc": "2.0",
        "id": json.loads(request_id),
        "error": {
            "code": -32_001,
            "message": 'The session was ended: say "so"',
            "data": [
                {
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": "SESSION_ENDED",
                    "domain": "bgproxy",
                    "metadata": {"type": "urn:bgproxy:problem:session_ended"},
                }
            ],
        },
    }
    assert keeps is not close


def test_no_code_is_used_that_is_not_in_the_table_and_none_is_in_it_for_nothing() -> None:
    package = Path(bgproxy.__file__).parent
    used = set()
    for path in [*(package / "proxy").glob("*.py"), *(package / "http1").glob("*.py"), package / "app.py"]:
        if path.name != "replies.py":
            used |= set(re.findall(r'"([a-z_]+)"', path.read_text())) & set(REPLIES)
            refusals = re.findall(
                r'(?:Malformed|[_.]refuse\w*|_break|_unconnected|\breply)\(\s*"(\w+)"', path.read_text()
            )
            assert set(refusals) <= set(REPLIES), path
    assert used == set(REPLIES)
