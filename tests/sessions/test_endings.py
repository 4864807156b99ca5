"""How each protocol's sessions end by an operator's will, and what an error must echo of a request."""

from __future__ import annotations

import pytest
from turns import DEFAULT, recogniser, sighted

from bgproxy.sessions.jsonrpc import NULL, request_id
from bgproxy.sessions.recognise import Recogniser
from bgproxy.sessions.spec import preset_from

ADK = recogniser("adk", "header:X-Session-Id", "cookie:sid")


def a2a(params: str, method: str = "message/send") -> str:
    body = f'{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}'
    return f"POST / HTTP/1.1\nContent-Type: application/json\n\n{body}"


@pytest.mark.parametrize(
    ("of", "request_", "ending"),
    [
        (DEFAULT, "POST /mcp HTTP/1.1\nMcp-Session-Id: s\n\n", "not_found"),
        (DEFAULT, "GET /mcp HTTP/1.1\nMcp-Session-Id: s\n\n", "not_found"),
        (DEFAULT, "POST /messages?session_id=s HTTP/1.1\n\n", "not_found"),
        (DEFAULT, a2a('{"taskId":"t"}', "tasks/get"), "jsonrpc"),  # of MCP, without a session
        (DEFAULT, a2a('{"name":"say","requestState":"s"}', "tools/call"), "jsonrpc"),
        (DEFAULT, "GET /threads/t-1/state HTTP/1.1\n\n", "not_found"),
        (ADK, "GET /apps/a/users/u/sessions/s HTTP/1.1\n\n", "not_found"),
        (DEFAULT, "GET /v1/conversations/conv_1 HTTP/1.1\n\n", "problem"),
        (DEFAULT, "GET /x HTTP/1.1\nX-Amzn-Bedrock-AgentCore-Runtime-Session-Id: s\n\n", "problem"),
        (ADK, "GET / HTTP/1.1\nX-Session-Id: s\n\n", "problem"),
        (ADK, "GET / HTTP/1.1\nCookie: sid=s\n\n", "problem"),
        (DEFAULT, a2a('{"message":{"contextId":"c"}}'), "jsonrpc"),
        (DEFAULT, "GET /tasks/t HTTP/1.1\n\n", "jsonrpc"),  # whether it is JSON-RPC its body tells
        (DEFAULT, "GET / HTTP/1.1\n\n", "problem"),
    ],
)
def test_each_protocol_has_its_ending(of: Recogniser, request_: str, ending: str) -> None:
    assert sighted(of, request_)[0].ending()[0] == ending


def test_a_preset_of_one_s_own_has_the_one_that_is_written() -> None:
    own = {"name": "acme", "request": ["header:X-Acme"]}
    for ending in ("problem", "not_found", "jsonrpc"):
        of = Recogniser([preset_from(own | {"ending": ending})])
        assert sighted(of, "GET / HTTP/1.1\nX-Acme: s\n\n")[0].ending()[0] == ending
    assert preset_from(own).ending == "problem"


def test_a_task_that_is_not_known_has_an_error_code_of_its_own() -> None:
    task = '{"message":{"contextId":"c","taskId":"t"}}'
    assert sighted(DEFAULT, a2a(task))[0].ending()[1] == -32_001
    assert sighted(DEFAULT, a2a('{"id":"t"}', "tasks/get"))[0].ending()[1] == -32_001
    assert sighted(DEFAULT, a2a('{"message":{"contextId":"c"}}'))[0].ending()[1] == -32_000
    assert sighted(DEFAULT, a2a('{"taskId":"t"}', "tasks/update"))[0].ending()[1] == -32_602
    assert sighted(DEFAULT, a2a('{"requestState":"s"}', "tools/call"))[0].ending()[1] == -32_602


@pytest.mark.parametrize("id_", [b"1", b"-7", b"0", b'"a-1"', b'"1"', b'""', b"1.5", b"123456789012345678901234567890"])
@pytest.mark.parametrize(
    "body",
    [
        b'{"jsonrpc":"2.0","id":%b,"method":"m","params":{"id":"T","x":[{"id":9}]}}',
        b'{"jsonrpc":"2.0","method":"m","params":{"id":"T"},"id":%b}',
        b' {\n "method": "m", "params": {"id": 3},\t"id" : %b , "jsonrpc": "2.0" }\n',
    ],
)
def test_a_whole_request_s_id_is_found_wherever_it_stands(id_: bytes, body: bytes) -> None:
    assert request_id(body % id_) == id_


@pytest.mark.parametrize("id_", [b"1", b"-7", b'"a-1"'])
@pytest.mark.parametrize("before", [b"", b'"jsonrpc":"2.0",', b'"method" : "m" , "jsonrpc":"2.0" ,'])
def test_of_a_part_the_id_is_found_if_it_stands_before_the_parameters(id_: bytes, before: bytes) -> None:
    whole = b'{%b"id": %b,"params":{"id":"T"},"x":"jsonrpc","jsonrpc":"2.0"}' % (before, id_)
    assert request_id(whole[:-1]) == id_
    assert request_id(whole[: whole.index(b"params")]) == (id_ if before else None)


def test_no_part_of_an_id_is_taken_for_it() -> None:
    whole = b'{"jsonrpc":"2.0","id":12345,"method":"m"}'
    for size in range(len(b'{"jsonrpc"'), whole.index(b",", 20) + 1):
        assert request_id(whole[:size]) == NULL
    assert request_id(whole[: whole.index(b",", 20) + 1]) == b"12345"


@pytest.mark.parametrize(
    "body",
    [
        b'{"jsonrpc":"2.0","method":"m"}',
        b'{"jsonrpc":"2.0","id":null}',
        b'{"jsonrpc":"2.0","id":true}',
        b'{"jsonrpc":"2.0","id":[1]}',
        b'{"jsonrpc":"2.0","id":1e999}',
        b'{"jsonrpc":"2.0","id":NaN}',
        b'{"jsonrpc":"2.0","id":01,"x":',
        b'{"jsonrpc":"2.0","id":"a\\u0062","x":',
        b'{"jsonrpc":"2.0","params":{"id":1}',
        b'[{"jsonrpc":"2.0","id":1}]',
        b'{"jsonrpc":"2.0","id":"\xff"}',
        b'{"jsonrpc":"2.0","x":' + b"[" * 100_000,
    ],
)
def test_an_id_that_cannot_be_found_out_is_null(body: bytes) -> None:
    assert request_id(body) == NULL


@pytest.mark.parametrize("body", [b"", b'{"message":{"contextId":"c"},"id":1}', b"jsonrpc"])
def test_what_is_no_json_rpc_has_none(body: bytes) -> None:
    assert request_id(body) is None
