"""What the state hash is read into is the same, whatever was read before; what did not change is not read again."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from bgproxy.errors import StoreBroken, StoreUnavailable
from bgproxy.rules import barrier
from bgproxy.rules.barrier import Move
from bgproxy.rules.fleet import FleetState
from bgproxy.store.document import state_document
from bgproxy.store.redis_state import StateReader

WHERE = "store redis://h: key k"


def fields(state: FleetState, **others: bytes) -> dict[bytes, bytes]:
    """The hash of a state, with other values in it."""
    document = state_document(state)
    releases = document.pop("releases")
    found = {name.encode(): orjson.dumps(value) for name, value in document.items()}
    found |= {b"release:" + color.encode(): orjson.dumps(value) for color, value in releases.items()}
    return found | {b"chain": b"1 1 ab"} | {name.encode(): value for name, value in others.items()}


def history(flips: Any) -> list[FleetState]:
    """States one after the other, of every kind of change."""
    first = flips.first().state
    terms = {"at": 1.0, "exclude": ("n9",), "hold_timeout": 1.0, "key": "k", "request": "r", "node": "n1"}
    prepared = barrier.prepare(first, Move("flip", "green", "ada", "why"), **terms)
    assert prepared is not None
    pending = prepared.state
    both = barrier.pause(pending, max_hold=2.0, actor="ada", reason="quiet").state
    flipped = barrier.complete(pending, pending.revision, at=2.0)
    given_up = barrier.abandon(both, pending.revision, actor="a", why="b")
    assert flipped is not None
    assert given_up is not None
    staged = flips.stage(flipped.state, "blue", "v3").state
    return [first, pending, both, given_up.state, pending, flipped.state, staged, first]


def test_it_is_what_a_first_reading_finds(flips: Any) -> None:
    reader = StateReader(WHERE)
    for state in history(flips):
        assert reader.state(fields(state)) == state == StateReader(WHERE).state(fields(state))


def test_what_did_not_change_is_the_same_object(flips: Any) -> None:
    first, pending, both, *_ = history(flips)
    reader = StateReader(WHERE)
    known = reader.state(fields(first))
    assert reader.state(fields(first, chain=b"2 1 cd")) is known
    for state in (pending, both, first):
        found = reader.state(fields(state))
        assert found == state
        assert known is not None
        assert found.releases is known.releases


@pytest.mark.parametrize(
    ("name", "value"),
    [("pending", b"{"), ("pending", b"{}"), ("pause", b"7"), ("revision", b"x"), ("pointer", b"{}"), ("schema", b"99")],
)
def test_what_is_broken_later_is_found_and_mended_again(flips: Any, name: str, value: bytes) -> None:
    first, pending, *_ = history(flips)
    reader = StateReader(WHERE)
    reader.state(fields(first))
    for _ in range(2):
        with pytest.raises(StoreUnavailable if name == "schema" else StoreBroken, match="key k"):
            reader.state(fields(first, **{name: value}))
    assert reader.state(fields(pending)) == pending


@pytest.mark.parametrize("name", [b"revision", b"pointer", b"release:blue", b"colors"])
def test_a_field_that_goes_missing(flips: Any, name: bytes) -> None:
    reader, first = StateReader(WHERE), flips.first().state
    whole = fields(first)
    reader.state(whole)
    less = {field: value for field, value in whole.items() if field != name}
    try:
        alone = StateReader(WHERE).state(less)
    except StoreBroken:
        with pytest.raises(StoreBroken):
            reader.state(less)
    else:
        assert reader.state(less) == alone != first


def test_where_there_is_no_hash_there_is_no_state(flips: Any) -> None:
    reader, first = StateReader(WHERE), flips.first().state
    assert reader.state({}) is None
    assert reader.state(fields(first)) == first
    assert reader.state({}) is None
    assert reader.state(fields(first)) == first
