"""Ids of now in place of the recorded ones."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bgproxy.sessions.renaming import Renaming, Said

JSON = [("Content-Type", "application/json")]
EVENTS = [("Content-Type", "text/event-stream")]


def said(document: Any, *fields: tuple[str, str]) -> Said:
    return Said(200, [*JSON, *fields], json.dumps(document).encode(), (document,))


def learned(old: Said, new: Said, *, method: str = "POST", target: str = "/mcp") -> Renaming:
    renaming = Renaming()
    renaming.learn(method, target, old, new)
    return renaming


def test_a_session_that_the_head_names() -> None:
    old, new = (said({"result": {}}, ("Mcp-Session-Id", one)) for one in ("s-old", "s-new"))
    assert learned(old, new).text("s-old") == "s-new"


def a2a(task: str, context: str) -> Said:
    return said({"jsonrpc": "2.0", "id": "r", "result": {"id": task, "contextId": context, "kind": "task"}})


def responses(one: str) -> Said:
    return said({"id": one, "object": "response", "output": []})


def calls(*ids: str) -> Said:
    wished = [{"id": one, "function": {"name": "f"}} for one in ids]
    return said({"id": "chatcmpl-" + ids[0], "choices": [{"message": {"tool_calls": wished}}]})


@pytest.mark.parametrize(
    ("old", "new", "target", "text", "found"),
    [
        (
            a2a("t-1", "c-1"),
            a2a("t-2", "c-2"),
            "/",
            '{"id": "t-1", "contextId": "c-1"}',
            '{"id": "t-2", "contextId": "c-2"}',
        ),
        (
            responses("resp_1"),
            responses("resp_2"),
            "/v1/responses",
            "/v1/responses/resp_1?x=1",
            "/v1/responses/resp_2?x=1",
        ),
        (
            calls("call_a", "call_b"),
            calls("call_c", "call_d"),
            "/v1/chat/completions",
            "call_b call_a",
            "call_d call_c",
        ),
        (responses("a b/c"), responses("d"), "/", "/x/a%20b%2Fc", "/x/d"),
    ],
)
def test_what_protocols_make(old: Said, new: Said, target: str, text: str, found: str) -> None:
    assert learned(old, new, target=target).text(text) == found


def test_a_task_that_is_made_within_a_session() -> None:
    def answer(session: str, task: str) -> Said:
        return said({"result": {"task": {"taskId": task}}}, ("Mcp-Session-Id", session))

    renaming = learned(answer("s-old", "task-old"), answer("s-new", "task-new"))
    assert renaming.text('{"taskId": "task-old"} s-old') == '{"taskId": "task-new"} s-new'


def test_ids_in_the_events_of_a_stream() -> None:
    def stream(one: str) -> Said:
        documents = ({"type": "response.created", "response": {"id": one}}, {"delta": "x"})
        body = "".join(f"data: {json.dumps(each)}\n\n" for each in documents).encode()
        return Said(200, EVENTS, body, documents)

    assert learned(stream("resp_1"), stream("resp_2"), target="/v1/responses").text('"resp_1"') == '"resp_2"'


def test_whole_ids_at_once_and_no_chain() -> None:
    renaming = learned(calls("call_a", "call_b"), calls("call_b", "call_a"))
    assert renaming.text("call_a,call_b,call_ab,xcall_a") == "call_b,call_a,call_ab,xcall_a"


def test_what_is_no_id_or_too_short_stays() -> None:
    old = said({"status": "done", "name": "search", "id": "1", "note": "hello"})
    new = said({"status": "open", "name": "fetch", "id": "2", "note": "goodbye"})
    assert learned(old, new).text("done search 1 hello") == "done search 1 hello"


@pytest.mark.parametrize(("was", "now"), [("call_\ud800", "call_b"), ("call_a", "call_\udcff")])
def test_half_a_surrogate_pair_is_in_no_id(was: str, now: str) -> None:
    renaming = learned(calls(was, "call_1"), calls(now, "call_2"))
    assert renaming.text("call_a call_1").encode() == b"call_a call_2"


def test_turn_by_turn() -> None:
    renaming = Renaming()
    assert renaming.text("resp_1") == "resp_1"
    renaming.learn("POST", "/v1/responses", responses("resp_1"), responses("resp_x"))
    renaming.learn("POST", "/v1/responses", responses("resp_2"), responses("resp_y"))
    assert renaming.text("resp_1 resp_2") == "resp_x resp_y"


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 10_000, b"\xff\xfe"])
def test_answers_that_are_nonsense(body: bytes) -> None:
    assert learned(Said(200, JSON, body), Said(500, EVENTS, body)).text("a") == "a"
