"""What an operator does to single sessions: what becomes an order, what is refused, and what makes one void."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bgproxy.errors import Refused, UnknownColor
from bgproxy.rules import fleet
from bgproxy.rules.by_hand import MOST_ORDERS, forget_node, forget_session, move_session
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.pin import Order, Pin
from bgproxy.rules.pointer import Pointer
from bgproxy.rules.release import Phase, Release

PIN = Pin(bytes(16), "blue", "v1", "http://127.0.0.1:1", 7, 1.0, "mcp", "chat", 0, 600.0)
WHO = {"actor": "ada", "reason": "because"}


def release(label: str, phase: Phase = Phase.READY) -> Release:
    return Release(label, (f"http://{label}:1",), phase=phase)


def state(**more: Release) -> FleetState:
    releases = {"blue": release("v1", Phase.ACTIVE), "green": release("v2"), **more}
    return FleetState(20, Pointer("blue", "green", 7, "ada", "", 2.0), releases, ("blue", "green", "red"))


def ordered(before: FleetState, to: str, pin: Pin = PIN) -> FleetState:
    change = move_session(before, pin, to, **WHO)
    assert change is not None
    return change.state


class TestOrders:
    def test_one_is_on_record_by_the_change_that_makes_it_count(self) -> None:
        change = move_session(state(), PIN, "green", **WHO)
        assert change is not None
        orders = {PIN.id: Order(PIN.id, 1.0, "green", "v2", 21)}
        assert change.state == replace(state(), revision=21, orders=orders) == change.stamped(99.0)
        assert (change.verb, change.actor, change.reason, change.moved) == ("session", "ada", "because", False)
        assert change.facts == {
            "ordered": "move",
            "id": "0" * 32,
            "from": "blue",
            "left": "v1",
            "to": "green",
            "release": "v2",
        }

    def test_it_moves_that_pin_until_it_is_there(self) -> None:
        order = ordered(state(), "green").orders[PIN.id]
        assert order.moves(PIN)
        assert not order.moves(replace(PIN, color="green", release="v2"))
        assert not order.moves(replace(PIN, created=2.0)), "a session that began anew under the same key"
        assert not order.moves(replace(PIN, id=b"1" * 16))

    def test_where_it_lives_already_there_is_nothing_to_do(self) -> None:
        assert move_session(state(), PIN, "blue", **WHO) is None

    def test_what_was_ordered_already_is_not_ordered_again(self) -> None:
        assert move_session(ordered(state(), "green"), PIN, "green", **WHO) is None

    def test_to_stay_after_all_takes_the_place_of_the_order_to_go(self) -> None:
        after = ordered(ordered(state(), "green"), "blue")
        assert after.orders == {PIN.id: Order(PIN.id, 1.0, "blue", "v1", 22)}

    def test_an_order_for_an_earlier_session_of_that_key_does_not_count(self) -> None:
        again = replace(PIN, created=5.0)
        assert ordered(ordered(state(), "green"), "green", again).orders[PIN.id].created == 5.0

    def test_to_another_release_on_its_own_color(self) -> None:
        assert move_session(state(), replace(PIN, release="v0"), "blue", **WHO) is not None

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            ({}, "red has no release"),
            ({"red": release("v3", Phase.RETIRED)}, "v3, which is retired"),
            ({"red": replace(release("v3", Phase.STANDBY), ended=True)}, "sessions of v3 on red were ended"),
            ({"red": replace(release("v3"), upstreams=(), routes={"x": ("http://x:1",)})}, "no upstream for route"),
        ],
    )
    def test_where_no_release_is_to_be_had(self, more: dict[str, Release], words: str) -> None:
        with pytest.raises(Refused, match=words):
            move_session(state(**more), PIN, "red", **WHO)

    def test_to_a_color_that_is_none(self) -> None:
        with pytest.raises(UnknownColor, match="this fleet has blue, green, red"):
            move_session(state(), PIN, "violet", **WHO)

    def test_there_is_room_for_so_many_and_those_that_are_over_make_room(self) -> None:
        full = state()
        for number in range(MOST_ORDERS):
            full = ordered(full, "green", replace(PIN, id=number.to_bytes(16, "big")))
        one_more = replace(PIN, id=b"x" * 16)
        with pytest.raises(Refused, match="64 sessions are to be moved already"):
            move_session(full, one_more, "green", **WHO)
        assert move_session(full, PIN, "blue", **WHO) is not None  # in its own place
        done = full.orders[PIN.id]
        change = move_session(full, one_more, "green", **WHO, over=[done])
        assert change is not None
        assert (len(change.state.orders), PIN.id in change.state.orders) == (MOST_ORDERS, False)
        with pytest.raises(Refused):  # a newer one for the same session is not that one
            move_session(full, one_more, "green", **WHO, over=[replace(done, revision=1)])


class TestWhatMakesThemVoid:
    def test_a_flip_and_a_rollback(self) -> None:
        flipped = fleet.flip(ordered(state(), "green"), "green", at=3.0, **WHO)
        assert flipped is not None
        assert flipped.state.orders == {}
        assert fleet.rollback(ordered(flipped.state, "blue", replace(PIN, color="x")), at=4.0, **WHO).state.orders == {}

    def test_another_release_in_the_place_of_its_goal(self) -> None:
        staged = fleet.stage(ordered(state(), "green"), "green", release("v3"), at=3.0, **WHO)
        assert staged is not None
        assert staged.state.orders == {}

    def test_nothing_that_leaves_its_goal_alone(self) -> None:
        before = ordered(state(red=release("v9")), "green")
        staged = fleet.stage(before, "red", release("v3"), at=3.0, **WHO)
        assert staged is not None
        assert staged.state.orders == before.orders

    def test_the_end_of_its_goals_sessions(self) -> None:
        before = ordered(state(), "green")
        after = fleet.changed(before, {"green": replace(release("v2"), ended=True)}, "drain", {}, "ada", "")
        assert after.state.orders == {}

    def test_its_session_is_forgotten(self) -> None:
        other = replace(PIN, id=b"1" * 16)
        before = ordered(ordered(state(), "green"), "green", other)
        change = forget_session(before, PIN, actor="ada", reason="stuck")
        assert [*change.state.orders] == [other.id]
        assert (change.state.revision, change.verb, change.reason) == (23, "session", "stuck")
        assert change.facts == {"ordered": "forget", "id": "0" * 32, "from": "blue", "left": "v1"}


class TestNodes:
    def test_a_silent_one_is_forgotten_with_what_it_said_last(self) -> None:
        before = ordered(state(), "green")
        change = forget_node(before, "n-1", {"host": "h", "silent": 61.5}, live=False, **WHO)
        assert change.state == replace(before, revision=22)
        assert (change.verb, change.actor, change.reason, change.moved) == ("forget", "ada", "because", False)
        assert change.facts == {"node": "n-1", "host": "h", "silent": 61.5}

    def test_a_live_one_by_force_only(self) -> None:
        with pytest.raises(Refused, match="node n-1 is live: end its process"):
            forget_node(state(), "n-1", {}, live=True, **WHO)
        change = forget_node(state(), "n-1", {}, live=True, force=True, **WHO)
        assert change.facts == {"node": "n-1", "forced": ["it was live"]}
