"""Members found by path, compared with what the standard library's parser finds, whole and in pieces."""

import json
import random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bgproxy.sessions.jsonpath import compile_paths
from bgproxy.sessions.jsonscan import Scanner

PATHS = [("a",), ("b", "a"), ("b", "b", "c"), ("c", "0", "a"), ("c", "1"), ("ü",), ("a", "b")]
LIMIT = 600
ROOT = compile_paths(PATHS, [LIMIT] * len(PATHS))


class Taker:
    """Takes what is found, and stops as soon as all slots of `until` are."""

    def __init__(self, until: int = 0) -> None:
        self.documents: list[dict[tuple[str, ...], bytes]] = []
        self.until = until

    def enough(self, found: int, values: list[bytes]) -> bool:
        return bool(self.until) and found & self.until == self.until

    def document(self, found: int, values: list[bytes]) -> bool:
        self.documents.append({PATHS[n]: value for n, value in enumerate(values) if found >> n & 1})
        return False


def scan(document: bytes, sizes: list[int] | None = None, until: int = 0) -> list[dict[tuple[str, ...], bytes]]:
    taker = Taker(until)
    scanner = Scanner(ROOT, len(PATHS), taker)
    at = 0
    for size in sizes or ():
        if scanner.feed(document[at : at + size]):
            break
        at += size
    if not scanner.feed(document[at:]):
        scanner.end()
    return taker.documents


def bytewise(document: bytes, until: int = 0) -> list[dict[tuple[str, ...], bytes]]:
    return scan(document, [1] * len(document), until)


def member(value: Any, path: tuple[str, ...]) -> bytes | None:
    for name in path:
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, list) and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    return b"%d" % value if abs(value) < 10**64 else None


def expected(value: Any) -> list[dict[tuple[str, ...], bytes]]:
    documents = [item for item in value if isinstance(item, dict)] if isinstance(value, list) else [value]
    found = [{path: text for path in PATHS if (text := member(item, path)) is not None} for item in documents]
    return [item for item in found if item]


names = st.sampled_from(["a", "b", "c", "d", "ü", "", '"', "\\", "\u2028", "ab"])
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**70), 10**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["}", '"', "\\", "]", '\\\\"', "a:b", ",", "{[", "x" * 5])
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=5), max_leaves=25
)
documents = st.dictionaries(names, values, max_size=6) | st.lists(values, max_size=4)


@given(documents, st.booleans(), st.sampled_from([None, 1]), st.lists(st.integers(1, 9), max_size=40))
def test_it_finds_what_the_standard_library_finds(
    value: Any, ascii_only: bool, indent: int | None, sizes: list[int]
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")
    assert scan(text) == expected(value)
    assert scan(text, sizes) == expected(value)


@given(documents)
def test_it_finds_the_same_byte_by_byte(value: Any) -> None:
    assert bytewise(json.dumps(value).encode()) == expected(value)


# What broken documents are made of; whole random bytes would seldom come near one.
PIECES = [
    b"{",
    b"}",
    b"[",
    b"]",
    b'"a"',
    b'"b"',
    b'"c"',
    b'"x"',
    b":",
    b",",
    b" ",
    b"1",
    b"-",
    b"null",
    b'"',
    b"\\",
    b"\xff",
]
PIECES += [b'"a":"v"', b'"b":{"a":', b'"c":[', b"1.5", b'"\\u00e9"', b'"\\ud800"', b'"\\x"', b"\x00", b"\n"]


@given(st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join), st.lists(st.integers(1, 5), max_size=60))
@example(b'{"a"::1,"a":"v"}', [1] * 20)
@example(b'{"x":,"a":"v"}', [1] * 20)
@example(b'{"a" "b":"v"}', [3])
@example(b'{"x":[}],"a":"v"}', [1] * 20)
def test_a_broken_document_reads_the_same_in_any_pieces(document: bytes, sizes: list[int]) -> None:
    document = b"{" + document
    assert scan(document, sizes) == scan(document) == bytewise(document)


@given(documents, st.integers(0, 3), st.lists(st.integers(1, 9), max_size=40))
def test_it_stops_at_the_same_member_in_any_pieces(value: Any, slot: int, sizes: list[int]) -> None:
    text = json.dumps(value).encode()
    assert scan(text, sizes, 1 << slot) == scan(text, None, 1 << slot)


