"""Whatever comes in, in whatever pieces: the same keys, none that is no id, nothing raised, nothing that grows."""

import gzip
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turns import DEFAULT, learned, recogniser, sighted, split

from bgproxy.sessions.keys import MAX_KEYS, is_id
from bgproxy.sessions.presets import PROTOCOLS
from bgproxy.sessions.recognise import Recogniser
from bgproxy.sessions.sighting import Sighting

EVERYTHING = recogniser(
    *PROTOCOLS,
    "cookie",
    "credentials",
    "header:X-Session-Id",
    "cookie:sid",
    "query:s",
    "path:/agents/{id}/…",
    "json:/session/id",
)
RPC = {"jsonrpc": "2.0", "id": 1}
BODIES = [
    {
        **RPC,
        "method": "message/send",
        "params": {"message": {"taskId": "t", "parts": [{"text": '"}'}], "contextId": "c"}},
    },
    {**RPC, "method": "tasks/get", "params": {"id": "t"}},
    {"params": {"taskId": "t"}, "method": "tasks/get"},
    {"message": {"contextId": "c\u00e9"}},
    {"message": {"contextId": "\u0041", "taskId": "x" * 600}},
    {"model": "m", "conversation": {"id": "conv"}, "previous_response_id": "resp"},
    {"threadId": "t", "runId": "r", "messages": [{"content": "x" * 3_000}]},
    {"app_name": "a", "user_id": "u", "session_id": "s"},
    {"session": {"id": 7}, "x": [[[[[{"a": {}}]]]]]},
    [{"params": {"message": {"contextId": "1"}}}, {"params": {"message": {"contextId": "2"}}}],
    {"deep": json.loads("[" * 200 + "]" * 200), "threadId": "t"},
]
ANSWERS = [
    {**RPC, "result": {"task": {"id": "t", "contextId": "c"}}},
    {**RPC, "result": {"id": "t", "contextId": "c", "kind": "task", "status": {"state": "x"}}},
    {**RPC, "result": {"taskId": "t", "resultType": "task"}},
    {**RPC, "result": {"requestState": "s" * 900, "resultType": "input_required"}},
    {"id": "resp", "conversation": None},
    {"response": {"id": "resp", "output": [{"id": "no"}]}, "type": "response.created"},
    {"type": "RUN_STARTED", "threadId": "t", "runId": "r"},
]
TARGETS = ["/", "/v1/responses", "/run", "/threads", "/tasks/t:cancel?contextId=c"]


def seen(request: bytes, sizes: list[int], of: Recogniser = EVERYTHING) -> tuple[list[object], str, int, str]:
    """What a request says when its body comes in these pieces, and then the rest."""
    head, _, body = request.partition(b"\n\n")
    line, fields, _ = split(head + b"\n\n")
    method, target, _ = line.split(" ")
    marks = [field for field in fields if field[0] in of.request_fields]
    sighting = of.request(method.encode(), target.encode(), marks, True, b"")
    at = 0
    if sighting.body is not None:
        for size in [*sizes, len(body)]:
            if at < len(body) and sighting.body.feed(body[at : at + size]):
                break
            at += size
        else:
            sighting.body.end()
    return list(sighting.keys), sighting.unread, sighting.ignored, sighting.preset


pieces = st.lists(st.integers(1, 40), max_size=60)


@given(st.sampled_from(BODIES), st.sampled_from(TARGETS), st.booleans(), st.sampled_from([None, 2]), pieces)
def test_a_request_says_the_same_in_any_pieces(
    body: object, target: str, ascii_only: bool, indent: int | None, sizes: list[int]
) -> None:
    text = json.dumps(body, ensure_ascii=ascii_only, indent=indent).encode()
    request = b"POST %b HTTP/1.1\nContent-Type: application/json\n\n%b" % (target.encode(), text)
    for of in (EVERYTHING, DEFAULT):
        assert seen(request, sizes, of) == seen(request, [], of)


