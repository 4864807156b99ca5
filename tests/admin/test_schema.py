"""The checker of what comes in, keyword by keyword, and that no schema uses a keyword that it does not know."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from bgproxy.admin.asked import AUDIT_QUERY, FORGET_NODE_QUERY, NOTHING, REQUESTS
from bgproxy.admin.schema import KEYWORDS, NOTES, check, query_values
from bgproxy.admin.shapes import ANSWERS
from bgproxy.errors import BadInput

INCOMING = {**REQUESTS, "audit query": AUDIT_QUERY, "no query": NOTHING}


def keywords(schema: Any) -> set[str]:
    found = set(schema)
    for name, inner in schema.items():
        if name == "properties":
            found |= {word for member in inner.values() for word in keywords(member)}
        elif name in ("items", "additionalProperties") and isinstance(inner, dict):
            found |= keywords(inner)
    return found


@pytest.mark.parametrize("name", INCOMING)
def test_every_keyword_of_what_comes_in_is_checked(name):
    assert keywords(INCOMING[name]) <= set(KEYWORDS) | NOTES


@pytest.mark.parametrize("name", [*REQUESTS, *ANSWERS])
def test_every_schema_is_one(name):
    Draft202012Validator.check_schema((REQUESTS | ANSWERS)[name])


STAGE = {
    "release": "v2",
    "upstreams": ["http://127.0.0.1:9102"],
    "routes": {"chat": ["http://127.0.0.1:9103"]},
    "metadata": {"anything": [1, None, {"x": 0.5}]},
    "reason": "new",
    "force": False,
    "if_epoch": 0,
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"upstreams": "http://127.0.0.1:1"}, "'upstreams' must be an array, it is a string"),
        ({"upstreams": ["x", 1]}, r"'upstreams\[1\]' must be a string, it is an integer"),
        ({"upstreams": ["x"] * 257}, "at most 256 items"),
        ({"upstreams": ["x" * 301]}, r"'upstreams\[0\]' must have at most 300 characters"),
        ({"upstreams": None}, "'upstreams' must be an array, it is null"),
        ({"routes": {"chat": "x"}}, r"'routes\.chat' must be an array"),
        ({"routes": {str(n): [] for n in range(257)}}, "at most 256 members"),
        ({"metadata": []}, "'metadata' must be an object, it is an array"),
        ({"release": 2}, "'release' must be a string"),
        ({"if_epoch": 2**53}, "at most 9007199254740991"),
        ({"upstream": []}, r"'upstream' is not known; did you mean 'upstreams'\?"),
        ({"Release": "v2"}, r"did you mean 'release'\?"),
        ({"z" * 500: 1}, r"'z{64}' is not known; known are release, upstreams"),
    ],
)
def test_the_checker_agrees_with_the_standard_s(change, words):
    body = STAGE | change
    assert Draft202012Validator(REQUESTS["StageRequest"]).is_valid(body) == (words is None)
    if words is None:
        check(body, REQUESTS["StageRequest"])
    else:
        with pytest.raises(BadInput, match=words):
            check(body, REQUESTS["StageRequest"])


def test_a_boolean_is_no_integer_and_a_float_is_none():
    for value, words in ((True, "it is a boolean"), (1.0, "it is a number that is no integer")):
        with pytest.raises(BadInput, match=words):
            check(value, {"type": "integer"}, "n")


@pytest.mark.parametrize(
    ("deadline", "words"),
    [
        (None, None),
        (0, None),
        (0.5, None),
        (2_592_000, None),
        (-1, "at least 0"),
        (2_592_001, "at most 2592000"),
        (True, "must be a number or null, it is a boolean"),
        ("5", "must be a number or null, it is a string"),
    ],
)
def test_what_may_be_one_of_two_kinds(deadline, words):
    body = {"deadline": deadline}
    assert Draft202012Validator(REQUESTS["DrainRequest"]).is_valid(body) == (words is None)
    if words is None:
        check(body, REQUESTS["DrainRequest"])
    else:
        with pytest.raises(BadInput, match=words):
            check(body, REQUESTS["DrainRequest"])


def test_a_pattern_matches_the_whole():
    check("abc", {"type": "string", "pattern": "[a-c]+"}, "s")
    with pytest.raises(BadInput, match="wrong form"):
        check("abc\n", {"type": "string", "pattern": "[a-c]+"}, "s")
    with pytest.raises(BadInput, match="at least 4"):
        check("abc", {"type": "string", "minLength": 4}, "s")


@pytest.mark.parametrize(
    ("texts", "values"),
    [({}, {"limit": 100}), ({"limit": "7"}, {"limit": 7}), ({"before": "12"}, {"limit": 100, "before": "12"})],
)
def test_query_values(texts, values):
    assert query_values(texts, AUDIT_QUERY) == values


@pytest.mark.parametrize("texts", [{"limit": "x"}, {"limit": "0"}, {"limit": "1001"}, {"limit": ""}, {"limit": "1.5"}])
def test_query_values_that_are_refused(texts):
    with pytest.raises(BadInput, match="'limit' must be"):
        query_values(texts, AUDIT_QUERY)


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False)])
def test_yes_and_no_in_a_query(text, value):
    assert query_values({"force": text}, FORGET_NODE_QUERY) == {"reason": "", "force": value}


@pytest.mark.parametrize("text", ["", "1", "True", "yes"])
def test_what_is_neither_yes_nor_no_in_a_query(text):
    with pytest.raises(BadInput, match="'force' must be a boolean"):
        query_values({"force": text}, FORGET_NODE_QUERY)


def test_a_query_where_there_is_none():
    with pytest.raises(BadInput, match="'x' is not known; there is none to give"):
        query_values({"x": "1"}, NOTHING)
