"""A database's migration around a release: expanded first of all, reverted where nothing was flipped, contracted once
the old release is gone; and no way back past that."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bgproxy.errors import NotReady, Refused
from bgproxy.rules import fleet, running
from bgproxy.rules.action import Action, Hook, Migrate
from bgproxy.rules.fleet import Change, FleetState
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.plan import Bake, HttpGate, Plan
from bgproxy.rules.release import Event, Phase, Release
from bgproxy.rules.retire import FIRST_PAUSE, finish, is_due, lead, no_return, order
from bgproxy.rules.run import Run, steps

V1 = Release("v1", ("http://127.0.0.1:9101",), phase=Phase.READY)
V2 = Release("v2", ("http://127.0.0.1:9201",))
V3 = Release("v3", ("http://127.0.0.1:9301",))
WHO = {"actor": "ada", "reason": "why"}
PASS, FAIL = Finding(Verdict.PASS, "fine"), Finding(Verdict.FAIL, "bad")
RUN = Action(command=("/bin/true",))
WHOLE = Migrate(expand=RUN, revert=RUN, contract=RUN)
PLAN = Plan(gates=(HttpGate(name="smoke"),), migrate=WHOLE)
COMMAND = {"command": ["/bin/true"]}
WRITTEN: dict[str, Any] = {"migrate": {"expand": COMMAND, "revert": COMMAND, "contract": COMMAND}}


def made(change: Change | None, at: float = 5.0) -> FleetState:
    assert change is not None
    return change.stamped(at)


def run_of(state: FleetState) -> Run:
    assert state.run is not None
    return state.run


def began(plan: Plan = PLAN, written: Any = None, release: Release | None = V2) -> FleetState:
    first = fleet.bootstrap(("blue", "green", "red"), "blue", {"blue": V1}, "test", 1.0).state
    return made(running.begin(first, "green", release, plan, written or WRITTEN, leader="n1", at=2.0, **WHO))


def stepped(state: FleetState, finding: Finding = PASS) -> FleetState:
    run = run_of(state)
    return made(running.record(state, run.id, "n1", run.next, finding, at=3.0, took=0.1))


def until(state: FleetState, name: str) -> FleetState:
    while run_of(state).next != name:
        if run_of(state).next == "flip":
            state = made(fleet.flip(state, "green", at=0.0, bake=True, **WHO), 4.0)
        state = stepped(state)
    return state


@pytest.mark.parametrize(
    ("migrate", "names"),
    [
        (WHOLE, ("migrate:expand",)),
        (replace(WHOLE, rehearse=True), ("migrate:expand", "migrate:revert", "migrate:expand-again")),
        (Migrate(contract=RUN), ()),
        (None, ()),
    ],
)
@pytest.mark.parametrize("kind", ["release", "validate"])
def test_the_schema_is_expanded_first_of_all(migrate, names, kind):
    found = steps(replace(PLAN, migrate=migrate), kind)
    assert found[: len(names) + 2] == (*names, "ready", "parity")


def test_hooks_may_veto_it_before():
    hooks = (Hook(name="h", when="before", at=("migrate",)), Hook(name="t", at=("migrate",)))
    found = steps(replace(PLAN, hooks=hooks), "release")
    assert found[:3] == ("before:migrate:h", "migrate:expand", "after:migrate:t")


def schema_of(change: Change | None) -> Any:
    assert change is not None
    return change.facts.get("schema")


class TestRevert:
    def test_what_stops_it_before_its_flip_has_it_reverted_and_that_is_on_record(self):
        state = stepped(until(began(), "gate:smoke"), FAIL)
        run = run_of(state)
        assert (run.outcome, run.tell, run.plan) == ("stopped", ("migrate:revert",), WRITTEN)
        with pytest.raises(Refused, match=r"r2 has expanded for v2 is being reverted"):
            running.begin(state, "green", V3, PLAN, {}, leader="n1", at=4.0, **WHO)
        change = running.told(state, run.id, "n1", "migrate:revert", PASS, at=4.0)
        assert change is not None
        assert (change.facts["step"], change.facts["verdict"]) == ("migrate:revert", "pass")
        after = run_of(change.state)
        assert (after.tell, after.plan, after.outcome) == ((), {}, "stopped")
        assert running.begin(change.state, "green", V3, PLAN, {}, leader="n1", at=4.0, **WHO) is not None

    def test_nor_is_a_bake_begun_before_that_would_take_its_place(self):
        state = stepped(until(began(), "gate:smoke"), FAIL)
        plan = replace(PLAN, bake=Bake(max_error_rate=0.1))
        with pytest.raises(Refused, match="is being reverted"):
            running.begin(state, "blue", None, plan, {"bake": {}}, leader="n1", at=4.0, kind="bake", **WHO)

    def test_before_hooks_are_told_of_the_end(self):
        plan = replace(PLAN, hooks=(Hook(name="h", at=("end",), url="http://h/"),))
        assert run_of(stepped(until(began(plan), "ready"), FAIL)).tell == ("migrate:revert", "h")

    @pytest.mark.parametrize(
        ("step", "reverts"),
        [("migrate:expand", True), ("ready", True), ("gate:smoke", True), ("flip", True)],
    )
    def test_an_abort_too_also_of_what_may_be_done_in_part(self, step, reverts):
        state = made(running.abort(until(began(), step), at=4.0, **WHO))
        assert (run_of(state).outcome, bool(run_of(state).tell)) == ("aborted", reverts)

    def test_what_failed_to_expand_may_be_done_in_part(self):
        assert run_of(stepped(began(), FAIL)).tell == ("migrate:revert",)

    def test_what_was_vetoed_was_not_begun(self):
        plan = replace(PLAN, hooks=(Hook(name="h", when="before", at=("migrate",), url="http://h/"),))
        state = stepped(began(plan), FAIL)
        assert (run_of(state).outcome, run_of(state).tell) == ("stopped", ())

    def test_a_rehearsal_that_reverted_well_has_nothing_left_until_it_expands_again(self):
        rehearsed = began(replace(PLAN, migrate=replace(WHOLE, rehearse=True)))
        assert run_of(stepped(stepped(rehearsed), FAIL)).tell == ("migrate:revert",), "it is tried once more"
        again = until(rehearsed, "migrate:expand-again")
        assert run_of(made(running.abort(again, at=4.0, **WHO))).tell == ("migrate:revert",)
        assert run_of(stepped(again, FAIL)).tell == ("migrate:revert",)

    def test_a_validation_that_passes_leaves_it_expanded(self):
        first = fleet.bootstrap(("blue", "green"), "blue", {"blue": V1, "green": V2}, "test", 1.0).state
        state = made(running.begin(first, "green", None, PLAN, WRITTEN, leader="n1", at=2.0, **WHO))
        while run_of(state).is_open:
            state = stepped(state)
        assert (run_of(state).outcome, run_of(state).tell) == ("validated", ())

    def test_without_a_revert_that_it_stays_expanded_is_said(self):
        state = began(written={"migrate": {"expand": COMMAND}})
        change = running.abort(until(state, "ready"), at=4.0, **WHO)
        assert schema_of(change) == "the schema stays expanded, the plan has no revert"
        assert run_of(change.state).tell == ()

    def test_after_a_rollback_it_is_left_and_that_is_said(self):
        state = until(began(replace(PLAN, bake=Bake(max_error_rate=0.1))), "bake")
        state = stepped(state, FAIL)
        state = made(fleet.rollback(state, at=0.0, **WHO))
        change = running.close(state, run_of(state).id, at=6.0)
        assert "revert was left: v2 has had traffic" in schema_of(change)
        assert change is not None
        run = run_of(change.state)
        assert (run.outcome, run.tell) == ("rolled_back", ())
        assert "revert was left" in run.why

    def test_and_where_somebody_made_it_active_meanwhile(self):
        state = until(began(), "gate:smoke")
        state = made(fleet.flip(state, "green", at=0.0, force=True, **WHO))
        change = running.close(state, run_of(state).id, at=6.0)
        assert "revert was left" in schema_of(change)

    def test_without_a_migration_nothing_is_said(self):
        state = began(Plan(gates=(HttpGate(name="smoke"),)), {"gate": []})
        change = running.abort(state, at=4.0, **WHO)
        assert (schema_of(change), run_of(change.state).tell) == (None, ())


@pytest.fixture
def drained() -> FleetState:
    """v2 is settled on green; v1 on blue is drained, and v2's contract step is still to be done."""
    state = began()
    while run_of(state).is_open:
        if run_of(state).next == "flip":
            state = made(fleet.flip(state, "green", at=0.0, **WHO), 100.0)
        state = stepped(state)
    return made(fleet.step(state, "blue", "v1", Event.DRAINED, at=0.0, **WHO), 200.0)


