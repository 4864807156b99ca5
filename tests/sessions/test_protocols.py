"""LangGraph, AG-UI, Google ADK, Bedrock AgentCore and plain event streams, by messages that their servers exchange."""

import json
from typing import Any

import pytest
from turns import DEFAULT, recogniser, sighted, turn

UUID = "3f4c64e0-f792-4a5e-aa07-a4404e06e0bd"
THREAD = ("langgraph.thread", UUID.encode())
RUN = "1ef301a5-b867-67de-9e9e-a32e53c5b1f8"


def post(target: str, body: Any) -> str:
    return f"POST {target} HTTP/1.1\nContent-Type: application/json\n\n{json.dumps(body)}"


def reply(body: Any) -> str:
    return f"HTTP/1.1 200 OK\nContent-Type: application/json\n\n{json.dumps(body)}"


# LangGraph


def test_langgraph_mints_a_thread_where_it_is_made() -> None:
    made = {"thread_id": UUID, "created_at": "2024-06-24T22:16:29.301522+00:00", "metadata": {}, "status": "idle"}
    assert turn(post("/threads", {}), reply(made)).minted == [THREAD]


def test_langgraph_takes_the_id_that_its_client_has_chosen() -> None:
    seen = turn(post("/threads", {"thread_id": UUID, "if_exists": "raise"}), reply({"thread_id": UUID}))
    assert (seen.keys, seen.minted) == ([THREAD], [])


@pytest.mark.parametrize(
    "rest", ["", "/runs", "/runs/stream", f"/runs/{RUN}/stream?stream_mode=values", "/state", "/history"]
)
@pytest.mark.parametrize("prefix", ["", "/graph", "/v1"])
def test_langgraph_names_a_thread_by_its_path_and_the_body_is_let_pass(prefix: str, rest: str) -> None:
    seen = turn(post(f"{prefix}/threads/{UUID}{rest}", {"assistant_id": "agent", "input": {}}))
    assert (seen.keys, seen.preset, seen.read) == ([THREAD], "langgraph", 0)


@pytest.mark.parametrize(
    "target", ["/threads/search", "/threads/count", "/threads/state/bulk", "/runs/stream", "/threads/"]
)
def test_langgraph_has_paths_that_name_no_thread(target: str) -> None:
    assert turn(post(target, {"limit": 10})).keys == []


def test_langgraph_mints_by_the_head_of_a_stream() -> None:
    answer = f"HTTP/1.1 200 OK\nContent-Type: text/event-stream\nContent-Location: /threads/{UUID}/runs/{RUN}\n\n"
    assert turn(post("/runs/stream", {"assistant_id": "agent"}), answer).minted == [THREAD]
    located = (
        f"HTTP/1.1 200 OK\nContent-Type: text/event-stream\nLocation: http://a/threads/{UUID}/runs/{RUN}/stream\n\n"
    )
    assert turn(post("/runs/stream", {"assistant_id": "agent"}), located).minted == [THREAD]


def test_langgraph_takes_up_a_stream_by_its_location() -> None:
    assert turn(f"GET /threads/{UUID}/runs/{RUN}/stream HTTP/1.1\nLast-Event-ID: 7-0\n\n").keys == [THREAD]


@pytest.mark.parametrize(("rest", "over"), [("", True), (f"/runs/{RUN}", False)])
def test_langgraph_ends_a_thread_that_is_deleted(rest: str, over: bool) -> None:
    sighting, _ = sighted(DEFAULT, f"DELETE /threads/{UUID}{rest} HTTP/1.1\n\n")
    assert sighting.ends(204) is over
    assert not sighting.sticky_host


# AG-UI

AG_UI = {
    "threadId": "thread_1",
    "runId": "run_1",
    "state": {},
    "messages": [],
    "tools": [],
    "context": [],
    "forwardedProps": {},
}
AG_THREAD = ("ag-ui.thread", b"thread_1")


def test_ag_ui_names_its_thread_first_and_is_read_no_further() -> None:
    message = {"id": "m1", "role": "user", "content": "x" * 500}
    seen = turn(post("/agent", {**AG_UI, "messages": [message] * 100}))
    assert (seen.keys, seen.preset) == ([AG_THREAD], "ag-ui")
    assert seen.read < 40


def test_a_name_may_be_written_with_escapes() -> None:
    body = '{"x":"' + "y" * 3_000 + '","thread\\u0049d":"thread\\u005F1"}'
    assert turn(f"POST /agent HTTP/1.1\nContent-Type: application/json\n\n{body}").keys == [AG_THREAD]


def test_a_body_speaks_one_protocol_the_first_of_the_route() -> None:
    body = {"params": {"message": {"contextId": "c"}}, "threadId": "thread_1", "x": 1}
    assert turn(post("/agent", body)).keys == [("a2a.context", b"c")]
    assert turn(post("/agent", body), of=recogniser("ag-ui", "a2a")).keys == [AG_THREAD]
    both = {"params": {"message": {"contextId": "c"}, "requestState": "s"}}
    assert turn(post("/agent", both)).keys == [("mcp.state", b"s")]


