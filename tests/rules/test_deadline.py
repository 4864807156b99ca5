"""A drain's deadline: who may set one, when it counts, and what becomes of it at each change of the fleet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bgproxy.errors import BadInput, Refused, UnknownColor
from bgproxy.rules import fleet
from bgproxy.rules.by_hand import move_session
from bgproxy.rules.configured import reconfigure
from bgproxy.rules.deadline import LONGEST, end_sessions, set_deadline
from bgproxy.rules.fleet import Change, FleetState
from bgproxy.rules.pin import Pin
from bgproxy.rules.pointer import Pointer
from bgproxy.rules.release import Event, Phase, Release

WHO: dict[str, Any] = {"actor": "ada", "reason": "because", "at": 50.0}
HERE = ("http://127.0.0.1:1",)
LEAVING = [Phase.STANDBY, Phase.ROLLED_BACK]


def fleet_with(blue: Phase = Phase.STANDBY, **more: Any) -> FleetState:
    """Green is active; blue stands as told."""
    origin = more.pop("origin", "api")
    releases = {
        "blue": Release("v1", HERE, phase=blue, origin=origin, at=1.0, **more),
        "green": Release("v2", HERE, phase=Phase.ACTIVE, at=1.0),
    }
    return FleetState(20, Pointer("green", "blue", 7, "x", "y", 2.0), releases, ("blue", "green", "red"))


def blue_after(change: Change | None) -> Release:
    assert change is not None
    return change.state.releases["blue"]


class TestSetting:
    @pytest.mark.parametrize("phase", LEAVING)
    def test_it_counts_from_the_stores_time(self, phase: Phase) -> None:
        change = set_deadline(fleet_with(phase), "blue", 30, **WHO)
        assert blue_after(change).deadline == 80.0
        assert change is not None
        assert change.stamped(1000.25).releases["blue"].deadline == 1030.25
        assert change.stamped(1000.25).releases["blue"].at == 1000.25
        assert (change.verb, change.moved, change.touched, change.state.revision) == ("drain", False, {"blue"}, 21)
        assert change.facts == {"color": "blue", "release": "v1", "deadline": 30}

    def test_a_later_one_replaces_it_and_none_cancels(self) -> None:
        standing = fleet_with(deadline=80.0)
        assert blue_after(set_deadline(standing, "blue", 300.0, **WHO)).deadline == 350.0
        change = set_deadline(standing, "blue", None, **WHO)
        assert blue_after(change).deadline == 0.0
        assert change is not None
        assert change.stamped(99.0).releases["blue"].deadline == 0.0
        assert change.facts["deadline"] is None

    def test_to_cancel_what_is_not_there_is_nothing_to_do(self) -> None:
        assert set_deadline(fleet_with(), "blue", None, **WHO) is None

    @pytest.mark.parametrize("seconds", [None, 5.0])
    @pytest.mark.parametrize("phase", [phase for phase in Phase if phase not in LEAVING])
    def test_where_nothing_drains(self, phase: Phase, seconds: float | None) -> None:
        with pytest.raises(Refused, match=f"nothing drains on blue: v1 is {phase}"):
            set_deadline(fleet_with(phase), "blue", seconds, **WHO)

    def test_on_the_active_color_an_empty_one_and_one_that_is_none(self) -> None:
        with pytest.raises(Refused, match="green is active"):
            set_deadline(fleet_with(), "green", 5.0, **WHO)
        with pytest.raises(Refused, match="red has no release"):
            set_deadline(fleet_with(), "red", 5.0, **WHO)
        with pytest.raises(UnknownColor, match="pink"):
            set_deadline(fleet_with(), "pink", 5.0, **WHO)

    @pytest.mark.parametrize("seconds", [None, 5.0])
    def test_where_the_sessions_were_ended_already(self, seconds: float | None) -> None:
        with pytest.raises(Refused, match="ended already"):
            set_deadline(fleet_with(ended=True, deadline=9.0), "blue", seconds, **WHO)

    @pytest.mark.parametrize("seconds", [-0.001, LONGEST + 1, float("inf"), float("nan")])
    def test_what_is_no_deadline(self, seconds: float) -> None:
        with pytest.raises(BadInput, match="deadline"):
            set_deadline(fleet_with(), "blue", seconds, **WHO)

    def test_the_bounds_are_deadlines(self) -> None:
        assert blue_after(set_deadline(fleet_with(), "blue", 0.0, **WHO)).deadline == 50.0
        assert blue_after(set_deadline(fleet_with(), "blue", LONGEST, **WHO)).deadline == 50.0 + LONGEST


class TestEnding:
    evidence: dict[str, object] = {"sessions": 3}

    def end(self, state: FleetState, label: str = "v1", at: float = 80.0) -> Change | None:
        return end_sessions(state, "blue", label, actor="bgproxy", reason="passed", at=at, evidence=self.evidence)

    @pytest.mark.parametrize("phase", LEAVING)
    def test_once_it_has_passed_all_are_over(self, phase: Phase) -> None:
        change = self.end(fleet_with(phase, deadline=80.0))
        assert blue_after(change).ended
        assert blue_after(change).deadline == 80.0
        assert blue_after(change).phase is phase
        assert change is not None
        assert change.facts == {"color": "blue", "release": "v1", "ended": True, "evidence": {"sessions": 3}}
        assert (change.verb, change.touched) == ("drain", {"blue"})

    @pytest.mark.parametrize(
        ("more", "label", "at"),
        [
            ({"deadline": 80.0}, "v0", 80.0),  # another label
            ({"deadline": 80.001}, "v1", 80.0),  # moved, or still to come
            ({}, "v1", 80.0),  # cancelled
            ({"deadline": 80.0, "ended": True}, "v1", 80.0),
        ],
    )
    def test_where_that_is_late_nothing_happens(self, more: dict[str, Any], label: str, at: float) -> None:
        assert self.end(fleet_with(**more), label, at) is None

    @pytest.mark.parametrize("phase", [phase for phase in Phase if phase not in LEAVING])
    def test_nor_in_any_other_phase(self, phase: Phase) -> None:
        assert self.end(fleet_with(phase, deadline=80.0)) is None

    def test_nor_where_traffic_has_come_back_or_nothing_stands(self) -> None:
        before = fleet_with(deadline=80.0)
        back = replace(before, pointer=replace(before.pointer, active="blue"))
        assert self.end(back) is None
        assert self.end(replace(before, releases={})) is None
        with pytest.raises(UnknownColor):
            end_sessions(before, "pink", "v1", actor="", reason="", at=99.0, evidence={})


class TestWhatBecomesOfIt:
    ended = fleet_with(deadline=80.0, ended=True, left=6, ended_before=("v0",))

    def test_the_pointers_coming_clears_it_and_its_leaving_says_when(self) -> None:
        back = fleet.rollback(self.ended, **WHO).state
        blue = back.releases["blue"]
        assert (blue.deadline, blue.ended, blue.left, blue.ended_before) == (0.0, False, 6, ("v0",))
        assert back.releases["green"].left == 8
        away = fleet.flip(back, "green", **WHO)
        blue = blue_after(away)
        assert (blue.deadline, blue.ended, blue.left, blue.ended_before) == (0.0, False, 9, ("v0",))

    def test_a_step_keeps_all_of_it(self) -> None:
        drained = blue_after(fleet.step(self.ended, "blue", "v1", Event.DRAINED, **WHO))
        assert (drained.deadline, drained.ended, drained.left, drained.ended_before) == (80.0, True, 6, ("v0",))

    @pytest.mark.parametrize(
        ("ended", "label", "before"),
        [
            (True, "v3", ("v1", "v0")),
            (True, "v1", ("v0",)),  # staged anew, it has sessions of its own again
            (True, "v0", ("v1",)),
            (False, "v3", ("v0",)),
            (False, "v0", ()),
        ],
    )
    @pytest.mark.parametrize("by", ["stage", "configuration"])
    def test_what_comes_onto_its_color_knows_whose_sessions_were_ended(
        self, by: str, ended: bool, label: str, before: tuple[str, ...]
    ) -> None:
        phase = Phase.DRAINED if by == "stage" or label != "v1" else Phase.STANDBY
        standing = fleet_with(phase, deadline=80.0, ended=ended, left=6, ended_before=("v0",), origin="config")
        given = Release(label, ("http://127.0.0.1:9",), origin="config", ended=True, deadline=3.0, left=3)
        if by == "stage":
            new = blue_after(fleet.stage(standing, "blue", given, **WHO))
            assert (new.deadline, new.ended, new.left, new.rolled_back) == (0.0, False, 0, 0)
        elif label == "v1":
            new = blue_after(reconfigure(standing, ["blue"], {"blue": replace(given, ended=False)}, **WHO))
            assert (new.deadline, new.ended, new.left, new.ended_before) == (80.0, ended, 6, ("v0",))
            return
        else:
            new = blue_after(reconfigure(standing, ["blue"], {"blue": Release(label, HERE)}, **WHO))
        assert new.ended_before == before

    def test_at_most_eight_labels_are_kept_the_newest(self) -> None:
        state = fleet_with(Phase.DRAINED, ended=True)
        for number in range(2, 14):
            staged = fleet.stage(state, "blue", Release(f"v1.{number}", HERE), **WHO)
            assert staged is not None
            release = replace(staged.state.releases["blue"], phase=Phase.DRAINED, ended=True)
            state = replace(staged.state, releases={**staged.state.releases, "blue": release})
        assert state.releases["blue"].ended_before == tuple(f"v1.{number}" for number in range(12, 4, -1))

    def test_a_session_is_not_moved_to_where_it_would_be_ended(self) -> None:
        session = Pin(bytes(16), "green", "v2", "", 7, 1.0, "mcp", "chat", 0, 600.0)
        with pytest.raises(Refused, match="ended by a deadline"):
            move_session(self.ended, session, "blue", actor="ada", reason="")
