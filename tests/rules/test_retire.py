"""Taking a release down: when it may be ordered, who carries it out, what it cost; a flip back makes it void."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bgproxy.errors import NotReady, Refused, UnknownColor
from bgproxy.rules import fleet, retire, running
from bgproxy.rules.fleet import Change, FleetState
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.plan import Bake, Decommission, Plan
from bgproxy.rules.release import Event, Phase, Release, Retirement
from bgproxy.rules.retire import FIRST_PAUSE, LONGEST_PAUSE, cancel, cost, finish, is_due, lead, order

V1 = Release("v1", ("http://127.0.0.1:9101", "http://127.0.0.1:9102"), phase=Phase.READY)
V2 = Release("v2", ("http://127.0.0.1:9201",), routes={"chat": ("http://127.0.0.1:9202", "http://127.0.0.1:9203")})
WHO = {"actor": "ada", "reason": "why"}
PASS, FAIL = Finding(Verdict.PASS, "gone", {"status": 200}), Finding(Verdict.FAIL, "it is needed")
WINDOW = 600.0


def made(change: Change | None, at: float) -> FleetState:
    """The state once the store has put its time on it."""
    assert change is not None
    return change.stamped(at)


def facts(change: Change | None) -> dict[str, Any]:
    assert change is not None
    return dict(change.facts)


@pytest.fixture
def left() -> FleetState:
    """v2 was staged on green at 100, made active at 200; v1 on blue drains."""
    first = fleet.bootstrap(("blue", "green"), "blue", {"blue": V1}, "test", 1.0).stamped(1.0)
    staged = made(fleet.stage(first, "green", V2, at=0.0, **WHO), 100.0)
    ready = staged
    for event, at in ((Event.VALIDATE, 110.0), (Event.PASSED, 120.0)):
        ready = made(fleet.step(ready, "green", "v2", event, at=0.0, **WHO), at)
    return made(fleet.flip(ready, "green", at=0.0, **WHO), 200.0)


@pytest.fixture
def drained(left: FleetState) -> FleetState:
    return made(fleet.step(left, "blue", "v1", Event.DRAINED, at=0.0, **WHO), 300.0)


def ordered(state: FleetState, at: float = 900.0, **more: Any) -> FleetState:
    return made(order(state, "blue", window=WINDOW, at=at, **WHO, **more), at)


def led(state: FleetState, at: float = 900.0, by: str = "n1") -> FleetState:
    return made(lead(state, "blue", "v1", "", by, at=at), at)


class TestCost:
    def test_what_waits_costs_from_its_staging_on_through_every_phase_that_it_passes(self, left):
        first = fleet.bootstrap(("blue", "green"), "blue", {"blue": V1}, "test", 1.0).stamped(1.0)
        state = made(fleet.stage(first, "green", V2, at=0.0, **WHO), 100.0)
        for event, at in ((Event.VALIDATE, 110.0), (Event.FAILED, 120.0)):
            found = cost(state.releases["green"], 160.0)
            assert found is not None
            assert (found.since, found.replicas, found.replica_seconds, found.successor) == (100.0, 3, 180.0, "")
            state = made(fleet.step(state, "green", "v2", event, at=0.0, **WHO), at)
        assert cost(state.releases["green"], 160.0) == found, "a rejected one still runs"

    def test_what_was_left_costs_its_successors_wait_and_its_own(self, left, drained):
        for state in (left, drained, ordered(drained, force=True), ordered(drained, when_drained=True)):
            found = cost(state.releases["blue"], 1_000.0)
            assert found is not None
            assert (found.since, found.replicas, found.successor) == (100.0, 2, "v2")
            assert found.replica_seconds == 3 * (200 - 100) + 2 * (1_000 - 200)
            assert found.document()["replica_hours"] == round(1_900 / 3_600, 6)

    def test_what_serves_costs_nothing(self, left):
        assert cost(left.releases["green"], 1_000.0) is None

    def test_a_rollback_goes_on_counting_where_it_was(self, left):
        back = made(fleet.rollback(left, at=0.0, **WHO), 250.0)
        assert cost(back.releases["blue"], 300.0) is None
        found = cost(back.releases["green"], 300.0)
        assert found is not None
        assert (found.since, found.successor) == (100.0, "v1")
        assert found.replica_seconds == 3 * 100 + 2 * 50 + 3 * 50

    def test_a_release_from_before_its_times_were_kept_costs_from_what_is_known(self, left):
        old = replace(left.releases["blue"], relief=None, phase=Phase.DRAINED, at=400.0)
        found = cost(old, 500.0)
        assert found is not None
        assert (found.since, found.replica_seconds) == (400.0, 200.0)
        state = replace(left, releases={**left.releases, "blue": old})
        found = cost(ordered(state, at=2_000.0).releases["blue"], 2_100.0)
        assert found is not None
        assert found.since == 400.0, "a later change does not move it"


class TestOrder:
    def test_it_waits_for_the_window_and_is_not_due_before(self, drained):
        with pytest.raises(Refused, match=r"window of v1 on blue is open for 1 s yet, of 600 s.*--force"):
            order(drained, "blue", window=WINDOW, at=799.0, **WHO)
        state = ordered(drained, at=800.0)
        assert state.releases["blue"].retirement == Retirement("ada", "why", due=800.0)
        assert (is_due(state, "blue", 799.9), is_due(state, "blue", 800.0)) == (False, True)

    def test_what_still_drains_is_refused_ordered_for_later_or_ended(self, left):
        with pytest.raises(Refused, match=r"is not drained: `bgproxy drain blue`"):
            order(left, "blue", window=WINDOW, at=900.0, **WHO)
        later = ordered(left, when_drained=True)
        assert later.releases["blue"].retirement == Retirement("ada", "why", due=800.0, again=True)
        assert not is_due(later, "blue", 900.0)
        assert later.releases["blue"].deadline == 0.0
        forced = ordered(left, at=210.0, force=True)
        assert (forced.releases["blue"].deadline, forced.releases["blue"].phase) == (210.0, Phase.STANDBY)
        empty = made(fleet.step(forced, "blue", "v1", Event.DRAINED, at=0.0, **WHO), 211.0)
        assert is_due(empty, "blue", 211.0), "the window is not waited for"

    def test_force_is_on_record_and_overtakes_an_order_that_waits(self, drained):
        waiting = ordered(drained, at=310.0, when_drained=True)
        assert order(waiting, "blue", window=WINDOW, at=310.0, when_drained=True, **WHO) is None
        assert facts(order(waiting, "blue", window=WINDOW, at=310.0, force=True, **WHO))["forced"] is True
        assert "forced" not in facts(order(drained, "blue", window=WINDOW, at=900.0, **WHO))

    @pytest.mark.parametrize("force", [False, True])
    def test_never_the_active_one_nor_one_that_never_served(self, left, force):
        with pytest.raises(Refused, match="green is active and is never retired"):
            order(left, "green", window=0.0, at=900.0, force=force, **WHO)
        idle = fleet.bootstrap(("blue", "green"), "blue", {"blue": V1, "green": V2}, "test", 1.0).state
        with pytest.raises(Refused, match="holds v2, which is staged: only what has served"):
            order(idle, "green", window=0.0, at=900.0, force=force, **WHO)
        empty = fleet.bootstrap(("blue", "green"), "blue", {"blue": V1}, "test", 1.0).state
        with pytest.raises(Refused, match="green has no release"):
            order(empty, "green", window=0.0, at=900.0, force=force, **WHO)
        with pytest.raises(UnknownColor):
            order(empty, "violet", window=0.0, at=900.0, force=force, **WHO)

    def test_not_while_a_bake_may_roll_back_to_it(self):
        first = fleet.bootstrap(("blue", "green"), "blue", {"blue": V1}, "test", 1.0).state
        plan, who = Plan(bake=Bake(max_error_rate=0.01)), {"leader": "n1", **WHO}
        state = made(running.begin(first, "green", V2, plan, {"bake": {}}, at=1.0, **who), 1.0)
        for _ in range(3):
            assert state.run is not None
            if state.run.next == "flip":
                state = made(fleet.flip(state, "green", at=0.0, bake=True, if_epoch=1, **WHO), 2.0)
            name = state.run.next
            state = made(running.record(state, state.run.id, "n1", name, PASS, at=2.0, took=0.1), 2.0)
        drained = made(fleet.step(state, "blue", "v1", Event.DRAINED, at=0.0, **WHO), 3.0)
        with pytest.raises(Refused, match="r2 is not over yet, and may roll back to v1"):
            order(drained, "blue", window=0.0, at=900.0, force=True, **WHO)

    def test_it_is_taken_back_until_it_is_carried_out(self, drained):
        state = ordered(drained)
        gone = made(cancel(state, "blue", at=901.0, **WHO), 901.0)
        assert gone.releases["blue"].retirement is None
        assert cancel(gone, "blue", at=901.0, **WHO) is None
        with pytest.raises(Refused, match="too late"):
            cancel(led(state), "blue", at=901.0, **WHO)


class TestCarryingOut:
    def test_one_leads_and_its_word_alone_retires_it_with_what_that_frees_on_record(self, drained):
        state = led(ordered(drained))
        assert lead(state, "blue", "v1", "", "n2", at=900.0) is None, "somebody was faster"
        assert finish(state, "blue", "v1", "n2", PASS, at=950.0) is None
        change = finish(state, "blue", "v1", "n1", PASS, at=950.0)
        told = facts(change)
        assert told["phases"] == {"blue": ["drained", "retired"]}
        assert told["freed"] == {"since": 100.0, "replicas": 2, "replica_hours": 0.5, "successor": "v2"}
        assert (told["verdict"], told["evidence"]) == ("pass", {"status": 200})
        over = made(change, 950.0)
        assert (over.releases["blue"].phase, over.releases["blue"].retirement) == (Phase.RETIRED, None)
        assert order(over, "blue", window=WINDOW, at=960.0, **WHO) is None
        assert finish(over, "blue", "v1", "n1", PASS, at=950.0) is None
        assert cost(over.releases["blue"], 2_000.0) is None
        assert state.releases["blue"].upstreams_for("chat") == V1.upstreams
        assert over.releases["blue"].upstreams_for("chat") == (), "nobody asks after what is scaled to zero"

    def test_where_its_leader_is_gone_another_takes_over(self, drained):
        state = led(ordered(drained))
        after = made(lead(state, "blue", "v1", "n1", "n2", at=901.0), 901.0)
        assert finish(after, "blue", "v1", "n1", PASS, at=950.0) is None
        assert finish(after, "blue", "v1", "n2", PASS, at=950.0) is not None

    def test_it_stays_drained_where_the_hook_says_no_and_is_over(self, drained):
        state = made(finish(led(ordered(drained)), "blue", "v1", "n1", FAIL, at=950.0), 950.0)
        standing = state.releases["blue"].retirement
        assert (state.releases["blue"].phase, standing.is_over, standing.why) == (Phase.DRAINED, True, "it is needed")
        assert not is_due(state, "blue", 1e9)
        assert order(state, "blue", window=WINDOW, at=1_000.0, **WHO) is not None, "it may be asked for anew"

    def test_or_is_tried_again_later_and_later(self, drained):
        state, at, pauses = ordered(drained, when_drained=True), 900.0, []
        for _ in range(9):
            state = made(finish(led(state, at), "blue", "v1", "n1", FAIL, at=at), at)
            pauses.append(state.releases["blue"].retirement.due - at)
            assert lead(state, "blue", "v1", "", "n1", at=at) is None
            at = state.releases["blue"].retirement.due
        assert pauses == [min(FIRST_PAUSE * 2**number, LONGEST_PAUSE) for number in range(9)]

    def test_a_flip_back_makes_it_void_but_is_refused_once_it_has_begun(self, drained):
        state = ordered(drained)
        back = made(fleet.rollback(state, at=0.0, **WHO), 905.0)
        assert (back.pointer.active, back.releases["blue"].retirement) == ("blue", None)
        state = led(state)
        with pytest.raises(NotReady, match="v1, which is being taken down"):
            fleet.rollback(state, at=0.0, **WHO)
        with pytest.raises(Refused, match="v1 on blue is being taken down"):
            fleet.stage(state, "blue", V2, at=0.0, **WHO)
        forced = made(fleet.rollback(state, at=0.0, force=True, **WHO), 905.0)
        assert finish(forced, "blue", "v1", "n1", PASS, at=906.0) is None


def test_the_flip_of_a_plan_leaves_word_of_how_the_old_one_is_taken_down():
    first = fleet.bootstrap(("blue", "green"), "blue", {"blue": V1}, "test", 1.0).state
    written = {"decommission": {"automatic": True}, "gate": []}
    plan = Plan(decommission=Decommission(automatic=True))
    state = made(running.begin(first, "green", V2, plan, written, leader="n1", at=1.0, **WHO), 1.0)
    for name in ("ready", "parity"):
        assert state.run is not None
        state = made(running.record(state, state.run.id, "n1", name, PASS, at=2.0, took=0.1), 2.0)
    state = made(fleet.flip(state, "green", at=0.0, **WHO), 3.0)
    assert state.releases["blue"].parting == {"decommission": {"automatic": True}}
    back = made(fleet.rollback(state, at=0.0, **WHO), 4.0)
    assert (back.releases["blue"].parting, back.releases["green"].parting) == ({}, {})
    assert retire.cost(back.releases["green"], 5.0) is not None
