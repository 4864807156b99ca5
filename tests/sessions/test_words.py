"""The two looks for words agree on whatever bytes there are: only one of them runs in any one build."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bgproxy.sessions.words import Words

KINDS = {
    "names": Words([b'"taskId"', b'"id"', b'"threadId"', b'"a-long-name-of-many-bytes"']),
    "long": Words([b'"contextId"', b'"previous_response_id"']),
    "short": Words([b'"a"', b'"ab"']),
    "paths": Words([b"/threads", b"/v1/conversations/", b"/t"]),
    "any": Words([b'"']),
    "none": Words([]),
}
PIECES = [
    b'"',
    b"/",
    b"taskId",
    b'"taskId"',
    b"content",
    b"contextId",
    b'"id"',
    b"id",
    b"threadId",
    b"/threads",
    b"/t",
    b"a",
    b"ab",
]
PIECES += [
    b'"a-long-name-of-many-bytes"',
    b"previous_response_id",
    b"\xa2\xff\x00",
    b'\\"',
    b"x" * 30,
    b"/v1/conversations/",
]


@pytest.mark.parametrize("kind", sorted(KINDS))
@given(st.lists(st.sampled_from(PIECES), max_size=20).map(b"".join) | st.binary(max_size=40), st.integers(0, 20))
@example(b'{"id"', 1)
@example(b'"content":"contextId"', 0)
def test_both_looks_see_the_same(kind: str, data: bytes, start: int) -> None:
    start = min(start, len(data))
    assert KINDS[kind].walk(data, start) == KINDS[kind].match(data, start)


@pytest.mark.parametrize("space", range(20))
@pytest.mark.parametrize("behind", [0, 1, 9])
def test_a_word_is_found_wherever_it_stands(space: int, behind: int) -> None:
    data = b"x" * space + b'"taskId"' + b"x" * behind
    assert (KINDS["names"].walk(data, 0), KINDS["names"].match(data, 0)) == (space, space)


def test_a_word_far_behind_others_like_it_is_found() -> None:
    data = b'"content":"task",' * 200 + b'"threadId"'
    assert (KINDS["names"].walk(data, 0), KINDS["names"].match(data, 0)) == (3_400, 3_400)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_beginning_of_a_word_is_none(kind: str) -> None:
    looks = (KINDS[kind].walk, KINDS[kind].match)
    data = b'"taskI" "threadID" "contextId /v1/conversation" /thread'
    assert {look(data, 0) for look in looks} == {{"any": 0, "paths": 48}.get(kind, -1)}
