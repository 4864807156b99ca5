"""Sessions that leave what a rollback has left: what is fine passes, and each way in which one can stray is seen."""

from __future__ import annotations

import random
from dataclasses import replace
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.history import LINEARIZABLE, STICKY, Execution, Flip, History, Request
from bench.judge import check
from tests.bench.histories import ask, ran, with_a_turn_elsewhere

FLIPS = (
    Flip(1, "blue"),
    Flip(2, "green", 10, 11),
    Flip(3, "blue", 20, 21, back=True),
    Flip(4, "green", 30, 31, back=True),
    Flip(5, "blue", 40, 41),
)


def strayed(*turns: Request, runs=None, flips=FLIPS, gathered=inf) -> dict[int, int]:
    """By rule, how often one session broke it. `runs`: all have run as they should, where not said."""
    said = [one._replace(session="f") for one in turns]
    if runs is None:
        runs = [ran(one) for one in said if one.release]
    return dict(check(History(said, flips, runs, flee=True, gathered=gathered)).broken)


def test_a_session_stays_where_it_began_until_a_rollback_leaves_that():
    assert strayed(ask(1, 2), ask(12, 13), ask(22, 23)) == {}
    assert strayed(ask(1, 2), ask(12, 13, "green")) == {STICKY: 1}, "a flip takes nobody along"
    assert strayed(ask(12, 13, "green"), ask(22, 23)) == {}
    assert strayed(ask(12, 13, "green"), ask(22, 23), ask(32, 33, "green"), ask(42, 43, "green")) == {}
    assert strayed(ask(12, 13, "green"), ask(22, 23), ask(32, 33, "green"), ask(42, 43)) == {STICKY: 1}


def test_who_began_before_a_flip_there_and_a_rollback_here_has_nothing_to_flee_from():
    assert strayed(ask(1, 2), ask(12, 13), ask(22, 23), ask(24, 25, "green")) == {STICKY: 1}
    assert strayed(ask(1, 2), ask(32, 33, "green")) == {}, "it was blue that the second one left"


def test_what_a_session_has_left_it_comes_back_to_by_another_rollback_only():
    turns = ask(12, 13, "green"), ask(22, 23), ask(24, 25, "green")
    assert strayed(*turns) == {STICKY: 1}
    said = [one._replace(session="f") for one in turns]
    told = check(History(said, FLIPS, [ran(one) for one in said], flee=True)).violations[0].text
    assert told == (
        f"session f: {turns[2].id}, sent at 24.000000, ran on v2, after {turns[1].id} had run on v1: no rollback since "
        "epoch 3 can have led it there"
    )


def test_a_session_that_flees_before_anybody_asked_for_a_rollback_is_seen():
    assert strayed(ask(12, 13, "green"), ask(18, 19)) == {STICKY: 1}
    assert strayed(ask(12, 13, "green"), ask(18, 20.5)) == {}


def test_a_session_that_flees_to_where_the_pointer_is_no_more_is_seen():
    assert strayed(ask(12, 13, "green"), ask(31.5, 32)) == {STICKY: 1}
    assert strayed(ask(12, 13, "green"), ask(30.5, 32)) == {}, "the next rollback was not told yet"
    assert strayed(ask(12, 13, "green"), ask(42, 43)) == {}, "blue was left too, but not by this session"


def test_a_session_that_runs_on_two_releases_at_once_is_seen():
    first, second = ask(12, 25, "green"), ask(22, 23)
    assert strayed(first, second) == {STICKY: 1}
    assert strayed(first, second, runs=[ran(first, ended=21.9), ran(second)]) == {}


def test_a_session_begins_where_the_pointer_is():
    assert strayed(ask(12, 13)) == {LINEARIZABLE: 1, STICKY: 1}
    assert strayed(ask(12, 15), ask(12.1, 14, "green"), runs=[]) == {STICKY: 1}, "two turns at once, on two releases"


@pytest.mark.parametrize("color", ["blue", "green"])
def test_who_stays_behind_once_all_have_gathered_is_seen(color):
    flips = FLIPS[:3]
    stays = ask(12, 13, "green"), ask(24, 25, color)
    assert strayed(*stays, flips=flips) == {}
    assert strayed(*stays, flips=flips, gathered=23) == ({STICKY: 1} if color == "green" else {})
    assert strayed(*stays, flips=flips, gathered=24.5) == {}, "it was sent before"


def test_a_turn_under_way_keeps_a_session_where_it_is():
    flips = FLIPS[:3]
    long, short = ask(12, 24, "green"), ask(23, 23.5, "green")
    assert strayed(long, short, flips=flips, gathered=22) == {}
    assert strayed(long, ask(24.1, 24.2, "green"), flips=flips, gathered=22) == {}, "the store may not have heard"
    assert strayed(long, ask(24.5, 24.6, "green"), flips=flips, gathered=22) == {STICKY: 1}
    lost = Request("lost", 12, 24, 24, 503)
    assert strayed(ask(12, 13, "green"), lost, ask(24.1, 24.2, "green"), flips=flips, gathered=22) == {}


def test_sessions_that_follow_gather_too():
    turns = [ask(12, 13, "green", session="f"), ask(24, 25, "green", session="f")]
    history = History(turns, FLIPS[:3], [ran(one) for one in turns], follow=True, gathered=23)
    assert check(history).broken == {STICKY: 1}
    assert not check(replace(history, gathered=24.5)).broken


# by chance


def _flee(seed: int, turns: int, flips: int) -> History:
    """Sessions that move as the store moves them: by a rollback since, at a turn, and never in the middle of one."""
    dice = random.Random(seed)
    until = float(flips + 1) * 10
    at = [0.0, *sorted(dice.uniform(0, until) for _ in range(flips))]
    colors = ["blue", "green"] * (flips + 1)
    back = [n > 0 and dice.random() < 0.6 for n in range(len(at))]
    told = [Flip(n + 1, colors[n], t - dice.random(), t + dice.random(), back=back[n]) for n, t in enumerate(at)]
    places: dict[str, tuple[int, float]] = {}  # by which epoch, and until when a turn runs there
    made, runs = [], []
    for number, look in enumerate(sorted(dice.uniform(0, until) for _ in range(turns))):
        sent, answered = look - dice.expovariate(0.5), look + dice.expovariate(0.5)
        session, over = f"s{dice.randrange(1 + turns // 6)}", (look + answered) / 2
        now = max(n for n, t in enumerate(at) if t <= look)
        epoch, busy = places.get(session, (now, 0.0))
        if busy < look and any(back[n] and colors[n - 1] == colors[epoch] for n in range(epoch + 1, now + 1)):
            epoch = now
        places[session] = epoch, max(busy, over)
        one = ask(sent, answered, colors[epoch], session=session, id=f"r{number}")
        runs.append(Execution(one.id, one.release, look, over))
        made.append(one)
    dice.shuffle(made)
    return History(made, told, runs, flee=True)


@given(seed=st.integers(0, 2**32), turns=st.integers(1, 40), flips=st.integers(0, 6))
@settings(max_examples=100, deadline=None)
def test_no_session_that_flees_as_it_may_is_blamed(seed, turns, flips):
    verdict = check(_flee(seed, turns, flips))
    assert not verdict.violations, verdict.told()


@given(seed=st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_a_turn_elsewhere_is_found_wherever_it_is_put(seed):
    verdict = check(with_a_turn_elsewhere(_flee(seed, 30, 4)))
    assert verdict.broken == {STICKY: 1}, verdict.told()
