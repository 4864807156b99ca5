"""What a new release takes away from what agents expose: one row per change of a schema, and back."""

from __future__ import annotations

import time

import pytest

from bgproxy.rules.contract import MOST, Contract, Difference, Part, compare


def of(**parts: Part) -> Contract:
    return Contract(parts)


def obj(required: tuple[str, ...] = (), more: object = True, **properties: object) -> dict[str, object]:
    schema: dict[str, object] = {"type": "object", "properties": properties, "required": list(required)}
    return schema if more is True else {**schema, "additionalProperties": more}


TEXT, NUMBER, WHOLE = {"type": "string"}, {"type": "number"}, {"type": "integer"}

NARROWED = [
    (obj(q=TEXT), obj(("q",), q=TEXT), "requires q"),
    (obj(q=TEXT), obj(("n",), q=TEXT, n=WHOLE), "requires n"),
    (obj(q=TEXT), obj(), "does not know q any more"),
    (obj(q=TEXT), obj(more=False, q=TEXT), "takes no further members any more"),
    (obj(q=NUMBER), obj(q=WHOLE), "does not take number any more (at /q)"),
    (obj(q={"type": ["string", "null"]}), obj(q=TEXT), "does not take null any more (at /q)"),
    (obj(q={}), obj(q=TEXT), "does not take anything but string any more (at /q)"),
    (obj(q={"enum": ["a", "b"]}), obj(q={"enum": ["a"]}), 'does not take "b" any more (at /q)'),
    (obj(q=TEXT), obj(q={**TEXT, "enum": ["a"]}), 'takes "a" only (at /q)'),
    (obj(q={"enum": [1, True]}), obj(q={"const": True}), "does not take 1 any more (at /q)"),
    (obj(q={**WHOLE, "minimum": 0}), obj(q={**WHOLE, "minimum": 1}), "has minimum 1 now (at /q)"),
    (obj(q=WHOLE), obj(q={**WHOLE, "maximum": 9}), "has maximum 9 now (at /q)"),
    (obj(q={**TEXT, "maxLength": 9}), obj(q={**TEXT, "maxLength": 8}), "has maxLength 8 now (at /q)"),
    (obj(q=TEXT), obj(q={**TEXT, "pattern": "^a"}), 'has pattern "^a" now (at /q)'),
    (obj(q={"items": NUMBER}), obj(q={"items": WHOLE}), "does not take number any more (at /q/*)"),
    (obj(q={}), obj(q={"items": TEXT}), "does not take anything but string any more (at /q/*)"),
    (obj(q=obj(r=TEXT)), obj(q=obj(("r",), r=TEXT)), "requires r (at /q)"),
    (obj(q=TEXT), obj(q=False), "takes nothing any more (at /q)"),
    (
        obj(q={"anyOf": [TEXT, {"type": "null"}]}),
        obj(q={"anyOf": [TEXT]}),
        "does not take all alternatives any more (at /q)",
    ),
]


@pytest.mark.parametrize(("old", "new", "why"), NARROWED)
def test_taking_less_is_narrowed_and_taking_more_is_not(old, new, why):
    assert compare(of(t=Part(takes=old)), of(t=Part(takes=new))) == [Difference("narrowed", f"t {why}")]
    back = compare(of(t=Part(takes=new)), of(t=Part(takes=old)))
    assert back == [] or old["properties"].keys() != new["properties"].keys()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (None, obj(("q",), q=TEXT)),
        (obj(("q",), q=TEXT), None),
        (True, obj(("q",), q=TEXT)),
        (obj(q=TEXT), obj(q=TEXT, r=TEXT)),
        (obj(("q",), q=TEXT), obj(q=TEXT)),
        (obj(q=WHOLE), obj(q=NUMBER)),
        (obj(q={**TEXT, "title": "Q"}), obj(q={**TEXT, "description": "a question"})),
        (obj(q=TEXT), obj(q={"anyOf": [TEXT, {"type": "null"}]})),
        (obj(q={"oneOf": [TEXT, WHOLE]}), obj(q={"anyOf": [NUMBER, TEXT]})),
        (obj(q={"pattern": "^a"}), obj(q={"pattern": "^a"})),
    ],
)
def test_what_is_no_difference(old, new):
    assert compare(of(t=Part(takes=old)), of(t=Part(takes=new))) == []


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (obj(("a",), a=TEXT), obj(a=TEXT), "does not promise a any more"),
        (obj(("a",), a=TEXT), obj(), "does not promise a any more"),
        (obj(a=TEXT), obj(), "does not give a any more"),
        (obj(a=TEXT), obj(a={"type": ["string", "null"]}), "may give null now (at /a)"),
        (obj(a=WHOLE), obj(a=NUMBER), "may give number now (at /a)"),
        (obj(a={"enum": ["x"]}), obj(a={"enum": ["x", "y"]}), 'may give "y" now (at /a)'),
        (obj(a={"enum": ["x"]}), obj(a={}), "may give any value now (at /a)"),
        (obj(a={"items": TEXT}), obj(a={"items": WHOLE}), "may give integer now (at /a/*)"),
        (obj(a=TEXT), None, "promises nothing of what it gives any more"),
        (
            obj(a={"anyOf": [TEXT]}),
            obj(a={"anyOf": [TEXT, WHOLE]}),
            "may give an alternative that it did not give (at /a)",
        ),
    ],
)
def test_promising_less_is_narrowed_too(old, new, why):
    assert compare(of(t=Part(gives=old)), of(t=Part(gives=new))) == [Difference("narrowed", f"t {why}")]
    assert compare(of(t=Part(gives=old)), of(t=Part(gives=old))) == []


def test_giving_more_is_no_difference():
    assert compare(of(t=Part(gives=obj(a=NUMBER))), of(t=Part(gives=obj(("a",), a=WHOLE, b=TEXT)))) == []


def test_what_is_gone_is_removed_and_what_is_new_is_nothing():
    old, new = of(**{"tool search": Part(), "tool fetch": Part()}), of(**{"tool search": Part(), "tool ask": Part()})
    assert compare(old, new) == [Difference("removed", "tool fetch")]


def test_references_are_followed_each_into_its_own_document():
    ref = {"$ref": "#/components/schemas/Q"}
    old = Contract({"t": Part(takes=ref)}, {"components": {"schemas": {"Q": obj(q=TEXT)}}})
    new = Contract({"t": Part(takes=ref)}, {"components": {"schemas": {"Q": obj(("q",), q=TEXT)}}})
    assert compare(old, old) == []
    assert compare(old, new) == [Difference("narrowed", "t requires q")]
    nowhere = Contract({"t": Part(takes={"$ref": "#/nothing"})}, {})
    assert compare(old, nowhere) == []


def test_schemas_that_hold_themselves_end():
    root = {"$defs": {"Node": obj(left={"$ref": "#/$defs/Node"}, right={"$ref": "#/$defs/Node"})}}
    both = Contract({"t": Part(takes={"$ref": "#/$defs/Node"}, gives={"$ref": "#/$defs/Node"})}, root)
    loop = Contract({"t": Part(takes={"$ref": "#/a"})}, {"a": {"$ref": "#/b"}, "b": {"$ref": "#/a"}})
    began = time.perf_counter()
    assert compare(both, both) == []
    assert compare(loop, loop) == []
    assert time.perf_counter() - began < 2


def test_there_is_an_end_to_what_is_told():
    old = of(**{f"tool {number}": Part() for number in range(1000)})
    assert len(compare(old, of())) == MOST
