"""A run from its beginning to each of its ends: what goes on record, what the release becomes, who may say so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bgproxy.errors import NotReady, Refused, StaleEpoch, UnknownColor
from bgproxy.rules import fleet, running
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.plan import Bake, Hook, HttpGate, ManualGate, Plan
from bgproxy.rules.release import Event, Phase, Release
from bgproxy.rules.run import Run, steps, told_of_the_end

V2 = Release("v2", ("http://127.0.0.1:9102",))
PLAN = Plan(gates=(HttpGate(name="smoke"), ManualGate(name="look")))
BAKED = replace(PLAN, bake=Bake(max_error_rate=0.01))
TODO = ("ready", "parity", "gate:smoke", "approval:look")
WHO = {"actor": "ada", "reason": "why"}
PASS, FAIL, UNDECIDED = (
    Finding(Verdict.PASS, "fine"),
    Finding(Verdict.FAIL, "bad"),
    Finding(Verdict.UNDECIDED, "who knows"),
)


@pytest.fixture
def state() -> FleetState:
    """Blue is active with v1, green is empty, red holds v0, which is drained."""
    v1, v0 = Release("v1", ("http://127.0.0.1:9101",)), Release("v0", ("http://127.0.0.1:9100",), phase=Phase.DRAINED)
    return fleet.bootstrap(("blue", "green", "red"), "blue", {"blue": v1, "red": v0}, "test", 1.0).state


def began(state: FleetState, plan: Plan = PLAN, color: str = "green", release: Release | None = V2) -> FleetState:
    change = running.begin(state, color, release, plan, {"gate": []}, leader="n1", at=5.0, **WHO)
    assert change is not None
    return change.state


def run_of(state: FleetState) -> Run:
    assert state.run is not None
    return state.run


def stepped(state: FleetState, finding: Finding = PASS, at: float = 6.0) -> FleetState:
    """The next step is done by the leader."""
    run = run_of(state)
    change = running.record(state, run.id, run.leader, run.next, finding, at=at, took=0.1)
    assert change is not None
    return change.state


def until(state: FleetState, name: str) -> FleetState:
    while run_of(state).next != name:
        state = stepped(state)
    return state


def flipped(state: FleetState, to: str = "green", **terms: object) -> FleetState:
    change = fleet.flip(state, to, at=7.0, **(WHO | terms))
    assert change is not None
    return change.state


@pytest.mark.parametrize(
    ("plan", "kind", "names"),
    [
        (Plan(), "release", ("ready", "parity", "flip")),
        (PLAN, "release", (*TODO, "flip")),
        (BAKED, "release", (*TODO, "flip", "bake")),
        (BAKED, "validate", TODO),
    ],
)
def test_the_steps_of_a_plan(plan, kind, names):
    assert steps(plan, kind) == names


def test_it_begins_in_one_change_with_the_release_staged_and_validating(state):
    change = running.begin(state, "green", V2, PLAN, {"gate": [1]}, leader="n1", at=5.0, **WHO)
    assert change is not None
    run = run_of(change.state)
    assert change.state.revision == state.revision + 1
    assert change.state.releases["green"].phase is Phase.VALIDATING
    assert change.state.releases["green"].same_content(V2)
    assert (run.id, run.kind, run.todo, run.epoch, run.leader, run.next) == (
        "r2",
        "release",
        (*TODO, "flip"),
        1,
        "n1",
        "ready",
    )
    assert (change.verb, change.actor, change.touched) == ("release", "ada", {"green"})
    assert change.facts["phases"] == {"green": [None, "validating"]}
    assert change.facts["plan"] == {"gate": [1]}
    assert change.facts["upstreams"] == ["http://127.0.0.1:9102"]


def test_a_release_that_waits_there_already_may_be_validated(state):
    staged = fleet.stage(state, "green", V2, at=2.0, **WHO)
    assert staged is not None
    waiting = staged.state
    for event in (Event.VALIDATE, Event.PASSED):
        step = fleet.step(waiting, "green", "v2", event, at=3.0, **WHO)
        assert step is not None
        waiting = step.state
    state = began(waiting, release=None)
    assert (run_of(state).kind, state.releases["green"].phase) == ("validate", Phase.VALIDATING)
    assert began(waiting).releases["green"].phase is Phase.VALIDATING, "the same one is not staged anew, but tried anew"


@pytest.mark.parametrize(
    ("color", "release", "refusal", "why"),
    [
        ("blue", V2, Refused, "blue is active"),
        ("green", None, Refused, "green has no release"),
        ("red", None, Refused, "v0, which is drained"),
        ("blue", None, Refused, "v1, which is active"),
        ("pink", V2, UnknownColor, "there is no color"),
    ],
)
def test_where_it_cannot_begin(state, color, release, refusal, why):
    with pytest.raises(refusal, match=why):
        began(state, color=color, release=release)


def test_one_at_a_time_and_a_stale_job_does_not_begin(state):
    with pytest.raises(Refused, match=r"v2 on green is being released by ada \(r2\): wait, or abort"):
        began(began(state), color="red")
    with pytest.raises(StaleEpoch):
        running.begin(state, "green", V2, PLAN, {}, leader="n1", at=5.0, if_epoch=7, **WHO)


def test_who_asks_for_the_same_again_finds_it_under_way(state):
    state = stepped(began(state))
    assert running.begin(state, "green", V2, PLAN, {"gate": []}, leader="n2", at=9.0, **WHO) is None
    for other in (replace(V2, label="v3"), None):
        with pytest.raises(Refused, match="is being released"):
            running.begin(state, "green", other, PLAN, {"gate": []}, leader="n2", at=9.0, **WHO)
    with pytest.raises(Refused, match="is being released"):
        running.begin(state, "green", V2, PLAN, {"gate": [1]}, leader="n2", at=9.0, **WHO)


def test_asked_for_again_after_it_has_settled_nothing_is_to_do(state):
    state = stepped(flipped(until(began(state), "flip")))
    assert run_of(state).outcome == "settled"
    assert running.begin(state, "green", V2, PLAN, {"gate": []}, leader="n2", at=9.0, **WHO) is None
    with pytest.raises(Refused, match="green is active"):
        running.begin(state, "green", replace(V2, label="v3"), PLAN, {}, leader="n2", at=9.0, **WHO)
    with pytest.raises(Refused, match="v1, which is standby"):
        running.begin(state, "blue", None, PLAN, {}, leader="n2", at=9.0, **WHO)


def test_the_last_gate_makes_it_ready_in_the_same_change(state):
    state = until(began(state), "approval:look")
    assert state.releases["green"].phase is Phase.VALIDATING
    state = stepped(state)
    assert (state.releases["green"].phase, run_of(state).next) == (Phase.READY, "flip")
    assert run_of(state).is_open


def test_without_gates_what_is_compared_last_does(state):
    state = until(began(state, Plan()), "flip")
    assert state.releases["green"].phase is Phase.READY


def test_a_validation_ends_there(state):
    staged = fleet.stage(state, "green", V2, at=2.0, **WHO)
    assert staged is not None
    state = began(staged.state, release=None)
    while run_of(state).is_open:
        state = stepped(state)
    assert (run_of(state).outcome, state.releases["green"].phase, state.pointer.active) == (
        "validated",
        Phase.READY,
        "blue",
    )


@pytest.mark.parametrize("step", TODO)
@pytest.mark.parametrize(("finding", "word"), [(FAIL, "failed: bad"), (UNDECIDED, "could not be decided: who knows")])
def test_whatever_does_not_pass_stops_it_with_nothing_flipped(state, step, finding, word):
    state = stepped(until(began(state), step), finding)
    run = run_of(state)
    assert (run.outcome, run.why) == ("stopped", f"{step} {word}")
    assert (state.releases["green"].phase, state.pointer.active) == (Phase.REJECTED, "blue")
    assert run.plan == {}, "the record has it"
    assert began(state).releases["green"].phase is Phase.VALIDATING, "until it is staged anew"


def test_the_verdict_goes_on_record_with_its_evidence(state):
    state = began(state)
    finding = Finding(Verdict.PASS, "fine", {"answers": [{"status": 200}]})
    change = running.record(state, "r2", "n1", "ready", finding, at=6.0, took=0.25)
    assert change is not None
    assert (change.verb, change.actor) == ("release", "bgproxy")
    told = {name: change.facts[name] for name in ("run", "step", "verdict", "why", "took", "evidence")}
    assert told == {
        "run": "r2",
        "step": "ready",
        "verdict": "pass",
        "why": "fine",
        "took": 0.25,
        "evidence": {"answers": [{"status": 200}]},
    }


@pytest.mark.parametrize(
    ("run_id", "leader", "step"),
    [("r1", "n1", "ready"), ("r2", "n2", "ready"), ("r2", "n1", "parity"), ("r2", "n1", "")],
)
def test_what_is_late_or_not_the_leader_s_says_nothing(state, run_id, leader, step):
    assert running.record(began(state), run_id, leader, step, PASS, at=6.0, took=0.0) is None


def test_the_flip_settles_it_where_nothing_is_watched(state):
    state = stepped(flipped(until(began(state), "flip"), if_epoch=1))
    run = run_of(state)
    assert (run.outcome, run.has_flipped, state.releases["green"].phase) == ("settled", True, Phase.ACTIVE)


def test_with_a_bake_it_is_settled_after_that(state):
    state = stepped(flipped(until(began(state, BAKED), "flip"), bake=True))
    assert (run_of(state).next, state.releases["green"].phase) == ("bake", Phase.BAKING)
    state = stepped(state)
    assert (run_of(state).outcome, state.releases["green"].phase) == ("settled", Phase.ACTIVE)


def test_a_bake_that_fails_is_over_once_the_pointer_is_back(state):
    state = stepped(stepped(flipped(until(began(state, BAKED), "flip"), bake=True)), FAIL)
    assert (run_of(state).is_open, run_of(state).next) == (True, "")
    assert running.close(state, "r2", at=9.0) is None
    state = fleet.rollback(state, actor="bgproxy", reason="too slow", at=8.0).state
    closed = running.close(state, "r2", at=9.0)
    assert closed is not None
    assert run_of(closed.state).outcome == "rolled_back"
    assert run_of(closed.state).why == "blue was made active by bgproxy: too slow"
    assert closed.state.releases["green"].phase is Phase.ROLLED_BACK


def test_a_flip_that_is_refused_stops_it_and_leaves_the_release_ready(state):
    state = stepped(until(began(state), "flip"), FAIL)
    assert (run_of(state).outcome, state.releases["green"].phase) == ("stopped", Phase.READY)


def test_its_own_flip_is_known_again_by_who_goes_on(state):
    state = flipped(until(began(state), "flip"), if_epoch=1)
    assert running.misplaced(state) is None
    taken = running.take_over(state, "r2", "n1", "n2", at=8.0)
    assert taken is not None
    assert run_of(stepped(taken.state)).outcome == "settled"


def test_taken_over_the_leader_before_has_nothing_to_say(state):
    state = began(state)
    taken = running.take_over(state, "r2", "n1", "n2", at=8.0)
    assert taken is not None
    assert (taken.facts["before"], taken.facts["leader"], run_of(taken.state).at) == ("n1", "n2", 8.0)
    assert running.record(taken.state, "r2", "n1", "ready", PASS, at=9.0, took=0.0) is None
    assert running.take_over(taken.state, "r2", "n1", "n3", at=9.0) is None


def test_taken_over_the_step_that_is_under_way_began_when_it_did(state):
    state = began(state)
    for begun in (state, stepped(state)):
        taken = running.take_over(begun, "r2", "n1", "n2", at=99.0)
        assert taken is not None
        assert run_of(taken.state).since == run_of(begun).since < 99.0


def other_flip(state: FleetState) -> FleetState:
    return flipped(state, "red")


def forced_flip(state: FleetState) -> FleetState:
    return flipped(state, "green", force=True)


def forced_stage(state: FleetState) -> FleetState:
    change = fleet.stage(state, "green", replace(V2, label="v3"), at=7.0, force=True, **WHO)
    assert change is not None
    assert change.facts["forced"] == ["r2 was releasing v2"]
    return change.state


def same_label(state: FleetState) -> FleetState:
    change = fleet.stage(state, "green", replace(V2, upstreams=("http://127.0.0.1:1",)), at=7.0, force=True, **WHO)
    assert change is not None
    return change.state


@pytest.mark.parametrize(
    ("meanwhile", "why"),
    [
        (other_flip, "the pointer was moved meanwhile, red was made active by ada: why"),
        (forced_flip, "the pointer was moved meanwhile, green was made active by ada: why"),
        (forced_stage, "green holds v3 by now"),
        (same_label, "v2 is staged by now"),
    ],
)
def test_what_others_do_by_force_ends_it(state, meanwhile, why):
    state = meanwhile(began(state))
    assert running.record(state, "r2", "n1", "ready", PASS, at=8.0, took=0.0) is None
    closed = running.close(state, "r2", at=9.0)
    assert closed is not None
    assert (run_of(closed.state).outcome, run_of(closed.state).why) == ("stopped", why)
    assert closed.state.releases == state.releases
    assert running.close(closed.state, "r2", at=9.0) is None


def test_without_force_nobody_gets_between(state):
    state = began(state)
    with pytest.raises(Refused, match=r"v2 on green is being released \(r2\): abort that"):
        fleet.stage(state, "green", replace(V2, label="v3"), at=7.0, **WHO)
    with pytest.raises(NotReady, match="v2, which is validating"):
        flipped(state)


def test_aborted_the_release_is_rejected_and_no_late_flip_finds_it_ready(state):
    state = until(began(state), "flip")
    change = running.abort(state, actor="bob", reason="no", at=8.0)
    assert (run_of(change.state).outcome, run_of(change.state).why) == ("aborted", "bob aborted it: no")
    assert (change.actor, change.reason) == ("bob", "no")
    assert change.state.releases["green"].phase is Phase.REJECTED
    with pytest.raises(NotReady, match="rejected"):
        flipped(change.state, if_epoch=1)
    with pytest.raises(Refused, match="nothing is being released"):
        running.abort(change.state, actor="bob", reason="", at=9.0)


def test_an_abort_touches_no_release_but_its_own(state):
    state = forced_stage(began(state))
    change = running.abort(state, actor="bob", reason="", at=8.0)
    assert (run_of(change.state).outcome, change.state.releases) == ("stopped", state.releases)


def test_past_the_flip_an_abort_is_a_rollback(state):
    state = stepped(flipped(until(began(state, BAKED), "flip"), bake=True))
    with pytest.raises(Refused, match="roll back, which ends r2 too"):
        running.abort(state, actor="bob", reason="", at=8.0)


def test_an_approval_is_on_record_once(state):
    state = until(began(state), "approval:look")
    change = running.approve(state, "look", actor="bob", reason="looks good", four_eyes=True)
    assert change is not None
    assert run_of(change.state).approvals == {"look": "bob"}
    assert run_of(change.state).at == run_of(state).at, "its time does not begin anew"
    assert (change.actor, change.reason, change.facts["step"]) == ("bob", "looks good", "approve look")
    assert running.approve(change.state, "look", actor="eve", reason="", four_eyes=False) is None


def test_approvals_that_are_refused(state):
    with pytest.raises(Refused, match="nothing is being released"):
        running.approve(state, "look", actor="bob", reason="", four_eyes=False)
    state = began(state)
    with pytest.raises(Refused, match="r2 waits for no approval of 'look' now: it is at ready"):
        running.approve(state, "look", actor="bob", reason="", four_eyes=False)
    with pytest.raises(Refused, match="needs a second pair of eyes: ada began r2"):
        running.approve(until(state, "approval:look"), "look", actor="ada", reason="", four_eyes=True)


VETO = Hook(name="veto", when="before", at=("ready", "gates", "flip"), url="http://h/")
TELL = Hook(name="tell", at=("parity", "gates", "flip", "bake", "end"), url="http://h/")
HOOKED = replace(BAKED, hooks=(VETO, TELL))


def test_hooks_stand_around_their_steps():
    assert steps(HOOKED, "release") == (
        "before:ready:veto",
        "ready",
        "parity",
        "after:parity:tell",
        "before:gates:veto",
        "gate:smoke",
        "approval:look",
        "after:gates:tell",
        "before:flip:veto",
        "flip",
        "after:flip:tell",
        "bake",
        "after:bake:tell",
    )
    assert steps(HOOKED, "validate")[-1] == "after:gates:tell"
    assert told_of_the_end(HOOKED) == ("tell",)
    assert told_of_the_end(BAKED) == ()


def test_it_is_ready_after_the_last_that_is_tried_and_settled_after_the_last_of_all(state):
    state = until(began(state, HOOKED), "after:gates:tell")
    assert state.releases["green"].phase is Phase.VALIDATING
    state = stepped(state)
    assert (run_of(state).next, state.releases["green"].phase) == ("before:flip:veto", Phase.READY)
    state = stepped(flipped(stepped(state), bake=True))
    assert (run_of(state).next, state.releases["green"].phase) == ("after:flip:tell", Phase.BAKING)
    state = until(state, "after:bake:tell")
    assert (run_of(state).is_open, state.releases["green"].phase) == (True, Phase.ACTIVE)
    assert run_of(stepped(state)).outcome == "settled"


@pytest.mark.parametrize(
    ("step", "phase"),
    [
        ("before:ready:veto", Phase.REJECTED),
        ("before:gates:veto", Phase.REJECTED),
        ("before:flip:veto", Phase.READY),
    ],
)
def test_a_veto_stops_it_and_before_the_flip_the_release_is_as_good_as_it_was(state, step, phase):
    state = stepped(until(began(state, HOOKED), step), FAIL)
    assert (run_of(state).outcome, run_of(state).why) == ("stopped", f"{step} failed: bad")
    assert (state.releases["green"].phase, state.pointer.epoch) == (phase, 1)


@pytest.mark.parametrize("step", ["after:parity:tell", "after:gates:tell"])
def test_who_is_informed_has_no_say(state, step):
    state = stepped(until(began(state, HOOKED), step), FAIL)
    assert run_of(state).is_open


def test_after_the_flip_neither_and_after_a_failed_bake_nobody_is_asked(state):
    state = flipped(until(began(state, HOOKED), "flip"), bake=True)
    state = stepped(stepped(state), UNDECIDED)
    assert (run_of(state).next, run_of(state).is_open) == ("bake", True)
    state = stepped(state, FAIL)
    assert (run_of(state).has_failed, run_of(state).is_open, state.releases["green"].phase) == (
        True,
        True,
        Phase.BAKING,
    )


def test_who_is_told_of_the_end_is_told_once_by_who_leads(state):
    state = stepped(until(began(state, HOOKED), "parity"), FAIL)
    run = run_of(state)
    assert (run.tell, run.plan) == (("tell",), {"gate": []}), "the plan is kept for that"
    assert running.told(state, "r2", "n2", "tell", PASS, at=9.0) is None
    taken = running.take_over(state, "r2", "n1", "n2", at=9.0)
    assert taken is not None
    assert run_of(taken.state).outcome == "stopped"
    told = running.told(taken.state, "r2", "n2", "tell", FAIL, at=9.0)
    assert told is not None
    after = run_of(told.state)
    assert (after.tell, after.plan, after.outcome, after.why) == ((), {}, "stopped", run.why)
    assert told.facts["step"] == "after:end:tell"
    assert running.told(told.state, "r2", "n2", "tell", PASS, at=9.0) is None
    assert running.take_over(told.state, "r2", "n2", "n3", at=9.0) is None


def test_a_new_run_says_who_was_not_told_of_the_one_before(state):
    state = stepped(until(began(state, HOOKED), "parity"), FAIL)
    change = running.begin(state, "green", V2, PLAN, {}, leader="n1", at=9.0, **WHO)
    assert change is not None
    assert change.facts["untold"] == ["tell"]


def test_a_bake_may_be_approved_while_it_is_under_way(state):
    baking = stepped(flipped(until(began(state, BAKED), "flip"), bake=True))
    change = running.approve(baking, "bake", actor="bob", reason="", four_eyes=False)
    assert change is not None
    assert change.state.run is not None
    assert change.state.run.approvals == {"bake": "bob"}
    with pytest.raises(Refused, match="waits for no approval"):
        running.approve(began(state, BAKED), "bake", actor="bob", reason="", four_eyes=False)


def test_trouble_is_put_on_record_once_and_by_the_leader_alone(state):
    baking = stepped(flipped(until(began(state, BAKED), "flip"), bake=True))
    assert baking.run is not None
    told = {"why": "v1 is down", "at": 9.0}
    assert running.troubled(baking, baking.run.id, "n9", **told) is None
    change = running.troubled(baking, baking.run.id, baking.run.leader, **told)
    assert change is not None
    assert change.state.run is not None
    assert (change.state.run.trouble, change.facts["step"]) == ("v1 is down", "trouble")
    assert running.troubled(change.state, baking.run.id, baking.run.leader, **told) is None


def test_a_gate_may_name_who_approves_it(state):
    state = until(began(state), "approval:look")
    with pytest.raises(Refused, match="approved by eve, not by bob"):
        running.approve(state, "look", actor="bob", reason="", four_eyes=False, by=("eve",))
    assert running.approve(state, "look", actor="eve", reason="", four_eyes=False, by=("eve",)) is not None


def test_a_run_that_others_ended_may_be_taken_over_to_be_closed(state):
    state = other_flip(began(state))
    taken = running.take_over(state, "r2", "n1", "n2", at=8.0)
    assert taken is not None
    closed = running.close(taken.state, "r2", at=9.0)
    assert closed is not None
    assert run_of(closed.state).outcome == "stopped"
