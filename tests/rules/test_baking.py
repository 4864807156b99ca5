"""A bake by itself: of what is active, once; its end moves no phase but by a rollback."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bgproxy.errors import BadInput, Refused, StaleEpoch
from bgproxy.rules import fleet, running
from bgproxy.rules.fleet import Change, FleetState
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.plan import Bake, Hook, Plan
from bgproxy.rules.release import Phase, Release
from bgproxy.rules.watch import watched

PLAN = Plan(bake=Bake(max_error_rate=0.01), hooks=(Hook(name="tell", at=("end",), url="http://h/"),))
WRITTEN = {"bake": {"max_error_rate": 0.01}, "hook": [{"at": ["end"], "url": "http://h/"}]}


@pytest.fixture
def first() -> FleetState:
    releases = {
        color: Release(label, ("http://a:1",), phase=Phase.READY) for color, label in (("blue", "v1"), ("green", "v2"))
    }
    return fleet.bootstrap(("blue", "green"), "blue", releases, "t", 1.0).state


@pytest.fixture
def flipped(first: FleetState) -> FleetState:
    return made(fleet.flip(first, "green", actor="ada", reason="", at=2.0))


def made(change: Change | None) -> FleetState:
    assert change is not None
    return change.state


def begun(state: FleetState, color: str = "green", plan: Plan = PLAN, **more: Any) -> Change | None:
    terms = {"leader": "n1", "actor": "ada", "reason": "", "at": 5.0, "kind": "bake", **more}
    return running.begin(state, color, None, plan, WRITTEN, **terms)


def found(state: FleetState, verdict: Verdict) -> FleetState:
    assert state.run is not None
    return made(running.record(state, state.run.id, "n1", "bake", Finding(verdict, "why"), at=9.0, took=4.0))


def test_it_watches_the_active_release_and_takes_no_more_of_the_plan(flipped):
    state = made(begun(flipped))
    run = state.run
    assert run is not None
    assert (run.kind, run.color, run.label, run.todo, run.tell) == ("bake", "green", "v2", ("bake",), ())
    assert run.plan == {"bake": WRITTEN["bake"]}
    assert state.releases == flipped.releases
    assert watched(state).name == f"{run.id}:bake:2"
    assert watched(state).since_flip


def test_good_it_settles_and_no_phase_moves(flipped):
    state = found(made(begun(flipped)), Verdict.PASS)
    assert state.run is not None
    assert (state.run.outcome, state.releases["green"].phase) == ("settled", Phase.ACTIVE)


def test_bad_it_waits_for_the_rollback_that_the_epoch_of_the_run_lets(flipped):
    state = found(made(begun(flipped)), Verdict.FAIL)
    assert state.run is not None
    assert (state.run.is_open, state.run.has_failed) == (True, True)
    back = fleet.rollback(state, actor="bgproxy", reason="bake", at=10.0, if_epoch=state.run.epoch + 1)
    state = made(running.close(back.state, state.run.id, at=11.0))
    assert state.run is not None
    assert (state.run.outcome, state.pointer.active) == ("rolled_back", "blue")


def test_the_same_again_is_the_one_that_is_under_way(flipped):
    state = made(begun(flipped))
    assert begun(state) is None
    other = {"bake": {"max_error_rate": 0.5}}
    with pytest.raises(Refused, match="is under way by ada"):
        running.begin(state, "green", None, PLAN, other, leader="n1", actor="a", reason="", at=5.0, kind="bake")


def test_ended_by_hand_nothing_moves(flipped):
    state = made(running.abort(made(begun(flipped)), actor="bob", reason="seen enough", at=6.0))
    assert state.run is not None
    assert (state.run.outcome, state.run.why) == ("aborted", "bob ended the watch: seen enough")
    assert (state.pointer.active, state.releases["green"].phase) == ("green", Phase.ACTIVE)


def test_what_cannot_be_watched_is_refused(first, flipped):
    with pytest.raises(Refused, match="blue is not active: what takes the traffic is watched, on green"):
        begun(flipped, "blue")
    with pytest.raises(Refused, match="the pointer has not moved yet"):
        begun(first, "blue")
    with pytest.raises(BadInput, match=r"bake is missing in the plan"):
        begun(flipped, plan=replace(PLAN, bake=None))
    with pytest.raises(StaleEpoch):
        begun(flipped, if_epoch=7)
