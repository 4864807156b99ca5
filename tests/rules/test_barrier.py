"""A flip in two steps: judged when it is prepared and again when it is made; and the pause."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bgproxy.errors import BadInput, FlipOpen, NotReady, Refused, StaleEpoch
from bgproxy.rules import barrier, fleet
from bgproxy.rules.barrier import Move
from bgproxy.rules.fleet import Change, FleetState
from bgproxy.rules.release import Phase, Release

WHO = {"actor": "ada", "reason": "why"}


def state() -> FleetState:
    """Blue is active, green is ready; epoch 1."""
    releases = {color: Release(color, ("http://127.0.0.1:1",), phase=Phase.READY) for color in ("blue", "green")}
    return fleet.bootstrap(("blue", "green", "red"), "blue", releases, "config", 1.0).state


def prepared(standing: FleetState, move: Move, **more: object) -> Change | None:
    terms = {"at": 5.0, "exclude": ("n9",), "hold_timeout": 1.5, "key": "k", "request": "r", **more}
    return barrier.prepare(standing, move, **terms)  # type: ignore[arg-type]


FLIP = Move("flip", "green", "ada", "why")
BACK = Move("rollback", "", "ada", "why")


def open_flip(move: Move = FLIP) -> FleetState:
    change = prepared(state(), move)
    assert change is not None
    return change.state


def test_to_prepare_moves_nothing_but_holds() -> None:
    change = prepared(state(), FLIP)
    assert change is not None
    after, pending = change.state, change.state.pending
    assert (after.pointer, after.releases, after.revision) == (state().pointer, state().releases, 2)
    assert (after.is_held, state().is_held) == (True, False)
    assert pending is not None
    assert (pending.verb, pending.to, pending.epoch, pending.revision) == ("flip", "green", 2, 2)
    assert (pending.exclude, pending.hold_timeout, pending.key) == (("n9",), 1.5, "k")
    assert (change.verb, change.moved, change.facts) == (
        "prepare",
        False,
        {"verb": "flip", "to": "green", "exclude": ["n9"]},
    )


def test_what_was_prepared_is_made_as_it_would_have_been_at_once() -> None:
    at_once = FLIP.decided(state(), 7.0)
    change = barrier.complete(open_flip(), 2, at=7.0)
    assert at_once is not None
    assert change is not None
    assert change.facts == at_once.facts
    assert (change.verb, change.moved, change.touched) == (at_once.verb, True, at_once.touched)
    assert replace(change.state, revision=2) == at_once.state
    assert change.state.revision == 3


def test_a_rollback_goes_the_same_way() -> None:
    flipped = FLIP.decided(state(), 5.0)
    assert flipped is not None
    change = prepared(flipped.state, BACK)
    assert change is not None
    assert change.state.pending is not None
    assert change.state.pending.to == "blue"
    done = barrier.complete(change.state, change.state.revision, at=9.0)
    assert done is not None
    assert (done.verb, done.state.pointer.active, done.state.pointer.epoch) == ("rollback", "blue", 3)
    assert done.state.releases["green"].rolled_back == 3


def test_the_nodes_that_were_left_behind_are_on_record() -> None:
    change = barrier.complete(open_flip(), 2, at=7.0, left_behind={"b", "a"})
    assert change is not None
    assert change.facts["left_behind"] == ["a", "b"]


def test_nothing_to_do_is_not_prepared() -> None:
    assert prepared(state(), Move("flip", "blue", "ada", "")) is None


@pytest.mark.parametrize(
    ("move", "error"),
    [
        (Move("flip", "green", "ada", "", if_epoch=4), StaleEpoch),
        (Move("flip", "red", "ada", ""), NotReady),
        (Move("flip", "green", "ada", "", problem="down"), NotReady),
        (BACK, Refused),
    ],
)
def test_what_would_be_refused_is_not_prepared(move: Move, error: type[Exception]) -> None:
    with pytest.raises(error):
        prepared(state(), move)


def test_what_is_forced_is_forced_again() -> None:
    change = prepared(state(), Move("flip", "green", "ada", "", force=True, problem="down"))
    assert change is not None
    done = barrier.complete(change.state, 2, at=7.0)
    assert done is not None
    assert done.facts["forced"] == ["down"]


def test_a_target_that_fell_meanwhile_is_not_flipped_to() -> None:
    standing = open_flip()
    fallen = replace(standing.releases["green"], phase=Phase.REJECTED)
    with pytest.raises(NotReady, match="rejected"):
        barrier.complete(replace(standing, releases={**standing.releases, "green": fallen}), 2, at=7.0)


@pytest.mark.parametrize("move", [FLIP, Move("flip", "blue", "bob", ""), Move("flip", "green", "bob", "", force=True)])
def test_another_flip_has_to_wait(move: Move) -> None:
    for decide in (lambda: move.decided(open_flip(), 6.0), lambda: prepared(open_flip(), move)):
        with pytest.raises(FlipOpen, match="a flip to green by ada is under way") as refused:
            decide()
        assert refused.value.extra["flip"] == {"verb": "flip", "to": "green", "epoch": 2, "actor": "ada"}


def test_nothing_is_staged_where_a_flip_goes() -> None:
    standing = open_flip()
    with pytest.raises(FlipOpen):
        fleet.stage(standing, "green", Release("v9", ("http://127.0.0.1:9",)), **WHO, at=6.0, force=True)
    assert fleet.stage(standing, "red", Release("v9", ("http://127.0.0.1:9",)), **WHO, at=6.0) is not None


def test_a_change_in_between_leaves_it_open() -> None:
    staged = fleet.stage(open_flip(), "red", Release("v9", ("http://127.0.0.1:9",)), **WHO, at=6.0)
    assert staged is not None
    assert staged.state.pending == open_flip().pending
    assert barrier.complete(staged.state, 2, at=7.0) is not None


def test_one_that_is_given_up_leaves_no_trace_but_on_record() -> None:
    change = barrier.abandon(open_flip(), 2, actor="bgproxy", why="n1 is silent", silent=["n1"])
    assert change is not None
    assert replace(change.state, revision=1) == state()
    assert (change.verb, change.actor, change.reason) == ("abandon", "bgproxy", "n1 is silent")
    assert change.facts == {"verb": "flip", "to": "green", "asked_by": "ada", "silent": ["n1"]}


@pytest.mark.parametrize("revision", [1, 3])
def test_only_the_one_that_is_meant_is_ended(revision: int) -> None:
    assert barrier.complete(open_flip(), revision, at=7.0) is None
    assert barrier.abandon(open_flip(), revision, actor="a", why="") is None
    assert barrier.complete(state(), 2, at=7.0) is None
    assert barrier.abandon(state(), 2, actor="a", why="") is None


def test_a_pause_holds_until_it_is_resumed() -> None:
    change = barrier.pause(state(), max_hold=20.0, **WHO)
    paused = change.state
    assert (change.verb, change.facts, paused.is_held) == ("pause", {"max_hold": 20.0}, True)
    with pytest.raises(Refused, match="paused already by ada, for at most 20 s: resume first"):
        barrier.pause(paused, max_hold=5.0, **WHO)
    resumed = barrier.resume(paused, **WHO)
    assert resumed is not None
    assert replace(resumed.state, revision=1) == state()
    assert barrier.resume(resumed.state, **WHO) is None


def test_only_the_pause_that_is_over_is_ended() -> None:
    paused = barrier.pause(state(), max_hold=20.0, **WHO).state
    assert barrier.resume(paused, revision=1, **WHO) is None
    assert barrier.resume(paused, revision=2, **WHO) is not None


@pytest.mark.parametrize("seconds", [0.0, -1.0, 600.1, float("nan")])
def test_a_pause_that_cannot_be(seconds: float) -> None:
    with pytest.raises(BadInput, match="max_hold"):
        barrier.pause(state(), max_hold=seconds, **WHO)


def test_a_flip_under_a_pause_leaves_it() -> None:
    paused = barrier.pause(state(), max_hold=20.0, **WHO).state
    change = prepared(paused, FLIP)
    assert change is not None
    done = barrier.complete(change.state, change.state.revision, at=7.0)
    assert done is not None
    assert done.state.pause == paused.pause
    assert done.state.pointer.active == "green"
