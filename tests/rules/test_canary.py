"""A share of new sessions before the flip: when it is on, whom it takes, and what its end does to those it took."""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b
from typing import Any

import pytest

from bgproxy.errors import FlipOpen, Refused
from bgproxy.rules import fleet, running
from bgproxy.rules.canary import LISTED, Canary, canary
from bgproxy.rules.choose import choose
from bgproxy.rules.configured import reconfigure
from bgproxy.rules.fleet import Change, FleetState
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.holds import Pending
from bgproxy.rules.pin import OnRollback, Pin, Policy
from bgproxy.rules.plan import Canary as CanaryPlan
from bgproxy.rules.plan import Hook, Match, Plan
from bgproxy.rules.release import Event, Phase, Release
from bgproxy.rules.run import CANARY
from bgproxy.store.flips import record_of

WHO: dict[str, Any] = {"actor": "ada", "reason": "why"}
PASS, FAIL = Finding(Verdict.PASS, "fine"), Finding(Verdict.FAIL, "too many errors")
HOOKS = (
    Hook(name="freeze", when="before", at=("canary",), url="http://a/"),
    Hook(name="ask", when="before", at=("flip",), url="http://a/"),
)
PLAN = Plan(canary=CanaryPlan(share=0.25, max_error_rate=0.01), hooks=HOOKS)
WRITTEN = {
    "canary": {"share": 0.25, "match": [{"cookie": "beta", "values": ["1"]}, {"header": "X-Team", "values": "qa"}]}
}


@pytest.fixture
def state() -> FleetState:
    """Blue is active with v1; v2 is brought out on green."""
    first = fleet.bootstrap(("blue", "green"), "blue", {"blue": Release("v1", ("http://a:1",))}, "test", 1.0).state
    v2 = Release("v2", ("http://a:2",))
    return made(running.begin(first, "green", v2, PLAN, WRITTEN, leader="n1", at=5.0, **WHO))


def made(change: Change | None) -> FleetState:
    assert change is not None
    return change.state


def stepped(state: FleetState, finding: Finding = PASS) -> Change:
    assert state.run is not None
    change = running.record(state, state.run.id, "n1", state.run.next, finding, at=6.0, took=0.1)
    assert change is not None
    return change


def at(state: FleetState, step: str) -> FleetState:
    while state.run is not None and state.run.next != step:
        state = stepped(state).state
    return state


def digest(number: int) -> bytes:
    return blake2b(number.to_bytes(4, "big"), digest_size=16).digest()


def pin(state: FleetState) -> Pin:
    """Of a session that began on green by that state."""
    return Pin(digest(0), "green", "v2", "", state.pointer.epoch, 1.0, "mcp", "chat", 0, 600.0)


def test_it_is_on_while_its_step_is_next_and_not_before_nor_after(state: FleetState) -> None:
    seen = {}
    while state.run is not None and state.run.next:
        seen[state.run.next] = canary(state)
        state = stepped(state).state
    match = (Match(cookie="beta", values=("1",)), Match(header="X-Team", values=("qa",)))
    assert seen.pop(CANARY) == Canary("green", "v2", 0.25, 1, 6.0, match)
    assert set(seen) == {"ready", "parity", "before:canary:freeze", "before:flip:ask", "flip"}
    assert set(seen.values()) == {None}


def test_its_last_step_makes_the_release_ready(state: FleetState) -> None:
    on = at(state, CANARY)
    assert on.releases["green"].phase is Phase.VALIDATING
    after = stepped(on).state
    assert after.releases["green"].phase is Phase.READY
    assert after.pointer == on.pointer


def test_who_is_taken_follows_from_the_key_and_nothing_else() -> None:
    shares = [0.0, 0.01, 0.25, 0.8, 1.0]
    taken = [{n for n in range(4_000) if Canary("green", "v2", s, 1, 0.0).takes(digest(n), "")} for s in shares]
    for share, less, more in zip(shares, taken, taken[1:], strict=False):
        assert less < more  # who was in stays in when the share grows
        assert abs(len(less) / 4_000 - share) < 0.02
    assert (taken[0], len(taken[-1])) == (set(), 4_000)
    nobody = Canary("green", "v2", 0.0, 1, 0.0)
    assert nobody.takes(digest(1), LISTED)
    assert not Canary("green", "v2", 1.0, 1, 0.0).takes(digest(1), "blue")  # who wishes for a color gets it