def test_ag_ui_takes_no_run_for_a_session() -> None:
    assert turn(post("/agent", {"runId": "run_1", "messages": [{"threadId": "x"}]})).keys == []


def test_ag_ui_mints_the_thread_that_an_agent_has_chosen() -> None:
    events = [
        {"type": "RUN_STARTED", "threadId": "thread_1", "runId": "run_1"},
        {"type": "TEXT_MESSAGE_CONTENT", "delta": "a"},
    ]
    text = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    answer = f"HTTP/1.1 200 OK\nContent-Type: text/event-stream\n\n{text}"
    assert turn(post("/agent", {"messages": []}), answer).minted == [AG_THREAD]
    assert turn(post("/agent", {"messages": []}), answer.replace("RUN_STARTED", "RAW")).minted == []
    assert turn(post("/agent", AG_UI), answer).minted == []


# Google ADK

ADK = recogniser("adk")
ADK_SESSION = ("adk", b"my_sample_agent u_123 s_123")
NEW_MESSAGE = {"role": "user", "parts": [{"text": "Hey whats the weather in new york today"}]}


@pytest.mark.parametrize("target", ["/run", "/run_sse", "/api/run_sse"])
@pytest.mark.parametrize("names", [("app_name", "user_id", "session_id"), ("appName", "userId", "sessionId")])
def test_adk_names_a_session_by_three_members(target: str, names: tuple[str, str, str]) -> None:
    ids = dict(zip(names, ("my_sample_agent", "u_123", "s_123"), strict=True))
    seen = turn(post(target, {**ids, "new_message": NEW_MESSAGE}), of=ADK)
    assert (seen.keys, seen.preset) == ([ADK_SESSION], "adk")
    assert turn(post(target, {"new_message": NEW_MESSAGE, **ids}), of=ADK).keys == [ADK_SESSION]


@pytest.mark.parametrize("missing", ["app_name", "user_id", "session_id"])
def test_adk_needs_all_three(missing: str) -> None:
    ids = {"app_name": "my_sample_agent", "user_id": "u_123", "session_id": "s_123"}
    ids.pop(missing)
    sighting, _ = sighted(ADK, post("/run", ids))
    assert (sighting.keys, sighting.ignored) == ([], 0)
    assert turn(post("/run", {**ids, missing: "two words"}), of=ADK).keys == []


def test_adk_mints_a_session_where_it_is_made_and_names_it_by_its_path() -> None:
    made = {"id": "s_123", "appName": "my_sample_agent", "userId": "u_123", "state": {"key1": "value1"}, "events": []}
    assert turn(post("/apps/my_sample_agent/users/u_123/sessions", {}), reply(made), of=ADK).minted == [ADK_SESSION]
    path = "/apps/my_sample_agent/users/u_123/sessions/s_123"
    assert turn(post(path, {"key1": "value1"}), of=ADK).keys == [ADK_SESSION]
    assert turn(f"GET {path}/artifacts HTTP/1.1\n\n", of=ADK).keys == [ADK_SESSION]
    assert sighted(ADK, f"DELETE {path} HTTP/1.1\n\n")[0].ends(200)


# Bedrock AgentCore

CORE = ("agentcore", b"dfmeoagmreaklgmrkleafremoigrmtesogmtrskhmtkrlshmt")
CORE_FIELD = f"X-Amzn-Bedrock-AgentCore-Runtime-Session-Id: {CORE[1].decode()}"


def test_agentcore_names_a_session_in_its_field_and_the_body_is_let_pass() -> None:
    seen = turn(f"POST /invocations HTTP/1.1\nContent-Type: application/json\n{CORE_FIELD}\n\n{{}}")
    assert (seen.keys, seen.preset, seen.read) == ([CORE], "agentcore", 0)


def test_agentcore_mints_it_where_the_client_sent_none() -> None:
    answer = f"HTTP/1.1 200 OK\nContent-Type: application/json\n{CORE_FIELD}\n\n{{}}"
    assert turn(post("/invocations", {"prompt": "hi"}), answer).minted == [CORE]


# Plain event streams

SSE = recogniser("sse")


def test_a_plain_stream_is_taken_up_by_the_id_of_its_last_event() -> None:
    events = "retry: 9\nid: e-1\ndata: a\n\nid: e-2\ndata\n\n:id: no\n\nid\n\n"
    answer = f"HTTP/1.1 200 OK\nContent-Type: text/event-stream\n\n{events}"
    seen = turn("GET /stream HTTP/1.1\n\n", answer, of=SSE)
    assert seen.minted == [("sse", b"e-1"), ("sse", b"e-2")]
    assert turn("GET /stream HTTP/1.1\nLast-Event-ID: e-2\n\n", of=SSE).keys == [("sse", b"e-2")]


def test_a_plain_stream_that_never_ends_is_followed_in_bounded_memory() -> None:
    sighting, _ = sighted(SSE, "GET /stream HTTP/1.1\n\n")
    learner = sighting.response(200, [(b"content-type", b"text/event-stream")])
    assert learner is not None
    for n in range(10_000):
        assert [key.value for key in learner.feed(b"id: %d\ndata: x\n\n" % n)] == [b"%d" % n]
    assert len(learner._known) <= 16
