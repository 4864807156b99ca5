"""A document is walked only if it may have a key: what is looked for before that."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgproxy.sessions.keys import Key
from bgproxy.sessions.plan import Plan, Reading
from bgproxy.sessions.preset import Group, Member

PLAN = Plan([(0, False, Group((Member(("outer", "session-id_2"), "s", 1),)))])


def read(plan: Plan, document: bytes, sizes: list[int] | None = None) -> list[tuple[int, Key]]:
    reading = Reading(plan)
    at = 0
    for size in [*(sizes or ()), len(document)]:
        if reading.feed(document[at : at + size]):
            break
        at += size
    reading.end()
    return reading.keys


@pytest.mark.parametrize("character", "session-id_2")
@pytest.mark.parametrize("form", ["\\u%04x", "\\u%04X"])
def test_a_name_is_found_in_each_of_its_spellings(character: str, form: str) -> None:
    name = "session-id_2".replace(character, form % ord(character))
    document = f'{{"x":"{"y" * 2_000}","outer":{{"{name}":"a"}}}}'.encode()
    assert read(PLAN, document) == read(PLAN, document, [1] * len(document)) == [(0, Key("s", b"a", 1))]


def test_what_serializers_escape_gives_no_cause_to_walk() -> None:
    assert not PLAN.mentions(rb'{"a":"\u003cb\u003e \u0026 \u0027 \u003d \u00e9 \u2028"}')


def test_every_character_of_a_plain_name_is_one_whose_escape_is_noticed() -> None:
    for character in string.ascii_letters + string.digits + "_.:@$-":
        assert PLAN.mentions(b'{"\\u%04x":1}' % ord(character))


@pytest.mark.parametrize("name", ["é", 'a"b', "a/b", "a b", "7"])
def test_a_name_that_has_several_spellings_or_none_is_not_looked_for(name: str) -> None:
    plan = Plan([(0, False, Group((Member((name,), "s", 1),)))])
    assert plan.mentions(b'{"x":1}')


@given(st.integers(900, 1_100), st.lists(st.integers(1, 300), max_size=30))
def test_a_name_is_seen_wherever_it_stands(space: int, sizes: list[int]) -> None:
    document = b'{"x":"%b","outer":{"session-id_2":"a"}}' % (b"y" * space)
    assert read(PLAN, document, sizes) == [(0, Key("s", b"a", 1))]