def ended(state: FleetState, how: str) -> Change:
    assert state.run is not None
    if how == "failed":
        return stepped(state, FAIL)
    if how == "undecided":
        return stepped(state, Finding(Verdict.UNDECIDED, "who knows"))
    if how == "aborted":
        return running.abort(state, at=7.0, **WHO)
    flipped = made(fleet.flip(state, "green", at=7.0, force=True, **WHO))
    back = fleet.rollback(flipped, at=8.0, **WHO).state
    change = running.close(replace(back, releases=state.releases), state.run.id, at=9.0)
    assert change is not None
    return change


@pytest.mark.parametrize("how", ["failed", "undecided", "aborted", "flipped by hand"])
def test_a_bad_end_rolls_the_release_back_and_leaves_its_sessions_by_a_new_epoch(state: FleetState, how: str) -> None:
    on = at(state, CANARY)
    change = ended(on, how)
    before, after = change.base, change.state
    assert before is not None
    assert canary(after) is None
    assert (after.pointer.active, after.pointer.previous) == ("blue", before.pointer.previous)
    assert after.pointer.epoch == before.pointer.epoch + 1
    left = after.releases["green"]
    assert (left.phase, left.left, left.rolled_back) == (Phase.ROLLED_BACK, after.pointer.epoch, after.pointer.epoch)
    assert change.fits(before)
    assert change.moved  # so that the store writes the pointer with its own time
    record = record_of(change, 9.0, 3)
    assert record is not None
    assert (record.verb, record.origin, record.to) == ("canary", "green", "blue")
    mine = pin(on)
    assert choose(after.pointer, after.releases, mine) == ("blue", "rollback")
    assert choose(after.pointer, after.releases, mine, Policy.FOLLOW) == ("blue", "follow")
    assert choose(after.pointer, after.releases, mine, Policy.PINNED, OnRollback.STAY) == ("green", "pinned")
    assert choose(after.pointer, after.releases, replace(mine, color="blue", release="v1")) == ("blue", "pinned")


def test_a_bad_end_before_any_session_was_there_moves_nothing(state: FleetState) -> None:
    for step in ("parity", "before:canary:freeze"):
        change = stepped(at(state, step), FAIL)
        assert (change.moved, change.state.pointer) == (False, state.pointer)
    assert running.abort(at(state, "parity"), at=7.0, **WHO).state.pointer == state.pointer


def test_an_abort_behind_it_moves_its_sessions_too(state: FleetState) -> None:
    behind = at(state, "before:flip:ask")
    assert canary(behind) is None
    assert running.abort(behind, at=7.0, **WHO).state.pointer.epoch == behind.pointer.epoch + 1


def test_a_veto_of_the_flip_leaves_a_release_that_has_passed_as_it_is(state: FleetState) -> None:
    after = stepped(at(state, "before:flip:ask"), FAIL).state
    assert after.releases["green"].phase is Phase.READY
    assert choose(after.pointer, after.releases, pin(after)) == ("green", "pinned")


def test_while_a_flip_is_open_it_does_not_end(state: FleetState) -> None:
    on = at(state, CANARY)
    held = Pending(9, "flip", "green", 2, "bob", "", True, False, "", (), 1.0, "k", "r")
    with pytest.raises(FlipOpen):
        stepped(replace(on, pending=held), FAIL)


def test_who_takes_over_goes_on_with_it(state: FleetState) -> None:
    on = at(state, CANARY)
    after = made(running.take_over(on, "r2", "n1", "n2", at=99.0))
    assert canary(after) == canary(on)


def test_a_release_that_was_replaced_takes_nobody(state: FleetState) -> None:
    on = at(state, CANARY)
    other = made(fleet.stage(on, "green", Release("v3", ("http://a:3",)), at=7.0, force=True, **WHO))
    assert canary(other) is None
    assert running.close(other, "r2", at=8.0).state.releases["green"].phase is Phase.STAGED  # type: ignore[union-attr]


def test_its_flip_takes_its_sessions_along(state: FleetState) -> None:
    on = at(state, CANARY)
    flipped = made(fleet.flip(at(on, "flip"), "green", at=7.0, **WHO))
    assert choose(flipped.pointer, flipped.releases, pin(on)) == ("green", "pinned")


