"""An answer against what a gate expects of it, and what of a finding goes on record."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from bgproxy.rules.gate import EVIDENCE_BYTES, Answer, Finding, Verdict, check_http
from bgproxy.rules.plan import HttpGate

BODY = b'{"choices": [{"message": {"role": "assistant", "content": "pong"}}]}'
GOOD = Answer(
    status=200,
    fields=(("Content-Type", "application/json"), ("X-Twice", "a"), ("x-twice", "b")),
    body=BODY,
    size=len(BODY),
    latency=0.5,
    first_byte=0.2,
)


@pytest.mark.parametrize(
    "expected",
    [
        {},
        {"expect_status": (201, 200)},
        {"expect_json": {"/choices/0/message/role": "assistant"}},
        {
            "expect_headers": {
                "content-type": {"like": "application/json*"},
                "X-Twice": "a, b",
                "X-No": {"exists": False},
            }
        },
        {"expect_text": "pong"},
        {"max_latency": 0.5, "max_first_byte": 0.2},
    ],
)
def test_what_passes(expected):
    assert check_http(HttpGate(**expected), GOOD) == []


@pytest.mark.parametrize(
    ("expected", "but", "why"),
    [
        ({}, {"status": 500, "body": b"oh no"}, 'the status is 500, expected is 200; it says "oh no"'),
        ({"expect_status": (200, 204)}, {"status": 201, "body": b""}, "the status is 201, expected is 200 or 204"),
        ({}, {"trouble": "connection refused"}, "connection refused"),
        ({"expect_json": {"/choices/0/message/role": "user"}}, {}, '/choices/0/message/role is "assistant"'),
        ({"expect_json": {"/a": 1}}, {"body": b"<html>", "size": 6}, "the body is no JSON"),
        ({"expect_json": {"/a": 1}}, {"size": 10**9}, "the body is no JSON"),
        ({"expect_headers": {"X-No": {"exists": True}}}, {}, "the field X-No is not there"),
        ({"expect_headers": {"content-type": "text/plain"}}, {}, "the field content-type is"),
        ({"expect_text": "ping"}, {}, 'the body does not contain "ping"'),
        ({"expect_events": 2}, {"events": ("a",)}, "1 events came, expected are 2"),
        ({"max_latency": 0.4}, {}, "the answer took 0.500 s, the limit is 0.4 s"),
        ({"max_first_byte": 0.1}, {}, "the first byte took 0.200 s, the limit is 0.1 s"),
    ],
)
def test_what_fails_says_how(expected, but, why):
    (fault,) = check_http(HttpGate(**expected), replace(GOOD, **but))
    assert fault.startswith(why) or why in fault


def test_every_fault_is_told():
    gate = HttpGate(expect_status=(201,), expect_text="x", max_latency=0.1)
    assert len(check_http(gate, GOOD)) == 3


def test_what_goes_on_record_is_bounded_and_says_what_is_left_out():
    much = {"answers": [{"begins": "x" * 300}] * 500, "figures": {"p95": 1.0}, "blob": "y" * 100_000}
    bounded = Finding(Verdict.FAIL, "w" * 9_000, much).bounded()
    assert len(json.dumps(bounded.evidence)) < EVIDENCE_BYTES + 200
    assert len(bounded.why) == 500
    kept = bounded.evidence["answers"]
    assert kept[-1] == f"and {500 - (len(kept) - 1)} more"
    assert bounded.evidence["blob"] == "(too large to be kept)"


def test_what_an_agent_says_goes_on_record_whatever_is_in_it():
    said = {"location": "/caf\udce9", "\ud83d": ["half \ud83d", ("\udc00", float("nan"))], "ratio": float("inf")}
    found = Finding(Verdict.FAIL, "it says \ud83d\U0001f600", said).bounded()
    assert found.why == "it says ?\U0001f600"
    assert found.evidence == {"location": "/caf?", "?": ["half ?", ("?", "nan")], "ratio": "inf"}
    json.dumps(found.evidence, allow_nan=False, ensure_ascii=False).encode()


def test_what_is_small_is_kept_as_it_is():
    finding = Finding(Verdict.PASS, "fine", {"a": [1, 2], "b": {"c": None}})
    assert finding.bounded() == finding


def test_evidence_tells_first_bytes_and_no_field_that_may_hold_a_secret():
    told = replace(GOOD, fields=(*GOOD.fields, ("Set-Cookie", "secret")), body=b"\xff" * 1000, size=1000).evidence()
    assert told["fields"] == {"content-type": "application/json"}
    assert len(told["begins"]) == 300
    assert (told["status"], told["bytes"], told["latency"]) == (200, 1000, 0.5)
