"""What a plan says of a value, one row per case: the test, the value, and how it fails."""

from __future__ import annotations

import time

import pytest

from bgproxy.rules.assertion import MISSING, at, broken, fault, pointer_fault

KEPT = [
    ("assistant", "assistant"),
    (1, 1.0),
    (True, True),
    ([1, {"a": None}], [1, {"a": None}]),
    ({"equals": {"a": 1}}, {"a": 1.0}),
    ({"not": "error"}, "fine"),
    ({"exists": True}, None),
    ({"exists": False}, MISSING),
    ({"type": "object"}, {}),
    ({"type": "array"}, []),
    ({"type": "integer"}, 2.0),
    ({"type": "number"}, 2.5),
    ({"type": "null"}, None),
    ({"type": "boolean"}, False),
    ({"min": 1, "max": 3}, 3),
    ({"like": "gpt-*-[ab]"}, "gpt-4-b"),
    ({"contains": "ell"}, "hello"),
    ({"contains": 1}, [0, 1]),
    ({"contains": "a"}, {"a": 0}),
    ({"one_of": ["stop", "length"]}, "length"),
    ({"min_length": 1, "max_length": 2}, "ab"),
]
BROKEN = [
    ("assistant", "user", 'is "user", expected is "assistant"'),
    ("assistant", MISSING, "is nothing"),
    (1, True, "is true, expected is 1"),
    (True, 1, "is 1, expected is true"),
    ([1], [True], "expected is [1]"),
    ({"equals": {"a": 1}}, {"a": 1, "b": 2}, "expected is equals"),
    ({"not": "error"}, "error", "expected is not"),
    ({"exists": True}, MISSING, "is not there"),
    ({"exists": False}, None, "is null, expected is exists false"),
    ({"min": 1}, MISSING, "is not there"),
    ({"min": 1}, 0.5, "expected is min 1"),
    ({"min": 0}, True, "expected is min 0"),
    ({"max": 1}, "1", "expected is max 1"),
    ({"type": "integer"}, 2.5, 'expected is type "integer"'),
    ({"type": "number"}, True, "expected is type"),
    ({"type": "string"}, None, "expected is type"),
    ({"like": "gpt-?"}, "gpt-10", "expected is like"),
    ({"like": "*"}, 5, "expected is like"),
    ({"contains": "x"}, "hello", "expected is contains"),
    ({"contains": True}, [1], "expected is contains"),
    ({"contains": 1}, 1, "expected is contains"),
    ({"one_of": ["stop"]}, "length", "expected is one of"),
    ({"min_length": 3}, "ab", "expected is min length 3"),
    ({"max_length": 1}, [1, 2], "expected is max length 1"),
    ({"min_length": 0}, 7, "expected is min length 0"),
    ({"type": "string", "min_length": 9}, "short", "expected is min length 9"),
]


@pytest.mark.parametrize(("expected", "value"), KEPT)
def test_what_is_kept(expected, value):
    assert fault(expected) == ""
    assert broken(expected, value) == ""


@pytest.mark.parametrize(("expected", "value", "why"), BROKEN)
def test_what_is_broken_says_how(expected, value, why):
    assert fault(expected) == ""
    assert why in broken(expected, value)


@pytest.mark.parametrize(
    ("expected", "why"),
    [
        ({}, "there is no test in it"),
        ({"lik": "x"}, 'there is no test "lik"; did you mean "like"?'),
        ({"frob": 1}, "the tests are equals, not"),
        ({"role": "assistant"}, "an object to be met is written { equals"),
        ({"min": "1"}, "write a number"),
        ({"min": True}, "write a number"),
        ({"max_length": -1}, "write a whole number"),
        ({"max_length": 1.5}, "write a whole number"),
        ({"type": "text"}, "write one of string"),
        ({"exists": "yes"}, "write true or false"),
        ({"like": 5}, "write a text"),
        ({"one_of": []}, "write a list"),
        ({"exists": True, "lenght": 1}, 'there is no test "lenght"'),
    ],
)
def test_a_test_that_is_none_is_named(expected, why):
    assert why in fault(expected)


DOCUMENT = {"a": [{"b": 1}, None], "": 2, "x/y": 3, "m~n": 4, "0": 5}


@pytest.mark.parametrize(  # RFC 6901 §5 among them
    ("pointer", "value"),
    [
        ("", DOCUMENT),
        ("/a/0/b", 1),
        ("/a/1", None),
        ("/", 2),
        ("/x~1y", 3),
        ("/m~0n", 4),
        ("/0", 5),
        ("/a/2", MISSING),
        ("/a/00", MISSING),
        ("/a/-", MISSING),
        ("/a/-1", MISSING),
        ("/a/0/b/c", MISSING),
        ("/none", MISSING),
    ],
)
def test_pointers_lead_where_rfc_6901_says(pointer, value):
    assert pointer_fault(pointer) == ""
    found = at(DOCUMENT, pointer)
    assert found is value if value is MISSING else found == value


@pytest.mark.parametrize(("pointer", "why"), [("a/b", 'begins with "/"'), ("/a~b", 'write it as "~0"')])
def test_what_is_no_pointer(pointer, why):
    assert why in pointer_fault(pointer)


def test_a_long_value_is_cut_in_the_text():
    assert len(broken("x", "y" * 10_000)) < 200


def test_no_form_takes_long_whatever_the_text():
    began = time.perf_counter()
    assert broken({"like": "*a" * 20 + "b"}, "a" * 5_000)
    assert time.perf_counter() - began < 1