@given(st.lists(st.sampled_from([*ANSWERS, None]), max_size=5), st.sampled_from(["\n", "\r\n", "\r"]), pieces)
def test_a_stream_mints_the_same_in_any_pieces(events: list[object], end: str, sizes: list[int]) -> None:
    lines = [f"data: {json.dumps(event)}{end}{end}" if event else f": ping{end}{end}" for event in events]
    stream = "".join(lines).encode()
    for target in TARGETS:
        sighting, _ = sighted(DEFAULT, f"POST {target} HTTP/1.1\n\n")
        assert (
            minted(sighting, stream, sizes)
            == minted(sighting, stream, [])
            == minted(sighting, stream, [1] * len(stream))
        )


def minted(sighting: Sighting, stream: bytes, sizes: list[int], kind: bytes = b"text/event-stream") -> list[object]:
    learner = sighting.response(200, [(b"content-type", kind)])
    if learner is None:
        return []
    keys: list[object] = []
    at = 0
    for size in [*sizes, len(stream)]:
        if not learner.done:
            keys += learner.feed(stream[at : at + size])
        at += size
    return keys


@given(st.sampled_from(ANSWERS), pieces)
def test_a_body_mints_the_same_in_any_pieces(answer: object, sizes: list[int]) -> None:
    text = json.dumps(answer).encode()
    for target in TARGETS:
        sighting, _ = sighted(DEFAULT, f"POST {target} HTTP/1.1\n\n")
        assert minted(sighting, text, sizes, b"application/json") == minted(sighting, text, [], b"application/json")


@given(st.sampled_from(ANSWERS), st.integers(0, 60), st.integers(0, 255), pieces)
def test_a_damaged_answer_is_read_without_a_word(answer: object, at: int, byte: int, sizes: list[int]) -> None:
    text = bytearray(json.dumps(answer).encode())
    text[at % len(text)] = byte
    sighting, _ = sighted(DEFAULT, "POST / HTTP/1.1\n\n")
    for kind in (b"application/json", b"text/event-stream"):
        stream = bytes(text) if kind == b"application/json" else b"data: %b\n\n" % bytes(text)
        assert minted(sighting, stream, sizes, kind) == minted(sighting, stream, [], kind)


@given(
    st.sampled_from([b"GET", b"POST", b"DELETE"]),
    st.binary(max_size=40).map(lambda tail: b"/" + tail)
    | st.sampled_from([b"*", b"/tasks/%zz", b"/tasks/%00", b"/?s=%"]),
    st.lists(st.tuples(st.sampled_from(sorted(EVERYTHING.request_fields)), st.binary(max_size=40)), max_size=8),
    st.binary(max_size=60) | st.sampled_from(BODIES).map(lambda body: json.dumps(body).encode()),
)
def test_a_request_of_anything_raises_nothing_and_has_only_ids_for_keys(
    method: bytes, target: bytes, marks: list[tuple[bytes, bytes]], body: bytes
) -> None:
    sighting = EVERYTHING.request(method, target, marks, bool(body), b"")
    if sighting.body is not None and not sighting.body.feed(body):
        sighting.body.end()
    assert len(sighting.keys) <= MAX_KEYS
    assert len(set(sighting.keys)) == len(sighting.keys)
    assert [key.rank for key in sighting.keys] == sorted(key.rank for key in sighting.keys)
    assert all(is_id(part) for key in sighting.keys for part in key.value.split(b" "))


@given(
    st.lists(st.tuples(st.sampled_from(sorted(EVERYTHING.response_fields)), st.binary(max_size=40)), max_size=8),
    st.sampled_from([b"application/json", b"text/event-stream", b"x"]),
    st.lists(st.binary(max_size=40), max_size=8),
)
def test_an_answer_of_anything_raises_nothing_and_mints_only_ids(
    marks: list[tuple[bytes, bytes]], kind: bytes, chunks: list[bytes]
) -> None:
    learner = EVERYTHING.request(b"POST", b"/", (), False, b"").response(200, [*marks, (b"content-type", kind)])
    if learner is not None:
        keys = [*learner.keys, *(key for chunk in chunks for key in learner.feed(chunk))]
        assert all(is_id(part) for key in keys for part in key.value.split(b" "))


