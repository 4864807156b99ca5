"""The two walks over a head's fields agree on whatever bytes there are: only one of them runs in any one build."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bgproxy.http1.scan import TOKEN, FieldScanner

NAMES = frozenset((b"host", b"content-length", b"connection", b"te"))
SCANNERS = {
    "plain": FieldScanner(NAMES, (b"x-forwarded-", b"x-bgproxy-"), TOKEN.replace(b"_", b""), 6),
    "any": FieldScanner(NAMES, (), TOKEN, 6),
    "exact": FieldScanner(NAMES - {b"te"}, (b"x-forwarded-",), TOKEN, 6, frozenset((b"te", b"a_b"))),
}
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
    assert scanner.walk(head, len(LINE)) == scanner.match(head, len(LINE))


def test_names_and_values_come_in_lower_case_in_order_with_the_leading_white_space_off() -> None:
    head = LINE + b"TE: \t A \r\nOther: te\r\nX-FORWARDED-Proto:HTTP\r\nte:\r\n\r\n"
    expected = [(b"te", b"a "), (b"x-forwarded-proto", b"http"), (b"te", b"")]
    assert SCANNERS["plain"].walk(head, len(LINE)) == expected
    assert SCANNERS["plain"].match(head, len(LINE)) == expected


def test_values_that_are_wanted_exactly_keep_their_letters() -> None:
    head = LINE + b"TE: Abc\r\nHost: A.Test\r\nA_B: \t Xy \r\n\r\n"
    expected = [(b"te", b"Abc"), (b"host", b"a.test"), (b"a_b", b"Xy ")]
    assert SCANNERS["exact"].walk(head, len(LINE)) == expected
    assert SCANNERS["exact"].match(head, len(LINE)) == expected