V3 = Release("v3", ("http://a:3",))


@pytest.mark.parametrize("how", ["failed", "undecided", "aborted", "flipped by hand"])
def test_what_a_bad_one_leaves_drains_before_anything_is_staged_over_it(state: FleetState, how: str) -> None:
    on = at(state, CANARY)
    after = ended(on, how).state
    with pytest.raises(Refused, match="green still holds v2, which is rolled_back and may have live sessions"):
        fleet.stage(after, "green", V3, at=9.0, **WHO)
    assert choose(after.pointer, after.releases, pin(on)) == ("blue", "rollback")  # not "gone": it waits for its turns
    drained = made(fleet.step(after, "green", "v2", Event.DRAINED, at=9.0, **WHO))
    assert drained.releases["green"].phase is Phase.REJECTED
    assert made(fleet.stage(drained, "green", V3, at=9.0, **WHO)).releases["green"].label == "v3"


def test_one_that_was_staged_anew_under_its_canary_drains_too(state: FleetState) -> None:
    again = Release("v2", ("http://a:4",))
    other = made(fleet.stage(at(state, CANARY), "green", again, at=7.0, force=True, **WHO))
    assert made(running.close(other, "r2", at=8.0)).releases["green"].phase is Phase.ROLLED_BACK


def vetoed(state: FleetState) -> FleetState:
    """The canary has passed, and the flip was not let be: the release is READY, with its sessions."""
    return stepped(at(state, "before:flip:ask"), FAIL).state


def moved_by_hand(state: FleetState) -> FleetState:
    behind = at(state, "before:flip:ask")
    flipped = made(fleet.flip(behind, "green", at=7.0, **WHO))
    pointer = replace(flipped.pointer, active="blue")  # as by a flip to a third color
    return made(running.close(replace(behind, pointer=pointer), "r2", at=8.0))


@pytest.mark.parametrize("end", [vetoed, moved_by_hand])
@pytest.mark.parametrize("release", [V3, Release("v2", ("http://a:4",))], ids=["another", "elsewhere"])
def test_nothing_is_staged_unforced_over_one_that_passed(state: FleetState, end: Any, release: Release) -> None:
    after = end(state)
    assert after.releases["green"].phase is Phase.READY
    with pytest.raises(Refused, match=r"sessions of a canary may live on v2 on green.*force overrides"):
        fleet.stage(after, "green", release, at=9.0, **WHO)
    forced = fleet.stage(after, "green", release, at=9.0, force=True, **WHO)
    assert forced is not None
    assert "sessions of a canary may live on v2 on green" in str(forced.facts["forced"])
    assert not forced.state.releases["green"].is_tried
    assert fleet.stage(after, "green", Release("v2", ("http://a:2",)), at=9.0, **WHO) is None  # what stands there
    assert made(fleet.flip(after, "green", at=9.0, **WHO)).releases["green"].phase is Phase.ACTIVE


def test_a_later_run_forgets_none_of_them(state: FleetState) -> None:
    after = vetoed(state)
    begun = made(running.begin(after, "green", None, Plan(), {}, leader="n1", at=9.0, **WHO))
    assert begun.run is not None
    assert not begun.run.has_had_sessions
    validated = stepped(stepped(begun).state).state
    assert (validated.run and validated.run.outcome, validated.releases["green"].phase) == ("validated", Phase.READY)
    with pytest.raises(Refused, match="sessions of a canary"):
        fleet.stage(validated, "green", V3, at=9.0, **WHO)
    failed = stepped(begun, FAIL).state
    assert (failed.releases["green"].phase, failed.pointer.epoch) == (Phase.ROLLED_BACK, after.pointer.epoch + 1)
    assert choose(failed.pointer, failed.releases, pin(after)) == ("blue", "rollback")


def test_the_configuration_puts_nothing_over_its_sessions(state: FleetState) -> None:
    after = vetoed(state)
    configured = replace(after, releases={**after.releases, "green": replace(after.releases["green"], origin="config")})
    with pytest.raises(Refused, match="where v2 is ready with sessions of a canary"):
        reconfigure(configured, ("blue", "green"), {"green": replace(V3, origin="config")}, at=9.0, **WHO)
