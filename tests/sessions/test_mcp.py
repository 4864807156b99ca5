"""The Model Context Protocol in its three eras, by example messages of its specification."""

import pytest
from turns import DEFAULT, learned, recogniser, sighted, turn

INITIALIZE = """
POST /mcp HTTP/1.1
Content-Type: application/json
Accept: application/json, text/event-stream

{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"roots":
{"listChanged":true},"sampling":{}},"clientInfo":{"name":"ExampleClient","title":"An example","version":"1.0.0"}}}"""

INITIALIZED = """
HTTP/1.1 200 OK
content-type: application/json
mcp-session-id: 1868a90c-37a4-4f0a-bd4c-3a8f0f3e6d3a

{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}}}}"""

SESSION = [("mcp", b"1868a90c-37a4-4f0a-bd4c-3a8f0f3e6d3a")]


@pytest.mark.parametrize("spelling", ["mcp-session-id", "Mcp-Session-Id", "MCP-SESSION-ID"])
def test_initialize_mints_the_session(spelling: str) -> None:
    seen = turn(INITIALIZE, INITIALIZED.replace("mcp-session-id", spelling))
    assert (seen.keys, seen.minted, seen.unread) == ([], SESSION, "")


def test_initialize_mints_it_in_the_head_of_a_stream_too() -> None:
    seen = turn(
        INITIALIZE,
        """
HTTP/1.1 200 OK
Content-Type: text/event-stream
Mcp-Session-Id: 1868a90c-37a4-4f0a-bd4c-3a8f0f3e6d3a

event: message
id: 1
data: {"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-03-26"}}

""",
    )
    assert seen.minted == SESSION


def test_a_stream_whose_head_names_the_session_is_not_looked_at() -> None:
    sighting, _ = sighted(DEFAULT, INITIALIZE)
    learner = sighting.response(200, [(b"mcp-session-id", b"a"), (b"content-type", b"text/event-stream")])
    assert learner is not None
    assert learner.done


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
def test_each_request_after_it_names_the_session_and_its_body_is_let_pass(method: str) -> None:
    body = '{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t"}}' if method == "POST" else ""
    seen = turn(
        f"""
{method} /mcp HTTP/1.1
Content-Type: application/json
MCP-Protocol-Version: 2025-11-25
Last-Event-ID: 17
Mcp-Session-Id: 1868a90c-37a4-4f0a-bd4c-3a8f0f3e6d3a

{body}"""
    )
    assert (seen.keys, seen.preset, seen.read) == (SESSION, "mcp", 0)


def test_a_known_session_has_nothing_to_learn() -> None:
    sighting, _ = sighted(DEFAULT, "POST /mcp HTTP/1.1\nMcp-Session-Id: a\nContent-Type: application/json\n\n{}")
    assert not sighting.minting
    assert sighting.response(200, [(b"mcp-session-id", b"b")]) is None


def test_a_server_without_sessions_stays_unpinned() -> None:
    assert turn(INITIALIZE, INITIALIZED.replace("mcp-session-id", "x-other")).minted == []


# 2026-07-28

TASK_GET = """
POST /mcp HTTP/1.1
Content-Type: application/json
MCP-Protocol-Version: 2026-07-28
Mcp-Method: tasks/get
Mcp-Name: 786512e2-9e0d-44bd-8f29-789f320fe840

{"jsonrpc":"2.0","id":3,"method":"tasks/get","params":{"taskId":"786512e2-9e0d-44bd-8f29-789f320fe840",
"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"""
TASK = [("mcp.task", b"786512e2-9e0d-44bd-8f29-789f320fe840")]

TOOL_CALL = """
POST /mcp HTTP/1.1
Content-Type: application/json
MCP-Protocol-Version: 2026-07-28
Mcp-Method: tools/call
Mcp-Name: deploy

{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"deploy","arguments":{"taskId":"mine"}}}"""


@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
def test_a_task_is_named_in_the_head_and_its_body_is_let_pass(method: str) -> None:
    seen = turn(TASK_GET.replace("tasks/get", method))
    assert (seen.keys, seen.preset, seen.read) == (TASK, "mcp", 0)


def test_a_name_may_be_encoded() -> None:
    assert turn(
        TASK_GET.replace("Mcp-Name: 786512e2-9e0d-44bd-8f29-789f320fe840", "Mcp-Name: =?base64?YWJj?=")
    ).keys == [("mcp.task", b"abc")]


@pytest.mark.parametrize("bad", ["=?base64?YWJ?=", "=?base64??=", "=?base64?YSBi?="])
def test_a_wrongly_encoded_name_is_no_id_and_the_body_says_it(bad: str) -> None:
    seen = turn(TASK_GET.replace("Mcp-Name: 786512e2-9e0d-44bd-8f29-789f320fe840", f"Mcp-Name: {bad}"))
    assert seen.keys == TASK


def test_the_name_of_a_tool_is_no_id() -> None:
    assert turn(TOOL_CALL).keys == []


