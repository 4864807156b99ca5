"""What is taken out before anything is kept."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest

from bgproxy.rules.likeness import pointers
from bgproxy.rules.redaction import PATTERNS, Redaction, pattern_fault

USUAL = Redaction()
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"
KEY = "sk-proj-0123456789abcdef0123"


def test_fields() -> None:
    fields = [("Authorization", "Bearer x"), ("COOKIE", "a=b"), ("Accept", "*/*"), ("X-Note", f"my key is {KEY}!")]
    assert USUAL.fields(fields) == [
        ("Authorization", "[redacted]"),
        ("COOKIE", "[redacted]"),
        ("Accept", "*/*"),
        ("X-Note", "my key is [redacted]!"),
    ]


@pytest.mark.parametrize(
    ("target", "kept"),
    [
        ("/a/b?c=d", "/a/b?c=d"),
        ("/a?api_key=1&b=2&Access%5FToken=3", "/a?api_key=[redacted]&b=2&Access%5FToken=[redacted]"),
        (f"/a?b={KEY}&c", "/a?b=[redacted]&c"),
        (f"/a?b=Bearer+{KEY}", "/a?b=[redacted]"),
        (f"/keys/{KEY}/x", "/keys/[redacted]/x"),
    ],
)
def test_targets(target: str, kept: str) -> None:
    assert USUAL.target(target) == kept


def kept(document: Any, redaction: Redaction = USUAL, kind: str = "application/json") -> Any:
    found = redaction.body(kind, json.dumps(document).encode())
    assert found is not None
    return json.loads(found)


def test_members_by_name_and_texts_by_pattern() -> None:
    document = {"Password": "x", "deep": [{"secret": {"a": 1}}, f"Bearer {KEY}"], "number": 5, JWT: None}
    assert kept(document) == {
        "Password": "[redacted]",
        "deep": [{"secret": {}}, "[redacted]"],
        "number": 5,
        "[redacted]": None,
    }


def test_by_pointer_whatever_stands_there_and_of_the_same_type() -> None:
    redaction = Redaction(pointers=pointers(["/messages/*/content", "/user", "/n", "/flag"]))
    document = {"messages": [{"role": "user", "content": "private"}, {"content": ["x"]}], "user": None, "n": 7.5}
    assert kept({**document, "flag": True}, redaction, "application/vnd.x+json; charset=utf-8") == {
        "messages": [{"role": "user", "content": "[redacted]"}, {"content": []}],
        "user": None,
        "n": 0.0,
        "flag": False,
    }


@pytest.mark.parametrize(
    ("kind", "body", "found"),
    [
        ("application/json", b'{"a": ', None),  # not JSON: who knows what stands where
        ("application/json", b"", b""),
        ("application/json", b"[" * 100_000, None),
        ("application/json", b'{"\\ud800": "\\udcff"}', b'{"\\ud800": "\\udcff"}'),
        ("application/json", b'{"a": "\\ud83d\\ude00"}', '{"a": "😀"}'.encode()),
        ("application/json", b'{"a": "\xff"}', b'{"a": "\xff"}'),
        ("application/json", b'{"a": "\xff", "b": "\\ud800"}', None),
        ("text/event-stream", b'data: {"a": "\\ud800"}\n\n', b'data: {"a": "\\ud800"}\n\n'),
        ("text/plain", f"a {KEY} b".encode(), b"a [redacted] b"),
        ("image/png", b"\xff\x00\xfe", b"\xff\x00\xfe"),
        ("application/x-www-form-urlencoded", b"password=1&b=2", b"password=[redacted]&b=2"),
        ("application/x-ndjson", b'{"secret": "x"}\n\n[1]\n', b'{"secret": "[redacted]"}\n[1]\n'),
        (
            "text/event-stream",
            b'event: a\r\nid: 1\r\ndata: {"secret":\r\ndata: "x"}\r\n\r\n: ping\r\n\r\ndata: [DONE]\r\n\r\n',
            b'event: a\nid: 1\ndata: {"secret": "[redacted]"}\n\n: ping\n\ndata: [DONE]\n\n',
        ),
        ("text/event-stream", b'data: {"secret": \n\n', None),
        ("text/event-stream", f"data: {KEY}\n\n".encode(), b"data: [redacted]\n\n"),
    ],
)
def test_bodies(kind: str, body: bytes, found: bytes | None) -> None:
    assert USUAL.body(kind, body) == found


@pytest.mark.parametrize("secret", [f"Bearer {KEY}", KEY, JWT, "ghp_0123456789abcdef0123", "AKIA0123456789ABCDEF"])
def test_what_looks_like_a_secret(secret: str) -> None:
    assert USUAL.text(f"<{secret}>") == "<[redacted]>"


@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        *((one, "") for one in PATTERNS),
        (r"\d{3}-\d{2}-\d{4}", ""),
        (r"[a-z]{1,64}@example\.com", ""),
        (r"customer-(?:id)?[0-9]{6}", "more than one"[:0]),
        ("(", "it is no regular expression"),
        ("", "it matches nothing at all"),
        ("a{0,5}", "it matches nothing at all"),
        ("a+", "without an end"),
        (r"x.*y", "without an end"),
        (r"(?:ab{1,9}){2,9}", "within another"),
        (r"a{1,9}b{1,9}", "more than one part"),
        (r"x[a-z]{1,600}", "without an end"),
    ],
)
def test_patterns_that_can_be_used(pattern: str, fault: str) -> None:
    found = pattern_fault(pattern)
    assert (fault in found) if fault else not found, found


def test_no_usual_pattern_takes_long_on_any_text() -> None:
    began = time.process_time()
    for text in ("Bearer " * 20_000, "sk-" * 50_000, "eyJ" * 50_000, "a" * 200_000):
        USUAL.text(text)
    assert time.process_time() - began < 5.0
    assert all(re.compile(one) for one in PATTERNS)
