"""Events cut out of a stream: in pieces of any size, with any line ends, and no longer than the limit."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bgproxy.sessions.events import Event, EventReader
from bgproxy.sessions.words import Words

NAMES = Words([b'"id"'])
WORDS = (b"endpoint",)
LIMIT = 60


def cut(stream: bytes, sizes: list[int] | None = None, limit: int = LIMIT) -> list[Event]:
    reader = EventReader(NAMES, WORDS, limit)
    found = []
    at = 0
    for size in [*(sizes or ()), len(stream)]:
        found += reader.feed(stream[at : at + size]) or []
        at += size
    return found


def bytewise(stream: bytes) -> list[Event]:
    return cut(stream, [1] * len(stream))


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_an_event_is_known_by_its_lines(end: bytes) -> None:
    lines = [b": comment", b"event: x", b'data: {"id":', b'data:"a"}', b"id: 7", b"retry: 3", b"unknown: y", b"", b""]
    stream = end.join(lines)
    events = cut(stream, limit=100)
    assert events == cut(stream, [1] * len(stream), 100) == [Event(b"x", b'{"id":\n"a"}', b"7")]


@pytest.mark.parametrize(("length", "seen"), [(LIMIT, True), (LIMIT + 1, False), (10 * LIMIT, False)])
def test_an_event_that_is_longer_than_the_limit_is_passed_over(length: int, seen: bool) -> None:
    stream = b'data: "id"'.ljust(length - 2, b"x") + b"\n\n"
    assert (len(cut(stream)), len(bytewise(stream))) == (seen, seen)


def test_an_event_without_a_word_of_interest_is_let_go() -> None:
    assert cut(b'data: {"x":1}\n\ndata: {"id":2}\n\ndata: "id2"\n\n') == [Event(b"", b'{"id":2}', b"")]


def test_an_event_that_has_not_ended_is_none() -> None:
    assert cut(b'data: "id"\n') == bytewise(b'data: "id"\n') == []


def test_only_one_space_is_taken_off_and_a_line_may_have_no_value() -> None:
    assert cut(b'data:   "id"\ndata\nevent\n\n') == [Event(b"", b'  "id"\n', b"")]


def test_a_byte_order_mark_before_the_stream_is_passed_over() -> None:
    assert cut(b'\xef\xbb\xbfdata: "id"\n\n') == bytewise(b'\xef\xbb\xbfdata: "id"\n\n') == [Event(b"", b'"id"', b"")]


def test_an_id_with_a_nul_in_it_is_none() -> None:
    assert cut(b'data: "id"\nid: a\0b\n\n') == [Event(b"", b'"id"', b"")]


PIECES = [
    b'data: "id"',
    b"data:",
    b"event: endpoint",
    b"id: 1",
    b"x" * 20,
    b":",
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\n",
    b"\r\n\r\n",
]
PIECES += [b"\r\r", b"\xff", b"\xef\xbb\xbf"]


@given(st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join), st.lists(st.integers(1, 30), max_size=60))
@example(b'data: "id"\r\n\r\ndata: "id"\r\n\r\n', [21, 1, 1, 1])
@example(b"x" * 61 + b'\n\ndata: "id"\n\n', [30, 30, 2])
@example(b'\n\n\ndata: "id"' + b"x" * 46 + b"\n\n", [])
@example(b'\r\n\r\ndata: "id"' + b"x" * 49 + b"\n\n", [2])
@example(b'x\r\n\r\ndata: "id"' + b"x" * 48 + b"\n\n", [1, 63])
def test_any_pieces_give_the_same_events(stream: bytes, sizes: list[int]) -> None:
    assert cut(stream, sizes) == cut(stream) == bytewise(stream)


@given(st.lists(st.text('ab":{}é ', max_size=9), min_size=1, max_size=6), st.sampled_from(["\n", "\r\n", "\r"]))
def test_data_comes_out_as_it_was_written(lines: list[str], end: str) -> None:
    stream = end.join([*(f"data: {line}" for line in lines), 'data: "id"', "", ""]).encode()
    assert cut(stream, limit=1_000) == cut(stream, [1] * len(stream), 1_000)
    assert [event.data for event in cut(stream, limit=1_000)] == ["\n".join([*lines, '"id"']).encode()]


def test_what_is_kept_of_an_event_is_bounded_and_the_next_one_is_seen() -> None:
    reader = EventReader(NAMES, WORDS, LIMIT)
    for _ in range(1_000):
        assert reader.feed(b'"id"' * 10) is None
        assert len(reader._pending) < LIMIT
    assert reader.over_long == 1
    assert reader.feed(b'\n\ndata: "id"\n\n') == [Event(b"", b'"id"', b"")]
