"""What makes two answers alike."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from bgproxy.rules.likeness import (
    Likeness,
    Told,
    documents_of,
    failed_tool,
    pointers,
    shape_differences,
    tools_called,
)

SHAPES: list[tuple[Any, Any, list[str]]] = [
    ({"a": 1}, {"a": 2.5}, []),
    ({"a": 1}, {"a": "1"}, ["/a is string, was number"]),
    ({"a": True}, {"a": 1}, ["/a is number, was boolean"]),
    ({"a": {"b": None}}, {"a": {"b": []}}, ["/a/b is array, was null"]),
    ({"a": 1, "b": 2}, {"a": 1}, ["/b is gone"]),
    ({"a": 1}, {"a": 1, "b": 2}, []),  # a member more breaks nobody
    ([1, 2, 3], [4], []),
    ([1], [], []),
    ([], ["whatever"], []),
    ([1, "a"], ["b", "c"], []),  # each is like one of the old ones
    ([1], ["a"], ["/* is string, was number"]),
    ([{"type": "text", "text": ""}, {"type": "image", "data": ""}], [{"type": "image", "data": "x"}], []),
    ([{"id": 1, "name": "x"}], [{"id": 1}, {"id": 2}], ["/*/name is gone"]),
    ([{"id": 1}, {"id": 1, "name": "x"}], [{"id": 1}], []),  # not each old one had it
    ({"a/b": {"c~d": 1}}, {"a/b": {}}, ["/a~1b/c~0d is gone"]),
    ([[1, 2], [3]], [["a"]], ["/*/* is string, was number"]),
    ("a", {"b": 1}, ["the document is object, was string"]),
]


@pytest.mark.parametrize(("old", "new", "found"), SHAPES)
def test_shape(old: Any, new: Any, found: list[str]) -> None:
    assert list(shape_differences(old, new)) == found


@pytest.mark.parametrize(
    ("pointer", "alike"),
    [("/usage", True), ("/choices/*/text", False), ("/*", True), ("/usage/*", True), ("/other", False)],
)
def test_what_is_ignored(pointer: str, alike: bool) -> None:
    old, new = {"usage": {"tokens": 1}}, {"usage": {"tokens": "many"}}
    assert (not list(shape_differences(old, new, pointers([pointer])))) is alike


def test_a_member_that_is_ignored_may_be_gone() -> None:
    assert not list(shape_differences({"a": 1, "b/c": 2}, {"a": 1}, pointers(["/b~1c"])))


def test_what_is_deep_is_not_walked_for_ever() -> None:
    deep: Any = 1
    for _ in range(500):
        deep = {"a": deep}
    assert not list(shape_differences(deep, deep))


def test_a_difference_tells_no_value() -> None:
    found = list(shape_differences({"key": "a secret", "list": ["another"]}, {"key": 7_777, "list": [8_888]}))
    assert found
    assert not any(value in text for text in found for value in ("secret", "another", "7777", "8888"))


def told(document: Any, status: int = 200, seconds: float = 1.0) -> Told:
    return Told(status, seconds, (document,))


def test_a_pair_is_compared_by_what_is_wished() -> None:
    old, new = told({"a": 1}), told({"a": "1"}, status=201)
    assert Likeness().differences(old, new) == ["the status is 201, was 200"]
    assert not Likeness(status=False).differences(old, new)  # of another status the shape says nothing
    assert Likeness().differences(old, told({"a": ""})) == ["/a is string, was number"]
    assert not Likeness(shape=False).differences(old, told({"a": ""}))
    assert Likeness().differences(old, Told(200, 1.0)) == ["it is no JSON, the old answer was"]
    assert not Likeness().differences(Told(200, 1.0), new=told(1))


def test_slow_is_by_a_factor_and_beyond_the_slack() -> None:
    likeness = Likeness(slower=2.0, slack=0.1)
    assert not likeness.is_slow(told(1, seconds=0.1), told(1, seconds=0.3))
    assert likeness.is_slow(told(1, seconds=0.1), told(1, seconds=0.31))
    assert not Likeness().is_slow(told(1, seconds=0.1), told(1, seconds=9.0))


def test_the_events_of_a_stream_are_alike_whatever_their_number() -> None:
    def stream(*documents: Any) -> Told:
        body = "".join(f"data: {json.dumps(one)}\n\n" for one in documents) + "data: [DONE]\n\n"
        return Told(200, 1.0, documents_of("text/event-stream; charset=utf-8", "", body.encode(), 9_999))

    piece, last = {"delta": {"text": "a"}}, {"usage": {"tokens": 1}}
    assert not Likeness().differences(stream(piece, piece, last), stream(piece, last))
    assert Likeness().differences(stream(piece, last), stream({"delta": {"text": 1}}, last)) == [
        "/*/delta/text is number, was string"
    ]
    ignoring = Likeness(ignored=pointers(["/delta/text"]))
    assert not ignoring.differences(stream(piece, last), stream({"delta": {"text": 1}}, last))


@pytest.mark.parametrize(
    ("kind", "coding", "body", "found"),
    [
        ("application/json", "", b'{"a": 1}', ({"a": 1},)),
        ("application/problem+json; x=y", "identity", b"[]", ([],)),
        ("application/json", "gzip", gzip.compress(b"[1]", mtime=0), ([1],)),
        ("application/json", "gzip", b"[1]", None),
        (
            "application/json",
            "gzip",
            gzip.compress(b"[" + b" " * 10_000 + b"]", mtime=0),
            None,
        ),  # more than may be decoded
        ("application/json", "br", b"[1]", None),
        ("application/json", "", b'{"a": ', None),
        ("application/json", "", b"[" * 100_000, None),
        ("text/html", "", b"[]", None),
        ("application/x-ndjson", "", b"1\n2\n\n", (1, 2)),
        ("text/event-stream", "", b'event: a\r\ndata: {"b":\r\ndata: 1}\r\n\r\ndata: 7', ({"b": 1},)),
        ("text/event-stream", "", b": nothing\n\n", None),
    ],
)
def test_documents(kind: str, coding: str, body: bytes, found: tuple[Any, ...] | None) -> None:
    assert documents_of(kind, coding, body, 5_000) == found


def call(name: str) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": "{}"}}


@pytest.mark.parametrize(
    ("documents", "names"),
    [
        ([{"choices": [{"message": {"tool_calls": [call("search"), call("fetch")]}}]}], ["search", "fetch"]),
        ([{"choices": [{"delta": {"tool_calls": [call("search")]}}]}, {"choices": [{"delta": {}}]}], ["search"]),
        ([{"object": "response", "output": [{"type": "function_call", "name": "f"}, {"type": "message"}]}], ["f"]),
        ([{"type": "response.output_item.done", "item": {"type": "function_call", "name": "f"}}], ["f"]),
        ([{"content": [{"type": "text"}, {"type": "tool_use", "name": "t"}]}], ["t"]),
        ([{"type": "content_block_start", "content_block": {"type": "tool_use", "name": "t"}}], ["t"]),
        ([{"choices": "none"}, [], 1, {"content": [{"type": "tool_use", "name": 5}]}], []),
    ],
)
def test_tools(documents: list[Any], names: list[str]) -> None:
    assert tools_called(documents) == names


def test_tools_are_compared_in_order() -> None:
    old = told({"choices": [{"message": {"tool_calls": [call("a"), call("b")]}}]})
    new = told({"choices": [{"message": {"tool_calls": [call("b"), call("a")]}}]})
    assert Likeness(tools=True).differences(old, new) == ["it calls b, a, the old answer called a, b"]
    failed = {"result": {"content": [], "isError": True}}
    assert failed_tool([failed])
    found = Likeness(tools=True).differences(told({"result": {"content": []}}), told(failed))
    assert found == ["the tool's call failed"]
