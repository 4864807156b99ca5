"""What a node makes of a store that says something else than it holds: each case, and what is written then."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from bgproxy.errors import Split, StaleEpoch, StoreForeign, UnknownColor
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.holds import Pending
from bgproxy.rules.pointer import Pointer
from bgproxy.rules.release import Phase, Release
from bgproxy.rules.restore import Contradiction, Verdict, decided, judge, restored

WHO = {"actor": "ada", "reason": "why"}


def state(revision: int = 10, epoch: int = 5, active: str = "green", **more: Any) -> FleetState:
    """Of blue and green, both with a release."""
    previous = "blue" if active == "green" else "green"
    by = more.pop("by", "ada")
    labels = more.pop("labels", {"blue": "v1", "green": "v2"})
    releases = {
        color: Release(
            label, ("http://h:1",), phase=Phase.ACTIVE if color == active else Phase.STANDBY, at=more.pop("at", 1.0)
        )
        for color, label in labels.items()
    }
    colors = more.pop("colors", ("blue", "green"))
    return FleetState(revision, Pointer(active, previous, epoch, by, "", 100.0 + epoch), releases, colors, **more)


HELD = state()


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (None, Verdict.BEHIND),
        (state(), Verdict.SAME),
        (state(revision=11), Verdict.NEWER),
        (state(revision=9), Verdict.BEHIND),
        (state(labels={"blue": "v1", "green": "v3"}), Verdict.CHANGED),
        (state(at=2.0), Verdict.CHANGED),
        (state(revision=11, epoch=6, active="blue"), Verdict.NEWER),
        (state(revision=10, epoch=6, active="blue"), Verdict.PASSED),
        (state(revision=3, epoch=6, active="blue"), Verdict.PASSED),
        (state(revision=9, epoch=4, active="blue"), Verdict.BEHIND),
        (state(revision=99, epoch=4, active="blue"), Verdict.BEHIND),
        (state(active="blue"), Verdict.SPLIT),
        (state(revision=9, active="blue"), Verdict.SPLIT),
        (state(revision=11, active="blue"), Verdict.SPLIT),
        (state(by="bob"), Verdict.SPLIT),
        (state(colors=("blue", "green", "red")), Verdict.CHANGED),
        (state(revision=99, epoch=9, colors=("red", "black"), labels={}, active="red"), Verdict.FOREIGN),
        (state(revision=1, epoch=1, colors=("red", "black"), labels={}, active="red"), Verdict.FOREIGN),
    ],
)
def test_what_is_found(found: FleetState | None, verdict: Verdict) -> None:
    assert judge(HELD, found) is verdict


def test_a_deadline_that_another_clock_has_rounded_is_no_other_state() -> None:
    release = HELD.releases["blue"]
    ours = replace(HELD, releases={**HELD.releases, "blue": replace(release, deadline=1.000001)})
    theirs = replace(HELD, releases={**HELD.releases, "blue": replace(release, deadline=1.000002)})
    assert judge(ours, theirs) is Verdict.SAME


@pytest.mark.parametrize(("revision", "verdict"), [(9, Verdict.BEHIND), (10, Verdict.CHANGED), (11, Verdict.NEWER)])
def test_one_flip_that_was_made_twice_is_no_split(revision: int, verdict: Verdict) -> None:
    """A failover lost its commit, not that it was begun: any node makes it again, at another time."""
    twin = state(revision=revision)
    twin = replace(twin, pointer=replace(twin.pointer, at=twin.pointer.at + 0.2))
    assert judge(HELD, twin) is verdict
    other = replace(state(revision=revision, labels={"blue": "v1", "green": "v3"}), pointer=twin.pointer)
    assert judge(HELD, other) is Verdict.SPLIT, "the same move of another history"


def found(*arguments: Any, **more: Any) -> Contradiction:
    other = state(*arguments, **more) if arguments or more else None
    return Contradiction(judge(HELD, other), HELD, other)


class TestRestored:
    def test_an_empty_store_gets_all_of_it(self) -> None:
        change = restored(found(), **WHO)
        assert change.state == replace(HELD, revision=11)
        assert (change.verb, change.whole, change.moved, change.base) == ("restore", True, False, None)
        assert change.facts == {"found": None, "restored": {"revision": 10, "epoch": 5, "active": "green"}}

    def test_a_lower_epoch_is_overwritten_above_both_revisions(self) -> None:
        lost = found(99, 4, "blue", labels={"blue": "v1", "green": "v9"}, colors=("green", "blue", "red"))
        change = restored(lost, **WHO)
        assert (change.state.revision, change.state.pointer, change.base) == (100, HELD.pointer, lost.found)
        assert change.state.colors == ("blue", "green", "red")
        assert change.state.releases == HELD.releases
        assert change.facts["found"] == {"revision": 99, "epoch": 4, "active": "blue"}
        assert change.facts["dropped"] == {"green": "v9, standby"}

    def test_a_higher_epoch_with_a_lower_revision_is_written_anew_above(self) -> None:
        passed = found(3, 6, "blue", labels={"blue": "v1"})
        change = restored(passed, **WHO)
        assert passed.found is not None
        assert (change.state.revision, change.state.pointer) == (11, passed.found.pointer)
        assert change.facts["restored"] == change.facts["found"] == {"revision": 3, "epoch": 6, "active": "blue"}
        assert change.facts["dropped"] == {"green": "v2, active"}
        assert change.base == passed.found

    def test_a_flip_that_was_pending_is_given_up(self) -> None:
        pending = Pending(10, "flip", "blue", 6, "ada", "", False, False, "", (), 1.0, "key", "request")
        change = restored(Contradiction(Verdict.BEHIND, replace(HELD, pending=pending), None), **WHO)
        assert change.state.pending is None

    @pytest.mark.parametrize(
        ("other", "error"), [({"active": "blue"}, Split), ({"colors": ("red",), "active": "red"}, StoreForeign)]
    )
    def test_what_only_an_operator_can_put_right_is_refused(self, other: Any, error: type[Exception]) -> None:
        with pytest.raises(error):
            restored(found(10, 5, **other), **WHO)

    def test_of_two_who_hold_different_states_the_higher_one_is_the_last(self) -> None:
        """In any order, from any store: each writes only where it holds more, so it ends after two steps at most."""
        sides = [state(12, 6, "blue"), state(30, 5, "green"), state(9, 4, "blue"), None]
        for store in sides:
            standing = store
            for _ in range(4):
                for held in sides[:3]:
                    assert held is not None
                    contradiction = Contradiction(judge(held, standing), held, standing)
                    if contradiction.heals:
                        standing = restored(contradiction, **WHO).state
            assert standing is not None
            assert (standing.pointer.epoch, standing.pointer.active, standing.revision >= 30) == (6, "blue", True)


class TestDecided:
    SPLIT = Contradiction(Verdict.SPLIT, HELD, state(14, 5, "blue", by="bob", labels={"blue": "v1", "green": "v9"}))

    @pytest.mark.parametrize(("to", "label"), [("green", "v2"), ("blue", "v9")])
    def test_the_side_that_is_on_the_color_goes_on(self, to: str, label: str) -> None:
        change = decided(self.SPLIT, to, **WHO, at=7.0)
        pointer = change.state.pointer
        assert (pointer.active, pointer.epoch, pointer.actor, change.state.revision) == (to, 6, "ada", 15)
        assert change.state.releases["green"].label == label
        assert (change.verb, change.moved, change.whole, change.base) == ("flip", True, True, self.SPLIT.found)
        assert change.facts["held"] != change.facts["found"]
        assert change.facts["forced"] == ["a split"]
        for side in (self.SPLIT.held, self.SPLIT.found):
            assert judge(side, change.state) is Verdict.NEWER  # both follow it

    def test_where_both_are_on_the_color_the_store_s_goes_on(self) -> None:
        """With two colors that is what a split looks like: as many flips lead to the same color."""
        split = replace(self.SPLIT, found=state(14, 5, "green", by="bob", labels={"blue": "v1", "green": "v9"}))
        change = decided(split, "green", **WHO, at=7.0)
        assert (change.state.releases["green"].label, change.facts["dropped"]) == ("v9", {"green": "v2, active"})

    def test_a_color_on_which_neither_is(self) -> None:
        split = replace(self.SPLIT, found=state(14, 5, "blue", colors=("blue", "green", "red"), labels={"red": "v7"}))
        change = decided(split, "red", **WHO, at=7.0)
        assert (change.state.pointer.active, change.state.pointer.epoch) == ("red", 6)
        assert change.state.revision > 14
        assert change.state.releases["red"].phase is Phase.ACTIVE

    def test_it_is_refused_as_any_flip(self) -> None:
        with pytest.raises(StaleEpoch):
            decided(self.SPLIT, "blue", **WHO, at=7.0, if_epoch=4)
        with pytest.raises(UnknownColor):
            decided(self.SPLIT, "pink", **WHO, at=7.0)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (None, "holds no state any more.*which stays and is written back"),
        (state(9, 4, "blue"), "revision 9, epoch 4, active blue.*revision 10, epoch 5, active green.*written back"),
        (state(9, 6, "blue"), "epoch is higher, is written anew above it"),
        (
            state(10, 5, "blue"),
            "nothing is overwritten. Decide: `bgproxy flip green --force` or `bgproxy flip blue --f",
        ),
        (state(10, 5, "green", by="bob"), r"Decide: `bgproxy flip green --force`$"),
        (state(10, 5, "red", colors=("red", "black")), "colors red, black.*another fleet's.*Name this fleet otherwise"),
    ],
)
def test_what_is_told(other: FleetState | None, told: str) -> None:
    contradiction = Contradiction(judge(HELD, other), HELD, other)
    assert re.search(told, contradiction.text)
    document = contradiction.document()
    assert document["held"]["epoch"] == 5
    assert bool(document["remedy"]) is not contradiction.heals