def ordered(state: FleetState, **more: Any) -> FleetState:
    return made(order(state, "blue", window=0.0, at=300.0, **WHO, **more), 300.0)


def led(state: FleetState, at: float = 300.0) -> FleetState:
    return made(lead(state, "blue", "v1", "", "n1", at=at), at)


def finished(state: FleetState, finding: Finding = PASS, at: float = 301.0) -> FleetState:
    contract = state.releases["blue"].retirement.contract
    return made(finish(state, "blue", "v1", "n1", finding, at=at, contract=contract), at)


@pytest.fixture
def retired(drained: FleetState) -> FleetState:
    return finished(led(ordered(drained)))


class TestContract:
    def test_until_the_old_one_is_retired_a_rollback_is_as_good_as_ever(self, drained):
        assert fleet.rollback(drained, at=0.0, **WHO).state.pointer.active == "blue"
        assert fleet.rollback(ordered(drained), at=0.0, **WHO).state.pointer.active == "blue"

    def test_what_there_is_no_way_back_from_is_said_before_and_on_record(self, drained, retired):
        said = "v2's contract step removes what v1 needs: after this no rollback to it, nor staging it anew"
        assert no_return(drained.releases["blue"]) == said
        change = order(drained, "blue", window=0.0, at=300.0, **WHO)
        assert change is not None
        assert change.facts["after_this"] == said
        assert no_return(fleet.rollback(drained, at=0.0, **WHO).state.releases["green"]) == ""

    def test_what_has_no_way_back_is_not_watched_for_one(self, drained, retired):
        plan, terms = replace(PLAN, bake=Bake(max_error_rate=0.1)), {"leader": "n1", "at": 4.0, "kind": "bake", **WHO}
        assert running.begin(ordered(drained), "green", None, plan, {"bake": {}}, **terms) is not None
        for state, why in ((led(ordered(drained)), "being taken down"), (finished(retired), "v1 is retired")):
            with pytest.raises(Refused, match=f"nothing to roll back to on blue, .*{why}"):
                running.begin(state, "green", None, plan, {"bake": {}}, **terms)

    def test_it_follows_the_retirement_led_by_the_same_node(self, retired):
        blue = retired.releases["blue"]
        assert blue.phase is Phase.RETIRED
        assert (blue.retirement.contract, blue.retirement.leader, blue.owes_contract) == (True, "n1", True)
        change = finish(retired, "blue", "v1", "n1", PASS, at=302.0, contract=True)
        assert change is not None
        assert (change.facts["step"], change.facts["verdict"]) == ("migrate:contract", "pass")
        assert "phases" not in change.facts
        done = change.state.releases["blue"]
        assert (done.retirement, done.owes_contract, done.outdated) == (None, False, {"v1": "v2"})
        assert order(change.state, "blue", window=0.0, at=400.0, **WHO) is None

    def test_what_came_of_the_retirement_is_no_word_on_it(self, retired):
        assert finish(retired, "blue", "v1", "n1", PASS, at=302.0) is None, "as where the answer to the first was lost"

    def test_once_it_has_begun_there_is_no_rollback_and_that_is_said(self, retired):
        owed = "v2's contract step, begun or still to be done, may have removed what it needs"
        for state, why in ((retired, owed), (finished(retired), "v2's contract step has removed what it needs")):
            for force in (False, True):
                with pytest.raises(NotReady, match=why):
                    fleet.rollback(state, at=0.0, force=force, **WHO)
                with pytest.raises(NotReady, match="there is no rollback past it"):
                    fleet.flip(state, "blue", at=0.0, force=force, **WHO)

    def test_nor_is_the_old_release_staged_anew_on_any_color_but_by_force(self, retired):
        state = finished(retired)
        for color in ("red", "blue"):
            with pytest.raises(Refused, match="v2's contract step has removed what v1 needs"):
                fleet.stage(state, color, V1, at=0.0, **WHO)
            assert fleet.stage(state, color, V1, at=0.0, force=True, **WHO) is not None
        after = made(fleet.stage(state, "blue", V3, at=0.0, **WHO))
        with pytest.raises(Refused, match="has removed what v1 needs"):
            fleet.stage(after, "blue", V1, at=0.0, **WHO)

    def test_while_it_is_owed_nothing_is_staged_over_it_but_by_force(self, drained, retired):
        with pytest.raises(Refused, match="contract step for v1 on blue is still to be done: `bgproxy retire blue`"):
            fleet.stage(drained, "blue", V3, at=0.0, **WHO)
        with pytest.raises(Refused, match="is being taken down"):
            fleet.stage(retired, "blue", V3, at=0.0, **WHO)
        forced = fleet.stage(drained, "blue", V3, at=0.0, force=True, **WHO)
        assert forced is not None
        assert forced.facts["forced"] == ["the contract step for v1 on blue is still to be done"]

    def test_where_it_fails_the_release_stays_retired_and_it_is_asked_for_again(self, retired):
        state = finished(retired, FAIL)
        blue = state.releases["blue"]
        assert (blue.phase, blue.retirement.is_over, blue.owes_contract) == (Phase.RETIRED, True, True)
        state = made(order(state, "blue", window=600.0, at=310.0, **WHO), 310.0)
        assert is_due(state, "blue", 310.0), "no window is waited for any more"
        assert finished(led(state, 310.0), at=311.0).releases["blue"].outdated == {"v1": "v2"}

    def test_or_is_tried_again_by_itself(self, drained):
        state = finished(finished(led(ordered(drained, when_drained=True))), FAIL, at=400.0)
        assert state.releases["blue"].retirement.due == 400.0 + FIRST_PAUSE
        assert finished(led(state, 461.0), at=462.0).releases["blue"].retirement is None

    def test_a_leader_that_died_in_it_is_followed(self, retired):
        state = made(lead(retired, "blue", "v1", "n1", "n2", at=302.0))
        assert finish(state, "blue", "v1", "n1", PASS, at=303.0, contract=True) is None
        assert finish(state, "blue", "v1", "n2", PASS, at=303.0, contract=True) is not None
