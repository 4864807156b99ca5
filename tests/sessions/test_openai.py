"""OpenAI's Responses, Conversations, Assistants and Realtime, by examples of its API reference."""

import json
from typing import Any

import pytest
from turns import DEFAULT, sighted, turn

R1 = ("openai.response", b"resp_67ccd2bed1ec8190b14f964abc0542670bb6a6b452d3795b")
R2 = ("openai.response", b"resp_67ccd3a9da748190baa7f1570fe91ac604becb25c45c1d41")
CONV = ("openai.conversation", b"conv_689667905b048191b4740501625afd940c7533ace33a2dab")
THREAD = ("openai.thread", b"thread_abc123")
CALL = ("openai.call", b"rtc_u1_9c6574da8b8a41a18da9308f4ad974ce")


def name(key: tuple[str, bytes]) -> str:
    return key[1].decode()


def post(target: str, body: Any) -> str:
    text = json.dumps(body)
    return f"POST {target} HTTP/1.1\nContent-Type: application/json\nAuthorization: Bearer sk-1\n\n{text}"


def reply(body: Any, status: int = 200) -> str:
    return f"HTTP/1.1 {status} OK\nContent-Type: application/json\n\n{json.dumps(body)}"


def stream(*events: tuple[str, Any]) -> str:
    text = "".join(f"event: {kind}\ndata: {json.dumps(data)}\n\n" for kind, data in events)
    return f"HTTP/1.1 200 OK\nContent-Type: text/event-stream; charset=utf-8\n\n{text}"


def response(conversation: Any = None) -> dict[str, Any]:
    return {
        "id": name(R1),
        "object": "response",
        "created_at": 1741476542,
        "status": "completed",
        "model": "gpt-4.1-2025-04-14",
        "output": [
            {"type": "message", "id": "msg_67ccd2bf17f0819081ff3bb2cf6508e6", "role": "assistant", "content": []}
        ],
        "previous_response_id": None,
        "conversation": conversation,
    }


FIRST = post("/v1/responses", {"model": "gpt-4.1", "input": "Tell me a bedtime story.", "stream": True})


def test_a_response_mints_its_id() -> None:
    seen = turn(FIRST, reply(response()))
    assert (seen.keys, seen.minted) == ([], [R1])


def test_and_its_conversation() -> None:
    assert turn(FIRST, reply(response({"id": name(CONV)}))).minted == [CONV, R1]


def test_a_stream_mints_with_its_first_event() -> None:
    created = {"type": "response.created", "sequence_number": 0, "response": {**response(), "status": "in_progress"}}
    delta = {"type": "response.output_text.delta", "item_id": "msg_1", "delta": "Hi"}
    seen = turn(FIRST, stream(("response.created", created), ("response.output_text.delta", delta)))
    assert seen.minted == [R1]


def test_the_rest_of_the_stream_is_not_looked_at() -> None:
    sighting, _ = sighted(DEFAULT, FIRST)
    learner = sighting.response(200, [(b"content-type", b"text/event-stream")])
    assert learner is not None
    created = json.dumps({"type": "response.created", "response": response()}).encode()
    assert learner.feed(b"data: %b\n\n" % created)
    assert learner.done


@pytest.mark.parametrize("target", ["/v1/responses", "/openai/v1/responses?api-version=preview", "/agent/responses"])
def test_the_next_turn_names_the_one_before(target: str) -> None:
    seen = turn(post(target, {"model": "gpt-4.1", "previous_response_id": name(R1), "input": [{"role": "user"}] * 500}))
    assert (seen.keys, seen.preset) == ([R1], "openai")
    assert seen.read < 120


@pytest.mark.parametrize("conversation", [name(CONV), {"id": name(CONV)}])
def test_or_its_conversation(conversation: Any) -> None:
    seen = turn(
        post("/v1/responses", {"conversation": conversation, "input": "next"}), reply(response({"id": name(CONV)}))
    )
    assert (seen.keys, seen.minted) == ([CONV], [R1])