# An answer that is not read


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
def test_a_compressed_answer_is_not_read_and_says_so(kind: str) -> None:
    sighting, _ = sighted(DEFAULT, "POST / HTTP/1.1\n\n")
    learner = sighting.response(200, [(b"content-type", kind.encode()), (b"content-encoding", b"gzip")])
    assert learner is not None
    assert (learner.done, learner.unread, learner.keys) == (True, "compressed", [])
    assert learner.feed(gzip.compress(b"{}")) == []


@pytest.mark.parametrize("kind", ["text/html", "", "image/png"])
def test_an_answer_of_another_type_has_nothing_to_learn(kind: str) -> None:
    sighting, _ = sighted(DEFAULT, "POST / HTTP/1.1\n\n")
    assert sighting.response(200, [(b"content-type", kind.encode())]) is None


def test_of_a_long_answer_the_beginning_is_read() -> None:
    of = recogniser("openai", inspect_bytes=200)
    for body, expected in (
        (b'{"id":"r","x":"%b"}' % (b"x" * 400), [b"r"]),
        (b'{"x":"%b","id":"r"}' % (b"x" * 400), []),
    ):
        for size in (1, 50, 1_000):
            sighting, _ = sighted(of, "POST /v1/responses HTTP/1.1\n\n")
            learner = sighting.response(200, [(b"content-type", b"application/json")])
            assert learner is not None
            keys = [key.value for at in range(0, len(body), size) for key in learner.feed(body[at : at + size])]
            assert (keys, learner.done, learner.unread) == (expected, True, "oversized")


def test_a_long_event_is_passed_over_and_says_so() -> None:
    of = recogniser("openai", inspect_bytes=200)
    sighting, _ = sighted(of, "POST /v1/responses HTTP/1.1\n\n")
    learner = sighting.response(200, [(b"content-type", b"text/event-stream")])
    assert learner is not None
    assert learner.feed(b'data: {"response":{"id":"a"},"x":"%b"}\n\n' % (b"x" * 400)) == []
    assert learner.unread == "oversized"
    assert [key.value for key in learner.feed(b'data: {"response":{"id":"b"}}\n\n')] == [b"b"]


def test_the_head_of_an_answer_may_have_anything() -> None:
    answer = (
        "HTTP/1.1 200 OK\nMcp-Session-Id: two words\nLocation: /threads/%20/x\nMcp-Session-Id: a\nMcp-Session-Id: b\n\n"
    )
    sighting, _ = sighted(DEFAULT, "POST / HTTP/1.1\n\n")
    assert learned(DEFAULT, sighting, answer) == [("mcp", b"a"), ("mcp", b"b")]


# Bounds


def test_what_a_reader_keeps_of_a_body_is_bounded() -> None:
    of = recogniser("a2a", inspect_bytes=65_536)
    for piece in (b'{"x":"' + b"y" * 4_090, b'[{"message":{"contextId":"', b"[" * 4_096, b'{"message":{"x' * 300):
        sighting = of.request(b"POST", b"/", ((b"content-type", b"application/json"),), True, b"")
        assert sighting.body is not None
        tracemalloc.start()
        for _ in range(10_000):
            if sighting.body.feed(piece):
                break
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert kept < 4 * 65_536


def test_what_a_learner_keeps_of_a_stream_is_bounded() -> None:
    for piece in (
        b'data: {"result":{"x":"yyyyyyyyyyyyyyyy"}}\n',
        b'data: {"result":{"x":1}}\n\n',
        b'"taskId"',
        b": ping\r",
    ):
        sighting, _ = sighted(DEFAULT, "POST / HTTP/1.1\n\n")
        learner = sighting.response(200, [(b"content-type", b"text/event-stream")])
        assert learner is not None
        tracemalloc.start()
        for _ in range(20_000):
            learner.feed(piece)
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert kept < 4 * 65_536


def test_a_sighting_that_is_shared_is_not_changed_by_an_answer() -> None:
    first = DEFAULT.request(b"GET", b"/", (), False, b"")
    assert DEFAULT.request(b"HEAD", b"/x", (), False, b"") is first
    learner = first.response(200, [(b"mcp-session-id", b"a")])
    assert learner is not None
    assert (len(learner.keys), first.keys) == (1, [])
