"""The two walks over a head agree on whatever bytes there are: only one of them runs in any one build."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bgproxy.http1.first_line import RequestLine, match_status, walk_status
from bgproxy.http1.scan import TOKEN, FieldScanner

NAMES = frozenset((b"host", b"content-length", b"connection", b"te"))
SCANNERS = {
    "plain": FieldScanner(NAMES, (b"x-forwarded-", b"x-bgproxy-"), TOKEN.replace(b"_", b""), 6),
    "any": FieldScanner(NAMES, (), TOKEN, 6),
    "exact": FieldScanner(NAMES - {b"te"}, (b"x-forwarded-",), TOKEN, 6, frozenset((b"te", b"a_b"))),
}
ALIKE = frozenset((b"a~b", b"x^long-name", b"connection"))
SCANNERS["alike"] = FieldScanner(ALIKE, (), TOKEN, 6, frozenset((b"content-length",)))
LINE = b"GET / HTTP/1.1\r\n"

# Pieces that heads, good and bad, are made of; whole random bytes would seldom come near a good one.
PIECES = [
    b"Host",
    b"te",
    b"X-Forwarded-For",
    b"x-bgproxy-",
    b"Content-Length",
    b"A_b",
    b"x",
    b":",
    b": ",
    b":\t ",
    b" ",
]
PIECES += [b"A~b", b"a^b", b"x^Long-name", b"X~long-name", b"cONTENT-lENGTH", b"Content-Lengti", b"connectioN"]
PIECES += [b"Connection: keep-alive\r\n", b"a value of many bytes, more than are looked at at once", b"\xff"]
PIECES += [b"value", b"\xe9", b"\r\n", b"\n", b"\r", b"\x00", b"\x7f", b"", b"[]", b"\r\n ", b"HOST: a\r\n", b"te:\r\n"]


@pytest.mark.parametrize("kind", sorted(SCANNERS))
@given(st.lists(st.sampled_from(PIECES), max_size=24).map(b"".join) | st.binary(max_size=40))
@example(b"Host: a\r\nTE: trailers\r\nX-Bgproxy-Color: Blue\r\n")
@example(b"a: 1\r\n" * 6)
@example(b"a: 1\r\n" * 7)
@example(b"te\t: x\r\n")
@example(b"Host: a\r\n\r\nte: b\r\n")
@example(b"")
def test_both_walks_see_the_same(kind: str, fields: bytes) -> None:
    scanner = SCANNERS[kind]
    head = LINE + fields + b"\r\n"
    if not head.endswith(b"\r\n\r\n"):
        head += b"\r\n"  # what `find` is given ends with an empty line
    seen = []
    for look in (scanner.walk, scanner.match):
        scanner.line = scanner.line_end = 0
        seen.append((look(head, len(LINE)), scanner.line, scanner.line_end))
    if seen[0][0] is not None:  # of a head that is refused nobody asks where its lines stand
        assert seen[0] == seen[1]
    else:
        assert seen[1][0] is None


def test_names_and_values_come_in_lower_case_in_order_with_the_leading_white_space_off() -> None:
    head = LINE + b"TE: \t A \r\nOther: te\r\nX-FORWARDED-Proto:HTTP\r\nte:\r\n\r\n"
    expected = [(b"te", b"a "), (b"x-forwarded-proto", b"http"), (b"te", b"")]
    assert SCANNERS["plain"].walk(head, len(LINE)) == expected
    assert SCANNERS["plain"].match(head, len(LINE)) == expected


def test_values_that_are_wanted_exactly_keep_their_letters() -> None:
    head = LINE + b"TE: Abc\r\nHost: A.Test\r\nA_B: \t Xy \r\n\r\n"
    expected = [(b"te", b"Abc"), (b"host", b"a.test"), (b"a_b", b"Xy")]
    assert SCANNERS["exact"].walk(head, len(LINE)) == expected
    assert SCANNERS["exact"].match(head, len(LINE)) == expected


def test_it_is_known_where_the_last_line_of_the_noted_field_stands() -> None:
    head = LINE + b"connection: a\r\nCONNECTION: b\r\nTE: c\r\n\r\n"
    for look in (SCANNERS["plain"].walk, SCANNERS["plain"].match):
        look(head, len(LINE))
        assert head[SCANNERS["plain"].line : SCANNERS["plain"].line_end] == b"CONNECTION: b\r\n"


FIRST = [
    b"GET",
    b"a_b",
    b" ",
    b"/",
    b"*",
    b"/x?y",
    b"#",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"HTTP/1.2",
    b"HTTP/2.0",
    b"http/1.1",
]
FIRST += [
    b"\r\n",
    b"\n",
    b"\r",
    b"\t",
    b"\x00",
    b"\xe9",
    b"\x7f",
    b"200",
    b"600",
    b"099",
    b"OK",
    b"1",
    b"",
    b":",
    b"/" * 9,
]
GOOD_FIRST = st.sampled_from([b"GET /x HTTP/1.1\r\n", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 404\r\n"])


@given(GOOD_FIRST | st.lists(st.sampled_from(FIRST), max_size=9).map(b"".join) | st.binary(max_size=30), st.data())
@example(b"GET /12345678 HTTP/1.1\r\n", None)
@example(b"GET /123456789 HTTP/1.1\r\n", None)
@example(b"HTTP/1.1 200 \r\n", None)
@example(b"HTTP/1.1 200\r\n", None)
@example(b"HTTP/1.1 20", None)
def test_both_looks_at_a_first_line_see_the_same(line: bytes, data: st.DataObject | None) -> None:
    if data is not None and line:
        at = data.draw(st.integers(0, len(line)))
        line = line[:at] + data.draw(st.sampled_from([b"", *FIRST])) + line[at:]
    head = line + b"A: b\r\n\r\n"
    of_requests = RequestLine(9)
    assert of_requests.walk(head) == of_requests.match(head)
    assert walk_status(head) == match_status(head)


def test_the_parts_of_a_first_line() -> None:
    head = b"GET /a HTTP/1.0\r\n\r\n"
    for look in (RequestLine(9).walk, RequestLine(9).match):
        assert look(head) == (3, 6)
    for status in (walk_status, match_status):
        assert status(b"HTTP/1.1 204 No Content\r\n\r\n") == (204, 25)