def test_of_a_member_that_comes_twice_the_last_value_counts() -> None:
    assert scan(b'{"a":"1","a":"2"}') == [{("a",): b"2"}]
    assert scan(b'{"b":{"a":"1"},"b":{}}') == []
    assert scan(b'{"a":"1","a":null}') == []
    assert scan(b'{"b":{"a":"1"},"b":"x"}') == scan(b'{"b":{"a":"1"},"b":[]}') == []


def test_what_comes_after_enough_is_not_read() -> None:
    assert scan(b'{"a":"1","a":"2"}', None, 1) == [{("a",): b"1"}]


def test_escapes_are_decoded_in_names_and_values() -> None:
    assert scan(rb'{"\u0061":"\u0062\/\n"}') == [{("a",): b"b/\n"}]
    assert scan(rb'{"\u00FC":"x"}') == [{("ü",): b"x"}]


def test_a_wrong_escape_is_no_text() -> None:
    assert scan(rb'{"a":"\x"}') == [{("a",): b""}]


@pytest.mark.parametrize("document", [b"", b" ", b"null", b'"a"', b"\xef\xbb\xbf{}", b"a=b", b"\x1f\x8b\x08"])
def test_what_is_no_object_or_array_has_no_members(document: bytes) -> None:
    assert scan(document) == bytewise(document) == []


@pytest.mark.parametrize("length", [LIMIT - 1, LIMIT, LIMIT + 1, 10 * LIMIT])
def test_an_over_long_string_is_no_value_and_is_counted(length: int) -> None:
    document = b'{"a":"%b","b":{"a":"x"}}' % (b"x" * length)
    short = length <= LIMIT
    wanted = [{("b", "a"): b"x"} | ({("a",): b"x" * length} if short else {})]
    assert scan(document) == bytewise(document) == wanted
    scanner = Scanner(ROOT, len(PATHS), Taker())
    scanner.feed(document)
    assert scanner.over_long == (0 if short else 1)


@pytest.mark.parametrize("length", [4_000, 4_095, 4_096, 4_097, 50_000])
def test_a_name_of_any_length_is_passed_over(length: int) -> None:
    document = b'{"%b" \n:\t1,"a":"x"}' % (b"n" * length)
    assert scan(document) == bytewise(document) == [{("a",): b"x"}]


def test_any_depth_is_passed_over() -> None:
    deep = b'{"x":%b%b,"a":"v"}' % (b"[" * 30_000, b"]" * 30_000)
    assert scan(deep) == bytewise(deep) == [{("a",): b"v"}]
    assert scan(b"[" * 60_000) == []
    assert scan(b'{"b":' * 10_000) == []


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "piece", [(b"[", b"", b"]"), (b'{"x":', b"1", b"}"), (b"[1,[", b"", b"],2]"), (b"[[[[[[[[]]]]]]]],", b"1", b"")]
)
def test_the_work_grows_with_the_length_only(piece: tuple[bytes, bytes, bytes]) -> None:
    opening, middle, closing = piece
    count = 2_000_000 // (len(opening) + len(closing))
    document = b'{"x":[%b%b%b],"a":"v"}' % (opening * count, middle, closing * count)
    assert scan(document) == scan(document, [100_000] * 30) == [{("a",): b"v"}]


def test_what_waits_for_the_rest_is_bounded() -> None:
    for document in (
        b'{"a":"' + b"x" * 60_000,
        b'{"' + b"n" * 60_000,
        b'{"x":"' + b"x" * 60_000,
        b'{"a":' + b"1" * 60_000,
    ):
        scanner = Scanner(ROOT, len(PATHS), Taker())
        for at in range(0, len(document), 7):
            scanner.feed(document[at : at + 7])
            assert len(scanner._pending) < 4_200


def test_a_long_document_reads_the_same_in_any_pieces() -> None:
    random.seed(3)
    messages = [
        {"role": "user", "content": 'He said "\\{[" \u00e9' * random.randrange(9), "n": [n, {"a": [{}]}]}
        for n in range(300)
    ]
    document = json.dumps({"messages": messages, "b": {"x": messages, "a": "id"}}).encode()
    assert scan(document) == [{("b", "a"): b"id"}]
    assert bytewise(document) == [{("b", "a"): b"id"}]
    assert scan(document, [1_400] * 100) == [{("b", "a"): b"id"}]