@pytest.mark.parametrize("version", ["2025-11-25", "2026-07-27", "2026-06-30", "9", "2026-07-28x"])
def test_the_mirrored_fields_of_an_older_client_are_not_believed(version: str) -> None:
    claim = TOOL_CALL.replace("2026-07-28", version).replace("Mcp-Method: tools/call", "Mcp-Method: tasks/get")
    assert turn(claim).keys == []


def test_nor_are_those_of_a_client_that_names_no_version() -> None:
    assert turn(TASK_GET.replace("MCP-Protocol-Version", "X-Other").replace('"tasks/get"', '"tools/call"')).keys == []


@pytest.mark.parametrize("version", ["2026-07-29", "2026-08-01", "2026-12-31", "2027-01-01", "2031-05-05"])
def test_those_of_later_versions_are(version: str) -> None:
    assert turn(TASK_GET.replace("MCP-Protocol-Version: 2026-07-28", f"MCP-Protocol-Version: {version}")).keys == TASK


TASK_CREATED = """
HTTP/1.1 200 OK
Content-Type: application/json

{"jsonrpc":"2.0","id":3,"result":{"resultType":"task","taskId":"786512e2-9e0d-44bd-8f29-789f320fe840",
"status":"working","ttlMs":60000}}"""


def test_a_call_that_becomes_a_task_mints_its_id() -> None:
    assert turn(TOOL_CALL, TASK_CREATED).minted == TASK


def test_it_does_so_at_the_end_of_a_stream_too() -> None:
    seen = turn(
        TOOL_CALL,
        """
HTTP/1.1 200 OK
Content-Type: text/event-stream

: waiting
event: message
data: {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"t","progress":50}}

event: message
data: {"jsonrpc":"2.0","id":3,
data: "result":{"taskId":"786512e2-9e0d-44bd-8f29-789f320fe840","resultType":"task"}}

""",
    )
    assert seen.minted == TASK


def test_a_result_that_is_complete_mints_nothing() -> None:
    assert turn(TOOL_CALL, TASK_CREATED.replace('"resultType":"task"', '"resultType":"complete"')).minted == []


def input_required(state: str) -> str:
    return f"""
HTTP/1.1 200 OK
Content-Type: application/json

{{"jsonrpc":"2.0","id":3,"result":{{"resultType":"input_required","inputRequests":{{"a":{{"method":
"elicitation/create"}}}},"requestState":"{state}"}}}}"""


def answered(state: str) -> str:
    return TOOL_CALL.replace('"name":"deploy",', f'"name":"deploy","requestState":"{state}",')


@pytest.mark.parametrize("state", ["eyJzdGVwIjoxfQ", "eyJ" * 1_000, '{\\"step\\": 1}'])
def test_a_state_is_minted_as_it_will_be_sent_back_however_long_it_is(state: str) -> None:
    minted = turn(TOOL_CALL, input_required(state)).minted
    assert [space for space, _ in minted] == ["mcp.state"]
    assert turn(answered(state)).keys == minted


def test_a_task_of_2025_is_minted_and_asked_for_without_a_session() -> None:
    seen = turn(
        TOOL_CALL.replace("2026-07-28", "2025-11-25"),
        """
HTTP/1.1 200 OK
Content-Type: application/json

{"jsonrpc":"2.0","id":1,"result":{"task":{"taskId":"786512e2-9e0d-44bd-8f29-789f320fe840","status":"working"}}}""",
    )
    assert seen.minted == TASK
    asked = TASK_GET.replace("2026-07-28", "2025-11-25").replace("Mcp-Name", "X-Other")
    assert turn(asked).keys == TASK


# 2024-11-05

STREAM = "GET /sse HTTP/1.1\nAccept: text/event-stream\n\n"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["sessionId", "session_id"])
def test_the_endpoint_event_mints_the_session(name: str, end: str) -> None:
    stream = ["event: endpoint", f"data: /messages/?{name}=6b7c8d", "", "event: message", "data: {}", "", ""]
    seen = turn(STREAM, "HTTP/1.1 200 OK\nContent-Type: text/event-stream\n\n" + end.join(stream))
    assert seen.minted == [("mcp.sse", b"6b7c8d")]
    post = f"POST /messages/?x=1&{name}=6b7c8d HTTP/1.1\nContent-Type: application/json\n\n{{}}"
    assert (turn(post).keys, turn(post).read) == (seen.minted, 0)


def test_only_the_endpoint_event_does() -> None:
    answer = "HTTP/1.1 200 OK\nContent-Type: text/event-stream\n\nevent: other\ndata: /messages/?sessionId=6b7c8d\n\n"
    assert turn(STREAM, answer).minted == []


def test_an_endpoint_without_an_id_mints_nothing() -> None:
    answer = "HTTP/1.1 200 OK\nContent-Type: text/event-stream\n\nevent: endpoint\ndata: /messages/?sessionId=\n\n"
    assert turn(STREAM, answer).minted == []


def test_without_the_preset_none_of_this_is_seen() -> None:
    of = recogniser("a2a")
    assert turn(TASK_GET, of=of).keys == []
    sighting, _ = sighted(of, INITIALIZE)
    assert learned(of, sighting, INITIALIZED) == []
