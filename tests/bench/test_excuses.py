"""What the judge lets pass in simulated worlds, and that it lets nothing else pass."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest

import bgproxy.store.pins
from bench.history import ATOMIC, LINEARIZABLE, STICKY, History
from bench.judge import check
from bench.simulate.excuses import STORE, LostFlip, Troubles, excused
from bench.simulate.play import Plan, Play
from tests.bench.histories import FLIPS, ask, ran

LOST = LostFlip(2, 20.0, frozenset({"n1", "n2"}))


def troubles(*spans: tuple[str, float, float]) -> Troubles:
    noted = Troubles()
    for span in spans:
        noted.befall(*span)
    return noted


@pytest.mark.parametrize(
    ("spans", "is_unknown"),
    [
        ((), False),
        ((("n1", 19.0, 21.0),), False),  # the other could tell
        ((("n1", 19.0, 21.0), ("n3", 19.0, 21.0)), False),  # who did not know of it does not matter
        ((("n1", 19.0, 21.0), ("n2", 21.4, inf)), True),
        ((("n1", 19.0, 21.0), ("n2", 21.5, inf)), False),  # by then it should have told
        ((("n1", 19.0, 21.0), ("n2", 0.0, 20.0)), False),  # over when the store was there again
        (((STORE, 18.0, 20.0),), False),  # its outage, in which the flip was lost
        (((STORE, 21.0, 22.0),), True),  # another one
    ],
)
def test_a_lost_flip_is_unknown_where_everybody_who_knew_of_it_was_away_in_time(spans, is_unknown):
    assert LOST.is_unknown(troubles(*spans)) is is_unknown


def test_what_nobody_alive_had_applied_nobody_can_tell():
    assert LostFlip(2, 20.0, frozenset()).is_unknown(troubles())


def test_it_excuses_what_was_answered_by_it_before_it_was_back_and_nothing_else():
    back = replace(LOST, returned=30.0)
    answered = [ask(12, 13, "green", 2, id="before"), ask(22, 29, "green", 2, id="meanwhile")]
    others = [ask(22, 31, "green", 2), ask(22, 23, "blue", 1), ask(40, 41, "blue", 3)]
    assert excused([*answered, *others], [back]) == {"before", "meanwhile"}
    assert [back.seen(flip).told for flip in FLIPS] == [inf, 30.0, 21.0]
    assert LOST.seen(FLIPS[1]).told == inf


def test_of_what_has_strayed_only_the_second_rule_says_nothing():
    new, old = ask(12, 13, "green", 2), ask(14, 15, "blue", 1)
    assert set(check(History([new, old], FLIPS, strayed={new.id})).broken) == {LINEARIZABLE}, "by what was told"
    untold = (*FLIPS[:1], FLIPS[1]._replace(told=inf), *FLIPS[2:])
    assert not check(History([new, old], untold, strayed={new.id})).broken
    assert set(check(History([new, old], untold, strayed=set())).broken) == {LINEARIZABLE}
    wrong = ask(12, 13, "blue", 2)
    assert set(check(History([wrong], FLIPS, strayed={wrong.id})).broken) == {ATOMIC}


def test_a_session_that_began_astray_is_no_witness_but_is_held_to_its_release():
    first = ask(12, 13, "green", session="a")
    late = ask(14, 15, "blue", 1)
    untold = (*FLIPS[:1], FLIPS[1]._replace(told=inf), *FLIPS[2:])
    assert set(check(History([first, late], untold)).broken) == {LINEARIZABLE}
    assert not check(History([first, late], untold, strayed={first.id})).broken
    second = ask(16, 17, "blue", session="a")
    runs = [ran(one) for one in (first, second)]
    assert set(check(History([first, second], untold, runs, strayed={first.id})).broken) == {STICKY}


pytestmark = pytest.mark.skipif(
    not bgproxy.store.pins.__file__.endswith(".py"), reason="compiled classes take no stand-ins for connections"
)


def begun(plan: Plan) -> Play:
    """A world whose fleet stands, with a flip that a failover is about to lose."""
    play = Play(11, plan)
    play.world.run(0.5)
    replica = play.server.replica()
    play._ask_for(play.fleet.nodes[0], "green")
    play.world.run(1.0)
    assert {node.epoch for node in play.fleet.nodes} == {2}
    play._fail_over(replica, 0.5)
    return play


def test_who_knew_of_a_flip_that_a_failover_lost_is_noted_and_when_it_was_back():
    play = begun(Plan(replicated=True))
    dead, *living = play.fleet.nodes
    dead.kill()
    play.world.run(1.6)
    [lost] = play.lost
    assert (lost.epoch, lost.since, lost.knew) == (2, 1.5, {node.id for node in living})
    assert not lost.is_unknown(play.troubles), "its outage is over"
    play.world.run(4.0)
    assert 1.5 < lost.returned < 3.0
    play.world.end()


@pytest.mark.parametrize("without", [True, False])
def test_only_a_worker_that_starts_without_the_store_strays_until_it_has_read_it(without):
    play = Play(11, Plan())
    play.world.run(0.5)
    node = play.fleet.nodes[0]
    node.kill()
    if without:
        play.server.kill()
    play._succeed(node)
    play.world.run(0.6)
    successor = play.fleet.nodes[-1]
    assert (successor.is_serving, successor.is_blind) == (True, without)
    if without:
        play._start_store(keep=True)
        play.world.run(3.0)
    assert not successor.is_blind
    play.world.end()