def test_null_is_no_id() -> None:
    assert turn(post("/v1/responses", {"previous_response_id": None, "conversation": None})).keys == []


def test_these_members_mean_nothing_elsewhere() -> None:
    assert turn(post("/v1/chat/completions", {"previous_response_id": name(R1), "conversation": "c"})).keys == []


@pytest.mark.parametrize("rest", ["", "/cancel", "/input_items?limit=20", "?stream=true&starting_after=7"])
def test_a_path_names_a_response(rest: str) -> None:
    assert turn(f"GET /v1/responses/{name(R2)}{rest} HTTP/1.1\n\n").keys == [R2]


def test_a_conversation_is_minted_where_it_is_made_and_named_by_its_path() -> None:
    made = {"id": name(CONV), "object": "conversation", "created_at": 1741900000, "metadata": {}}
    assert turn(post("/v1/conversations", {"items": []}), reply(made)).minted == [CONV]
    assert turn(f"GET /v1/conversations/{name(CONV)} HTTP/1.1\n\n").keys == [CONV]
    assert turn(post(f"/v1/conversations/{name(CONV)}/items", {"items": []})).keys == [CONV]


@pytest.mark.parametrize(("rest", "over"), [("", True), ("/items/msg_1", False)])
def test_deleting_a_conversation_ends_it_and_deleting_a_piece_of_it_does_not(rest: str, over: bool) -> None:
    sighting, _ = sighted(DEFAULT, f"DELETE /v1/conversations/{name(CONV)}{rest} HTTP/1.1\n\n")
    assert sighting.ends(200) is over
    assert not sighting.ends(404)


def test_deleting_a_response_ends_no_conversation() -> None:
    sighting, _ = sighted(DEFAULT, f"DELETE /v1/responses/{name(R1)} HTTP/1.1\n\n")
    assert not sighting.ends(200)


def test_a_thread_is_minted_where_it_is_made_and_named_by_its_path() -> None:
    assert turn(post("/v1/threads", {}), reply({"id": name(THREAD), "object": "thread"})).minted == [THREAD]
    for rest in ("", "/messages", "/runs", "/runs/run_1/submit_tool_outputs"):
        assert turn(f"POST /v1/threads/{name(THREAD)}{rest} HTTP/1.1\n\n").keys == [THREAD]


def test_a_thread_that_is_made_and_run_at_once_is_minted() -> None:
    run = {"id": "run_abc123", "object": "thread.run", "thread_id": name(THREAD)}
    made = {"id": name(THREAD), "object": "thread"}
    request = post("/v1/threads/runs", {"assistant_id": "asst_abc123", "thread": {"messages": []}})
    assert turn(request, reply(run)).minted == [THREAD]
    assert turn(request, stream(("thread.created", made), ("thread.run.created", run))).minted == [THREAD]


def test_a_call_is_minted_by_the_location_of_its_answer() -> None:
    request = "POST /v1/realtime/calls HTTP/1.1\nContent-Type: application/sdp\n\nv=0\r\n"
    answer = (
        f"HTTP/1.1 201 Created\nContent-Type: application/sdp\nLocation: /v1/realtime/calls/{name(CALL)}\n\nv=0\r\n"
    )
    seen = turn(request, answer)
    assert (seen.keys, seen.minted) == ([], [CALL])


@pytest.mark.parametrize(
    "target", ["/v1/realtime?call_id={}", "/v1/realtime/calls/{}/hangup", "/v1/realtime?model=m&call_id={}"]
)
def test_a_call_is_named_by_its_side_channel(target: str) -> None:
    request = f"GET {target.format(name(CALL))} HTTP/1.1\nUpgrade: websocket\n\n"
    sighting, _ = sighted(DEFAULT, request)
    assert turn(request).keys == [CALL]
    assert sighting.connection


def test_a_realtime_socket_is_a_session_by_itself() -> None:
    sighting, _ = sighted(DEFAULT, "GET /v1/realtime?model=gpt-realtime HTTP/1.1\nUpgrade: websocket\n\n")
    assert (sighting.connection, sighting.keys, sighting.preset) == (True, [], "websocket")
