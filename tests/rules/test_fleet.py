"""The fleet's decisions: what each verb makes of a state, what it refuses, and what goes on record."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bgproxy.errors import BadInput, NotReady, Refused, StaleEpoch, UnknownColor
from bgproxy.rules import fleet
from bgproxy.rules.configured import reconfigure
from bgproxy.rules.fleet import Change, FleetState
from bgproxy.rules.pointer import Pointer
from bgproxy.rules.release import Event, Phase, Release

WHO: dict[str, Any] = {"actor": "ada", "reason": "because", "at": 50.0}


def release(label: str, phase: Phase = Phase.READY, port: int = 1, **more: Any) -> Release:
    return Release(label, (f"http://127.0.0.1:{port}",), phase=phase, at=1.0, **more)


def state(active: str = "blue", previous: str | None = None, **phases: Phase) -> FleetState:
    """A fleet of blue, green and red; a color that is not given a phase has no release."""
    phases = {"blue": Phase.ACTIVE, "green": Phase.READY} | phases
    releases = {color: release(f"{color}-1", phase) for color, phase in phases.items()}
    pointer = Pointer(active, previous, epoch=7, actor="x", reason="y", at=2.0)
    return FleetState(revision=20, pointer=pointer, releases=releases, colors=("blue", "green", "red"))


def phases_of(change: Change | None) -> dict[str, Phase]:
    assert change is not None
    return {color: release.phase for color, release in change.state.releases.items()}


class TestBootstrap:
    def test_the_first_state(self) -> None:
        given = {"blue": release("v1", Phase.STAGED), "green": release("v2")}
        change = fleet.bootstrap(["blue", "green"], "blue", given, "config", 9.0, "start")
        assert change.state.revision == 1
        assert change.state.pointer == Pointer("blue", None, 1, "config", "start", 9.0)
        assert phases_of(change) == {"blue": Phase.ACTIVE, "green": Phase.READY}
        assert (change.verb, change.moved, change.touched) == ("bootstrap", True, {"blue", "green"})

    def test_the_active_color_may_be_empty(self) -> None:
        assert fleet.bootstrap(["blue", "green"], "blue", {}, "config", 9.0).state.active is None

    @pytest.mark.parametrize("name", ["", "Blue", "blue green", "b" * 33, "-blue", "blue\n", "blü", "a:b"])
    def test_names_that_are_no_colors(self, name: str) -> None:
        with pytest.raises(BadInput, match="color"):
            fleet.bootstrap([name], name, {}, "config", 9.0)

    def test_no_colors_at_all(self) -> None:
        with pytest.raises(BadInput, match="at least one"):
            fleet.bootstrap([], "blue", {}, "config", 9.0)

    def test_an_active_color_that_is_none(self) -> None:
        with pytest.raises(UnknownColor, match="blue, green"):
            fleet.bootstrap(["blue", "green"], "red", {}, "config", 9.0)

    def test_a_release_on_a_color_that_is_none(self) -> None:
        with pytest.raises(UnknownColor):
            fleet.bootstrap(["blue"], "blue", {"green": release("v1")}, "config", 9.0)


class TestFlip:
    def test_moves_pointer_and_both_phases_in_one_change(self) -> None:
        change = fleet.flip(state(), "green", **WHO)
        assert change is not None
        assert change.state.pointer == Pointer("green", "blue", 8, "ada", "because", 50.0)
        assert change.state.revision == 21
        assert phases_of(change) == {"blue": Phase.STANDBY, "green": Phase.ACTIVE}
        assert change.facts == {
            "from": "blue",
            "to": "green",
            "release": "green-1",
            "phases": {"blue": ["active", "standby"], "green": ["ready", "active"]},
        }
        assert (change.verb, change.moved, change.touched) == ("flip", True, {"blue", "green"})

    def test_the_state_that_was_decided_on_stays_as_it_was(self) -> None:
        before = state()
        fleet.flip(before, "green", **WHO)
        assert before == state()

    def test_with_bake_the_target_is_watched(self) -> None:
        assert phases_of(fleet.flip(state(), "green", bake=True, **WHO))["green"] is Phase.BAKING

    @pytest.mark.parametrize("phase", [Phase.STANDBY, Phase.DRAINED])
    def test_what_was_active_before_needs_no_bake(self, phase: Phase) -> None:
        assert phases_of(fleet.flip(state(green=phase), "green", bake=True, **WHO))["green"] is Phase.ACTIVE

    def test_to_the_active_color_is_nothing_to_do(self) -> None:
        assert fleet.flip(state(), "blue", **WHO) is None
        assert fleet.flip(state(), "blue", if_epoch=7, force=True, problem="down", **WHO) is None

    def test_an_unknown_color(self) -> None:
        with pytest.raises(UnknownColor, match="pink"):
            fleet.flip(state(), "pink", force=True, **WHO)

    @pytest.mark.parametrize("epoch", [0, 6, 8])
    @pytest.mark.parametrize("to", ["blue", "green"])
    def test_a_stale_epoch_comes_before_everything(self, epoch: int, to: str) -> None:
        with pytest.raises(StaleEpoch) as stale:
            fleet.flip(state(), to, if_epoch=epoch, force=True, problem="down", **WHO)
        assert stale.value.extra == {"epoch": 7, "active": "blue"}

    @pytest.mark.parametrize("phase", [Phase.STAGED, Phase.VALIDATING, Phase.REJECTED, Phase.ROLLED_BACK])
    def test_what_is_not_ready_is_refused_and_can_be_forced(self, phase: Phase) -> None:
        with pytest.raises(NotReady, match=f"green-1, which is {phase}"):
            fleet.flip(state(green=phase), "green", **WHO)
        change = fleet.flip(state(green=phase), "green", force=True, **WHO)
        assert change is not None
        assert phases_of(change)["green"] is Phase.ACTIVE
        assert change.facts["forced"] == [f"green holds green-1, which is {phase}"]
        assert phases_of(fleet.flip(state(green=phase), "green", force=True, bake=True, **WHO))["green"] is Phase.BAKING

    def test_retired_cannot_be_forced(self) -> None:
        with pytest.raises(NotReady, match="retired"):
            fleet.flip(state(green=Phase.RETIRED), "green", force=True, **WHO)

    def test_a_problem_of_the_target(self) -> None:
        with pytest.raises(NotReady, match="no healthy upstream; force overrides"):
            fleet.flip(state(), "green", problem="no healthy upstream", **WHO)
        change = fleet.flip(state(), "green", problem="no healthy upstream", force=True, **WHO)
        assert change is not None
        assert change.facts["forced"] == ["no healthy upstream"]
        assert phases_of(change)["green"] is Phase.ACTIVE

    def test_an_empty_color(self) -> None:
        with pytest.raises(NotReady, match="red has no release"):
            fleet.flip(state(), "red", **WHO)
        change = fleet.flip(state(), "red", force=True, **WHO)
        assert change is not None
        assert change.state.pointer.active == "red"
        assert change.facts["forced"] == ["red has no release: stage one"]
        assert "red" not in change.state.releases

    def test_away_from_an_empty_color(self) -> None:
        change = fleet.flip(state(active="red"), "green", **WHO)
        assert phases_of(change) == {"blue": Phase.ACTIVE, "green": Phase.ACTIVE}

    def test_force_that_overrode_nothing_is_not_on_record(self) -> None:
        change = fleet.flip(state(), "green", force=True, **WHO)
        assert change is not None
        assert "forced" not in change.facts


class TestRollback:
    def test_returns_to_where_the_pointer_came_from(self) -> None:
        change = fleet.rollback(state("green", "blue", blue=Phase.STANDBY, green=Phase.ACTIVE), **WHO)
        assert (change.state.pointer.active, change.state.pointer.previous) == ("blue", "green")
        assert change.state.pointer.epoch == 8
        assert phases_of(change) == {"blue": Phase.ACTIVE, "green": Phase.STANDBY}
        assert change.verb == "rollback"

    def test_leaves_what_was_baking_as_bad(self) -> None:
        change = fleet.rollback(state("green", "blue", blue=Phase.DRAINED, green=Phase.BAKING), **WHO)
        assert phases_of(change) == {"blue": Phase.ACTIVE, "green": Phase.ROLLED_BACK}

    def test_nothing_to_return_to(self) -> None:
        with pytest.raises(Refused, match="not moved yet"):
            fleet.rollback(state(), force=True, **WHO)

    def test_a_stale_epoch(self) -> None:
        with pytest.raises(StaleEpoch):
            fleet.rollback(state("green", "blue", green=Phase.ACTIVE), if_epoch=6, **WHO)

    @pytest.mark.parametrize("phase", [Phase.STAGED, Phase.VALIDATING, Phase.READY])
    def test_a_newer_release_there_is_a_flip_not_a_rollback(self, phase: Phase) -> None:
        before = state("green", "blue", blue=phase, green=Phase.ACTIVE)
        with pytest.raises(Refused, match="has never been active"):
            fleet.rollback(before, **WHO)
        assert phases_of(fleet.rollback(before, force=True, **WHO))["blue"] is Phase.ACTIVE

    def test_never_in_silence_onto_what_is_down(self) -> None:
        before = state("green", "blue", blue=Phase.STANDBY, green=Phase.ACTIVE)
        with pytest.raises(NotReady, match="down"):
            fleet.rollback(before, problem="down", **WHO)
        assert fleet.rollback(before, problem="down", force=True, **WHO).facts["forced"] == ["down"]

    def test_a_rollback_can_be_rolled_back_where_the_release_was_settled(self) -> None:
        once = fleet.rollback(state("green", "blue", blue=Phase.STANDBY, green=Phase.ACTIVE), **WHO)
        twice = fleet.rollback(once.state, **WHO)
        assert (twice.state.pointer.active, twice.state.pointer.epoch) == ("green", 9)

    def test_but_not_onto_what_was_found_bad(self) -> None:
        once = fleet.rollback(state("green", "blue", blue=Phase.STANDBY, green=Phase.BAKING), **WHO)
        with pytest.raises(NotReady, match="rolled_back"):
            fleet.rollback(once.state, **WHO)


class TestWhatARollbackLeft:
    def rolled_back(self, phase: Phase = Phase.BAKING) -> FleetState:
        return fleet.rollback(state("green", "blue", blue=Phase.STANDBY, green=phase), **WHO).state

    @pytest.mark.parametrize("phase", [Phase.BAKING, Phase.ACTIVE])
    def test_it_carries_the_rollbacks_epoch(self, phase: Phase) -> None:
        after = self.rolled_back(phase)
        assert (after.releases["green"].rolled_back, after.pointer.epoch) == (8, 8)
        assert after.releases["blue"].rolled_back == 0

    def test_a_flip_leaves_without_it(self) -> None:
        after = fleet.flip(state(), "green", **WHO)
        assert after is not None
        assert after.state.releases["blue"].rolled_back == 0

    def test_a_step_and_new_upstreams_keep_it(self) -> None:
        drained = fleet.step(self.rolled_back(), "green", "green-1", Event.DRAINED, **WHO)
        assert drained is not None
        assert drained.state.releases["green"].rolled_back == 8
        before = self.rolled_back()
        green = replace(before.releases["green"], origin="config")
        configured = replace(before, releases={**before.releases, "green": green})
        moved = reconfigure(configured, ["green"], {"green": release("green-1", port=9, origin="config")}, **WHO)
        assert moved is not None
        assert moved.state.releases["green"].rolled_back == 8

    def test_the_pointers_coming_back_keeps_it_and_another_release_does_not(self) -> None:
        again = fleet.flip(self.rolled_back(Phase.ACTIVE), "green", **WHO)
        assert again is not None
        assert again.state.releases["green"].rolled_back == 8
        left = fleet.flip(again.state, "blue", **WHO)
        assert left is not None
        assert left.state.releases["green"].rolled_back == 8
        before = self.rolled_back()
        staged = fleet.stage(before, "green", before.releases["green"], force=True, **WHO)
        assert staged is not None
        assert staged.state.releases["green"].rolled_back == 0


class TestStage:
    new = Release("v9", ("http://127.0.0.1:9/",), metadata={"commit": "abc"}, phase=Phase.ACTIVE)

    @pytest.mark.parametrize(
        "phase", [Phase.STAGED, Phase.VALIDATING, Phase.READY, Phase.REJECTED, Phase.DRAINED, Phase.RETIRED]
    )
    def test_over_what_holds_nothing(self, phase: Phase) -> None:
        change = fleet.stage(state(green=phase), "green", self.new, **WHO)
        assert change is not None
        staged = change.state.releases["green"]
        assert (staged.label, staged.phase, staged.at) == ("v9", Phase.STAGED, 50.0)
        assert staged.upstreams == ("http://127.0.0.1:9",)
        assert change.state.pointer == state().pointer
        assert (change.verb, change.moved, change.touched) == ("stage", False, {"green"})

    def test_on_an_empty_color(self) -> None:
        change = fleet.stage(state(), "red", self.new, **WHO)
        assert change is not None
        assert change.facts["phases"] == {"red": [None, "staged"]}

    @pytest.mark.parametrize("phase", [Phase.STANDBY, Phase.ROLLED_BACK])
    def test_over_live_sessions_only_by_force(self, phase: Phase) -> None:
        with pytest.raises(Refused, match="drained"):
            fleet.stage(state(green=phase), "green", self.new, **WHO)
        change = fleet.stage(state(green=phase), "green", self.new, force=True, **WHO)
        assert change is not None
        assert change.facts["forced"] == [f"green held green-1, {phase}"]

    @pytest.mark.parametrize("force", [False, True])
    def test_never_on_the_active_color(self, force: bool) -> None:
        with pytest.raises(Refused, match="blue is active"):
            fleet.stage(state(), "blue", self.new, force=force, **WHO)

    def test_the_same_again_is_nothing_to_do(self) -> None:
        once = fleet.stage(state(), "green", self.new, **WHO)
        assert once is not None
        assert fleet.stage(once.state, "green", self.new, **WHO) is None

    def test_the_same_again_after_a_rejection_is_a_new_try(self) -> None:
        before = state(green=Phase.REJECTED)
        again = replace(before.releases["green"], phase=Phase.STAGED)
        assert phases_of(fleet.stage(before, "green", again, **WHO))["green"] is Phase.STAGED

    def test_refusals(self) -> None:
        with pytest.raises(UnknownColor):
            fleet.stage(state(), "pink", self.new, **WHO)
        with pytest.raises(StaleEpoch):
            fleet.stage(state(), "green", self.new, if_epoch=1, **WHO)
        with pytest.raises(BadInput, match="https"):
            fleet.stage(state(), "green", replace(self.new, upstreams=("https://a:1",)), **WHO)
        with pytest.raises(BadInput, match="label"):
            fleet.stage(state(), "green", replace(self.new, label="v 9"), **WHO)

    def test_a_rollback_does_not_land_on_what_was_staged_meanwhile(self) -> None:
        flipped = fleet.flip(state(), "green", **WHO)
        assert flipped is not None
        staged = fleet.stage(flipped.state, "blue", self.new, force=True, **WHO)
        assert staged is not None
        with pytest.raises(Refused, match="v9 by now"):
            fleet.rollback(staged.state, **WHO)


class TestStep:
    def test_advances_one_release_with_its_evidence(self) -> None:
        before = state(green=Phase.VALIDATING)
        change = fleet.step(before, "green", "green-1", Event.PASSED, evidence={"checks": 3}, **WHO)
        assert change is not None
        assert phases_of(change)["green"] is Phase.READY
        assert change.facts["evidence"] == {"checks": 3}
        assert change.facts["phases"] == {"green": ["validating", "ready"]}
        assert (change.verb, change.moved, change.touched) == ("phase", False, {"green"})

    def test_late_news_is_nothing_to_do(self) -> None:
        assert fleet.step(state(), "green", "green-1", Event.PASSED, **WHO) is None
        assert fleet.step(state(green=Phase.READY), "green", "green-1", Event.VALIDATE, **WHO) is None
        assert fleet.step(state(green=Phase.VALIDATING), "green", "green-0", Event.PASSED, **WHO) is None
        assert fleet.step(state(), "red", "red-1", Event.PASSED, **WHO) is None

    @pytest.mark.parametrize("event", [Event.ACTIVATE, Event.LEAVE, Event.ROLL_BACK, Event.FORCE_ACTIVATE])
    def test_never_moves_what_belongs_to_the_pointer(self, event: Event) -> None:
        with pytest.raises(ValueError, match="flip or rollback"):
            fleet.step(state(), "green", "green-1", event, **WHO)

    def test_an_unknown_color(self) -> None:
        with pytest.raises(UnknownColor):
            fleet.step(state(), "pink", "x", Event.PASSED, **WHO)


class TestReconfigure:
    def reconfigure(self, before: FleetState, **releases: Release) -> Change | None:
        return reconfigure(before, before.colors, releases, **WHO)

    def configured(self, phase: Phase = Phase.READY) -> FleetState:
        before = state()
        return replace(before, releases={**before.releases, "green": release("g1", phase, origin="config")})

    def test_the_same_says_nothing(self) -> None:
        assert self.reconfigure(self.configured(), green=release("g1", Phase.STAGED, origin="config")) is None

    @pytest.mark.parametrize("phase", [Phase.READY, Phase.STANDBY, Phase.ACTIVE])
    def test_new_upstreams_of_the_same_release_keep_its_phase(self, phase: Phase) -> None:
        change = self.reconfigure(self.configured(phase), green=release("g1", Phase.STAGED, 2, origin="config"))
        assert change is not None
        assert change.state.releases["green"].upstreams == ("http://127.0.0.1:2",)
        assert change.state.releases["green"].phase is phase
        assert change.verb == "configure"

    def test_another_label_where_nothing_lives(self) -> None:
        change = self.reconfigure(self.configured(), green=release("g2", Phase.STAGED, origin="config"))
        assert phases_of(change)["green"] is Phase.STAGED

    @pytest.mark.parametrize("phase", [Phase.ACTIVE, Phase.BAKING, Phase.STANDBY, Phase.ROLLED_BACK])
    def test_another_label_where_something_lives_is_refused(self, phase: Phase) -> None:
        with pytest.raises(Refused, match="stage g2 on an idle color"):
            self.reconfigure(self.configured(phase), green=release("g2", origin="config"))

    def test_what_came_by_the_api_is_not_touched(self) -> None:
        assert self.reconfigure(state(), green=release("g9", Phase.STAGED, 5, origin="config")) is None

    def test_a_color_without_a_release_gets_one(self) -> None:
        change = self.reconfigure(state(), red=release("r1", Phase.STAGED, origin="config"))
        assert phases_of(change)["red"] is Phase.STAGED

    def test_an_empty_active_color_is_filled_as_active(self) -> None:
        change = self.reconfigure(state(active="red"), red=release("r1", Phase.STAGED, origin="config"))
        assert phases_of(change)["red"] is Phase.ACTIVE

    def test_colors_are_added_and_never_taken_away(self) -> None:
        change = reconfigure(state(), ["green", "pink"], {}, **WHO)
        assert change is not None
        assert change.state.colors == ("blue", "green", "red", "pink")
        assert change.facts["colors"] == ["blue", "green", "red", "pink"]


def test_the_stores_time_goes_on_exactly_what_was_written() -> None:
    change = fleet.flip(replace(state(), releases={**state().releases, "red": release("r")}), "green", **WHO)
    assert change is not None
    stamped = change.stamped(99.0)
    assert stamped.pointer.at == 99.0
    assert {color: release.at for color, release in stamped.releases.items()} == {
        "blue": 99.0,
        "green": 99.0,
        "red": 1.0,
    }
    staged = fleet.stage(state(), "green", TestStage.new, **WHO)
    assert staged is not None
    assert staged.stamped(99.0).pointer.at == 2.0
